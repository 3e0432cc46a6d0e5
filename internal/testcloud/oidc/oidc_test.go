package oidc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

func start(t *testing.T, path string) *oidc.Issuer {
	t.Helper()
	issuer := oidc.New(nil)
	server := httptest.NewServer(issuer)
	t.Cleanup(server.Close)
	issuer.SetURL(server.URL + path)
	return issuer
}

func verify(t *testing.T, i *oidc.Issuer, token string) (*oidc.Verified, error) {
	t.Helper()
	trusted := func(issuer string) bool { return issuer == i.URL() }
	return oidc.Verify(t.Context(), http.DefaultClient, token, trusted, time.Now())
}

func TestVerify(t *testing.T) {
	i, other := start(t, "/realms/x"), start(t, "/realms/x")
	good := oidc.Claims{Subject: "s", Audience: []string{"a", "b"}, Extra: map[string]any{"azp": "client"}}
	for _, alg := range []jose.SignatureAlgorithm{"", jose.ES384, jose.RS256} {
		c := good
		c.Algorithm = alg
		v, err := verify(t, i, i.Mint(c))
		if err != nil || v.Subject != "s" || v.AuthorizedParty != "client" || !v.Claims.Audience.Contains("b") {
			t.Fatalf("%s: %+v, %v", alg, v, err)
		}
	}
	rotated := i.Mint(good)
	i.Rotate(true)
	kept := i.Mint(good)
	if _, err := verify(t, i, rotated); err != nil {
		t.Errorf("key kept over a rotation: %v", err)
	}
	i.Rotate(false)
	unsigned := i.Mint(good)
	unsigned = unsigned[:strings.LastIndexByte(unsigned, '.')+1]
	tomorrow := time.Now().Add(24 * time.Hour).Unix()
	for _, test := range []struct {
		name  string
		token string
		want  error
	}{
		{"key rotated away", rotated, oidc.ErrNoKey},
		{"second key rotated away", kept, oidc.ErrNoKey},
		{"expired", i.Mint(oidc.Claims{Subject: "s", Lifetime: -time.Second}), oidc.ErrExpired},
		{"not yet", i.Mint(oidc.Claims{Subject: "s", Extra: map[string]any{"nbf": tomorrow}}), oidc.ErrNotYet},
		{"no exp", i.Mint(oidc.Claims{Subject: "s", Extra: map[string]any{"exp": nil}}), oidc.ErrMalformed},
		{"no sub", i.Mint(oidc.Claims{}), oidc.ErrMalformed},
		{"other issuer", other.Mint(good), oidc.ErrIssuer},
		{"other issuer under this name", other.Mint(oidc.Claims{Subject: "s", Issuer: i.URL()}), oidc.ErrNoKey},
		{"signature of nothing", unsigned + strings.Repeat("A", 86), oidc.ErrSignature},
		{"line feed behind the token", i.Mint(good) + "\n", oidc.ErrMalformed},
		{"no token", "x", oidc.ErrMalformed},
		{"huge", strings.Repeat("x", 30_000), oidc.ErrMalformed},
	} {
		if _, err := verify(t, i, test.token); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	i.SetDown(503)
	if _, err := verify(t, i, i.Mint(good)); !errors.Is(err, oidc.ErrUnreachable) {
		t.Errorf("issuer down: %v", err)
	}
	i.SetDown(404)
	if _, err := verify(t, i, i.Mint(good)); !errors.Is(err, oidc.ErrNoKey) {
		t.Errorf("issuer without discovery: %v", err)
	}
}

// ask posts a token request and returns status, error code and access token.
func ask(t *testing.T, i *oidc.Issuer, form url.Values, user, password string) (int, string, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", i.URL()+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body struct {
		Error string `json:"error"`
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, body.Error, body.Token
}

func TestClientCredentials(t *testing.T) {
	i := start(t, "")
	i.AddClient(oidc.Client{
		ID: "loader", Secret: "p+ss/w:rd", Subject: "service",
		Audiences: []string{"sts.amazonaws.com"}, Scopes: []string{"read"},
		Lifetime: 30 * time.Second, Claims: map[string]any{"azp": "loader"},
	})
	form := func(pairs ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}}
		for n := 0; n < len(pairs); n += 2 {
			v.Add(pairs[n], pairs[n+1])
		}
		return v
	}
	encoded := url.QueryEscape("p+ss/w:rd")
	for _, test := range []struct {
		name           string
		form           url.Values
		user, password string
		status         int
		code           string
	}{
		{"basic", form("audience", "sts.amazonaws.com", "scope", "read"), "loader", encoded, 200, ""},
		{"post", form("client_id", "loader", "client_secret", "p+ss/w:rd"), "", "", 200, ""},
		{"basic, not encoded", form(), "loader", "p+ss/w:rd", 401, "invalid_client"},
		{"wrong secret", form(), "loader", "x", 401, "invalid_client"},
		{"unknown client", form(), "other", encoded, 401, "invalid_client"},
		{"nobody", form(), "", "", 401, "invalid_client"},
		{"both ways", form("client_secret", "p+ss/w:rd"), "loader", encoded, 400, "invalid_request"},
		{"other grant", url.Values{"grant_type": {"password"}}, "loader", encoded, 400, "unsupported_grant_type"},
		{"scope", form("scope", "read write"), "loader", encoded, 400, "invalid_scope"},
		{"audience", form("audience", "elsewhere"), "loader", encoded, 400, "invalid_target"},
		{"repeated", form("scope", "read", "scope", "read"), "loader", encoded, 400, "invalid_request"},
	} {
		status, code, token := ask(t, i, test.form, test.user, test.password)
		if status != test.status || code != test.code || (token != "") != (status == 200) {
			t.Errorf("%s: %d %s", test.name, status, code)
		}
		if token == "" {
			continue
		}
		v, err := verify(t, i, token)
		if err != nil || v.Subject != "service" || v.AuthorizedParty != "loader" ||
			time.Until(v.Expiry.Time()) > 30*time.Second {
			t.Errorf("%s: %+v, %v", test.name, v, err)
		}
	}
	for _, entry := range i.Requests() {
		if strings.Contains(entry.Form.Encode(), "p%2Bss") {
			t.Error("a secret is in the log")
		}
	}
}

