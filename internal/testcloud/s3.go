package testcloud

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
	"github.com/sealfetch/sealfetch/internal/testcloud/sigv4"
)

// s3Service answers the S3 REST API ("Amazon S3 API reference", version 2006-03-01) for all buckets of all regions.
type s3Service struct {
	cloud *Cloud
	url   string

	log    requestLog
	faults faults
}

// call is one request on its way through.
type call struct {
	*Request
	s3     *s3Service
	w      http.ResponseWriter
	r      *http.Request
	query  url.Values
	host   hostInfo
	fault  Fault
	bucket *Bucket
	cred   *credential      // nil for an anonymous caller
	sig    *sigv4.Signature // likewise
	caller Caller
	logged bool
}

// operation is what a request asks for, and the permission it takes.
type operation struct {
	name      string
	action    string // IAM action
	run       func(*call) *Error
	keyAction string // on the key of an encrypted bucket; empty for none
}

// ServeHTTP answers one request and logs it.
func (s *s3Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{s3: s, w: w, r: r, query: r.URL.Query(), host: parseHost(r.Host)}
	op := c.describe()
	w.Header().Set("X-Amz-Request-Id", c.ID)
	w.Header().Set("X-Amz-Id-2", c.ID+"/test")
	w.Header().Set("Server", "AmazonS3")
	c.fault = s.faults.of(c.Request)
	s.log.begin()
	defer c.logOnce()
	if err := c.serve(op); err != nil {
		c.fail(err)
	}
}

// describe fills the log entry from the request line and returns the operation asked for.
func (c *call) describe() operation {
	name, key, _ := strings.Cut(strings.TrimPrefix(c.r.URL.Path, "/"), "/")
	if c.host.bucket != "" {
		name, key = c.host.bucket, strings.TrimPrefix(c.r.URL.Path, "/")
	}
	c.Request = &Request{
		ID: c.s3.cloud.requestID(), Time: c.s3.cloud.Now(), Method: c.r.Method, Bucket: name, Key: key,
		VersionID: c.query.Get("versionId"), Range: c.r.Header.Get("Range"), UserAgent: c.r.UserAgent(),
		Header: c.r.Header.Clone(),
	}
	c.PartNumber, _ = strconv.Atoi(c.query.Get("partNumber"))
	op := c.operation()
	c.Op = op.name
	return op
}

// serve goes through the stages every request passes; the first that objects ends it.
func (c *call) serve(op operation) *Error {
	if err := c.upset(); err != nil || c.Status != 0 {
		return err
	}
	for _, stage := range []func() *Error{c.authenticate, c.findBucket, c.checkRegion, c.checkOwner} {
		if err := stage(); err != nil {
			return err
		}
	}
	if op.run == nil {
		return refuse(501, "NotImplemented", "A header or query is not implemented here.")
	}
	if d := c.decide(op.action, c.Key); !d.Allowed {
		return c.accessDenied(op.action, c.Key, d)
	}
	if op.keyAction != "" {
		if err := c.mayUseKey(op.keyAction); err != nil {
			return err
		}
	}
	return op.run(c)
}

// upset brings about the part of the fault that comes before the request is looked at.
func (c *call) upset() *Error {
	if !delay(c.r.Context(), c.fault.Latency) {
		panic(http.ErrAbortHandler)
	}
	if c.fault.Replace != nil {
		if b := c.s3.cloud.bucket(c.Bucket); b != nil {
			b.Put(c.Key, c.fault.Replace)
		}
	}
	if c.fault.Redirect != "" {
		c.w.Header().Set("Location", c.fault.Redirect)
		c.reply(http.StatusTemporaryRedirect)
		return nil
	}
	return c.fault.Error
}

func (c *call) authenticate() (failure *Error) {
	hash := c.r.Header.Get("X-Amz-Content-Sha256")
	if c.query.Has("X-Amz-Algorithm") && hash == "" {
		hash = sigv4.UnsignedPayload
	}
	c.cred, c.sig, failure = c.s3.cloud.authenticate(c.r, "s3", hash)
	switch {
	case failure != nil || c.cred == nil:
		return failure
	case hash == "":
		return refuse(400, "InvalidRequest",
			"Missing required header for this request: x-amz-content-sha256")
	}
	c.caller = c.cred.caller
	c.AccessKeyID, c.Account, c.Principal = c.caller.AccessKeyID, c.caller.Account, c.caller.ARN
	return nil
}

