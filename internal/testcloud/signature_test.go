package testcloud_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// signed makes a request signed by the SDK's signer.
func signed(t *testing.T, c *testcloud.Cloud, keys testcloud.Credentials, method, target, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.S3URL()+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	hash := hex.EncodeToString(sum[:])
	r.Header.Set("X-Amz-Content-Sha256", hash)
	r.Header.Set("X-Amz-Meta-Note", "two  spaces")
	r.Header.Set("Range", "bytes=0-1")
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	creds := aws.Credentials{
		AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey, SessionToken: keys.SessionToken,
	}
	if err := signer.SignHTTP(t.Context(), creds, r, hash, "s3", region, time.Now()); err != nil {
		t.Fatal(err)
	}
	return r
}

func do(t *testing.T, r *http.Request) (status int, code string) {
	t.Helper()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Header.Get("X-Amz-Request-Id") == "" {
		t.Error("answer without x-amz-request-id")
	}
	_, rest, _ := strings.Cut(string(body), "<Code>")
	code, _, _ = strings.Cut(rest, "</Code>")
	return answer.StatusCode, code
}

func TestTamperedRequests(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	bucket.Put("k", []byte("data"))
	keys := c.Account(owner).NewSession(time.Hour)
	replace := func(r *http.Request, old, new string) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
	}
	for _, test := range []struct {
		name   string
		method string
		tamper func(*http.Request)
		status int
		code   string
	}{
		{"untouched get", "GET", func(*http.Request) {}, 206, ""},
		{"untouched put", "PUT", func(*http.Request) {}, 200, ""},
		{"header", "GET", func(r *http.Request) { r.Header.Set("X-Amz-Meta-Note", "other") }, 403, "SignatureDoesNotMatch"},
		{"signed range", "GET", func(r *http.Request) { r.Header.Set("Range", "bytes=2-3") }, 403, "SignatureDoesNotMatch"},
		{"header removed", "GET", func(r *http.Request) { r.Header.Del("X-Amz-Meta-Note") }, 403, "SignatureDoesNotMatch"},
		{"header added", "GET", func(r *http.Request) { r.Header.Set("X-Amz-Request-Payer", "x") }, 403, "AccessDenied"},
		{"token", "GET", func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") }, 403, "SignatureDoesNotMatch"},
		{"path", "GET", func(r *http.Request) { r.URL.Path = "/models/other" }, 403, "SignatureDoesNotMatch"},
		{"query", "GET", func(r *http.Request) { r.URL.RawQuery = "versionId=x" }, 403, "SignatureDoesNotMatch"},
		{"method", "GET", func(r *http.Request) { r.Method = "DELETE" }, 403, "SignatureDoesNotMatch"},
		{"host", "GET", func(r *http.Request) { r.Host = "s3.amazonaws.com" }, 403, "SignatureDoesNotMatch"},
		{"signature", "GET", func(r *http.Request) { replace(r, "Signature=", "Signature=0") }, 403, "SignatureDoesNotMatch"},
		{"region", "GET", func(r *http.Request) { replace(r, region, "us-east-1") }, 403, "SignatureDoesNotMatch"},
		{"date", "GET", func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().Add(time.Second).UTC().Format("20060102T150405Z"))
		}, 403, "SignatureDoesNotMatch"},
		{"old date", "GET", func(r *http.Request) {
			old := time.Now().Add(-48 * time.Hour).UTC()
			replace(r, time.Now().UTC().Format("20060102"), old.Format("20060102"))
			r.Header.Set("X-Amz-Date", old.Format("20060102T150405Z"))
		}, 403, "RequestTimeTooSkewed"},
		{"other day in the scope", "GET", func(r *http.Request) {
			replace(r, time.Now().UTC().Format("20060102"), "20200101")
		}, 400, "AuthorizationHeaderMalformed"},
		{"other service", "GET", func(r *http.Request) { replace(r, "/s3/", "/sts/") }, 400, "AuthorizationHeaderMalformed"},
		{"host not signed", "GET", func(r *http.Request) { replace(r, "host;", "") }, 400, "AuthorizationHeaderMalformed"},
		{"other algorithm", "GET", func(r *http.Request) { replace(r, "HMAC", "NONE") }, 400, "AuthorizationHeaderMalformed"},
		{"body", "PUT", func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader("Body"))
		}, 400, "XAmzContentSHA256Mismatch"},
		{"body and hash", "PUT", func(r *http.Request) {
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		}, 403, "SignatureDoesNotMatch"},
		{"MD5", "PUT", func(r *http.Request) { r.Header.Set("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==") }, 400, "BadDigest"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, body := "/models/k", ""
			if test.method == "PUT" {
				target, body = "/models/new", "body"
			}
			r := signed(t, c, keys, test.method, target, body)
			test.tamper(r)
			if status, code := do(t, r); status != test.status || code != test.code {
				t.Errorf("got %d %s, want %d %s", status, code, test.status, test.code)
			}
			stored, ok := bucket.Get("new")
			bucket.Delete("new")
			if ok != (test.method == "PUT" && test.status == 200) || ok && string(stored) != "body" {
				t.Errorf("stored %q, %v", stored, ok)
			}
		})
	}
}

