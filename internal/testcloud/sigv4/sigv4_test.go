package sigv4_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/sigv4"
)

// The examples of the S3 API reference: "Signature calculations for the Authorization header", in a single chunk and in
// multiple chunks.
const (
	keyID    = "AKIAIOSFODNN7EXAMPLE"
	secret   = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	noBody   = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	scope    = "Credential=" + keyID + "/20130524/us-east-1/s3/aws4_request"
	chunked  = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	seed     = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	fullDate = "20130524T000000Z"
)

func request(method, target string, header map[string]string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	return r
}

func getObject(signature string) *http.Request {
	return request("GET", "https://examplebucket.s3.amazonaws.com/test.txt", map[string]string{
		"Range": "bytes=0-9", "X-Amz-Content-Sha256": noBody, "X-Amz-Date": fullDate,
		"Authorization": "AWS4-HMAC-SHA256 " + scope +
			",SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=" + signature,
	})
}

func TestPublishedExamples(t *testing.T) {
	for name, test := range map[string]struct {
		request *http.Request
		hash    string
	}{
		"GET object": {getObject("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"), noBody},
		"GET bucket lifecycle": {request("GET", "https://examplebucket.s3.amazonaws.com/?lifecycle", map[string]string{
			"X-Amz-Date": fullDate, "X-Amz-Content-Sha256": noBody,
			"Authorization": "AWS4-HMAC-SHA256 " + scope + ",SignedHeaders=host;x-amz-content-sha256;x-amz-date," +
				"Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		}), noBody},
		"GET bucket": {request("GET", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", map[string]string{
			"X-Amz-Date": fullDate, "X-Amz-Content-Sha256": noBody,
			"Authorization": "AWS4-HMAC-SHA256 " + scope + ",SignedHeaders=host;x-amz-content-sha256;x-amz-date," +
				"Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
		}), noBody},
		"presigned": {request("GET", "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"+
			"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"+
			"&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"+
			"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", nil), sigv4.UnsignedPayload},
	} {
		s, err := sigv4.Parse(test.request)
		if err != nil || s == nil || s.AccessKeyID != keyID || s.Region != "us-east-1" {
			t.Fatalf("%s: %+v, %v", name, s, err)
		}
		if err := s.Verify(test.request, test.hash, secret, s.Time); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Verify(test.request, test.hash, secret+"x", s.Time); !errors.Is(err, sigv4.ErrMismatch) {
			t.Errorf("%s under another secret: %v", name, err)
		}
		err = s.Verify(test.request, test.hash, secret, s.Time.Add(25*time.Hour))
		if s.Presigned != errors.Is(err, sigv4.ErrExpired) {
			t.Errorf("%s a day later: %v", name, err)
		}
	}
}

func TestPublishedChunks(t *testing.T) {
	r := request("PUT", "https://s3.amazonaws.com/examplebucket/chunkObject.txt", map[string]string{
		"X-Amz-Date": fullDate, "X-Amz-Storage-Class": "REDUCED_REDUNDANCY", "X-Amz-Content-Sha256": chunked,
		"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "66560", "Content-Length": "66824",
		"Authorization": "AWS4-HMAC-SHA256 " + scope + ",SignedHeaders=content-encoding;content-length;host;" +
			"x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,Signature=" + seed,
	})
	s, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(r, chunked, secret, s.Time); err != nil {
		t.Fatal(err)
	}
	chunks := []struct {
		size      int
		signature string
	}{
		{65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"},
		{1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"},
		{0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"},
	}
	chain := s.Chain(secret)
	for i, chunk := range chunks {
		if err := chain.Chunk(bytes.Repeat([]byte("a"), chunk.size), chunk.signature); err != nil {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	chain = s.Chain(secret)
	if err := chain.Chunk(bytes.Repeat([]byte("a"), 1024), chunks[1].signature); !errors.Is(err, sigv4.ErrMismatch) {
		t.Errorf("second chunk in place of the first: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := getObject(strings.Repeat("0", 64)).Header.Get("Authorization")
	for _, auth := range []string{
		"Bearer x", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 x", strings.Replace(good, "aws4_request", "aws3_request", 1),
		strings.Replace(good, "/s3", "", 1), strings.Replace(good, "host;range", "range;host", 1),
		strings.Replace(good, "host;", "", 1), strings.Replace(good, "20130524", "20130525", 1),
		strings.Replace(good, "Credential", "Creds", 1),
	} {
		r := getObject("")
		r.Header.Set("Authorization", auth)
		if s, err := sigv4.Parse(r); !errors.Is(err, sigv4.ErrMalformed) || s != nil {
			t.Errorf("%s: %+v, %v", auth, s, err)
		}
	}
	if s, err := sigv4.Parse(request("GET", "http://x/?a=b", nil)); s != nil || err != nil {
		t.Errorf("unsigned: %+v, %v", s, err)
	}
	both := getObject("0")
	both.URL.RawQuery = "X-Amz-Algorithm=AWS4-HMAC-SHA256"
	if _, err := sigv4.Parse(both); !errors.Is(err, sigv4.ErrMalformed) {
		t.Errorf("signed twice: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(getObject("0").Header.Get("Authorization"), "", fullDate)
	f.Add("", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a/20130524/r/s/aws4_request&X-Amz-Date="+fullDate+
		"&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=0", "")
	f.Fuzz(func(t *testing.T, auth, query, date string) {
		r := request("GET", "http://x/", map[string]string{"X-Amz-Date": date})
		r.Header["Authorization"] = []string{auth}
		r.URL.RawQuery = query
		s, err := sigv4.Parse(r)
		if err != nil || s == nil {
			return
		}
		if s.Verify(r, noBody, secret, s.Time) == nil {
			t.Error("a signature nobody made is accepted")
		}
	})
}
