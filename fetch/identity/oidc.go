package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

const (
	oidcTimeout     = 20 * time.Second // of one request
	maxOIDCResponse = 128 << 10        // bytes of a discovery document or token response
	defaultLifetime = time.Minute      // of a token whose issuer does not say
	metadataAge     = time.Hour        // a discovery document is read again after this
)

// OIDCConfig is a client of an OpenID Connect issuer that gets tokens for itself (RFC 6749, section 4.4). One of
// ClientSecret, ClientSecretFile and PrivateKey is required.
type OIDCConfig struct {
	Issuer   string // URL; https, or http on loopback
	ClientID string

	ClientSecret     *secret.Key
	ClientSecretFile string // read again for every request, because secrets are rotated
	PrivateKey       []byte // PEM (PKCS #8) or JWK, for private_key_jwt (RFC 7523)

	// Audience of the token, sent as "audience" and, where it is an absolute URI, as "resource" (RFC 8707).
	Audience string
	Scopes   []string

	CABundle   []byte       // PEM of the only authorities trusted; nil for the system's
	HTTPClient *http.Client // replaces the client made from CABundle; nil for none. It must not follow redirects.

	Now  func() time.Time // nil for time.Now
	Warn func(error)      // called when a renewal fails while the old token is still good; nil for none
}

// OIDCTokens is a TokenProvider that gets access tokens by client credentials, keeps each until shortly before its
// end, and renews it then. It is safe for concurrent use.
type OIDCTokens struct {
	cfg      OIDCConfig
	client   *http.Client
	auth     clientAuth
	metadata *cache[metadata]
	tokens   *cache[string]
}

var (
	_ TokenProvider = (*OIDCTokens)(nil)
	_ fmt.Stringer  = (*OIDCTokens)(nil)
)

// NewOIDC checks a configuration. It makes no request. Errors are of kind fault.Usage.
func NewOIDC(cfg OIDCConfig) (*OIDCTokens, error) {
	cfg.Issuer = strings.TrimSuffix(cfg.Issuer, "/")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Warn == nil {
		cfg.Warn = func(error) {}
	}
	if err := secureURL(cfg.Issuer); err != nil {
		return nil, fault.New(fault.Usage, "give the issuer's https URL", "OIDC issuer %q: %w", redacted(cfg.Issuer),
			err)
	}
	if cfg.ClientID == "" {
		return nil, fault.New(fault.Usage, "set --oidc-client-id", "OIDC issuer %s without a client id", cfg.Issuer)
	}
	auth, err := newClientAuth(cfg)
	if err != nil {
		return nil, err
	}
	client, err := oidcClient(cfg)
	if err != nil {
		return nil, err
	}
	t := &OIDCTokens{cfg: cfg, client: client, auth: auth}
	t.metadata = newCache(cfg.Now, t.discover, cfg.Warn)
	t.tokens = newCache(cfg.Now, t.request, cfg.Warn)
	return t, nil
}

// String names the issuer.
func (t *OIDCTokens) String() string { return "OIDC issuer " + t.cfg.Issuer }

// Token returns an access token. What it looks like is between the issuer and the audience: AWS wants a JSON web token.
func (t *OIDCTokens) Token(ctx context.Context) (string, error) { return t.tokens.get(ctx) }

// Invalidate drops the token after a service refused it (401), unless it was fetched within the last seconds.
func (t *OIDCTokens) Invalidate() { t.tokens.invalidate() }

func oidcClient(cfg OIDCConfig) (*http.Client, error) {
	if cfg.HTTPClient != nil {
		return cfg.HTTPClient, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if cfg.CABundle != nil {
		roots, err := pool(cfg.CABundle)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	}
	return &http.Client{Transport: transport, CheckRedirect: noRedirect}, nil
}

// noRedirect keeps the client's secret from being sent anywhere but where discovery said.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// secureURL refuses URLs over which a secret would travel in the clear.
func secureURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return errors.New("not a URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("a URL without user, query and fragment is expected")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	default:
		return errors.New("https is required")
	}
}