func TestPresigned(t *testing.T) {
	c, bucket, client := fixture(t, testcloud.Options{})
	bucket.Put("a b/k", []byte("data"))
	p, err := s3.NewPresignClient(client).PresignGetObject(t.Context(),
		&s3.GetObjectInput{Bucket: aws.String("models"), Key: aws.String("a b/k")}, s3.WithPresignExpires(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(target string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", target, nil)
		if err != nil {
			t.Fatal(err)
		}
		return do(t, r)
	}
	if status, code := fetch(p.URL); status != 200 {
		t.Errorf("presigned: %d %s", status, code)
	}
	longer := strings.Replace(p.URL, "X-Amz-Expires=60", "X-Amz-Expires=600", 1)
	if status, code := fetch(longer); code != "SignatureDoesNotMatch" {
		t.Errorf("with a longer life: %d %s", status, code)
	}
	c.Advance(2 * time.Minute)
	if status, code := fetch(p.URL); status != 403 || code != "AccessDenied" {
		t.Errorf("after its time: %d %s", status, code)
	}
}

// TestSignedChunks uploads in signed chunks. Framing and chunk signatures are the S3 API reference spelled out.
func TestSignedChunks(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	keys := c.Account(owner).NewAccessKey()
	put := func(tamper func([]byte) []byte) (int, string) {
		r, body := chunkedUpload(t, c.S3URL()+"/models/chunked", keys, [][]byte{pattern(9000), []byte("tail"), nil})
		body = tamper(body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		return do(t, r)
	}
	if status, code := put(func(b []byte) []byte { return b }); status != 200 {
		t.Fatalf("%d %s", status, code)
	}
	if got, _ := bucket.Get("chunked"); !bytes.Equal(got, append(pattern(9000), "tail"...)) {
		t.Errorf("stored %d bytes", len(got))
	}
	bucket.Delete("chunked")
	status, code := put(func(b []byte) []byte { return bytes.Replace(b, []byte("tail"), []byte("Tail"), 1) })
	if status != 403 || code != "SignatureDoesNotMatch" {
		t.Errorf("changed chunk: %d %s", status, code)
	}
	if _, ok := bucket.Get("chunked"); ok {
		t.Error("a tampered upload is stored")
	}
}

func TestMalformedChunks(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	keys := c.Account(owner).NewAccessKey()
	for body, want := range map[string]string{
		"4\r\nbody\r\n0\r\nx-amz-checksum-crc32:26gLsg==\r\n\r\n":  "",
		"4\r\nbody\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n":  "BadDigest",
		"4\r\nbody\r\n0\r\n\r\n":                                   "BadDigest",
		"4\r\nbod":                                                 "IncompleteBody",
		"3\r\nbody\r\n0\r\n\r\n":                                   "InvalidRequest",
		"zz\r\nbody\r\n0\r\n\r\n":                                  "InvalidRequest",
		"-4\r\nbody\r\n0\r\n\r\n":                                  "InvalidRequest",
		"3\r\nbod\r\n0\r\nx-amz-checksum-crc32:HKgUdQ==\r\n\r\n":   "IncompleteBody",
		"4;chunk-signature=0\r\nbody\r\n0;chunk-signature=0\r\n\r": "InvalidRequest",
	} {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", c.S3URL()+"/models/k", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
		r.Header.Set("X-Amz-Decoded-Content-Length", "4")
		r.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
		creds := aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey}
		err = v4.NewSigner().SignHTTP(t.Context(), creds, r, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "s3", region, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, code := do(t, r); code != want {
			t.Errorf("%q: got %q, want %q", body, code, want)
		}
		_, stored := bucket.Get("k")
		if bucket.Delete("k"); stored != (want == "") {
			t.Errorf("%q: stored %v", body, stored)
		}
	}
}

// chunkedUpload returns a request signed with STREAMING-AWS4-HMAC-SHA256-PAYLOAD and its body.
func chunkedUpload(t *testing.T, target string, keys testcloud.Credentials, chunks [][]byte) (*http.Request, []byte) {
	t.Helper()
	const kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	r, err := http.NewRequestWithContext(t.Context(), "PUT", target, nil)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, chunk := range chunks {
		size += len(chunk)
	}
	at := time.Now()
	r.Header.Set("X-Amz-Content-Sha256", kind)
	r.Header.Set("X-Amz-Decoded-Content-Length", strconv.Itoa(size))
	creds := aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, r, kind, "s3", region, at); err != nil {
		t.Fatal(err)
	}
	_, previous, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
	var body bytes.Buffer
	for _, chunk := range chunks {
		previous = chunkSignature(keys.SecretAccessKey, previous, chunk, at)
		body.WriteString(strconv.FormatInt(int64(len(chunk)), 16) + ";chunk-signature=" + previous + "\r\n")
		body.Write(chunk)
		body.WriteString("\r\n")
	}
	return r, body.Bytes()
}

// chunkSignature is "Defining the chunk body" of the S3 API reference, spelled out.
func chunkSignature(secret, previous string, chunk []byte, at time.Time) string {
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	day, stamp := at.UTC().Format("20060102"), at.UTC().Format("20060102T150405Z")
	key := mac(mac(mac(mac([]byte("AWS4"+secret), day), region), "s3"), "aws4_request")
	empty, sum := sha256.Sum256(nil), sha256.Sum256(chunk)
	text := "AWS4-HMAC-SHA256-PAYLOAD\n" + stamp + "\n" + day + "/" + region + "/s3/aws4_request\n" + previous + "\n" +
		hex.EncodeToString(empty[:]) + "\n" + hex.EncodeToString(sum[:])
	return hex.EncodeToString(mac(key, text))
}