func TestPrivateKeyJWT(t *testing.T) {
	i := start(t, "")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.AddClient(oidc.Client{ID: "loader", PublicKey: key.Public()})
	i.AddClient(oidc.Client{ID: "other", Secret: "s"})
	sign := func(change func(*jwt.Claims)) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		claims := jwt.Claims{
			Issuer: "loader", Subject: "loader", Audience: jwt.Audience{i.URL() + "/token"}, ID: rand.Text(),
			Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute)),
		}
		change(&claims)
		token, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	same := sign(func(*jwt.Claims) {})
	for _, test := range []struct {
		name      string
		assertion string
		status    int
	}{
		{"good", same, 200},
		{"used before", same, 401},
		{"audience", sign(func(c *jwt.Claims) { c.Audience = jwt.Audience{"https://elsewhere"} }), 401},
		{"expired", sign(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(-time.Second)) }), 401},
		{"too long", sign(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(time.Hour)) }), 401},
		{"no jti", sign(func(c *jwt.Claims) { c.ID = "" }), 401},
		{"other issuer", sign(func(c *jwt.Claims) { c.Issuer = "x" }), 401},
		{"client without a key", sign(func(c *jwt.Claims) { c.Subject, c.Issuer = "other", "other" }), 401},
		{"no JWT", "x", 401},
	} {
		form := url.Values{
			"grant_type": {"client_credentials"}, "client_assertion": {test.assertion},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}
		if status, code, _ := ask(t, i, form, "", ""); status != test.status {
			t.Errorf("%s: %d %s", test.name, status, code)
		}
	}
}

func TestWriteProjected(t *testing.T) {
	dir := t.TempDir()
	for _, token := range []string{"first", "second", "third"} {
		path, err := oidc.WriteProjected(dir, token)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != token {
			t.Errorf("%q, %v", got, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "..*")); len(left) != 2 { // ..data and its target
		t.Errorf("left behind: %q", left)
	}
}
