package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// S3Config is every setting of the S3 client. The SDK reads no environment beside it.
type S3Config struct {
	Credentials         *identity.Provider
	Region              string
	Endpoint            string // URL of S3 itself; empty = AWS
	PathStyle           bool   // bucket in the path, not in the host name
	Accelerate          bool
	DualStack           bool
	FIPS                bool
	ExpectedBucketOwner string // 12-digit account id; empty = any
	RequesterPays       bool
	AppID               string // goes into the user agent
}

// s3Bucket is one prefix of a bucket, as a Source and as a Store.
type s3Bucket struct {
	uri    URI
	config S3Config
	http   *http.Transport
	owner  *string
	payer  types.RequestPayer

	mu      sync.Mutex
	region  string
	reader  *s3.Client // reads are retried by Retry alone
	writer  *s3.Client // retries by itself
	redials int        // how often the region was corrected
	form    *getForm   // of reads in this region; nil until the SDK has made one
}

func openS3(u URI, c S3Config, transport *http.Transport) *s3Bucket {
	b := &s3Bucket{uri: u, config: c, http: transport}
	if c.ExpectedBucketOwner != "" {
		b.owner = aws.String(c.ExpectedBucketOwner)
	}
	if c.RequesterPays {
		b.payer = types.RequestPayerRequester
	}
	b.dial(c.Region)
	return b
}

// dial makes the clients for a region. The caller holds mu, or is the only one that knows b.
func (b *s3Bucket) dial(region string) {
	c := b.config
	options := s3.Options{
		Credentials:   c.Credentials,
		Region:        region,
		AppID:         c.AppID,
		HTTPClient:    &http.Client{Transport: b.http, CheckRedirect: noRedirect},
		UsePathStyle:  c.PathStyle,
		UseAccelerate: c.Accelerate,
		UseARNRegion:  true,
		Retryer:       aws.NopRetryer{},
		// Chunks authenticate themselves, and S3's clones differ in the checksums they know.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	if c.Endpoint != "" {
		options.BaseEndpoint = aws.String(c.Endpoint)
	}
	if c.DualStack {
		options.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateEnabled
	}
	if c.FIPS {
		options.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
	}
	b.region, b.reader, b.form = region, s3.New(options), nil
	options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 5 })
	if c.Credentials != nil {
		options.Retryer = c.Credentials.Retryer(options.Retryer)
	}
	b.writer = s3.New(options)
}

// clients returns the clients of the region that is known best.
func (b *s3Bucket) clients() (reader, writer *s3.Client, region string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reader, b.writer, b.region
}

// maxRedials bounds how often a server can send us to another region.
const maxRedials = 2

// redial takes the bucket's region from an answer, and reports whether that is news.
func (b *s3Bucket) redial(asked string, resp *awshttp.ResponseError) bool {
	if resp.Response == nil {
		return false
	}
	region := resp.Response.Header.Get("x-amz-bucket-region")
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case region == "" || region == asked || !regionName.MatchString(region):
		return false
	case region == b.region: // another request was faster
		return true
	case b.redials == maxRedials:
		return false
	}
	b.redials++
	b.dial(region)
	return true
}

// regionName is the shape of a region, which becomes part of a host name.
var regionName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// noRedirect hands S3's 301 to the caller: it names the bucket's region and must not be followed with a wrong signature.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (b *s3Bucket) String() string { return b.uri.String() }

func (b *s3Bucket) Close() error {
	b.http.CloseIdleConnections()
	return nil
}

func (b *s3Bucket) bucket() *string { return aws.String(b.uri.Host) }

func (b *s3Bucket) key(name string) *string {
	if b.uri.Path == "" {
		return aws.String(name)
	}
	return aws.String(b.uri.Path + "/" + name)
}

// failed classes an error of the SDK. An expired session and a wrong region are mended here: then the request is worth
// another try.
func (b *s3Bucket) failed(ctx context.Context, action, name, region string, err error) error {
	if stopped := context.Cause(ctx); stopped != nil && !errors.Is(stopped, errStalled) {
		return stopped
	}
	if untrusted(err) {
		return untrustedServer(name, b, err)
	}
	if b.config.Credentials != nil && b.config.Credentials.Renew(err) {
		return transient("%s at %s: the credentials had expired", name, b)
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) {
		switch status := resp.HTTPStatusCode(); {
		case status == http.StatusPreconditionFailed:
			return changed(name, b)
		case status >= 300 && status < 500 && b.redial(region, resp):
			return transient("%s at %s: the bucket is in another region", name, b)
		}
	}
	return identity.Diagnose(err, identity.Op{Action: action, Resource: name + " at " + b.String(), Region: region,
		Owner: b.config.ExpectedBucketOwner})
}

// Region asks where the bucket is (HeadBucket). S3 says so even to those whom it denies everything else.
func (b *s3Bucket) Region(ctx context.Context) (string, error) {
	reader, _, region := b.clients()
	out, err := reader.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: b.bucket(), ExpectedBucketOwner: b.owner})
	if err == nil {
		return aws.ToString(out.BucketRegion), nil
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		if named := resp.Response.Header.Get("x-amz-bucket-region"); regionName.MatchString(named) {
			return named, nil
		}
	}
	return "", b.failed(ctx, "s3:HeadBucket", "bucket", region, err)
}

