package fetch

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/encoding/httpbinding"
)

// A model in many objects takes many ranged reads, and the SDK spends several times as much on each as HTTP does. So
// the SDK makes the first read of a bucket: endpoint, headers and the way to sign are its decisions. Later reads are
// sent in the same form, with the range, the pin and the signature made anew. Any answer to them but a success goes
// back to the SDK, so that there is one reading of errors.

// Get sends one GetObject. A pin goes along as versionId where the bucket is versioned, else as If-Match.
func (b *s3Bucket) Get(ctx context.Context, r Range) (*Body, error) {
	client, region, form := b.forReading()
	if form == nil {
		return b.getBySDK(ctx, r, client, region, &learner{bucket: b, region: region, key: *b.key(r.Name)})
	}
	resp, err := b.send(ctx, form, r)
	if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return b.getBySDK(ctx, r, client, region, told{resp, err})
	}
	body := &Body{ReadCloser: resp.Body, Len: resp.ContentLength, Size: resp.ContentLength,
		RequestID: resp.Header.Get("X-Amz-Request-Id"),
		Pin:       Pin{ETag: resp.Header.Get("Etag"), VersionID: versionID(resp.Header.Get("X-Amz-Version-Id"))}}
	return b.ranged(body, r, resp.Header.Get("Content-Range"))
}

func (b *s3Bucket) forReading() (*s3.Client, string, *getForm) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reader, b.region, b.form
}

// getBySDK has the SDK make the request, or read the answer that transport holds ready.
func (b *s3Bucket) getBySDK(ctx context.Context, r Range, client *s3.Client, region string,
	transport s3.HTTPClient) (*Body, error) {
	in := &s3.GetObjectInput{Bucket: b.bucket(), Key: b.key(r.Name), ExpectedBucketOwner: b.owner, RequestPayer: b.payer}
	if !r.whole() {
		in.Range = aws.String(r.header())
	}
	switch {
	case r.Pin.VersionID != "":
		in.VersionId = aws.String(r.Pin.VersionID)
	case r.Pin.ETag != "":
		in.IfMatch = aws.String(r.Pin.ETag)
	}
	out, err := client.GetObject(ctx, in, func(o *s3.Options) { o.HTTPClient = transport })
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		return nil, tooShort(r, b)
	}
	if err != nil {
		return nil, b.failed(ctx, "s3:GetObject", r.Name, region, err)
	}
	id, _ := awsRequestID(out.ResultMetadata)
	body := &Body{ReadCloser: out.Body, Len: length(out.ContentLength), Size: length(out.ContentLength), RequestID: id,
		Pin: Pin{ETag: aws.ToString(out.ETag), VersionID: versionID(aws.ToString(out.VersionId))}}
	return b.ranged(body, r, aws.ToString(out.ContentRange))
}

// ranged takes the range from a Content-Range header, if there is one.
func (b *s3Bucket) ranged(body *Body, r Range, header string) (*Body, error) {
	if header == "" {
		return body, nil
	}
	if err := body.contentRange(header, r.Name, b); err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// length is a Content-Length, or -1 where the server gave none.
func length(n *int64) int64 {
	if n == nil {
		return -1
	}
	return *n
}

// versionID drops "null", the id of objects from before versioning: it does not name one state.
func versionID(id string) string {
	if id == "null" {
		return ""
	}
	return id
}

// getForm is what all reads of a bucket have in common.
type getForm struct {
	url             url.URL // up to the key
	header          http.Header
	service, region string // of the signature; empty = requests are not signed
	skew            time.Duration
	signer          *v4.Signer
}

// send asks for a range in the given form.
func (b *s3Bucket) send(ctx context.Context, form *getForm, r Range) (*http.Response, error) {
	u, key := form.url, *b.key(r.Name)
	u.Path, u.RawPath = u.Path+key, u.RawPath+httpbinding.EscapePath(key, false)
	header := maps.Clone(form.header)
	if !r.whole() {
		header["Range"] = []string{r.header()}
	}
	switch {
	case r.Pin.VersionID != "":
		u.RawQuery = "versionId=" + url.QueryEscape(r.Pin.VersionID) + "&" + u.RawQuery
	case r.Pin.ETag != "":
		header["If-Match"] = []string{r.Pin.ETag}
	}
	req := (&http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	if form.service != "" {
		credentials, err := b.config.Credentials.Retrieve(ctx)
		if err != nil {
			return nil, err
		}
		err = form.signer.SignHTTP(ctx, credentials, req, header.Get(payloadHeader), form.service, form.region,
			time.Now().Add(form.skew))
		if err != nil {
			return nil, err
		}
	}
	return b.http.RoundTrip(req)
}

const payloadHeader = "X-Amz-Content-Sha256"

// learner sends the SDK's request and remembers its form.
type learner struct {
	bucket *s3Bucket
	region string
	key    string
}

// Do is s3.HTTPClient's.
func (l *learner) Do(req *http.Request) (*http.Response, error) {
	form := formOf(req, l.key)
	resp, err := (&http.Client{Transport: l.bucket.http, CheckRedirect: noRedirect}).Do(req)
	if err == nil && form != nil && resp.StatusCode < http.StatusMultipleChoices {
		l.bucket.remember(l.region, form)
	}
	return resp, err
}

func (b *s3Bucket) remember(region string, form *getForm) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.region == region {
		b.form = form
	}
}

// ownHeaders are made anew for each request, or describe one attempt.
var ownHeaders = []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "Range", "If-Match",
	"Amz-Sdk-Invocation-Id", "Amz-Sdk-Request"}

// formOf takes a request of the SDK apart. It returns nil for what it does not know, such as the session tokens of S3
// Express or the signatures of multi-region access points: those are left to the SDK.
func formOf(req *http.Request, key string) *getForm {
	form := &getForm{url: *req.URL, header: req.Header.Clone()}
	base, hasKey := strings.CutSuffix(req.URL.EscapedPath(), httpbinding.EscapePath(key, false))
	plain, hasPlain := strings.CutSuffix(req.URL.Path, key)
	if !hasKey || !hasPlain || req.URL.RawQuery != "x-id=GetObject" || req.Header.Get("X-Amz-S3session-Token") != "" {
		return nil
	}
	form.url.Path, form.url.RawPath = plain, base
	if authorization := req.Header.Get("Authorization"); authorization != "" {
		rest, ok := strings.CutPrefix(authorization, "AWS4-HMAC-SHA256 Credential=")
		scope := strings.Split(strings.SplitN(rest, ",", 2)[0], "/") // key id, date, region, service, "aws4_request"
		signed, err := time.Parse("20060102T150405Z", req.Header.Get("X-Amz-Date"))
		if !ok || len(scope) != 5 || err != nil {
			return nil
		}
		form.region, form.service = scope[2], scope[3]
		if form.skew = time.Until(signed); form.skew.Abs() < time.Minute {
			form.skew = 0
		}
		form.signer = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	}
	for _, name := range ownHeaders {
		form.header.Del(name)
	}
	return form
}

// told is an answer that was had already.
type told struct {
	resp *http.Response
	err  error
}

// Do is s3.HTTPClient's.
func (t told) Do(*http.Request) (*http.Response, error) { return t.resp, t.err }
