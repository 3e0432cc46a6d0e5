package testcloud_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

const (
	owner    = "111122223333"
	stranger = "444455556666"
	region   = "eu-central-1"
)

// s3Client is a real SDK client that tries once.
func s3Client(c *testcloud.Cloud, keys testcloud.Credentials, opts ...func(*s3.Options)) *s3.Client {
	base := s3.Options{
		Region: region, BaseEndpoint: aws.String(c.S3URL()), HTTPClient: c.HTTPClient(),
		Credentials: credentials.NewStaticCredentialsProvider(keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken),
		Retryer:     aws.NopRetryer{},

		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported, // what LoadDefaultConfig sets
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
	}
	return s3.New(base, opts...)
}

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

func status(err error) int {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// pattern is n bytes, all different from their neighbours.
func pattern(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	return data
}

// fixture is a cloud with one bucket and a client of its owner.
func fixture(t *testing.T, opts testcloud.Options) (*testcloud.Cloud, *testcloud.Bucket, *s3.Client) {
	t.Helper()
	c := testcloud.Start(t, opts)
	account := c.Account(owner)
	return c, account.NewBucket("models", region), s3Client(c, account.NewAccessKey())
}

func get(ctx context.Context, client *s3.Client, in s3.GetObjectInput) ([]byte, *s3.GetObjectOutput, error) {
	in.Bucket = aws.String("models")
	out, err := client.GetObject(ctx, &in)
	if err != nil {
		return nil, nil, err
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	return data, out, err
}

func TestGetObject(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{})
	data := pattern(10_000)
	sum := md5.Sum(data)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	bucket.Put("dir/a b+c=é", data)
	for _, test := range []struct {
		name   string
		in     s3.GetObjectInput
		want   []byte
		status int
		code   string
	}{
		{name: "whole", want: data},
		{name: "range", in: s3.GetObjectInput{Range: aws.String("bytes=1-9")}, want: data[1:10]},
		{name: "open range", in: s3.GetObjectInput{Range: aws.String("bytes=9990-")}, want: data[9990:]},
		{name: "suffix", in: s3.GetObjectInput{Range: aws.String("bytes=-5")}, want: data[9995:]},
		{name: "suffix longer than the object", in: s3.GetObjectInput{Range: aws.String("bytes=-20000")}, want: data},
		{name: "range beyond the end", in: s3.GetObjectInput{Range: aws.String("bytes=9990-20000")}, want: data[9990:]},
		{name: "unreadable range", in: s3.GetObjectInput{Range: aws.String("bytes=9-1")}, want: data},
		{name: "several ranges", in: s3.GetObjectInput{Range: aws.String("bytes=0-1,4-5")}, want: data},
		{name: "unsatisfiable", in: s3.GetObjectInput{Range: aws.String("bytes=10000-")}, status: 416, code: "InvalidRange"},
		{name: "If-Match", in: s3.GetObjectInput{IfMatch: &etag}, want: data},
		{name: "If-Match wrong", in: s3.GetObjectInput{IfMatch: aws.String(`"x"`)}, status: 412, code: "PreconditionFailed"},
		{name: "If-None-Match", in: s3.GetObjectInput{IfNoneMatch: &etag}, status: 304, code: "NotModified"},
		{name: "missing", in: s3.GetObjectInput{Key: aws.String("dir/a b")}, status: 404, code: "NoSuchKey"},
		{name: "no such version", in: s3.GetObjectInput{VersionId: aws.String("v")}, status: 404, code: "NoSuchVersion"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.in.Key == nil {
				test.in.Key = aws.String("dir/a b+c=é")
			}
			got, out, err := get(t.Context(), client, test.in)
			if test.code != "" {
				if code(err) != test.code || status(err) != test.status {
					t.Fatalf("got %v, want %d %s", err, test.status, test.code)
				}
				return
			}
			if err != nil || !bytes.Equal(got, test.want) || *out.ETag != etag {
				t.Fatalf("got %d bytes, ETag %v, error %v", len(got), out, err)
			}
		})
	}
}

