package identity

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// unsigned makes a token with claims and a signature that nobody checks.
func unsigned(header, claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(header)) + "." + b64([]byte(claims)) + "." + b64([]byte("signature"))
}

func TestParseClaims(t *testing.T) {
	const rs256 = `{"alg":"RS256","kid":"1"}`
	good := unsigned(rs256,
		`{"iss":"https://oidc.example","sub":"system:serviceaccount:ml:loader","aud":["sts.amazonaws.com","x"],"exp":1800000000}`)
	for _, tt := range []struct{ name, token, fault string }{
		{"good", good, ""},
		{"one audience", unsigned(rs256, `{"aud":"sts.amazonaws.com"}`), ""},
		{"no claims", unsigned(rs256, `{}`), ""},
		{"exp beyond dates", unsigned(rs256, `{"exp":1e300}`), ""},
		{"empty", "", "empty"},
		{"log line after it", good + "\nrotated token", "white space"},
		{"two tokens", good + "." + good, "parts"},
		{"opaque", "0123456789abcdef", "1 parts"},
		{"no signature", good[:strings.LastIndex(good, ".")+1], "no signature"},
		{"alg none", unsigned(`{"alg":"None"}`, `{}`), "no signature algorithm"},
		{"no alg", unsigned(`{}`, `{}`), "no signature algorithm"},
		{"bad base64", "a+b." + good, "parts"},
		{"bad header", "####.e30.c2ln", "not base64url"},
		{"claims are a list", unsigned(rs256, `[]`), "claims"},
		{"aud is a number", unsigned(rs256, `{"aud":7}`), "claims"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseClaims(tt.token)
			if tt.fault == "" && err != nil || tt.fault != "" && (err == nil || !strings.Contains(err.Error(),
				tt.fault)) {
				t.Errorf("error %v, want %q", err, tt.fault)
			}
		})
	}
	c, _ := ParseClaims(good)
	if c.Issuer != "https://oidc.example" || c.Subject != "system:serviceaccount:ml:loader" ||
		!slices.Equal(c.Audience, []string{"sts.amazonaws.com", "x"}) || !c.Expires.Equal(time.Unix(1800000000, 0)) {
		t.Errorf("claims %+v", c)
	}
}

func FuzzParseClaims(f *testing.F) {
	f.Add(unsigned(`{"alg":"RS256"}`, `{"iss":"i","sub":"s","aud":["a"],"exp":1}`))
	f.Add("a.b.c")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := ParseClaims(token)
		if err == nil && strings.Count(token, ".") != 2 {
			t.Errorf("%q passes as a token", token)
		}
		if err != nil && (claims.Issuer != "" || claims.Audience != nil) {
			t.Errorf("%q: claims beside an error", token)
		}
		if err != nil && len(err.Error()) > 100 {
			t.Errorf("an error of %d bytes may repeat the token", len(err.Error()))
		}
	})
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	file := TokenFile(path)
	if _, err := file.Token(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), path) ||
		fault.Hint(err) == "" {
		t.Errorf("missing file: %v", err)
	}
	for _, content := range []string{"first\n", "  rotated \r\n"} {
		write(t, path, content)
		if got, err := file.Token(t.Context()); err != nil || got != strings.TrimSpace(content) {
			t.Errorf("token %q, error %v", got, err)
		}
	}
	write(t, path, strings.Repeat("x", maxTokenSize+1))
	if _, err := file.Token(t.Context()); !fault.Is(err, fault.Identity) || strings.Contains(err.Error(), "xxx") {
		t.Errorf("too large: %v", err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
