package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
)

// readSettings are those of every command that reads a model: whom to trust and how hard to pull.
type readSettings struct {
	trustKeys   list
	trustModels list
	trustSigner string
	version     string
	minVersion  string
	mdkID       string

	attestation attestSettings

	connections int
	memory      size
	stall       time.Duration
	attempts    int
}

func (s *settings) readFlags() {
	r, f := &s.reading, s.flags
	f.Var(&r.trustKeys, "trust-key", trustUsage)
	f.Var(&r.trustModels, "trust-model", "`PATTERN` of the names that the model may have, such as acme/*; repeatable; default any")
	f.StringVar(&r.trustSigner, "trust-signer", "", "`FILE` with public keys (JWK, JWK set or PEM), one of which must have signed the model")
	f.StringVar(&r.version, "version", "", "exact `N` the model's version must be")
	f.StringVar(&r.minVersion, "min-version", "", "lowest `N` the model's version may be")
	f.StringVar(&r.mdkID, "mdk-id", "", "the `ID` the model's key must have, as `sealfetch seal` printed it")
	s.attestFlags()
	f.IntVar(&r.connections, "connections", 0, "`N` connections over all models and files, 1 to 256; default 16, and up to 128 while more bring more")
	r.memory = 64 << 20
	f.Var(&r.memory, "memory", "`BYTES` of buffers over all files; each connection takes one of 257Ki")
	f.DurationVar(&r.stall, "stall-timeout", defaultStallTimeout, "how long 256Ki may take before a connection is given up")
	f.IntVar(&r.attempts, "attempts", 5, "attempts in a row that may bring nothing, 1 to 100")
}

// reader turns the settings into a Reader. The caller wipes the keys with the returned function.
func (s *settings) reader(ctx context.Context) (_ sealfetch.Reader, wipe func(), err error) {
	limits, err := s.limits()
	if err != nil {
		return sealfetch.Reader{}, nil, err
	}
	policy, err := s.policy()
	if err != nil {
		return sealfetch.Reader{}, nil, err
	}
	opener, err := s.opener(limits.Connections)
	if err != nil {
		return sealfetch.Reader{}, nil, err
	}
	brokers, wipe, err := s.brokers(ctx)
	if err != nil {
		return sealfetch.Reader{}, nil, err
	}
	return sealfetch.Reader{Open: opener.Source, Brokers: brokers, Policy: policy, Limits: limits, Audit: s.audit,
		Warn: s.log.Warn}, wipe, nil
}

// Where --connections does not say how many, a load begins with the first number and may go up to the most.
const (
	firstConnections = 16
	mostConnections  = 128
)

func (s *settings) limits() (fetch.Limits, error) {
	r := s.reading
	connections, start := mostConnections, firstConnections
	if r.connections != 0 {
		if err := s.checkConnections(r.connections); err != nil {
			return fetch.Limits{}, err
		}
		connections, start = r.connections, 0
	}
	if r.attempts < 1 || r.attempts > 100 {
		return fetch.Limits{}, fault.New(fault.Usage, "1 to 100 make sense", "--attempts %d is out of bounds", r.attempts)
	}
	if r.stall <= 0 {
		return fetch.Limits{}, fault.New(fault.Usage, "give a time such as 30s", "--stall-timeout %v is out of bounds", r.stall)
	}
	return fetch.Limits{
		Connections: max(1, min(connections, int(int64(r.memory)/sealfetch.WindowSize))), Start: start,
		Retry: fetch.Retry{Attempts: r.attempts, Base: 200 * time.Millisecond, Cap: 20 * time.Second, Stall: r.stall},
	}, nil
}

func (s *settings) checkConnections(n int) error {
	if n < 1 || n > 256 {
		return fault.New(fault.Usage, "1 to 256 make sense", "--connections %d is out of bounds", n)
	}
	return nil
}

func (s *settings) policy() (p sealfetch.Policy, err error) {
	r := s.reading
	p.Models = r.trustModels
	if r.version != "" {
		if p.Pins.Version, err = fetch.ParseVersion(r.version); err != nil {
			return p, err
		}
	}
	if r.minVersion != "" {
		if p.Pins.MinVersion, err = fetch.ParseVersion(r.minVersion); err != nil {
			return p, err
		}
	}
	if r.mdkID != "" {
		if p.Pins.MDKID, err = fetch.ParseMDKID(r.mdkID); err != nil {
			return p, err
		}
	}
	pem, err := s.content("trust-signer", r.trustSigner, keyfile.MaxSize)
	if err != nil || pem == nil {
		return p, err
	}
	p.Signers, err = keyfile.ParseVerifiers(pem)
	return p, err
}

