package fetch

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// S3Config is every setting of the S3 client. The SDK reads no environment beside it.
type S3Config struct {
	Credentials         aws.CredentialsProvider
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
	client *s3.Client
	writer *s3.Client // retries by itself; reads are retried by Retry alone
	owner  *string
	payer  types.RequestPayer
	idle   *http.Transport
}

func openS3(u URI, c S3Config, transport *http.Transport) *s3Bucket {
	options := s3.Options{
		Credentials:   c.Credentials,
		Region:        c.Region,
		AppID:         c.AppID,
		HTTPClient:    &http.Client{Transport: transport, CheckRedirect: noRedirect},
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
	b := &s3Bucket{uri: u, client: s3.New(options), idle: transport}
	options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 5 })
	b.writer = s3.New(options)
	if c.ExpectedBucketOwner != "" {
		b.owner = aws.String(c.ExpectedBucketOwner)
	}
	if c.RequesterPays {
		b.payer = types.RequestPayerRequester
	}
	return b
}

// noRedirect hands S3's 301 to the caller: it names the bucket's region and must not be followed with a wrong signature.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (b *s3Bucket) String() string { return b.uri.String() }

func (b *s3Bucket) Close() error {
	b.idle.CloseIdleConnections()
	return nil
}

func (b *s3Bucket) bucket() *string { return aws.String(b.uri.Host) }

func (b *s3Bucket) key(name string) *string {
	if b.uri.Path == "" {
		return aws.String(name)
	}
	return aws.String(b.uri.Path + "/" + name)
}

// Get sends one GetObject. A pin goes along as versionId where the bucket is versioned, else as If-Match.
func (b *s3Bucket) Get(ctx context.Context, r Range) (*Body, error) {
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
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, b.failed(ctx, r, err)
	}
	id, _ := awsRequestID(out.ResultMetadata)
	body := &Body{ReadCloser: out.Body, Len: length(out.ContentLength), Size: length(out.ContentLength), RequestID: id,
		Pin: Pin{ETag: aws.ToString(out.ETag), VersionID: versionID(out.VersionId)}}
	if out.ContentRange != nil {
		if err := body.contentRange(*out.ContentRange, r.Name, b); err != nil {
			out.Body.Close()
			return nil, err
		}
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
func versionID(id *string) string {
	if v := aws.ToString(id); v != "null" {
		return v
	}
	return ""
}

// failed classes an error of the SDK. The request id stays in the message: it is what AWS support asks for.
func (b *s3Bucket) failed(ctx context.Context, r Range, err error) error {
	if fault.Of(err) != fault.Internal { // the credentials' own error, already classed
		return err
	}
	var resp *awshttp.ResponseError
	if !errors.As(err, &resp) {
		return readError(ctx, cause(err), "asking for %s at %s", r.Name, b)
	}
	code, words := apiError(err, resp)
	status := resp.HTTPStatusCode()
	switch {
	case code == "ExpiredToken" || code == "InvalidAccessKeyId" || code == "InvalidToken" || code == "SignatureDoesNotMatch":
		return fault.New(fault.Identity, "check the access key, the session token and their expiry", "%s at %s: %s", r.Name, b, words)
	case code == "RequestTimeTooSkewed":
		return fault.New(fault.Identity, "set the node's clock", "%s at %s: %s", r.Name, b, words)
	case status == http.StatusPreconditionFailed:
		return changed(r.Name, b)
	case status == http.StatusRequestedRangeNotSatisfiable:
		return tooShort(r, b)
	case status == http.StatusMovedPermanently || code == "AuthorizationHeaderMalformed" || code == "PermanentRedirect":
		return fault.New(fault.Access, "set --s3-region (AWS_DEFAULT_REGION) to "+bucketRegion(resp),
			"bucket %s is in another region: %s", b.uri.Host, words)
	}
	return statusError(status, words, r.Name, b)
}

func bucketRegion(resp *awshttp.ResponseError) string {
	if resp.Response != nil {
		if region := resp.Response.Header.Get("x-amz-bucket-region"); region != "" {
			return region
		}
	}
	return "the bucket's region"
}

// apiError returns S3's error code and one line with code, message, status and request id.
func apiError(err error, resp *awshttp.ResponseError) (code, words string) {
	var api smithy.APIError
	if errors.As(err, &api) {
		code, words = api.ErrorCode(), api.ErrorCode()
		if m := api.ErrorMessage(); m != "" && m != code {
			words += ": " + m
		}
	}
	words += " (HTTP " + strconv.Itoa(resp.HTTPStatusCode())
	if id := resp.ServiceRequestID(); id != "" {
		words += ", request " + id
	}
	return code, words + ")"
}

// cause strips the SDK's wrappers, which repeat the operation and the whole URL.
func cause(err error) error {
	var op *smithy.OperationError
	if errors.As(err, &op) {
		err = op.Err
	}
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) {
		err = send.Err
	}
	return bare(err)
}

