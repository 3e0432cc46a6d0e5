package oidc

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	maxForm         = 64 << 10 // bytes of a token request
	maxAssertionAge = 10 * time.Minute
	assertionType   = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

var assertionAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Client is an OAuth client that may use the client credentials grant. One of Secret and PublicKey is set.
type Client struct {
	ID        string
	Secret    string // for client_secret_basic and client_secret_post
	PublicKey any    // for private_key_jwt: a public key or a jose.JSONWebKey
	Subject   string // sub of its tokens; empty means the client's id
	Audiences []string
	Scopes    []string
	Lifetime  time.Duration // zero means DefaultLifetime
	Claims    map[string]any
	Algorithm jose.SignatureAlgorithm
	// Opaque makes tokens that are not JSON web tokens, as some issuers do.
	Opaque bool
}

// AddClient registers a client, or replaces the one with its id.
func (i *Issuer) AddClient(c Client) {
	if c.Subject == "" {
		c.Subject = c.ID
	}
	if c.Lifetime == 0 {
		c.Lifetime = DefaultLifetime
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.clients[c.ID] = &c
}

// oauthError is an error response of RFC 6749, section 5.2.
type oauthError struct {
	status      int
	code        string
	description string
}

// Error returns the code and its description.
func (e *oauthError) Error() string { return e.code + ": " + e.description }

func badRequest(code, format string, args ...any) error {
	return &oauthError{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

func invalidClient(why string) error {
	return &oauthError{http.StatusUnauthorized, "invalid_client", why}
}

// token answers the token endpoint.
func (i *Issuer) token(w http.ResponseWriter, r *http.Request, entry *Request) {
	answer, err := i.grant(r, entry)
	if err == nil {
		reply(w, http.StatusOK, answer)
		return
	}
	var refusal *oauthError
	if !errors.As(err, &refusal) {
		refusal = &oauthError{http.StatusInternalServerError, "server_error", err.Error()}
	}
	entry.Status, entry.Error = refusal.status, refusal.code
	if _, _, basic := r.BasicAuth(); basic && refusal.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="token"`)
	}
	reply(w, refusal.status, map[string]string{"error": refusal.code, "error_description": refusal.description})
}

func (i *Issuer) grant(r *http.Request, entry *Request) (any, error) {
	form, err := readForm(r)
	if err != nil {
		return nil, err
	}
	client, err := i.authenticate(r, form)
	if err != nil {
		return nil, err
	}
	entry.ClientID, entry.Form = client.ID, withoutSecrets(form)
	if form.Get("grant_type") != "client_credentials" {
		return nil, badRequest("unsupported_grant_type", "grant type %q", form.Get("grant_type"))
	}
	scopes := strings.Fields(form.Get("scope"))
	for _, scope := range scopes {
		if !slices.Contains(client.Scopes, scope) {
			return nil, badRequest("invalid_scope", "scope %q", scope)
		}
	}
	audience := append(slices.Clone(form["audience"]), form["resource"]...)
	slices.Sort(audience)
	audience = slices.Compact(audience)
	for _, a := range audience {
		if !slices.Contains(client.Audiences, a) {
			return nil, badRequest("invalid_target", "audience %q", a)
		}
	}
	return map[string]any{
		"access_token": i.accessToken(client, audience, scopes), "token_type": "Bearer",
		"expires_in": int(client.Lifetime.Seconds()), "scope": strings.Join(scopes, " "),
	}, nil
}

func (i *Issuer) accessToken(c *Client, audience, scopes []string) string {
	if c.Opaque {
		return rand.Text()
	}
	extra := map[string]any{"scope": strings.Join(scopes, " ")}
	for name, value := range c.Claims {
		extra[name] = value
	}
	return i.Mint(Claims{
		Subject: c.Subject, Audience: audience, Lifetime: c.Lifetime, Extra: extra, Algorithm: c.Algorithm,
	})
}

func readForm(r *http.Request) (url.Values, error) {
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); t != "application/x-www-form-urlencoded" {
		return nil, badRequest("invalid_request", "content type %q", t)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxForm))
	if err != nil {
		return nil, badRequest("invalid_request", "reading the body: %v", err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, badRequest("invalid_request", "the body is no form")
	}
	for name, values := range form {
		if len(values) > 1 && name != "resource" && name != "audience" {
			return nil, badRequest("invalid_request", "parameter %s is repeated", name)
		}
	}
	return form, nil
}

// authenticate finds the client and checks its secret or assertion. A request with two methods is refused, as RFC 6749,
// section 2.3, demands.
func (i *Issuer) authenticate(r *http.Request, form url.Values) (*Client, error) {
	id, secret, basic := r.BasicAuth()
	post, assertion := form.Has("client_secret"), form.Get("client_assertion")
	methods := 0
	for _, used := range []bool{basic, post, assertion != ""} {
		if used {
			methods++
		}
	}
	switch {
	case methods > 1:
		return nil, badRequest("invalid_request", "more than one way of client authentication")
	case assertion != "":
		return i.asserted(form, assertion)
	case basic:
		plainID, errID := url.QueryUnescape(id)
		plainSecret, errSecret := url.QueryUnescape(secret)
		if errID != nil || errSecret != nil {
			return nil, invalidClient("id and secret are not form-encoded")
		}
		id, secret = plainID, plainSecret
	default:
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	c := i.client(id)
	if c == nil || c.Secret == "" || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		return nil, invalidClient("Invalid client or Invalid client credentials")
	}
	return c, nil
}

func (i *Issuer) client(id string) *Client {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.clients[id]
}

// asserted checks a client assertion (RFC 7523, section 3).
func (i *Issuer) asserted(form url.Values, assertion string) (*Client, error) {
	if form.Get("client_assertion_type") != assertionType {
		return nil, badRequest("invalid_request", "client_assertion_type")
	}
	token, err := jwt.ParseSigned(assertion, assertionAlgorithms)
	if err != nil {
		return nil, invalidClient("the assertion is not a JWT: " + err.Error())
	}
	var unverified, claims jwt.Claims
	if err := token.UnsafeClaimsWithoutVerification(&unverified); err != nil {
		return nil, invalidClient("the assertion has no claims")
	}
	c := i.client(unverified.Subject)
	if c == nil || c.PublicKey == nil {
		return nil, invalidClient("client not known")
	}
	if err := token.Claims(c.PublicKey, &claims); err != nil {
		return nil, invalidClient("the assertion's signature is not the client's")
	}
	if id := form.Get("client_id"); id != "" && id != c.ID {
		return nil, invalidClient("client_id is not the assertion's subject")
	}
	return c, i.checkAssertion(claims, c)
}

func (i *Issuer) checkAssertion(claims jwt.Claims, c *Client) error {
	now := i.now()
	err := claims.ValidateWithLeeway(jwt.Expected{
		Issuer: c.ID, Subject: c.ID, AnyAudience: jwt.Audience{i.url, i.url + "/token"}, Time: now,
	}, 0)
	switch {
	case err != nil:
		return invalidClient("the assertion is not valid: " + err.Error())
	case claims.Expiry == nil || claims.Expiry.Time().After(now.Add(maxAssertionAge)):
		return invalidClient("the assertion's exp is missing or too far off")
	case claims.ID == "":
		return invalidClient("the assertion has no jti")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.used[claims.ID] {
		return invalidClient("the assertion has been used before")
	}
	i.used[claims.ID] = true
	return nil
}

func withoutSecrets(form url.Values) url.Values {
	kept := url.Values{}
	for name, values := range form {
		if name != "client_secret" && name != "client_assertion" {
			kept[name] = values
		}
	}
	return kept
}