func TestEveryKindOfContent(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{MinPartSize: 1})
	data := pattern(100_000)
	path := t.TempDir() + "/object"
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	bucket.Put("bytes", data)
	if _, err := bucket.PutFile("file", path); err != nil {
		t.Fatal(err)
	}
	bucket.PutReaderAt("lazy", bytes.NewReader(data), int64(len(data)))
	uploadParts(t, client, "parts", [][]byte{data[:30_000], data[30_000:30_001], data[30_001:]})
	for _, key := range []string{"bytes", "file", "lazy", "parts"} {
		for _, r := range []string{"bytes=0-99999", "bytes=29999-30002", "bytes=30000-30000", "bytes=99999-"} {
			whole, _, err := get(t.Context(), client, s3.GetObjectInput{Key: &key})
			if err != nil || !bytes.Equal(whole, data) {
				t.Fatalf("%s: whole object differs: %v", key, err)
			}
			var from, to int
			fmt.Sscanf(r, "bytes=%d-%d", &from, &to)
			if to == 0 {
				to = len(data) - 1
			}
			got, _, err := get(t.Context(), client, s3.GetObjectInput{Key: &key, Range: &r})
			if err != nil || !bytes.Equal(got, data[from:to+1]) {
				t.Errorf("%s %s: %d bytes, %v", key, r, len(got), err)
			}
		}
		if stored, ok := bucket.Get(key); !ok || !bytes.Equal(stored, data) {
			t.Errorf("%s: Get returns %d bytes, %v", key, len(stored), ok)
		}
	}
}

// uploadParts uploads an object in parts and returns its ETag.
func uploadParts(t *testing.T, client *s3.Client, key string, parts [][]byte) string {
	t.Helper()
	ctx, bucket := t.Context(), aws.String("models")
	created, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	var done []types.CompletedPart
	for i, data := range parts {
		n := aws.Int32(int32(i + 1))
		out, err := client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: bucket, Key: &key, UploadId: created.UploadId, PartNumber: n, Body: bytes.NewReader(data),
		})
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, types.CompletedPart{PartNumber: n, ETag: out.ETag})
	}
	out, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: &key, UploadId: created.UploadId, IfNoneMatch: aws.String("*"),
		MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	if err != nil {
		t.Fatal(err)
	}
	return *out.ETag
}

func TestPutObjectOnce(t *testing.T) {
	for _, tls := range []bool{false, true} { // over TLS the SDK sends aws-chunked with a trailer
		c, bucket, client := fixture(t, testcloud.Options{TLS: tls})
		in := func(data []byte) *s3.PutObjectInput {
			return &s3.PutObjectInput{
				Bucket: aws.String("models"), Key: aws.String("k"), Body: bytes.NewReader(data), IfNoneMatch: aws.String("*"),
				Metadata: map[string]string{"note": "x"},
			}
		}
		first := pattern(3_000_000)
		if _, err := client.PutObject(t.Context(), in(first)); err != nil {
			t.Fatal(err)
		}
		_, err := client.PutObject(t.Context(), in([]byte("second")))
		if code(err) != "PreconditionFailed" || status(err) != 412 {
			t.Errorf("second put: %v", err)
		}
		if got, _ := bucket.Get("k"); !bytes.Equal(got, first) {
			t.Errorf("the refused put left %d bytes", len(got))
		}
		log := c.S3Requests("PutObject")
		kind := log[0].Header.Get("X-Amz-Content-Sha256")
		if tls != (kind == "STREAMING-UNSIGNED-PAYLOAD-TRAILER") {
			t.Errorf("the SDK sent %q, so that the trailer is not tested", kind)
		}
		if log[0].BytesIn != int64(len(first)) || log[0].Status != 200 || log[1].Code != "PreconditionFailed" {
			t.Errorf("log: %+v", log)
		}
		head, err := client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("models"), Key: aws.String("k")})
		if err != nil || head.Metadata["note"] != "x" || *head.ContentLength != int64(len(first)) {
			t.Errorf("head: %+v, %v", head, err)
		}
	}
}

func TestListObjects(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{})
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("m/%02d/é&<", i)
		want = append(want, key)
		bucket.Put(key, nil)
		bucket.Put(fmt.Sprintf("n%02d", i), nil)
	}
	var got []string
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{
		Bucket: aws.String("models"), Prefix: aws.String("m/"), MaxKeys: aws.Int32(10),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			got = append(got, *o.Key)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	out, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{
		Bucket: aws.String("models"), Prefix: aws.String("m"), Delimiter: aws.String("/"),
	})
	if err != nil || len(out.Contents) != 0 || len(out.CommonPrefixes) != 1 || *out.CommonPrefixes[0].Prefix != "m/" {
		t.Errorf("folded: %+v, %v", out, err)
	}
}