// redacted is a URL without its password, for messages.
func redacted(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return "(not a URL)"
}

// metadata is the part of a discovery document that client credentials need (OpenID Connect Discovery 1.0, section 3).
type metadata struct {
	Issuer        string   `json:"issuer"`
	TokenEndpoint string   `json:"token_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	GrantTypes    []string `json:"grant_types_supported"`
}

func (t *OIDCTokens) discover(ctx context.Context) (metadata, time.Time, error) {
	var m metadata
	address := t.cfg.Issuer + "/.well-known/openid-configuration"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return m, time.Time{}, fault.New(fault.Usage, "check --oidc-issuer", "OIDC discovery: %w", err)
	}
	status, body, err := t.send(req)
	if err != nil {
		return m, time.Time{}, err
	}
	if status != http.StatusOK || json.Unmarshal(body, &m) != nil {
		return m, time.Time{}, fault.New(kindOf(status),
			"check --oidc-issuer: it is the URL that the tokens name as iss",
			"OIDC discovery: %s answers HTTP %d, and not with a discovery document", address, status)
	}
	return m, t.cfg.Now().Add(metadataAge), t.checkMetadata(m)
}

func (t *OIDCTokens) checkMetadata(m metadata) error {
	if strings.TrimSuffix(m.Issuer, "/") != t.cfg.Issuer {
		return fault.New(fault.Identity, "set --oidc-issuer to exactly what the discovery document says",
			"OIDC discovery: the document of %s is for issuer %q", t.cfg.Issuer, oneLine(m.Issuer))
	}
	if err := secureURL(m.TokenEndpoint); err != nil {
		return fault.New(fault.Identity, "correct the issuer's configuration",
			"OIDC discovery: token endpoint of %s: %w", t.cfg.Issuer, err)
	}
	if m.GrantTypes != nil && !slices.Contains(m.GrantTypes, "client_credentials") {
		return fault.New(fault.Identity, "enable the client credentials grant at the issuer",
			"OIDC discovery: %s does not offer client credentials", t.cfg.Issuer)
	}
	return nil
}

func (t *OIDCTokens) request(ctx context.Context) (string, time.Time, error) {
	m, err := t.metadata.get(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if t.cfg.Audience != "" {
		form.Set("audience", t.cfg.Audience)
		if u, err := url.Parse(t.cfg.Audience); err == nil && u.IsAbs() {
			form.Set("resource", t.cfg.Audience)
		}
	}
	if len(t.cfg.Scopes) > 0 {
		form.Set("scope", strings.Join(t.cfg.Scopes, " "))
	}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}}
	if err := t.auth.authenticate(m, form, header); err != nil {
		return "", time.Time{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", time.Time{}, fault.New(fault.Identity, "", "OIDC token request: %w", err)
	}
	req.Header = header
	asked := t.cfg.Now()
	status, body, err := t.send(req)
	if err != nil {
		return "", time.Time{}, err
	}
	return t.granted(asked, status, body)
}

// granted reads a token response (RFC 6749, sections 5.1 and 5.2).
func (t *OIDCTokens) granted(asked time.Time, status int, body []byte) (string, time.Time, error) {
	var r struct {
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
		Error       string  `json:"error"`
		Description string  `json:"error_description"`
	}
	if err := json.Unmarshal(body, &r); err != nil && status == http.StatusOK {
		return "", time.Time{}, fault.New(fault.Identity, "check that the issuer's token endpoint is one",
			"%s: the token response is not JSON", t)
	}
	if status != http.StatusOK || r.AccessToken == "" {
		return "", time.Time{}, t.refused(status, r.Error, r.Description)
	}
	if len(r.AccessToken) > maxTokenSize {
		return "", time.Time{}, fault.New(fault.Identity, "have the issuer put fewer claims into it",
			"%s: the token is larger than %d bytes", t, maxTokenSize)
	}
	lifetime := defaultLifetime
	if r.ExpiresIn > 0 {
		lifetime = time.Duration(min(r.ExpiresIn, maxSession.Seconds())) * time.Second
	}
	ends := asked.Add(lifetime)
	if claims, err := ParseClaims(r.AccessToken); err == nil && !claims.Expires.IsZero() &&
		claims.Expires.Before(ends) {
		ends = claims.Expires
	}
	return r.AccessToken, ends, nil
}

// oidcCures are by error code (RFC 6749, section 5.2; RFC 8707, section 2).
var oidcCures = map[string]string{
	"invalid_client":         "check client id and secret or key: the issuer does not accept them",
	"unauthorized_client":    "allow the client credentials grant to this client (Keycloak: service accounts roles)",
	"unsupported_grant_type": "enable the client credentials grant at the issuer",
	"invalid_scope":          "ask only for scopes that the issuer grants to this client",
	"invalid_target":         "set --oidc-audience to a resource that the issuer knows",
}

func (t *OIDCTokens) refused(status int, code, description string) error {
	cure := cmp.Or(oidcCures[code], "look at the issuer's log")
	return fault.New(kindOf(status), cure, "%s refuses a token: %s (HTTP %d)", t,
		oneLine(cmp.Or(strings.TrimPrefix(code+": "+description, ": "), "no reason given")), status)
}

func kindOf(status int) fault.Kind {
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return fault.Transient
	}
	return fault.Identity
}

// send returns status and body of an answer of bounded size.
func (t *OIDCTokens) send(req *http.Request) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), oidcTimeout)
	defer cancel()
	resp, err := t.client.Do(req.WithContext(ctx))
	if err != nil {
		if ctxErr := req.Context().Err(); ctxErr != nil {
			return 0, nil, ctxErr
		}
		return 0, nil, unanswered(err, Op{Action: "OIDC request to", Resource: req.URL.Host})
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOIDCResponse))
	if err != nil {
		return 0, nil, fault.New(fault.Transient, cureLater, "reading the answer of %s: %w", req.URL.Host, err)
	}
	return resp.StatusCode, body, nil
}

// clientAuth adds what proves the client to a token request.
type clientAuth interface {
	authenticate(m metadata, form url.Values, header http.Header) error
}

func newClientAuth(cfg OIDCConfig) (clientAuth, error) {
	set := 0
	for _, b := range []bool{cfg.ClientSecret != nil, cfg.ClientSecretFile != "", len(cfg.PrivateKey) > 0} {
		if b {
			set++
		}
	}
	if set != 1 {
		return nil, fault.New(fault.Usage, "set one of client secret, client secret file and private key",
			"OIDC client %s has %d ways to prove itself, not one", cfg.ClientID, set)
	}
	if len(cfg.PrivateKey) > 0 {
		return newKeyAuth(cfg)
	}
	return secretAuth{id: cfg.ClientID, secret: cfg.ClientSecret, file: cfg.ClientSecretFile}, nil
}

// secretAuth is client_secret_basic, or client_secret_post where the issuer offers only that.
type secretAuth struct {
	id     string
	secret *secret.Key
	file   string
}

func (s secretAuth) authenticate(m metadata, form url.Values, header http.Header) error {
	value, err := s.read()
	if err != nil {
		return err
	}
	if m.AuthMethods != nil && !slices.Contains(m.AuthMethods, "client_secret_basic") && slices.Contains(m.AuthMethods,
		"client_secret_post") {
		form.Set("client_id", s.id)
		form.Set("client_secret", value)
		return nil
	}
	// RFC 6749, section 2.3.1: both halves are form-encoded first.
	req := http.Request{Header: header}
	req.SetBasicAuth(url.QueryEscape(s.id), url.QueryEscape(value))
	return nil
}

func (s secretAuth) read() (string, error) {
	if s.file == "" {
		return string(s.secret.Bytes()), nil
	}
	b, err := os.ReadFile(s.file)
	if err != nil {
		return "", fault.New(fault.Identity, "mount the Secret with the client secret", "no OIDC client secret: %w",
			err)
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "", fault.New(fault.Identity, "put the client secret into the Secret",
			"the OIDC client secret file %s is empty", s.file)
	}
	return string(b), nil
}
