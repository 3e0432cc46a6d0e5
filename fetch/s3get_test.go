package fetch

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// place is a bucket in a test cloud, with credentials for it.
type place struct {
	cloud  *testcloud.Cloud
	bucket *testcloud.Bucket
	keys   testcloud.Credentials
}

func newPlace(t *testing.T) *place {
	cloud := testcloud.Start(t, testcloud.Options{})
	account := cloud.Account("111122223333")
	return &place{cloud, account.NewBucket("models", "eu-central-1"), account.NewSession(time.Hour)}
}

// open opens a prefix of the bucket. With known, a first read has been made, so that later ones go below the SDK.
func (p *place) open(t *testing.T, prefix string, known bool, change func(*S3Config)) *s3Bucket {
	t.Helper()
	transport, err := NewTransport(HTTPConfig{ConnectTimeout: time.Second, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	provider, _, err := identity.Credentials(t.Context(), identity.Config{Static: identity.Static{AccessKeyID: p.keys.AccessKeyID,
		SecretAccessKey: p.keys.SecretAccessKey, SessionToken: p.keys.SessionToken, From: "the test"}})
	if err != nil {
		t.Fatal(err)
	}
	config := S3Config{Credentials: provider, Region: "eu-central-1", Endpoint: p.cloud.S3URL(), PathStyle: true, AppID: "test"}
	if change != nil {
		change(&config)
	}
	b := openS3(URI{Scheme: "s3", Host: "models", Path: prefix}, config, transport)
	t.Cleanup(func() { b.Close() })
	if known {
		p.bucket.Put("envelope.json", []byte("{}"))
		b.uri.Path = ""
		if _, err := get(t.Context(), b, Range{Name: "envelope.json", Len: -1}); err != nil || b.form == nil {
			t.Fatalf("the first read taught nothing: %v", err)
		}
		b.uri.Path = prefix
		p.cloud.ForgetRequests()
	}
	return b
}

func get(ctx context.Context, b *s3Bucket, r Range) ([]byte, error) {
	body, err := b.Get(ctx, r)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// TestReadsBelowTheSDKAreTheSDKs reads the same through both and holds what the server saw against each other. The test
// cloud verifies every signature.
func TestReadsBelowTheSDKAreTheSDKs(t *testing.T) {
	for _, c := range []struct {
		name, prefix, key string
		r                 Range
		versioned         bool
		change            func(*S3Config)
	}{
		{name: "whole", key: "data/00000", r: Range{Len: -1}},
		{name: "range", key: "data/00000", r: Range{Off: 3, Len: 4}},
		{name: "prefix", prefix: "a/b", key: "data/00001", r: Range{Off: 0, Len: 1}},
		{name: "odd names", prefix: "sp ace/ü+%25&=~'()*!@,;:$", key: "x?y#z", r: Range{Off: 1, Len: 2}},
		{name: "pinned by ETag", key: "data/00000", r: Range{Off: 1, Len: 2, Pin: Pin{ETag: "now"}}},
		{name: "pinned by version", key: "data/00000", r: Range{Off: 1, Len: 2, Pin: Pin{VersionID: "now"}}, versioned: true},
		{name: "owner and payer", key: "data/00000", r: Range{Off: 1, Len: 2}, change: func(c *S3Config) {
			c.ExpectedBucketOwner, c.RequesterPays = "111122223333", true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			p.bucket.SetVersioning(c.versioned)
			object := []byte("0123456789")
			version := p.bucket.Put(strings.TrimPrefix(c.prefix+"/"+c.key, "/"), object)
			c.r.Name = c.key
			if c.r.Pin.ETag != "" {
				c.r.Pin.ETag = version.ETag
			}
			if c.r.Pin.VersionID != "" {
				c.r.Pin.VersionID = version.VersionID
			}
			want := object
			if c.r.Len >= 0 {
				want = object[c.r.Off : c.r.Off+c.r.Len]
			}
			var seen [2]testcloud.Request
			for i, known := range []bool{false, true} {
				b := p.open(t, c.prefix, known, c.change)
				p.cloud.ForgetRequests()
				got, err := get(t.Context(), b, c.r)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("known %v: %q, %v; want %q", known, got, err, want)
				}
				requests := p.cloud.S3Requests()
				if len(requests) != 1 {
					t.Fatalf("known %v: %d requests", known, len(requests))
				}
				seen[i] = requests[0]
			}
			sdk, ours := seen[0], seen[1]
			if sdk.Header.Get("Amz-Sdk-Invocation-Id") == "" || ours.Header.Get("Amz-Sdk-Invocation-Id") != "" {
				t.Error("the reads did not go the two ways that were to be compared")
			}
			for name := range sdk.Header {
				if strings.HasPrefix(name, "Amz-Sdk-") || name == "X-Amz-Date" || name == "Authorization" {
					continue
				}
				if sdk.Header.Get(name) != ours.Header.Get(name) {
					t.Errorf("header %s is %q, the SDK's is %q", name, ours.Header.Get(name), sdk.Header.Get(name))
				}
			}
			if sdk.Key != ours.Key || sdk.VersionID != ours.VersionID || sdk.Range != ours.Range || sdk.AccessKeyID != ours.AccessKeyID {
				t.Errorf("%+v\nis not\n%+v", ours, sdk)
			}
		})
	}
}

// TestErrorsBelowTheSDKAreTheSDKs compares what becomes of refusals, and that each costs one request.
func TestErrorsBelowTheSDKAreTheSDKs(t *testing.T) {
	for _, c := range []struct {
		name  string
		r     Range
		fault testcloud.Fault
		kind  fault.Kind
	}{
		{name: "missing", r: Range{Name: "other", Off: 0, Len: 1}, kind: fault.Access},
		{name: "beyond the end", r: Range{Name: "o", Off: 100, Len: 1}, kind: fault.NotAuthentic},
		{name: "changed", r: Range{Name: "o", Off: 0, Len: 1, Pin: Pin{ETag: `"0"`}}, kind: fault.Access},
		{name: "throttled", r: Range{Name: "o", Off: 0, Len: 1}, fault: testcloud.Fault{Error: testcloud.SlowDown()}, kind: fault.Transient},
		{name: "internal", r: Range{Name: "o", Off: 0, Len: 1}, fault: testcloud.Fault{Error: testcloud.InternalError()}, kind: fault.Transient},
		{name: "no answer", r: Range{Name: "o", Off: 0, Len: 1}, fault: testcloud.Fault{LoseAnswer: true}, kind: fault.Transient},
		{name: "unusable range", r: Range{Name: "o", Off: 0, Len: 1}, fault: testcloud.Fault{ContentRange: "bytes x"}, kind: fault.Access},
		{name: "redirected", r: Range{Name: "o", Off: 0, Len: 1}, fault: testcloud.Fault{Redirect: "http://127.0.0.1:1/"}, kind: fault.Access},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			p.bucket.Put("o", []byte("0123456789"))
			var texts [2]string
			for i, known := range []bool{false, true} {
				b := p.open(t, "", known, nil)
				p.cloud.ForgetRequests()
				p.cloud.Inject(testcloud.Rule{Op: "GetObject", Key: "o", Fault: c.fault})
				_, err := get(t.Context(), b, c.r)
				if fault.Of(err) != c.kind {
					t.Errorf("known %v: kind %d: %v", known, fault.Of(err), err)
				}
				// net/http itself asks again where a connection that it had used before breaks.
				if n := len(p.cloud.S3Requests()); n != 1 && !c.fault.LoseAnswer {
					t.Errorf("known %v: %d requests", known, n)
				}
				p.cloud.ClearFaults()
				texts[i] = withoutIDs(err)
			}
			if texts[0] != texts[1] && !c.fault.LoseAnswer { // only net/http's client quotes the URL
				t.Errorf("%s\nis not the SDK's\n%s", texts[1], texts[0])
			}
		})
	}
}