func TestRefusals(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	bucket.Put("k", []byte("data"))
	account := c.Account(owner)
	good := account.NewAccessKey()
	wrongSecret := good
	wrongSecret.SecretAccessKey += "x"
	expired := account.NewSession(-time.Second)
	session := account.NewSession(time.Hour)
	withoutToken := session
	withoutToken.SessionToken = ""
	unknown := good
	unknown.AccessKeyID = "AKIAXXXXXXXXXXXXXXXX"
	elsewhere := func(o *s3.Options) { o.Region = "us-west-2" }
	for _, test := range []struct {
		name   string
		keys   testcloud.Credentials
		opt    func(*s3.Options)
		in     s3.GetObjectInput
		status int
		code   string
	}{
		{name: "wrong secret", keys: wrongSecret, status: 403, code: "SignatureDoesNotMatch"},
		{name: "unknown key", keys: unknown, status: 403, code: "InvalidAccessKeyId"},
		{name: "expired", keys: expired, status: 400, code: "ExpiredToken"},
		{name: "token left out", keys: withoutToken, status: 400, code: "InvalidToken"},
		{name: "other account", keys: c.Account(stranger).NewAccessKey(), status: 403, code: "AccessDenied"},
		{name: "wrong region", keys: good, opt: elsewhere, status: 301, code: "PermanentRedirect"},
		{name: "wrong owner", keys: good, in: s3.GetObjectInput{ExpectedBucketOwner: aws.String(stranger)},
			status: 403, code: "AccessDenied"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.opt == nil {
				test.opt = func(*s3.Options) {}
			}
			test.in.Key = aws.String("k")
			_, _, err := get(t.Context(), s3Client(c, test.keys, test.opt), test.in)
			if code(err) != test.code || status(err) != test.status {
				t.Errorf("got %v, want %d %s", err, test.status, test.code)
			}
		})
	}
	right := s3.GetObjectInput{Key: aws.String("k"), ExpectedBucketOwner: aws.String(owner)}
	if _, _, err := get(t.Context(), s3Client(c, session), right); err != nil {
		t.Errorf("a live session is refused: %v", err)
	}
	c.Advance(2 * time.Hour)
	if _, _, err := get(t.Context(), s3Client(c, good), right); code(err) != "RequestTimeTooSkewed" {
		t.Errorf("skewed by two hours: %v", err)
	}
}

func TestHeadBucketTellsTheRegion(t *testing.T) {
	c, _, _ := fixture(t, testcloud.Options{})
	client := s3Client(c, c.Account(owner).NewAccessKey(), func(o *s3.Options) { o.Region = "us-west-2" })
	_, err := client.HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: aws.String("models")})
	var answer *awshttp.ResponseError
	if !errors.As(err, &answer) || answer.Response.Header.Get("X-Amz-Bucket-Region") != region {
		t.Fatalf("got %v", err)
	}
}

func TestVirtualHost(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{TLS: true})
	bucket.Put("a/b", []byte("data"))
	port := c.S3URL()[strings.LastIndexByte(c.S3URL(), ':'):]
	client := s3Client(c, c.Account(owner).NewAccessKey(), func(o *s3.Options) {
		o.BaseEndpoint = aws.String("https://s3.localhost" + port)
	})
	got, _, err := get(t.Context(), client, s3.GetObjectInput{Key: aws.String("a/b")})
	if err != nil || string(got) != "data" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestVersions(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{})
	bucket.SetVersioning(true)
	first := bucket.Put("k", []byte("first"))
	bucket.Put("k", []byte("second"))
	key := aws.String("k")
	del, err := client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("models"), Key: key})
	if err != nil || !*del.DeleteMarker {
		t.Fatalf("delete: %+v, %v", del, err)
	}
	if _, _, err := get(t.Context(), client, s3.GetObjectInput{Key: key}); code(err) != "NoSuchKey" {
		t.Errorf("behind the marker: %v", err)
	}
	got, out, err := get(t.Context(), client, s3.GetObjectInput{Key: key, VersionId: &first.VersionID})
	if err != nil || string(got) != "first" || *out.VersionId != first.VersionID {
		t.Errorf("first version: %q, %v", got, err)
	}
	if keys := bucket.Keys(); len(keys) != 0 {
		t.Errorf("keys behind the marker: %q", keys)
	}
}

func TestMultipartETag(t *testing.T) {
	_, bucket, client := fixture(t, testcloud.Options{})
	a, b := pattern(5<<20), []byte("tail")
	etag := uploadParts(t, client, "k", [][]byte{a, b})
	ma, mb := md5.Sum(a), md5.Sum(b)
	both := md5.Sum(append(ma[:], mb[:]...))
	if want := `"` + hex.EncodeToString(both[:]) + `-2"`; etag != want {
		t.Errorf("ETag %s, want %s", etag, want)
	}
	if got, _ := bucket.Get("k"); !bytes.Equal(got, append(a, b...)) || bucket.Uploads() != 0 {
		t.Errorf("%d bytes, %d uploads left", len(got), bucket.Uploads())
	}
}

