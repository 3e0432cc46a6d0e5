package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

// issuer is an OpenID Connect issuer over TLS that hands out numbered tokens.
type issuer struct {
	*httptest.Server
	metadata map[string]any
	lifetime int // expires_in
	refuse   func(w http.ResponseWriter, r *http.Request) bool
	forms    []url.Values
	headers  []http.Header
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{lifetime: 30}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /realms/ml/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(i.metadata)
	})
	mux.HandleFunc("POST /token", i.token)
	i.Server = httptest.NewUnstartedServer(mux)
	i.Config.ErrorLog = log.New(io.Discard, "", 0)
	i.StartTLS()
	t.Cleanup(i.Close)
	i.metadata = map[string]any{"issuer": i.name(), "token_endpoint": i.URL + "/token"}
	return i
}

func (i *issuer) name() string { return i.URL + "/realms/ml" }

func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	if i.refuse != nil && i.refuse(w, r) {
		return
	}
	i.forms = append(i.forms, r.PostForm)
	i.headers = append(i.headers, r.Header)
	fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, len(i.forms), i.lifetime)
}

func (i *issuer) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
}

func (i *issuer) config(t *testing.T, now func() time.Time) OIDCConfig {
	key, err := secret.Take([]byte("hush hush&%"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return OIDCConfig{Issuer: i.name(), ClientID: "loader:1", ClientSecret: key, CABundle: i.ca(), Now: now}
}

func mustOIDC(t *testing.T, cfg OIDCConfig) *OIDCTokens {
	t.Helper()
	tokens, err := NewOIDC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestOIDCClientSecret(t *testing.T) {
	i := newIssuer(t)
	cfg := i.config(t, nil)
	cfg.Audience, cfg.Scopes = "sts.amazonaws.com", []string{"models", "read"}
	if token, err := mustOIDC(t, cfg).Token(t.Context()); err != nil || token != "token-1" {
		t.Fatalf("token %q, error %v", token, err)
	}
	if got, want := i.forms[0].Encode(),
		"audience=sts.amazonaws.com&grant_type=client_credentials&scope=models+read"; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	req := http.Request{Header: i.headers[0]}
	if id, value, _ := req.BasicAuth(); id != "loader%3A1" || value != "hush+hush%26%25" {
		t.Errorf("basic authentication as %q with %q", id, value)
	}

	i.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"}
	cfg.Audience = "https://models.example/api"
	if _, err := mustOIDC(t, cfg).Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if form := i.forms[1]; form.Get("client_id") != "loader:1" || form.Get("client_secret") != "hush hush&%" ||
		form.Get("resource") != cfg.Audience ||
		i.headers[1].Get("Authorization") != "" {
		t.Errorf("posted %v", form)
	}
}

func TestOIDCSecretFileIsReadAgain(t *testing.T) {
	i, c := newIssuer(t), newClock()
	cfg := i.config(t, c.Now)
	cfg.ClientSecret, cfg.ClientSecretFile = nil, filepath.Join(t.TempDir(), "secret")
	tokens := mustOIDC(t, cfg)
	if _, err := tokens.Token(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(),
		cfg.ClientSecretFile) {
		t.Errorf("no file: %v", err)
	}
	write(t, cfg.ClientSecretFile, " \n")
	if _, err := tokens.Token(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("empty file: %v", err)
	}
	for n, content := range []string{"one\n", "two"} {
		write(t, cfg.ClientSecretFile, content)
		if _, err := tokens.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		req := http.Request{Header: i.headers[n]}
		if _, value, _ := req.BasicAuth(); value != strings.TrimSpace(content) {
			t.Errorf("sent secret %q, the file holds %q", value, content)
		}
		c.Advance(time.Hour)
	}
}

func TestOIDCCacheRenewalAnd401(t *testing.T) {
	i, c := newIssuer(t), newClock()
	tokens := mustOIDC(t, i.config(t, c.Now))
	token := func() string {
		t.Helper()
		s, err := tokens.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	token()
	c.Advance(20 * time.Second)
	if got := token(); got != "token-1" {
		t.Errorf("%s before the first token's end, want it from the cache", got)
	}
	c.Advance(9 * time.Second)
	if got := token(); got != "token-2" {
		t.Errorf("%s one second before the first token's end, want a new one", got)
	}
	c.Advance(invalidateAge)
	tokens.Invalidate()
	tokens.Invalidate()
	if got := token(); got != "token-3" {
		t.Errorf("%s after a 401, want a new one", got)
	}
}

// TestOIDCTokenEndsWithItsClaim: the token's own exp counts where the answer promises more.
func TestOIDCTokenEndsWithItsClaim(t *testing.T) {
	i, c := newIssuer(t), newClock()
	n := 0
	i.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		n++
		claims := fmt.Sprintf(`{"jti":"%d","exp":%d}`, n, c.Now().Add(10*time.Second).Unix())
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600}`, unsigned(`{"alg":"RS256"}`, claims))
		return true
	}
	tokens := mustOIDC(t, i.config(t, c.Now))
	first, err := tokens.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(10 * time.Second)
	if second, err := tokens.Token(t.Context()); err != nil || second == first {
		t.Errorf("an ended token was handed out (error %v)", err)
	}
}

func TestOIDCPrivateKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	asJWK, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: "key-1"})
	if err != nil {
		t.Fatal(err)
	}
	i := newIssuer(t)
	for name, material := range map[string][]byte{"": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"key-1": asJWK} {
		cfg := i.config(t, nil)
		cfg.ClientSecret, cfg.PrivateKey = nil, material
		if _, err := mustOIDC(t, cfg).Token(t.Context()); err != nil {
			t.Fatalf("key %q: %v", name, err)
		}
		form := i.forms[len(i.forms)-1]
		if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" ||
			form.Get("client_id") != "loader:1" ||
			form.Has("client_secret") || i.headers[len(i.headers)-1].Get("Authorization") != "" {
			t.Errorf("key %q: posted %v", name, form)
		}
		checkAssertion(t, name, form.Get("client_assertion"), &key.PublicKey, i.name())
	}
}

func checkAssertion(t *testing.T, keyID, assertion string, key *ecdsa.PublicKey, issuer string) {
	t.Helper()
	parsed, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatalf("key %q: %v", keyID, err)
	}
	var claims struct {
		jwt.Claims
		Audience any `json:"aud"`
	}
	if err := parsed.Claims(key, &claims); err != nil {
		t.Fatalf("key %q: %v", keyID, err)
	}
	if claims.Issuer != "loader:1" || claims.Subject != "loader:1" || claims.Audience != issuer || claims.ID == "" ||
		claims.Expiry.Time().Sub(claims.IssuedAt.Time()) != assertionLife || parsed.Headers[0].KeyID != keyID {
		t.Errorf("key %q: claims %+v, key %q", keyID, claims, parsed.Headers[0].KeyID)
	}
}

func TestOIDCKeyKinds(t *testing.T) {
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	for name, tt := range map[string]struct {
		key any
		ok  bool
	}{"Ed25519": {edKey, true}, "P-384": {p384, true}, "P-521": {p521, false}, "octets": {[]byte("0123456789abcdef"),
		false}, "public": {&p384.PublicKey, false}} {
		material, err := json.Marshal(jose.JSONWebKey{Key: tt.key})
		if err != nil {
			t.Fatal(err)
		}
		_, err = NewOIDC(OIDCConfig{Issuer: "https://issuer.example", ClientID: "c", PrivateKey: material})
		if (err == nil) != tt.ok || err != nil && !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOIDCRefusals(t *testing.T) {
	answer := func(status int, body string) func(*issuer) {
		return func(i *issuer) {
			i.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(status)
				fmt.Fprint(w, body)
				return true
			}
		}
	}
	for _, tt := range []struct {
		name          string
		spoil         func(*issuer)
		kind          fault.Kind
		cause, remedy string
	}{
		{"bad secret", answer(401, `{"error":"invalid_client","error_description":"bad\nsecret"}`), fault.Identity,
			"invalid_client: bad secret (HTTP 401)", "client id and secret"},
		{"grant not allowed", answer(400, `{"error":"unauthorized_client"}`), fault.Identity, "unauthorized_client",
			"service accounts"},
		{"bad audience", answer(400, `{"error":"invalid_target"}`), fault.Identity, "invalid_target",
			"--oidc-audience"},
		{"no token", answer(200, `{"token_type":"Bearer"}`), fault.Identity, "no reason given", "issuer's log"},
		{"not JSON", answer(200, `<html>`), fault.Identity, "not JSON", "token endpoint"},
		{"in trouble", answer(503, `x`), fault.Transient, "HTTP 503", "issuer's log"},
		{"endless token", answer(200, `{"access_token":"`+strings.Repeat("x", maxTokenSize+1)+`"}`), fault.Identity,
			"larger than", "fewer claims"},
		{"another issuer", func(i *issuer) { i.metadata["issuer"] = "https://evil.example" }, fault.Identity,
			`is for issuer "https://evil.example"`, "--oidc-issuer"},
		{"token endpoint in the clear", func(i *issuer) { i.metadata["token_endpoint"] = "http://evil.example/token" },
			fault.Identity, "https is required", "issuer"},
		{"no client credentials",
			func(i *issuer) { i.metadata["grant_types_supported"] = []string{"authorization_code"} }, fault.Identity,
			"does not offer", "enable"},
		{"redirect", func(i *issuer) {
			i.refuse = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "/token2", http.StatusTemporaryRedirect)
				return true
			}
		}, fault.Identity, "HTTP 307", "issuer's log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := newIssuer(t)
			tt.spoil(i)
			_, err := mustOIDC(t, i.config(t, nil)).Token(t.Context())
			if fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.cause) ||
				!strings.Contains(fault.Hint(err), tt.remedy) {
				t.Errorf("%v (%s)", err, fault.Hint(err))
			}
			if strings.Contains(err.Error(), "hush") || strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("%q tells the secret or breaks lines", err)
			}
			if len(i.forms) != 0 {
				t.Error("a secret went where it should not")
			}
		})
	}
}

func TestOIDCTransport(t *testing.T) {
	i := newIssuer(t)
	cfg := i.config(t, nil)
	cfg.CABundle = nil
	if _, err := mustOIDC(t, cfg).Token(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(),
		"unknown authority") {
		t.Errorf("unknown authority: %v", err)
	}
	cfg = i.config(t, nil)
	cfg.Issuer = i.URL + "/realms/absent"
	if _, err := mustOIDC(t, cfg).Token(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(),
		"HTTP 404") {
		t.Errorf("no such realm: %v", err)
	}
	cfg = i.config(t, nil)
	i.Close()
	if _, err := mustOIDC(t, cfg).Token(t.Context()); !fault.Is(err, fault.Transient) {
		t.Errorf("unreachable: %v", err)
	}
}

func TestOIDCConfigFaults(t *testing.T) {
	good := newIssuer(t).config(t, nil)
	for name, spoil := range map[string]func(*OIDCConfig){
		"no issuer":           func(c *OIDCConfig) { c.Issuer = "" },
		"issuer in the clear": func(c *OIDCConfig) { c.Issuer = "http://issuer.example" },
		"issuer with query":   func(c *OIDCConfig) { c.Issuer += "?x=1" },
		"issuer with user":    func(c *OIDCConfig) { c.Issuer = "https://u:hush@issuer.example" },
		"no client":           func(c *OIDCConfig) { c.ClientID = "" },
		"no proof":            func(c *OIDCConfig) { c.ClientSecret = nil },
		"two proofs":          func(c *OIDCConfig) { c.ClientSecretFile = "/secret" },
		"bad key":             func(c *OIDCConfig) { c.ClientSecret, c.PrivateKey = nil, []byte("hush") },
		"bad PEM": func(c *OIDCConfig) {
			c.ClientSecret, c.PrivateKey = nil, []byte("-----BEGIN PRIVATE KEY-----\naHVzaA==\n-----END PRIVATE "+
				"KEY-----\n")
		},
		"bad CA": func(c *OIDCConfig) { c.CABundle = []byte("x") },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := NewOIDC(cfg); !fault.Is(err, fault.Usage) || strings.Contains(err.Error(), "hush") ||
			fault.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOIDCAsWebIdentity: the issuer's token opens the role, and an opaque one is refused before it is sent.
func TestOIDCAsWebIdentity(t *testing.T) {
	i, f := newIssuer(t), newFakeSTS(t)
	cfg := Config{RoleARN: loaderRole, TokenProvider: mustOIDC(t, i.config(t, f.clock.Now)), STSEndpoint: f.URL,
		Now: f.clock.Now}
	_, err := mustCredentials(t, cfg).Retrieve(t.Context())
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(),
		"malformed web identity token from OIDC issuer "+i.name()) || len(f.asked) != 0 {
		t.Errorf("opaque token: %v after %d requests", err, len(f.asked))
	}
	i.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprintf(w, `{"access_token":%q}`, testToken("issued"))
		return true
	}
	f.clock.Advance(time.Hour)
	if _, err := mustCredentials(t, cfg).Retrieve(t.Context()); err != nil ||
		f.asked[0].Get("WebIdentityToken") != testToken("issued") {
		t.Errorf("issued token: %v", err)
	}
}
