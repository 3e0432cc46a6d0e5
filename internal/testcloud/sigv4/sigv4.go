// Package sigv4 verifies AWS Signature Version 4, the server's half of it.
//
// It is written from the signing specification ("Signature Version 4 signing process" and "Authenticating requests
// (AWS Signature Version 4)" of the S3 API reference) and shares no code with any client's signer, so that a signer's
// mistake cannot hide in its own mirror. It rebuilds the canonical request from what arrived on the wire, never from
// what the client says it signed.
package sigv4

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"

	// UnsignedPayload stands in the canonical request in place of the body's hash.
	UnsignedPayload = "UNSIGNED-PAYLOAD"

	maxPresignAge = 7 * 24 * time.Hour
)

// Errors that servers answer with different codes.
var (
	// ErrMalformed: the Authorization header or query cannot be read.
	ErrMalformed = errors.New("malformed authorization")
	// ErrMismatch: the signature is not that of this request under this secret.
	ErrMismatch = errors.New("signature does not match")
	// ErrUnsignedHeader: a header that must be covered by the signature is not.
	ErrUnsignedHeader = errors.New("header present but not signed")
	// ErrExpired: a presigned request is used after its time.
	ErrExpired = errors.New("presigned request has expired")
)

// Signature is what a signed request claims about itself. It proves nothing until Verify.
type Signature struct {
	AccessKeyID   string
	Date          string // YYYYMMDD of the credential scope
	Region        string
	Service       string
	Time          time.Time // x-amz-date
	SecurityToken string    // empty where none was sent
	Presigned     bool      // signed in the query, not in the Authorization header
	Expires       time.Duration

	signedHeaders []string
	signature     string
}

// Parse reads the signature of r, from the Authorization header or from the query. It returns nil and no error for a
// request that carries none.
func Parse(r *http.Request) (*Signature, error) {
	query := r.URL.Query()
	switch auth := r.Header.Get("Authorization"); {
	case auth != "" && query.Has("X-Amz-Algorithm"):
		return nil, fmt.Errorf("%w: both header and query", ErrMalformed)
	case auth != "":
		return parseHeader(r, auth)
	case query.Has("X-Amz-Algorithm"):
		return parseQuery(query)
	}
	return nil, nil
}

func parseHeader(r *http.Request, auth string) (*Signature, error) {
	rest, ok := strings.CutPrefix(auth, algorithm+" ")
	if !ok {
		return nil, fmt.Errorf("%w: algorithm is not %s", ErrMalformed, algorithm)
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	s := &Signature{SecurityToken: r.Header.Get("X-Amz-Security-Token")}
	return s.fill(fields["Credential"], fields["SignedHeaders"], fields["Signature"], r.Header.Get("X-Amz-Date"))
}

func parseQuery(q url.Values) (*Signature, error) {
	if q.Get("X-Amz-Algorithm") != algorithm {
		return nil, fmt.Errorf("%w: algorithm is not %s", ErrMalformed, algorithm)
	}
	seconds, err := strconv.Atoi(q.Get("X-Amz-Expires"))
	if err != nil || seconds < 1 || time.Duration(seconds)*time.Second > maxPresignAge {
		return nil, fmt.Errorf("%w: X-Amz-Expires %q", ErrMalformed, q.Get("X-Amz-Expires"))
	}
	s := &Signature{
		Presigned: true, Expires: time.Duration(seconds) * time.Second, SecurityToken: q.Get("X-Amz-Security-Token"),
	}
	headers, signature := q.Get("X-Amz-SignedHeaders"), q.Get("X-Amz-Signature")
	return s.fill(q.Get("X-Amz-Credential"), headers, signature, q.Get("X-Amz-Date"))
}

func (s *Signature) fill(credential, headers, signature, date string) (*Signature, error) {
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != "aws4_request" {
		return nil, fmt.Errorf("%w: credential scope", ErrMalformed)
	}
	s.AccessKeyID, s.Date, s.Region, s.Service = scope[0], scope[1], scope[2], scope[3]
	s.signedHeaders, s.signature = strings.Split(headers, ";"), signature
	at, err := time.Parse(timeFormat, date)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: x-amz-date %q", ErrMalformed, date)
	case at.Format("20060102") != s.Date:
		return nil, fmt.Errorf("%w: x-amz-date is not of the scope's day", ErrMalformed)
	case !slices.IsSorted(s.signedHeaders) || !slices.Contains(s.signedHeaders, "host"):
		return nil, fmt.Errorf("%w: signed headers", ErrMalformed)
	}
	s.Time = at
	return s, nil
}