// Exists reports whether an object is known to be there.
func (b *s3Bucket) Exists(ctx context.Context, name string) (bool, error) {
	_, client, region := b.clients()
	_, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b.bucket(), Key: b.key(name),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	switch {
	case err == nil:
		return true, nil
	case status(err) == http.StatusNotFound, status(err) == http.StatusForbidden:
		// Without s3:ListBucket, S3 says 403 of what is not there. Create finds out in the end.
		return false, nil
	}
	err = b.failed(ctx, "s3:HeadObject", name, region, err)
	if _, _, corrected := b.clients(); corrected != region {
		return b.Exists(ctx, name)
	}
	return false, err
}

// Create stores a new object whole.
func (b *s3Bucket) Create(ctx context.Context, name string, data []byte) error {
	_, client, region := b.clients()
	_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: b.bucket(), Key: b.key(name), Body: bytes.NewReader(data),
		ContentLength: aws.Int64(int64(len(data))), IfNoneMatch: aws.String("*"),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	return b.created(ctx, name, region, data[:min(len(data), startSize)], err)
}

// Replace overwrites an object if its ETag is still the pin's.
func (b *s3Bucket) Replace(ctx context.Context, name string, data []byte, pin Pin) error {
	_, client, region := b.clients()
	_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: b.bucket(), Key: b.key(name), Body: bytes.NewReader(data),
		ContentLength: aws.Int64(int64(len(data))), IfMatch: aws.String(pin.ETag),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return b.failed(ctx, "s3:PutObject", name, region, err)
	}
	return nil
}

// startSize is how much of an object tells whose it is: sealed objects begin with 24 random bytes, and the whole of an
// envelope or a signature, which are made of a random key, is shorter.
const startSize = 64 << 10

// created classes the error of a call that makes an object with If-None-Match: *. An object that is there may be this
// run's own: its first answer was lost, and the SDK's next attempt met it.
func (b *s3Bucket) created(ctx context.Context, name, region string, start []byte, err error) error {
	switch status(err) {
	case 0:
		if err == nil {
			return nil
		}
	case http.StatusPreconditionFailed, http.StatusConflict, http.StatusNotFound: // 404: the upload is no longer under way
		if b.startsWith(ctx, name, start) {
			return nil
		}
		if status(err) != http.StatusNotFound {
			return alreadyThere(name, b)
		}
	case http.StatusNotImplemented:
		return fault.New(fault.Access, "publish to a store that knows If-None-Match, or to a directory",
			"%s cannot promise not to overwrite a published version: it does not know If-None-Match", b)
	}
	return b.failed(ctx, "s3:PutObject", name, region, err)
}

// startsWith reports whether an object is there and begins with these bytes, which nobody else can have made.
func (b *s3Bucket) startsWith(ctx context.Context, name string, start []byte) bool {
	body, err := b.Get(ctx, Range{Name: name, Len: int64(len(start))})
	if err != nil {
		return false
	}
	defer body.Close()
	there := make([]byte, len(start))
	_, err = io.ReadFull(body, there)
	return err == nil && bytes.Equal(there, start)
}

// status is the HTTP status of an error of the SDK, or 0.
func status(err error) int {
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) {
		return resp.HTTPStatusCode()
	}
	return 0
}

// Begin starts a multipart upload.
func (b *s3Bucket) Begin(ctx context.Context, name string, _ int64) (Upload, error) {
	_, client, region := b.clients()
	out, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: b.bucket(), Key: b.key(name),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return nil, b.failed(ctx, "s3:PutObject", name, region, err)
	}
	return &s3Upload{bucket: b, name: name, id: out.UploadId}, nil
}

// Remove deletes an object that this run made.
func (b *s3Bucket) Remove(ctx context.Context, name string) error {
	_, client, region := b.clients()
	_, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b.bucket(), Key: b.key(name),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return b.failed(ctx, "s3:DeleteObject", name, region, err)
	}
	return nil
}

// s3Upload is a multipart upload under way.
type s3Upload struct {
	bucket *s3Bucket
	name   string
	id     *string
	start  []byte // of part 0, written by the one call that uploads it
}

// unsignedPayload leaves a body out of the request's signature, which would cost more than the encryption: the chunks in
// it authenticate themselves.
func unsignedPayload(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
}

// Part uploads part i, counted from 0.
func (u *s3Upload) Part(ctx context.Context, i int, _ int64, data []byte) (string, error) {
	b := u.bucket
	if i == 0 {
		u.start = bytes.Clone(data[:min(len(data), startSize)])
	}
	_, client, region := b.clients()
	out, err := client.UploadPart(ctx, &s3.UploadPartInput{Bucket: b.bucket(), Key: b.key(u.name), UploadId: u.id,
		PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer}, unsignedPayload)
	if err != nil {
		return "", b.failed(ctx, "s3:PutObject", u.name, region, err)
	}
	return aws.ToString(out.ETag), nil
}

// Complete makes the object visible, unless one of its name is there.
func (u *s3Upload) Complete(ctx context.Context, etags []string) error {
	b := u.bucket
	parts := make([]types.CompletedPart, len(etags))
	for i := range etags {
		parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: &etags[i]}
	}
	_, client, region := b.clients()
	_, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: b.bucket(), Key: b.key(u.name),
		UploadId: u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}, IfNoneMatch: aws.String("*"),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	return b.created(ctx, u.name, region, u.start, err)
}

// Abort drops the parts.
func (u *s3Upload) Abort(ctx context.Context) error {
	b := u.bucket
	_, client, region := b.clients()
	_, err := client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: b.bucket(), Key: b.key(u.name),
		UploadId: u.id, ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return b.failed(ctx, "s3:AbortMultipartUpload", u.name, region, err)
	}
	return nil
}
