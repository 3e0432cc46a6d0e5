package fetch

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestParseContentRange(t *testing.T) {
	for header, want := range map[string][3]int64{
		"bytes 0-0/1":                   {0, 0, 1},
		"bytes 56-99/100":               {56, 99, 100},
		"bytes 5-9/*":                   {5, 9, -1},
		"bytes 0-4611686018427387903/*": {0, 1<<62 - 1, -1},
		"bytes 1-2/4611686018427387903": {1, 2, 1<<62 - 1},
		"bytes 00-01/02":                {0, 1, 2},
	} {
		first, last, size, ok := parseContentRange(header)
		if got := [3]int64{first, last, size}; !ok || got != want {
			t.Errorf("%q: %v, %v, want %v", header, got, ok, want)
		}
	}
	for _, header := range []string{
		"", "bytes", "bytes ", "bytes */100", "bytes 0-9", "bytes 0-9/", "bytes 9-5/10", "bytes 0-10/10", "bytes 5-9/0", "bytes -1-5/10",
		"bytes 0--5/10", "bytes +0-5/10", "bytes 0-5/+10", "bytes 0-5/10 ", " bytes 0-5/10", "Bytes 0-5/10", "bytes=0-5/10", "bytes 0-5/10/10",
		"bytes 0x0-0x5/0xa", "bytes 0-4611686018427387904/*", "bytes 0-5/4611686018427387904", "bytes 0-9223372036854775807/*", "bytes 0-1,2-3/10", "bytes  0-5/10", "items 0-5/10",
	} {
		if first, last, size, ok := parseContentRange(header); ok {
			t.Errorf("%q: %d-%d/%d", header, first, last, size)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 0-9223372036854775807/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, last, size, ok := parseContentRange(header)
		if !ok {
			return
		}
		if first < 0 || last < first || size < -1 || size >= 0 && last >= size || last-first+1 <= 0 {
			t.Errorf("%q: %d-%d/%d", header, first, last, size)
		}
		if b := (&Body{}); b.contentRange(header, "", nil) != nil || b.Off != first || b.Len != last-first+1 {
			t.Errorf("%q: %+v", header, b)
		}
	})
}

func TestStrongETag(t *testing.T) {
	for tag, want := range map[string]string{`"abc"`: `"abc"`, `W/"abc"`: "", "": ""} {
		if got := strongETag(tag); got != want {
			t.Errorf("%s: %q", tag, got)
		}
	}
}

// TestStatusErrors: who can mend which status.
func TestStatusErrors(t *testing.T) {
	place := URI{Scheme: "https", Host: "host", Path: "/m"}
	for status := 300; status < 600; status++ {
		want := fault.Access
		if status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500 {
			want = fault.Transient
		}
		err := statusError(status, fmt.Sprint(status), "data/00000", place)
		wantKind(t, err, want, "data/00000", "sealed+https://host/m", fmt.Sprint(status))
		if fault.Hint(err) == "" {
			t.Errorf("%d: no hint", status)
		}
	}
}

func TestTransport(t *testing.T) {
	if _, err := NewTransport(HTTPConfig{CA: []byte("no certificate")}); !fault.Is(err, fault.Usage) {
		t.Errorf("%v", err)
	}
	transport, err := NewTransport(HTTPConfig{Connections: 32})
	if err != nil {
		t.Fatal(err)
	}
	if transport.TLSClientConfig.InsecureSkipVerify || transport.Proxy != nil || !transport.DisableCompression || transport.MaxIdleConnsPerHost < 32 {
		t.Errorf("%+v", transport)
	}
	if protocols := strings.Join(transport.TLSClientConfig.NextProtos, ","); protocols != "http/1.1" {
		t.Errorf("protocols %s", protocols)
	}
}