func (c *call) findBucket() *Error {
	if c.Bucket == "" {
		return refuse(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
	}
	if c.bucket = c.s3.cloud.bucket(c.Bucket); c.bucket == nil {
		return &Error{
			Status: 404, Code: "NoSuchBucket", Message: "The specified bucket does not exist",
			Detail: map[string]string{"BucketName": c.Bucket},
		}
	}
	c.w.Header().Set("X-Amz-Bucket-Region", c.bucket.Region)
	return nil
}

func (c *Cloud) bucket(name string) *Bucket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buckets[name]
}

// checkRegion compares the bucket's region with that of the endpoint, which is the one in the host name or, at a bare
// address, the one the client signed for; then with the one the client signed for.
func (c *call) checkRegion() *Error {
	signed := c.bucket.Region
	if c.sig != nil {
		signed = c.sig.Region
	}
	endpoint := c.host.region
	if endpoint == "" && !c.s3.cloud.opts.GlobalEndpoint {
		endpoint = signed
	}
	if endpoint != "" && endpoint != c.bucket.Region {
		return &Error{
			Status: 301, Code: "PermanentRedirect",
			Message: "The bucket you are attempting to access must be addressed using the specified endpoint. " +
				"Please send all future requests to this endpoint.",
			Detail: map[string]string{
				"Bucket": c.Bucket, "Endpoint": c.Bucket + ".s3." + c.bucket.Region + ".amazonaws.com",
			},
		}
	}
	if signed != c.bucket.Region {
		return &Error{
			Status: 400, Code: "AuthorizationHeaderMalformed",
			Message: fmt.Sprintf("The authorization header is malformed; the region '%s' is wrong; expecting '%s'",
				signed, c.bucket.Region),
			Detail: map[string]string{"Region": c.bucket.Region},
		}
	}
	return nil
}

func (c *call) checkOwner() *Error {
	want := c.r.Header.Get("X-Amz-Expected-Bucket-Owner")
	if want != "" && want != c.bucket.Owner.ID {
		return refuse(403, "AccessDenied", "Access Denied")
	}
	c.bucket.mu.Lock()
	pays := c.bucket.requesterPays
	c.bucket.mu.Unlock()
	if pays && c.caller.Account != c.bucket.Owner.ID && c.r.Header.Get("X-Amz-Request-Payer") != "requester" {
		return refuse(403, "AccessDenied", "Access Denied")
	}
	return nil
}

// decide evaluates whether the caller may do this to a key of the bucket, or to the bucket itself where key is empty.
func (c *call) decide(action, key string) iam.Decision {
	ctx := iam.Context{}
	ctx.Set("aws:SecureTransport", strconv.FormatBool(c.r.TLS != nil))
	ctx.Set("aws:UserAgent", c.UserAgent)
	if c.VersionID != "" {
		ctx.Set("s3:VersionId", c.VersionID)
	}
	for _, name := range []string{"prefix", "delimiter", "max-keys"} {
		if action == "s3:ListBucket" && c.query.Has(name) {
			ctx.Set("s3:"+name, c.query.Get(name))
		}
	}
	caller := c.caller
	caller.cloud = c.s3.cloud
	return caller.Evaluate(iam.Request{
		Action: action, Resource: c.arn(key), Owner: c.bucket.Owner.ID, Context: ctx,
	}, c.bucket.bucketPolicy(), false)
}

// accessDenied says why only within an account, as S3 does.
func (c *call) accessDenied(action, key string, d iam.Decision) *Error {
	message := "Access Denied"
	if c.caller.Account == c.bucket.Owner.ID {
		message = fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %q %s",
			c.caller.ARN, action, c.arn(key), d.Reason)
	}
	return refuse(403, "AccessDenied", message)
}