func TestAnonymousIsRefused(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	bucket.Put("k", []byte("data"))
	answer, err := http.Get(c.S3URL() + "/models/k")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != 403 || !strings.Contains(string(body), "<Code>AccessDenied</Code>") {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
}

func TestGlobalEndpoint(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{GlobalEndpoint: true})
	bucket.Put("k", []byte("data"))
	client := s3Client(c, c.Account(owner).NewAccessKey(), func(o *s3.Options) { o.Region = "us-east-1" })
	_, _, err := get(t.Context(), client, s3.GetObjectInput{Key: aws.String("k")})
	if code(err) != "AuthorizationHeaderMalformed" || !strings.Contains(err.Error(), "expecting '"+region+"'") {
		t.Errorf("got %v", err)
	}
}

func TestRequesterPays(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	bucket.Put("k", []byte("data"))
	bucket.SetRequesterPays(true)
	if err := bucket.SetPolicy(policy(`{"Effect":"Allow","Principal":{"AWS":"` + stranger + `"},"Action":"s3:GetObject",
		"Resource":"arn:aws:s3:::models/*"}`)); err != nil {
		t.Fatal(err)
	}
	client := s3Client(c, c.Account(stranger).NewAccessKey())
	in := s3.GetObjectInput{Key: aws.String("k")}
	if _, _, err := get(t.Context(), client, in); code(err) != "AccessDenied" {
		t.Errorf("without the header: %v", err)
	}
	in.RequestPayer = types.RequestPayerRequester
	if _, _, err := get(t.Context(), client, in); err != nil {
		t.Errorf("with the header: %v", err)
	}
}

func TestEncryptedBucket(t *testing.T) {
	c, bucket, client := fixture(t, testcloud.Options{})
	bucket.Put("k", []byte("data"))
	key := &testcloud.KMSKey{ARN: "arn:aws:kms:" + region + ":" + stranger + ":key/1", Owner: stranger}
	in := s3.GetObjectInput{Key: aws.String("k")}
	keyPolicy := func(action string) {
		key := *key
		key.Policy = iam.MustParse(iam.Resource, `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Resource":"*",
			"Principal":{"AWS":"`+owner+`"},"Action":"`+action+`","Condition":{"StringEquals":{
			"kms:ViaService":"s3.`+region+`.amazonaws.com","kms:EncryptionContext:aws:s3:arn":"arn:aws:s3:::models/k"}}}}`)
		bucket.EncryptWith(&key)
	}
	bucket.EncryptWith(key)
	_, _, err := get(t.Context(), client, in)
	if code(err) != "AccessDenied" || !strings.Contains(err.Error(), "kms:Decrypt") {
		t.Errorf("key of another account: %v", err)
	}
	keyPolicy("kms:Decrypt")
	if _, out, err := get(t.Context(), client, in); err != nil || *out.SSEKMSKeyId != key.ARN {
		t.Errorf("%+v, %v", out, err)
	}
	put := &s3.PutObjectInput{Bucket: aws.String("models"), Key: in.Key, Body: strings.NewReader("new")}
	if _, err := client.PutObject(t.Context(), put); code(err) != "AccessDenied" {
		t.Errorf("put without kms:GenerateDataKey: %v", err)
	}
	keyPolicy("kms:*")
	if _, err := client.PutObject(t.Context(), put); err != nil {
		t.Errorf("put: %v", err)
	}
	if log := c.S3Requests("PutObject"); len(log) != 2 {
		t.Errorf("log: %+v", log)
	}
}

// BenchmarkRangedGet measures what the server takes off a client's time: 16 MiB ranges of a file, over plain HTTP.
func BenchmarkRangedGet(b *testing.B) {
	const part = 16 << 20
	path := b.TempDir() + "/object"
	if err := os.WriteFile(path, pattern(4*part), 0o600); err != nil {
		b.Fatal(err)
	}
	c := testcloud.Start(b, testcloud.Options{})
	account := c.Account(owner)
	if _, err := account.NewBucket("models", region).PutFile("k", path); err != nil {
		b.Fatal(err)
	}
	client := s3Client(c, account.NewAccessKey())
	b.SetBytes(part)
	for i := 0; b.Loop(); i++ {
		out, err := client.GetObject(b.Context(), &s3.GetObjectInput{
			Bucket: aws.String("models"), Key: aws.String("k"),
			Range: aws.String(fmt.Sprintf("bytes=%d-%d", i%4*part, (i%4+1)*part-1)),
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, out.Body); err != nil {
			b.Fatal(err)
		}
		out.Body.Close()
	}
}
