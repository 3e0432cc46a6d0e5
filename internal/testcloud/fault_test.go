package testcloud_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// TestBodyFaults checks what a client sees of each fault in a ranged GET of bytes 1000 to 8999.
func TestBodyFaults(t *testing.T) {
	offset := int64(5000)
	data := pattern(10_000)
	want := data[1000:9000]
	flipped := bytes.Clone(want)
	flipped[4000] ^= 1
	for _, test := range []struct {
		name  string
		fault testcloud.Fault
		body  []byte // what arrives; nil is not looked at
		err   error  // of reading the body
		check func(*s3.GetObjectOutput) bool
	}{
		{name: "none", body: want},
		{name: "reset", fault: testcloud.Fault{Break: &testcloud.Break{After: 100, How: testcloud.Reset}},
			err: syscall.ECONNRESET},
		{name: "close", fault: testcloud.Fault{Break: &testcloud.Break{After: 100}},
			body: want[:100], err: io.ErrUnexpectedEOF},
		{name: "close at once", fault: testcloud.Fault{Break: &testcloud.Break{}}, body: want[:0], err: io.ErrUnexpectedEOF},
		{name: "length too small", fault: testcloud.Fault{LengthDelta: -10}, body: want[:7990]},
		{name: "length too large", fault: testcloud.Fault{LengthDelta: 10}, body: want, err: io.ErrUnexpectedEOF},
		{name: "range ignored", fault: testcloud.Fault{IgnoreRange: true}, body: data,
			check: func(o *s3.GetObjectOutput) bool { return o.ContentRange == nil }},
		{name: "wrong range", fault: testcloud.Fault{ContentRange: "bytes 0-7999/10000"}, body: want,
			check: func(o *s3.GetObjectOutput) bool { return *o.ContentRange == "bytes 0-7999/10000" }},
		{name: "flipped bit", fault: testcloud.Fault{FlipByte: &offset}, body: flipped},
		{name: "replaced", fault: testcloud.Fault{Replace: bytes.Repeat([]byte("x"), 9000)},
			body: bytes.Repeat([]byte("x"), 8000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, tls := range []bool{false, true} {
				c, bucket, client := fixture(t, testcloud.Options{TLS: tls})
				before := bucket.Put("dir/k", data)
				hit := c.Inject(testcloud.Rule{Op: "GetObject", Key: "dir/*", Times: 1, Fault: test.fault})
				in := s3.GetObjectInput{Key: aws.String("dir/k"), Range: aws.String("bytes=1000-8999")}
				got, out, err := get(t.Context(), client, in)
				if !errors.Is(err, test.err) || test.body != nil && !bytes.Equal(got, test.body) || hit.Hits() != 1 {
					t.Errorf("TLS %v: %d bytes, %v, %d hits", tls, len(got), err, hit.Hits())
				}
				if test.check != nil && !test.check(out) {
					t.Errorf("TLS %v: %+v", tls, out)
				}
				replaced := test.fault.Replace != nil
				after, _, err := get(t.Context(), client, in)
				if err != nil || !replaced && !bytes.Equal(after, want) {
					t.Errorf("TLS %v: the second try: %d bytes, %v", tls, len(after), err)
				}
				if replaced == (out != nil && *out.ETag == before.ETag) {
					t.Errorf("TLS %v: replaced %v, yet the ETag says otherwise", tls, replaced)
				}
			}
		})
	}
}