// withoutIDs cuts off request ids and ports, which differ.
func withoutIDs(err error) string {
	text, _, _ := strings.Cut(err.Error(), ", request ")
	text, _, _ = strings.Cut(text, "127.0.0.1:")
	return text
}

func TestAnonymousReadsStayUnsigned(t *testing.T) {
	p := newPlace(t)
	p.bucket.Put("o", []byte("0123456789"))
	if err := p.bucket.SetPolicy(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",
		"Action":"s3:GetObject","Resource":"arn:aws:s3:::models/*"}]}`); err != nil {
		t.Fatal(err)
	}
	provider, _, err := identity.Credentials(t.Context(), identity.Config{Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	b := p.open(t, "", true, func(c *S3Config) { c.Credentials = provider })
	if got, err := get(t.Context(), b, Range{Name: "o", Off: 2, Len: 3}); err != nil || string(got) != "234" {
		t.Fatalf("%q, %v", got, err)
	}
	if r := p.cloud.S3Requests()[0]; r.Header.Get("Authorization") != "" || r.Header.Get("X-Amz-Date") != "" {
		t.Error("an anonymous read was signed")
	}
}

// TestFormFollowsTheRegion has the bucket be elsewhere than configured: what was learnt for one region is not used for
// another.
func TestFormFollowsTheRegion(t *testing.T) {
	p := newPlace(t)
	p.bucket.Put("o", []byte("0123456789"))
	b := p.open(t, "", false, func(c *S3Config) { c.Region = "us-west-2" })
	if _, err := get(t.Context(), b, Range{Name: "o", Len: -1}); !fault.Is(err, fault.Transient) || b.form != nil {
		t.Fatalf("error %v, form %v", err, b.form)
	}
	for range 3 {
		if got, err := get(t.Context(), b, Range{Name: "o", Off: 2, Len: 3}); err != nil || string(got) != "234" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if b.form == nil || b.form.region != "eu-central-1" {
		t.Errorf("form %+v", b.form)
	}
}

func TestFormsThatAreLeftToTheSDK(t *testing.T) {
	request := func(change func(*http.Request)) *http.Request {
		r, err := http.NewRequest(http.MethodGet, "https://b.example/p/o?x-id=GetObject", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AK/20260102/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0")
		r.Header.Set("X-Amz-Date", "20260102T030405Z")
		change(r)
		return r
	}
	if form := formOf(request(func(*http.Request) {}), "p/o"); form == nil || form.region != "eu-west-1" || form.service != "s3" ||
		form.url.Path != "/" || form.header.Get("Authorization") != "" || form.skew > -time.Hour && form.skew < time.Hour {
		t.Fatalf("%+v", form)
	}
	for name, change := range map[string]func(*http.Request){
		"other key": func(r *http.Request) { r.URL.Path = "/p/x" },
		"session":   func(r *http.Request) { r.Header.Set("x-amz-s3session-token", "t") },
		"many regions": func(r *http.Request) {
			r.Header.Set("Authorization", "AWS4-ECDSA-P256-SHA256 Credential=AK/20260102/s3/aws4_request")
		},
		"cut scope":       func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AK/20260102") },
		"no date":         func(r *http.Request) { r.Header.Del("X-Amz-Date") },
		"another query":   func(r *http.Request) { r.URL.RawQuery = "x-id=GetObject&versionId=1" },
		"presigned":       func(r *http.Request) { r.URL.RawQuery = "X-Amz-Signature=0" },
		"no query at all": func(r *http.Request) { r.URL.RawQuery = "" },
	} {
		if form := formOf(request(change), "p/o"); form != nil {
			t.Errorf("%s: %+v", name, form)
		}
	}
}

// TestPartsAreUploadedUnsigned pins what is left out of signatures: the large bodies and nothing else.
func TestPartsAreUploadedUnsigned(t *testing.T) {
	p := newPlace(t)
	b := p.open(t, "", false, nil)
	upload, err := b.Begin(t.Context(), "large", 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := upload.Part(t.Context(), 0, 0, []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "small", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.cloud.S3Requests("UploadPart", "PutObject") {
		if unsigned := r.Header.Get(payloadHeader) == "UNSIGNED-PAYLOAD"; unsigned != (r.Op == "UploadPart") {
			t.Errorf("%s: %s", r.Op, r.Header.Get(payloadHeader))
		}
	}
	if err := upload.Abort(t.Context()); err != nil {
		t.Error(err)
	}
}