// Verify recomputes the signature over r as it arrived. payloadHash is what stands for the body in the canonical
// request: the hex SHA-256 of the body, or for S3 the value of x-amz-content-sha256, which the caller checks against
// the body by itself. now decides whether a presigned request is still alive; it is not used for others.
func (s *Signature) Verify(r *http.Request, payloadHash, secret string, now time.Time) error {
	if err := s.checkCoverage(r); err != nil {
		return err
	}
	if s.Presigned && now.After(s.Time.Add(s.Expires)) {
		return ErrExpired
	}
	request := sha256.Sum256([]byte(s.canonicalRequest(r, payloadHash)))
	want := s.mac(secret, algorithm, s.scope(), hex.EncodeToString(request[:]))
	if !hmac.Equal([]byte(want), []byte(s.signature)) {
		return ErrMismatch
	}
	return nil
}

// checkCoverage refuses a request with an x-amz-* header outside its signature: anybody on the way could have added it.
func (s *Signature) checkCoverage(r *http.Request) error {
	for name := range r.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") && !slices.Contains(s.signedHeaders, name) {
			return fmt.Errorf("%w: %s", ErrUnsignedHeader, name)
		}
	}
	return nil
}

func (s *Signature) scope() string {
	return s.Date + "/" + s.Region + "/" + s.Service + "/aws4_request"
}

// mac signs "algorithm, time, rest..." with the key derived for the scope and returns it in hex.
func (s *Signature) mac(secret, algorithm string, rest ...string) string {
	key := []byte("AWS4" + secret)
	for _, part := range []string{s.Date, s.Region, s.Service, "aws4_request"} {
		key = sum(key, part)
	}
	lines := append([]string{algorithm, s.Time.Format(timeFormat)}, rest...)
	return hex.EncodeToString(sum(key, strings.Join(lines, "\n")))
}

func sum(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func (s *Signature) canonicalRequest(r *http.Request, payloadHash string) string {
	path := r.URL.Path
	if s.Service != "s3" {
		path = r.URL.EscapedPath() // every service but S3 signs the path encoded twice
	}
	if path == "" {
		path = "/"
	}
	return strings.Join([]string{
		r.Method, escape(path, true), canonicalQuery(r.URL.RawQuery),
		s.canonicalHeaders(r), strings.Join(s.signedHeaders, ";"), payloadHash,
	}, "\n")
}

// canonicalHeaders ends every header with a newline, as the specification wants it.
func (s *Signature) canonicalHeaders(r *http.Request) string {
	var b strings.Builder
	for _, name := range s.signedHeaders {
		values := r.Header.Values(name)
		switch {
		case name == "host":
			values = []string{r.Host}
		case name == "content-length" && len(values) == 0:
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		}
		b.WriteString(name + ":")
		for i, v := range values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.Join(strings.Fields(v), " "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func canonicalQuery(raw string) string {
	var pairs [][2]string
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, errName := url.QueryUnescape(name)
		v, errValue := url.QueryUnescape(value)
		if errName != nil || errValue != nil {
			n, v = name, value
		}
		if n == "X-Amz-Signature" {
			continue
		}
		pairs = append(pairs, [2]string{escape(n, false), escape(v, false)})
	}
	slices.SortFunc(pairs, func(a, b [2]string) int {
		return strings.Compare(a[0]+"\x00"+a[1], b[0]+"\x00"+b[1])
	})
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p[0] + "=" + p[1])
	}
	return b.String()
}

// escape percent-encodes every byte outside RFC 3986's unreserved set; a slash stays where keepSlash says so.
func escape(s string, keepSlash bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0,
			c == '/' && keepSlash:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Chain verifies the signatures of a chunked upload's chunks, each of which covers the one before it
// ("Signature calculations for the Authorization header: transferring payload in multiple chunks").
type Chain struct {
	seed   *Signature
	secret string
	prev   string
}

// Chain starts at the request's own signature, which Verify must have accepted.
func (s *Signature) Chain(secret string) *Chain {
	return &Chain{seed: s, secret: secret, prev: s.signature}
}

// Chunk verifies the next chunk. The last one is empty.
func (c *Chain) Chunk(data []byte, signature string) error {
	empty, hash := sha256.Sum256(nil), sha256.Sum256(data)
	return c.next(signature, algorithm+"-PAYLOAD", hex.EncodeToString(empty[:]), hex.EncodeToString(hash[:]))
}

// Trailer verifies the trailing headers, given as "name:value\n" lines.
func (c *Chain) Trailer(lines []byte, signature string) error {
	hash := sha256.Sum256(bytes.ReplaceAll(lines, []byte("\r"), nil))
	return c.next(signature, algorithm+"-TRAILER", hex.EncodeToString(hash[:]))
}

func (c *Chain) next(signature, algorithm string, hashes ...string) error {
	rest := append([]string{c.seed.scope(), c.prev}, hashes...)
	want := c.seed.mac(c.secret, algorithm, rest...)
	if !hmac.Equal([]byte(want), []byte(signature)) {
		return ErrMismatch
	}
	c.prev = want
	return nil
}