// Exists reports whether an object is there.
func (b *s3Bucket) Exists(ctx context.Context, name string) (bool, error) {
	_, err := b.writer.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b.bucket(), Key: b.key(name),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	var resp *awshttp.ResponseError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &resp) && resp.HTTPStatusCode() == http.StatusNotFound:
		return false, nil
	}
	return false, b.failed(ctx, Range{Name: name}, err)
}

// Create stores a new object whole.
func (b *s3Bucket) Create(ctx context.Context, name string, data []byte) error {
	_, err := b.writer.PutObject(ctx, &s3.PutObjectInput{Bucket: b.bucket(), Key: b.key(name), Body: bytes.NewReader(data),
		ContentLength: aws.Int64(int64(len(data))), IfNoneMatch: aws.String("*"),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	return b.created(ctx, name, err)
}

// created classes the error of a call that makes an object with If-None-Match: *.
func (b *s3Bucket) created(ctx context.Context, name string, err error) error {
	var resp *awshttp.ResponseError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &resp) && (resp.HTTPStatusCode() == http.StatusPreconditionFailed || resp.HTTPStatusCode() == http.StatusConflict):
		return alreadyThere(name, b)
	case errors.As(err, &resp) && resp.HTTPStatusCode() == http.StatusNotImplemented:
		return fault.New(fault.Access, "publish to a store that knows If-None-Match, or to a directory",
			"%s cannot promise not to overwrite a published version: it does not know If-None-Match", b)
	}
	return b.failed(ctx, Range{Name: name}, err)
}

// Begin starts a multipart upload.
func (b *s3Bucket) Begin(ctx context.Context, name string, _ int64) (Upload, error) {
	out, err := b.writer.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: b.bucket(), Key: b.key(name),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return nil, b.failed(ctx, Range{Name: name}, err)
	}
	return &s3Upload{bucket: b, name: name, id: out.UploadId}, nil
}

// Remove deletes an object that this run made.
func (b *s3Bucket) Remove(ctx context.Context, name string) error {
	_, err := b.writer.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b.bucket(), Key: b.key(name),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return b.failed(ctx, Range{Name: name}, err)
	}
	return nil
}

// s3Upload is a multipart upload under way.
type s3Upload struct {
	bucket *s3Bucket
	name   string
	id     *string
}

// Part uploads part i, counted from 0.
func (u *s3Upload) Part(ctx context.Context, i int, _ int64, data []byte) (string, error) {
	b := u.bucket
	out, err := b.writer.UploadPart(ctx, &s3.UploadPartInput{Bucket: b.bucket(), Key: b.key(u.name), UploadId: u.id,
		PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return "", b.failed(ctx, Range{Name: u.name}, err)
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
	_, err := b.writer.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: b.bucket(), Key: b.key(u.name),
		UploadId: u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}, IfNoneMatch: aws.String("*"),
		ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	return b.created(ctx, u.name, err)
}

// Abort drops the parts.
func (u *s3Upload) Abort(ctx context.Context) error {
	b := u.bucket
	_, err := b.writer.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: b.bucket(), Key: b.key(u.name),
		UploadId: u.id, ExpectedBucketOwner: b.owner, RequestPayer: b.payer})
	if err != nil {
		return b.failed(ctx, Range{Name: u.name}, err)
	}
	return nil
}
