package testcloud

import (
	"bytes"
	"io"
	"testing"
)

func TestParseHost(t *testing.T) {
	for host, want := range map[string]hostInfo{
		"127.0.0.1:80":                              {},
		"localhost":                                 {},
		"s3.localhost:80":                           {},
		"s3.amazonaws.com":                          {},
		"s3.eu-central-1.amazonaws.com":             {region: "eu-central-1"},
		"models.s3.localhost:80":                    {bucket: "models"},
		"my.models.s3.localhost":                    {bucket: "my.models"},
		"models.s3.eu-central-1.localhost":          {bucket: "models", region: "eu-central-1"},
		"models.s3.dualstack.us-east-1.localhost":   {bucket: "models", region: "us-east-1"},
		"my.s3.models.s3.us-east-1.amazonaws.com":   {bucket: "my.s3.models", region: "us-east-1"},
		"models.s3.us-east-1.elsewhere.example.org": {},
	} {
		if got := parseHost(host); got != want {
			t.Errorf("%s: %+v, want %+v", host, got, want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, header := range []string{"bytes=0-9", "bytes=5-", "bytes=-3", "bytes=-0", "bytes=9-1", "bytes=0-1,3-4", "x"} {
		f.Add(header, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		off, n, ok := parseRange(header, size)
		if ok && n != 0 && (off < 0 || n < 0 || off > size-n) {
			t.Errorf("%q of %d: offset %d, length %d", header, size, off, n)
		}
	})
}

func FuzzChunkedReader(f *testing.F) {
	f.Add([]byte("4\r\nbody\r\n0\r\nx-amz-checksum-crc32:1iNKhQ==\r\n\r\n"))
	f.Add([]byte("ffffffffffffffff\r\n"))
	f.Add([]byte("0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := newChunkedReader(bytes.NewReader(body), nil)
		decoded, err := io.ReadAll(r)
		if err == nil && (len(decoded) > len(body) || len(r.trailers) > maxTrailers) {
			t.Errorf("%d bytes and %d trailers from %d bytes", len(decoded), len(r.trailers), len(body))
		}
	})
}
