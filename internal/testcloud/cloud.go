// Package testcloud is a cloud for tests on 127.0.0.1, strict enough that a wrong client fails.
//
// It holds accounts, access keys, buckets and objects in memory, verifies the signature of every request, evaluates
// policies, and answers errors as AWS words them. What it does not know it refuses. Faults (throttling, resets, stalls,
// short or flipped bodies) are injected by rules on the server's side, so the client under test runs as it ships.
//
// It is imported by tests, the demo and the benchmark, never by a binary that ships.
package testcloud

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options says how the cloud behaves. The zero value is a plain-HTTP cloud at the present time.
type Options struct {
	// TLS serves every endpoint over HTTPS only, under the cloud's own CA (see CAPEM).
	TLS bool
	// Now is the cloud's clock. Nil means time.Now. Advance adds to it either way.
	Now func() time.Time
	// DataDir receives uploaded bodies as files. Empty means memory.
	DataDir string
	// OpaqueETags gives objects random ETags in place of MD5 ones, as S3 does under SSE-KMS. It also spares the MD5.
	OpaqueETags bool
	// GlobalEndpoint makes S3 answer a wrong region as s3.amazonaws.com does (400 AuthorizationHeaderMalformed)
	// instead of as a regional endpoint does (301 PermanentRedirect).
	GlobalEndpoint bool
	// MinPartSize is the least size in bytes of every part but the last. Zero means S3's 5 MiB.
	MinPartSize int64
	// PackedLimit is how many bytes a session's policy and tags may take once compressed. Zero means 1,024.
	PackedLimit int
	// Errorf hears of trouble that is the test's own fault, such as a policy this cloud cannot evaluate.
	// Nil means that it is only answered to the client.
	Errorf func(format string, args ...any)
}

// Cloud is a running test cloud. It is safe for concurrent use.
type Cloud struct {
	opts   Options
	ca     *authority
	offset atomic.Int64 // nanoseconds that Advance has added to the clock
	ids    atomic.Int64 // last request id

	mu       sync.Mutex
	accounts map[string]*Account
	keys     map[string]*credential
	buckets  map[string]*Bucket

	servers []*http.Server
	running sync.WaitGroup // serving loops and handlers
	closing chan struct{}
	once    sync.Once
	s3      *s3Service
	sts     *stsService

	lifetime atomic.Int64 // nanoseconds, of credentials issued; zero for what was asked for
}

// New starts a cloud. The caller closes it.
func New(opts Options) (*Cloud, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MinPartSize == 0 {
		opts.MinPartSize = 5 << 20
	}
	if opts.PackedLimit == 0 {
		opts.PackedLimit = defaultPackedLimit
	}
	if opts.Errorf == nil {
		opts.Errorf = func(string, ...any) {}
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("making the test CA: %w", err)
	}
	c := &Cloud{
		opts: opts, ca: ca, closing: make(chan struct{}),
		accounts: map[string]*Account{}, keys: map[string]*credential{}, buckets: map[string]*Bucket{},
	}
	c.s3 = &s3Service{cloud: c}
	c.sts = &stsService{cloud: c, client: c.issuerClient()}
	for service, url := range map[http.Handler]*string{c.s3: &c.s3.url, c.sts: &c.sts.url} {
		if *url, err = c.Serve(service); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// TB is what Start needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Start starts a cloud that lives as long as the test. Trouble of the test's own making fails the test.
func Start(tb TB, opts Options) *Cloud {
	tb.Helper()
	if opts.Errorf == nil {
		opts.Errorf = tb.Errorf
	}
	c, err := New(opts)
	if err != nil {
		tb.Fatalf("starting the test cloud: %v", err)
	}
	tb.Cleanup(c.Close)
	return c
}

// Close ends every connection and waits for the handlers.
func (c *Cloud) Close() {
	c.mu.Lock()
	servers := c.servers
	c.once.Do(func() { close(c.closing) })
	c.mu.Unlock()
	for _, s := range servers {
		s.Close()
	}
	c.running.Wait()
}

// Serve adds an endpoint on 127.0.0.1 and a port of the kernel's choice and returns its URL, without a path.
// Every answer carries the cloud's clock in its Date header, which clients correct their skew by.
func (c *Cloud) Serve(h http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listening on loopback: %w", err)
	}
	url := "http://" + listener.Addr().String()
	if c.opts.TLS {
		url = "https://" + listener.Addr().String()
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{c.ca.leaf}})
	}
	server := &http.Server{
		Handler:           c.dated(h),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // resets and stalls are the point here
	}
	c.mu.Lock()
	c.servers = append(c.servers, server)
	c.mu.Unlock()
	c.running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			c.opts.Errorf("test cloud endpoint %s ended: %v", url, err)
		}
	})
	return url, nil
}

func (c *Cloud) dated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.enter() {
			panic(http.ErrAbortHandler)
		}
		defer c.running.Done()
		w.Header().Set("Date", c.Now().UTC().Format(http.TimeFormat))
		h.ServeHTTP(w, r)
	})
}

// enter counts a handler that Close waits for, unless Close has come first.
func (c *Cloud) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return false
	default:
		c.running.Add(1)
		return true
	}
}

// Now is the cloud's time.
func (c *Cloud) Now() time.Time { return c.opts.Now().Add(time.Duration(c.offset.Load())) }

// Advance moves the cloud's clock, forwards or back. Credentials and tokens age by it.
func (c *Cloud) Advance(d time.Duration) { c.offset.Add(int64(d)) }

// S3URL is the S3 endpoint, scheme and address. Path style works with the address as it stands; for virtual-host style
// use a name such as s3.localhost with the same port and HTTPClient's dialer.
func (c *Cloud) S3URL() string { return c.s3.url }

// CAPEM is the certificate authority of a TLS cloud, in PEM.
func (c *Cloud) CAPEM() []byte { return c.ca.pem }

// HTTPClient returns a client of its own that trusts the cloud's CA and reaches 127.0.0.1 under every name that ends
// in "localhost", so that buckets can be host names.
func (c *Cloud) HTTPClient() *http.Client {
	dialer := &net.Dialer{}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: c.ca.pool},
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, port, err := net.SplitHostPort(addr); err == nil && strings.HasSuffix(host, "localhost") {
				addr = net.JoinHostPort("127.0.0.1", port)
			}
			return dialer.DialContext(ctx, network, addr)
		},
	}}
}

// issuerClient asks OIDC issuers for their keys. It follows no redirect, as STS does not.
func (c *Cloud) issuerClient() *http.Client {
	client := c.HTTPClient()
	client.Timeout = issuerTimeout
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

func (c *Cloud) requestID() string { return fmt.Sprintf("TC%014X", c.ids.Add(1)) }