// requireTrust refuses to load with nothing trusted: an undecided policy is an error.
func requireTrust(reader sealfetch.Reader) error {
	if len(reader.Brokers) == 0 {
		return fault.New(fault.Usage, "say with --trust-key which keys may open models", "no key is trusted")
	}
	return nil
}

// storeSettings are those of every command that reads from or writes to a store.
type storeSettings struct {
	endpoint       string
	region         string
	virtualHost    bool
	accelerate     bool
	dualStack      bool
	fips           bool
	bucketOwner    string
	requesterPays  bool
	anonymous      bool
	tlsVerify      bool
	caBundle       string
	connectTimeout time.Duration
	identity       identitySettings
}

func (s *settings) storeFlags() {
	t, f := &s.store, s.flags
	f.StringVar(&t.endpoint, "s3-endpoint", "", "`URL` of S3 itself; default AWS")
	f.StringVar(&t.region, "s3-region", "", "`REGION` of the bucket")
	f.BoolVar(&t.virtualHost, "s3-virtual-host", false, "put the bucket into the host name; always so without --s3-endpoint")
	f.BoolVar(&t.accelerate, "s3-accelerate", false, "use S3 Transfer Acceleration")
	f.BoolVar(&t.dualStack, "s3-dual-stack", false, "use dual-stack endpoints")
	f.BoolVar(&t.fips, "s3-fips", false, "use FIPS endpoints")
	f.StringVar(&t.bucketOwner, "expected-bucket-owner", "", "`ACCOUNT` that must own the bucket")
	f.BoolVar(&t.requesterPays, "requester-pays", false, "agree to pay for requests to the bucket")
	f.BoolVar(&t.anonymous, "anonymous", false, "send unsigned requests")
	f.BoolVar(&t.tlsVerify, "tls-verify", true, "check server certificates of S3")
	f.StringVar(&t.caBundle, "ca-bundle", "", "`FILE` with PEM certificates, trusted beside the system's")
	f.DurationVar(&t.connectTimeout, "connect-timeout", defaultConnectTimeout, "how long a connection may take to be made")
	s.identityFlags()
}

// opener makes sources and stores over one pool of connections.
func (s *settings) opener(connections int) (fetch.Opener, error) {
	t := s.store
	ca, err := s.caBundle()
	if err != nil {
		return fetch.Opener{}, err
	}
	if !t.tlsVerify {
		s.log.Warn("server certificates are not checked: models stay authentic, requests can be read by others")
	}
	transport, err := fetch.NewTransport(fetch.HTTPConfig{CA: ca, SkipVerify: !t.tlsVerify, ConnectTimeout: t.connectTimeout,
		Connections: connections, Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return fetch.Opener{}, err
	}
	bearer, err := s.bearer()
	if err != nil {
		return fetch.Opener{}, err
	}
	return fetch.Opener{Transport: transport, Bearer: bearer, BearerHosts: t.identity.oidc.bearerHosts, S3: func(ctx context.Context, _ fetch.URI) (fetch.S3Config, error) {
		credentials, err := s.credentials(ctx)
		return fetch.S3Config{Credentials: credentials, Region: orElse(t.region, "us-east-1"), Endpoint: t.endpoint,
			PathStyle: t.pathStyle(), Accelerate: t.accelerate, DualStack: t.dualStack, FIPS: t.fips,
			ExpectedBucketOwner: t.bucketOwner, RequesterPays: t.requesterPays, AppID: appID}, err
	}}, nil
}

// bearer returns the tokens for https stores, or nil.
func (s *settings) bearer() (identity.TokenProvider, error) {
	o := s.store.identity.oidc
	switch {
	case len(o.bearerHosts) == 0:
		return nil, nil
	case o.issuer == "":
		return nil, fault.New(fault.Usage, "name the issuer: --oidc-issuer", "--oidc-bearer has no token to send")
	}
	return s.oidcTokens()
}

// maxCABundle is the largest file of certificates that is read, in bytes.
const maxCABundle = 4 << 20

// caBundle returns the authorities that are trusted beside the system's, or nil.
func (s *settings) caBundle() ([]byte, error) {
	path := s.store.caBundle
	if path == "" && s.program.env[contents["ca-bundle"]] == "" {
		path = s.program.env.caBundleOfCluster()
	}
	return s.content("ca-bundle", path, maxCABundle)
}

// pathStyle puts the bucket into the path for servers of one's own, which seldom have a name for each bucket.
func (t storeSettings) pathStyle() bool {
	return t.endpoint != "" && !t.virtualHost && !strings.Contains(t.endpoint, ".amazonaws.com")
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