// mayUseKey evaluates the policy of the key behind the bucket, where it has one.
func (c *call) mayUseKey(action string) *Error {
	key := c.bucket.kmsKey()
	if key == nil {
		return nil
	}
	ctx := iam.Context{}
	ctx.Set("kms:ViaService", "s3."+c.bucket.Region+".amazonaws.com")
	ctx.Set("kms:CallerAccount", c.caller.Account)
	ctx.Set("kms:EncryptionContext:aws:s3:arn", c.arn(c.Key))
	request := iam.Request{Action: action, Resource: key.ARN, Owner: key.Owner, Context: ctx}
	if d := c.caller.Evaluate(request, key.Policy, true); !d.Allowed {
		return refuse(403, "AccessDenied", fmt.Sprintf("User: %s is not authorized to perform: %s "+
			"on the resource associated with this ciphertext %s", c.caller.ARN, action, d.Reason))
	}
	c.w.Header().Set("X-Amz-Server-Side-Encryption", "aws:kms")
	c.w.Header().Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", key.ARN)
	return nil
}

func (c *call) arn(key string) string {
	if key == "" {
		return "arn:aws:s3:::" + c.Bucket
	}
	return "arn:aws:s3:::" + c.Bucket + "/" + key
}

func (c *call) logOnce() {
	if !c.logged {
		c.logged = true
		c.s3.log.add(*c.Request)
	}
}

// stall waits until the client goes away or the cloud closes. It does not return.
func (c *call) stall() {
	c.logOnce()
	select {
	case <-c.r.Context().Done():
	case <-c.s3.cloud.closing:
	}
	panic(http.ErrAbortHandler)
}

// fail answers an error as S3 words it. Where the answer has begun it can only end the connection.
func (c *call) fail(err *Error) {
	if c.Status != 0 {
		panic(http.ErrAbortHandler)
	}
	c.Code = err.Code
	maps.Copy(c.w.Header(), err.Header)
	detail := map[string]string{"RequestId": c.ID, "HostId": c.ID + "/test", "Resource": c.r.URL.Path}
	maps.Copy(detail, err.Detail)
	body := errorBody{Code: err.Code, Message: err.Message}
	for _, name := range slices.Sorted(maps.Keys(detail)) {
		body.Detail = append(body.Detail, element{xml.Name{Local: name}, detail[name]})
	}
	if err.Status == http.StatusNotModified || err.Status == http.StatusPreconditionFailed && c.r.Method == "HEAD" {
		c.reply(err.Status)
		return
	}
	c.replyXML(err.Status, body)
}

type errorBody struct {
	XMLName xml.Name `xml:"Error"`
	Code    string
	Message string
	Detail  []element
}

type element struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
}

// reply sends status and headers, without a body.
func (c *call) reply(status int) {
	if c.fault.LoseAnswer {
		reset(c.w)
	}
	c.Status = status
	if status != http.StatusNoContent && status != http.StatusNotModified && c.r.Method != http.MethodHead {
		c.w.Header().Set("Content-Length", "0")
	}
	c.w.WriteHeader(status)
}

func (c *call) replyXML(status int, v any) {
	body, err := xml.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("testcloud: marshalling %T: %v", v, err))
	}
	if c.r.Method == http.MethodHead {
		c.reply(status)
		return
	}
	if c.fault.LoseAnswer {
		reset(c.w)
	}
	c.Status = status
	body = append([]byte(xml.Header), body...)
	c.w.Header().Set("Content-Type", "application/xml")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	n, _ := c.w.Write(body)
	c.BytesOut += int64(n)
}

// hostInfo is what a virtual-host style host name says.
type hostInfo struct {
	bucket string
	region string
}

// parseHost reads BUCKET.s3.REGION.localhost, of which bucket and region may be missing, and the same with
// s3.dualstack and under amazonaws.com. Any other host says nothing, so that the path does.
func parseHost(host string) hostInfo {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	for _, suffix := range []string{".localhost", ".amazonaws.com"} {
		name, ok := strings.CutSuffix(host, suffix)
		name = "." + name + "."
		if i := strings.LastIndex(name, ".s3."); ok && i >= 0 {
			region := strings.Trim(name[i+len(".s3"):], ".")
			return hostInfo{bucket: strings.Trim(name[:i], "."), region: strings.TrimPrefix(region, "dualstack.")}
		}
	}
	return hostInfo{}
}
