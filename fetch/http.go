package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// HTTPConfig is how connections are made, for every source and for the identity and key services alike.
type HTTPConfig struct {
	CA             []byte // PEM added to the system's roots; nil = system roots alone
	SkipVerify     bool   // S3_VERIFY_SSL=0: no server certificate is checked
	ConnectTimeout time.Duration
	Connections    int                                   // idle connections kept for each host
	Proxy          func(*http.Request) (*url.URL, error) // nil = none
}

// NewTransport makes the transport. HTTP/1.1 on purpose: one connection for each part, no shared flow control window.
func NewTransport(c HTTPConfig) (*http.Transport, error) {
	roots, err := certPool(c.CA)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: c.ConnectTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:               c.Proxy,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: c.ConnectTimeout,
		TLSClientConfig: &tls.Config{RootCAs: roots, InsecureSkipVerify: c.SkipVerify, MinVersion: tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(0), NextProtos: []string{"http/1.1"}},
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConns:        0,
		MaxIdleConnsPerHost: max(c.Connections, 2),
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}, nil
}

func certPool(pem []byte) (*x509.CertPool, error) {
	if pem == nil {
		return nil, nil // the system's
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.Usage, "give PEM with at least one certificate", "the CA bundle holds no certificate")
	}
	return pool, nil
}

// httpSource reads a model below an https URL.
type httpSource struct {
	uri    URI
	client *http.Client
	bearer identity.TokenProvider // nil = none
}

func openHTTP(u URI, transport *http.Transport, bearer identity.TokenProvider) *httpSource {
	return &httpSource{u, &http.Client{Transport: transport, CheckRedirect: redirected}, bearer}
}

// redirected follows a few redirects, never to a scheme that gives up TLS, and never with the token to another host or
// port: net/http by itself would take it along to other ports and to subdomains.
func redirected(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != "https" {
		return fault.New(fault.Access, "", "redirected from https to %s", quote(req.URL.Scheme))
	}
	if len(via) > 3 {
		return fault.New(fault.Access, "", "redirected more than 3 times")
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

func (s *httpSource) String() string { return s.uri.String() }

func (s *httpSource) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

func (s *httpSource) Get(ctx context.Context, r Range) (*Body, error) {
	target := url.URL{Scheme: s.uri.Scheme, Host: s.uri.Host, Path: s.uri.Path + "/" + r.Name}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "%s: %w", s, err)
	}
	if !r.whole() {
		req.Header.Set("Range", r.header())
	}
	if r.Pin.ETag != "" {
		req.Header.Set("If-Match", r.Pin.ETag)
	}
	resp, err := s.send(req)
	if err != nil {
		return nil, s.failed(ctx, r, err)
	}
	body, err := s.answer(resp, r)
	if err != nil {
		resp.Body.Close()
	}
	return body, err
}

// send sends a request with the bearer token, if there is one, and once more with a new one if that is refused.
func (s *httpSource) send(req *http.Request) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		if s.bearer != nil {
			token, err := s.bearer.Token(req.Context())
			if err != nil {
				return nil, err
			}
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := s.client.Do(req)
		if err != nil || s.bearer == nil || resp.StatusCode != http.StatusUnauthorized || attempt > 1 {
			return resp, err
		}
		resp.Body.Close()
		s.bearer.Invalidate()
	}
}

// failed classes a request that brought no answer.
func (s *httpSource) failed(ctx context.Context, r Range, err error) error {
	switch {
	case untrusted(err):
		return untrustedServer(r.Name, s, err)
	case fault.Of(err) != fault.Internal:
		return fmt.Errorf("%s at %s: %w", r.Name, s, bare(err))
	}
	return readError(ctx, bare(err), "asking for %s at %s", r.Name, s)
}

// untrusted reports whether the server's certificate did not pass.
func untrusted(err error) bool {
	var failed *tls.CertificateVerificationError
	return errors.As(err, &failed)
}

func untrustedServer(name string, src fmt.Stringer, err error) error {
	return fault.New(fault.Access, "give the CA of the server with --ca-bundle (AWS_CA_BUNDLE), or check what answers there",
		"%s at %s: %w", name, src, bare(err))
}

// bare strips net/http's own prefix, which repeats the whole URL.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (s *httpSource) answer(resp *http.Response, r Range) (*Body, error) {
	b := &Body{ReadCloser: resp.Body, Len: resp.ContentLength, Size: resp.ContentLength,
		Pin: Pin{ETag: strongETag(resp.Header.Get("ETag"))}}
	switch resp.StatusCode {
	case http.StatusOK:
		return b, nil
	case http.StatusPartialContent:
		return b, b.contentRange(resp.Header.Get("Content-Range"), r.Name, s)
	case http.StatusPreconditionFailed:
		return nil, changed(r.Name, s)
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, tooShort(r, s)
	}
	return nil, statusError(resp.StatusCode, resp.Status, r.Name, s)
}

// contentRange takes offset and size from a Content-Range header (RFC 9110, section 14.4).
func (b *Body) contentRange(header, name string, src fmt.Stringer) error {
	first, last, size, ok := parseContentRange(header)
	if !ok {
		return fault.New(fault.Access, "the store or a proxy before it does not speak HTTP properly: use another",
			"%s at %s: unusable Content-Range %s", name, src, quote(header))
	}
	b.Off, b.Len, b.Size = first, last-first+1, size
	return nil
}

// parseContentRange reads "bytes FIRST-LAST/SIZE"; an unknown size ("*") is -1.
func parseContentRange(header string) (first, last, size int64, ok bool) {
	rest, isBytes := strings.CutPrefix(header, "bytes ")
	span, total, hasTotal := strings.Cut(rest, "/")
	from, to, isSpan := strings.Cut(span, "-")
	first, okFirst := decimal(from)
	last, okLast := decimal(to)
	size, okSize := decimal(total)
	if total == "*" {
		size, okSize = -1, true
	}
	ok = isBytes && hasTotal && isSpan && okFirst && okLast && okSize && first <= last && (size < 0 || last < size)
	return first, last, size, ok
}

// decimal leaves a bit of room, so that sums of two do not overflow.
func decimal(s string) (int64, bool) {
	v, err := strconv.ParseUint(s, 10, 62)
	return int64(v), err == nil
}

// strongETag drops weak validators: they do not promise the same bytes (RFC 9110, section 8.8.1).
func strongETag(tag string) string {
	if strings.HasPrefix(tag, "W/") {
		return ""
	}
	return tag
}

func tooShort(r Range, src fmt.Stringer) error {
	return fault.New(fault.NotAuthentic, "the object was cut after publishing: restore it or publish a new version",
		"%s at %s ends before byte %d, its manifest says it does not", r.Name, src, r.Off)
}

// statusError classes an HTTP status that is no success, for all sources that speak HTTP.
func statusError(status int, words, name string, src fmt.Stringer) error {
	switch {
	case status == http.StatusNotFound || status == http.StatusGone:
		return missing(name, src, words)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fault.New(fault.Access, "check who may read the prefix", "access to %s at %s is denied: %s", name, src, words)
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500:
		return transient("%s at %s: %s", name, src, words)
	}
	return fault.New(fault.Access, "check the URI and the endpoint", "%s at %s: %s", name, src, words)
}

func missing(name string, src fmt.Stringer, words string) error {
	return fault.New(fault.Access, "check bucket, prefix and that the model was published completely (envelope.json goes up last)",
		"%s is missing at %s: %s", name, src, words)
}