func TestErrorFaults(t *testing.T) {
	c, bucket, client := fixture(t, testcloud.Options{})
	bucket.Put("k", []byte("data"))
	bucket.Put("other", []byte("data"))
	in := s3.GetObjectInput{Key: aws.String("k")}
	slow := c.Inject(testcloud.Rule{
		Op: "GetObject", Key: "k", Skip: 1, Times: 1, Fault: testcloud.Fault{Error: testcloud.SlowDown()},
	})
	var codes []string
	for range 3 {
		_, _, err := get(t.Context(), client, in)
		codes = append(codes, code(err))
	}
	if strings.Join(codes, " ") != "<nil> SlowDown <nil>" || slow.Hits() != 1 {
		t.Errorf("codes %q, %d hits", codes, slow.Hits())
	}
	c.OnS3Request(func(r *testcloud.Request) testcloud.Fault {
		if r.Key != "k" {
			return testcloud.Fault{}
		}
		return testcloud.Fault{Error: testcloud.InternalError()}
	})
	if _, _, err := get(t.Context(), client, in); code(err) != "InternalError" || status(err) != 500 {
		t.Errorf("hook: %v", err)
	}
	if _, _, err := get(t.Context(), client, s3.GetObjectInput{Key: aws.String("other")}); err != nil {
		t.Errorf("the hook harms what it left alone: %v", err)
	}
	c.ClearFaults()
	if _, _, err := get(t.Context(), client, in); err != nil {
		t.Errorf("after ClearFaults: %v", err)
	}
}

func TestStallLastsUntilTheClientLeaves(t *testing.T) {
	c, bucket, client := fixture(t, testcloud.Options{})
	bucket.Put("k", pattern(100_000))
	c.Inject(testcloud.Rule{Fault: testcloud.Fault{Break: &testcloud.Break{After: 50_000, How: testcloud.Stall}}})
	ctx, cancel := context.WithCancel(t.Context())
	out, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("models"), Key: aws.String("k")})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	if _, err := io.ReadFull(out.Body, make([]byte, 50_000)); err != nil {
		t.Fatal(err)
	}
	if log := c.S3Requests(); len(log) != 1 || log[0].BytesOut != 50_000 {
		t.Errorf("log: %+v", log)
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	if n, err := out.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the stall: %d bytes, %v", n, err)
	}
}

func TestLostAnswerOfAnUpload(t *testing.T) {
	c, bucket, client := fixture(t, testcloud.Options{})
	in := &s3.PutObjectInput{Bucket: aws.String("models"), Key: aws.String("k"), Body: strings.NewReader("data")}
	c.Inject(testcloud.Rule{Op: "PutObject", Times: 1, Fault: testcloud.Fault{LoseAnswer: true}})
	if _, err := client.PutObject(t.Context(), in); err == nil {
		t.Fatal("the client got an answer")
	}
	if data, ok := bucket.Get("k"); !ok || string(data) != "data" {
		t.Errorf("stored: %q, %v", data, ok)
	}
	c.Inject(testcloud.Rule{Op: "PutObject", Times: 1, Fault: testcloud.Fault{
		Break: &testcloud.Break{After: 2, How: testcloud.Reset},
	}})
	in.Key, in.Body = aws.String("half"), strings.NewReader("data")
	if _, err := client.PutObject(t.Context(), in); err == nil {
		t.Fatal("the client got an answer")
	}
	if _, ok := bucket.Get("half"); ok {
		t.Error("half an upload is stored")
	}
}

func TestPaceLatencyAndRedirect(t *testing.T) {
	c, bucket, _ := fixture(t, testcloud.Options{})
	bucket.Put("k", pattern(20_000))
	client := s3Client(c, c.Account(owner).NewAccessKey(), func(o *s3.Options) {
		stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		o.HTTPClient = &http.Client{CheckRedirect: stay}
	})
	in := s3.GetObjectInput{Key: aws.String("k")}
	slow := testcloud.Fault{Bandwidth: 400_000, Latency: 20 * time.Millisecond}
	c.Inject(testcloud.Rule{Times: 1, Fault: slow})
	start := time.Now()
	if _, _, err := get(t.Context(), client, in); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 65*time.Millisecond { // 20 ms and 20,000 bytes at 400,000 a second
		t.Errorf("20,000 bytes came in %v", took)
	}
	c.Inject(testcloud.Rule{Times: 1, Fault: testcloud.Fault{Redirect: "http://198.51.100.1/"}})
	if _, _, err := get(t.Context(), client, in); status(err) != http.StatusTemporaryRedirect {
		t.Errorf("redirect: %v", err)
	}
}
