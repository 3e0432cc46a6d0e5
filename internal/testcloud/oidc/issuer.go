// Package oidc is an OpenID Connect issuer for tests: discovery, keys, tokens minted at will, and a token endpoint for
// the client credentials grant that checks its clients.
//
// It also holds the relying party's half, Verify, by which the test cloud's STS and key brokers check tokens: from the
// issuer's published keys, as the real ones do.
package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// DefaultLifetime is that of a token whose maker says nothing else.
const DefaultLifetime = 10 * time.Minute

// Issuer is an http.Handler. Its URL is set before the first request; all else is safe for concurrent use.
type Issuer struct {
	url string
	now func() time.Time

	mu      sync.Mutex
	signing map[jose.SignatureAlgorithm]jose.JSONWebKey // the keys that sign now
	retired []jose.JSONWebKey                           // public keys still published
	clients map[string]*Client
	used    map[string]bool // jti of client assertions
	down    int             // status that every request gets; zero for none
	log     []Request
}

// Request is one request as the issuer's log keeps it.
type Request struct {
	Method, Path string
	ClientID     string // of a token request, once it is authenticated
	Form         url.Values
	Status       int
	Error        string // OAuth error code; empty on success
}

// New makes an issuer. now is its clock; nil means time.Now.
func New(now func() time.Time) *Issuer {
	if now == nil {
		now = time.Now
	}
	return &Issuer{
		now: now, signing: map[jose.SignatureAlgorithm]jose.JSONWebKey{},
		clients: map[string]*Client{}, used: map[string]bool{},
	}
}

// SetURL says where the issuer is served: the iss of its tokens. It may have a path, without a slash at its end.
func (i *Issuer) SetURL(issuer string) { i.url = issuer }

// URL is the issuer's identifier.
func (i *Issuer) URL() string { return i.url }

// SetDown answers every request with this HTTP status; zero ends the outage.
func (i *Issuer) SetDown(status int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = status
}

// Requests returns the log.
func (i *Issuer) Requests() []Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]Request(nil), i.log...)
}

// Rotate replaces the signing keys. The old ones stay published only where keepOld says so.
func (i *Issuer) Rotate(keepOld bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !keepOld {
		i.retired = nil
	}
	for _, key := range i.signing {
		if keepOld {
			i.retired = append(i.retired, key.Public())
		}
	}
	clear(i.signing)
}

// Claims say what a token says. The zero value of a field stands for its default.
type Claims struct {
	Subject  string
	Audience []string
	Lifetime time.Duration  // DefaultLifetime; below zero the token has expired
	Issuer   string         // the issuer's URL
	Extra    map[string]any // further claims; one of the standard names replaces that claim, and nil removes it
	// Algorithm is ES256 unless set to another that AWS takes: RS256, RS384, RS512, ES384, ES512.
	Algorithm jose.SignatureAlgorithm
}

// Mint signs a token with the present key.
func (i *Issuer) Mint(c Claims) string {
	if c.Algorithm == "" {
		c.Algorithm = jose.ES256
	}
	if c.Lifetime == 0 {
		c.Lifetime = DefaultLifetime
	}
	if c.Issuer == "" {
		c.Issuer = i.url
	}
	issued := i.now().Add(min(0, c.Lifetime-time.Second))
	payload := map[string]any{
		"iss": c.Issuer, "sub": c.Subject, "jti": rand.Text(),
		"iat": issued.Unix(), "exp": i.now().Add(c.Lifetime).Unix(),
	}
	if len(c.Audience) > 0 {
		payload["aud"] = jwt.Audience(c.Audience)
	}
	maps.Copy(payload, c.Extra)
	maps.DeleteFunc(payload, func(_ string, v any) bool { return v == nil })
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: c.Algorithm, Key: i.key(c.Algorithm)},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		panic("oidc: " + err.Error())
	}
	token, err := jwt.Signed(signer).Claims(payload).Serialize()
	if err != nil {
		panic("oidc: " + err.Error())
	}
	return token
}

// key returns the signing key of an algorithm, which is made at first use.
func (i *Issuer) key(alg jose.SignatureAlgorithm) jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	key, ok := i.signing[alg]
	if !ok {
		key = jose.JSONWebKey{Key: generate(alg), KeyID: rand.Text(), Algorithm: string(alg), Use: "sig"}
		i.signing[alg] = key
	}
	return key
}

func generate(alg jose.SignatureAlgorithm) crypto.Signer {
	var key crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.RS256, jose.RS384, jose.RS512:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("algorithm %q", alg)
	}
	if err != nil {
		panic("oidc: making a key: " + err.Error())
	}
	return key
}

// ServeHTTP answers discovery, keys and token requests.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	entry := Request{Method: r.Method, Path: r.URL.Path, Status: http.StatusOK}
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.log = append(i.log, entry)
	}()
	i.mu.Lock()
	down := i.down
	i.mu.Unlock()
	base, err := url.Parse(i.url)
	if err != nil {
		panic("oidc: issuer URL: " + err.Error())
	}
	switch {
	case down != 0:
		entry.Status = down
		http.Error(w, http.StatusText(down), down)
	case r.Method == http.MethodGet && r.URL.Path == base.Path+"/.well-known/openid-configuration":
		reply(w, http.StatusOK, i.metadata())
	case r.Method == http.MethodGet && r.URL.Path == base.Path+"/keys":
		reply(w, http.StatusOK, i.keys())
	case r.Method == http.MethodPost && r.URL.Path == base.Path+"/token":
		i.token(w, r, &entry)
	default:
		entry.Status = http.StatusNotFound
		http.NotFound(w, r)
	}
}

func (i *Issuer) metadata() any {
	m := map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys", "token_endpoint": i.url + "/token"}
	m["response_types_supported"] = []string{"id_token"}
	m["subject_types_supported"] = []string{"public"}
	m["grant_types_supported"] = []string{"client_credentials"}
	m["id_token_signing_alg_values_supported"] = []string{"RS256", "ES256"}
	m["token_endpoint_auth_methods_supported"] = strings.Fields("client_secret_basic client_secret_post private_key_jwt")
	m["token_endpoint_auth_signing_alg_values_supported"] = assertionAlgorithms
	return m
}

func (i *Issuer) keys() jose.JSONWebKeySet {
	i.mu.Lock()
	defer i.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey{}, i.retired...)}
	for _, key := range i.signing {
		set.Keys = append(set.Keys, key.Public())
	}
	return set
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
