//go:build e2e

package oidcprovider

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const (
	issuerPackage = "oidc-provider@9.13.3"
	clientSecret  = "e2e client secret & more" // has characters that must be encoded
	tokenLife     = 30 * time.Second
	audience      = "https://models.example/sts"
)

// issuer is a running oidc-provider.
type issuer struct {
	url, dir  string
	backend   string // where it listens
	ca        []byte
	clientKey []byte // PEM
}

// startIssuer starts one that calls itself url; empty: by the address where it listens.
func startIssuer(t *testing.T, url string) *issuer {
	t.Helper()
	dir := t.TempDir()
	install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--prefix", dir, issuerPackage)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm install %s: %v\n%s", issuerPackage, err, out)
	}
	port := freePort(t)
	i := &issuer{url: url, backend: "https://127.0.0.1:" + port, dir: dir}
	if url == "" {
		i.url = i.backend
	}
	clientJWK := i.keys(t)
	script, err := filepath.Abs("testdata/issuer.mjs")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", script)
	cmd.Env = append(os.Environ(), "ISSUER="+i.url, "PORT="+port, "TLS_CERT="+filepath.Join(dir, "tls.crt"),
		"TLS_KEY="+filepath.Join(dir, "tls.key"),
		"SIGNING_KEY="+string(jwk(t, newKey(t), "signing")), "CLIENT_SECRET="+clientSecret, "CLIENT_JWK="+clientJWK,
		"TOKEN_SECONDS="+strconv.Itoa(int(tokenLife.Seconds())), "MODULES="+dir)
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("the issuer says %q, %v\n%s", line, err, log.String())
	}
	return i
}

// keys makes the issuer's certificate and the client's key, and returns the client's public key as JWK.
func (i *issuer) keys(t *testing.T) (clientJWK string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0,
			1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	i.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, filepath.Join(i.dir, "tls.crt"), i.ca)
	write(t, filepath.Join(i.dir, "tls.key"), pkcs8(t, key))
	client := newKey(t)
	i.clientKey = pkcs8(t, client)
	return string(jwk(t, &client.PublicKey, ""))
}

func (i *issuer) config(t *testing.T, client string) identity.OIDCConfig {
	t.Helper()
	cfg := identity.OIDCConfig{Issuer: i.url, ClientID: client, Audience: audience, Scopes: []string{"models"},
		CABundle: i.ca}
	if client == "with-key" {
		cfg.PrivateKey = i.clientKey
		return cfg
	}
	key, err := secret.Take([]byte(clientSecret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	cfg.ClientSecret = key
	return cfg
}

func tokens(t *testing.T, cfg identity.OIDCConfig) *identity.OIDCTokens {
	t.Helper()
	provider, err := identity.NewOIDC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

// verify checks a token as AWS would: from the issuer's published keys.
func (i *issuer) verify(t *testing.T, token string) *oidc.Verified {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(i.ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	trusted := func(name string) bool { return name == i.url }
	verified, err := oidc.Verify(t.Context(), client, token, trusted, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return verified
}

func TestClientCredentials(t *testing.T) {
	i := startIssuer(t, "")
	for _, client := range []string{"with-secret", "with-key"} {
		token, err := tokens(t, i.config(t, client)).Token(t.Context())
		if err != nil {
			t.Errorf("%s: %v", client, err)
			continue
		}
		claims, err := identity.ParseClaims(token)
		if err != nil || claims.Issuer != i.url || claims.Subject != client || strings.Join(claims.Audience,
			" ") != audience ||
			time.Until(claims.Expires) > tokenLife {
			t.Errorf("%s: claims %+v, %v", client, claims, err)
		}
		i.verify(t, token)
	}
	t.Run("refusals", i.refusals)
	t.Run("renewal", i.renewal)
}

func (i *issuer) refusals(t *testing.T) {
	wrong := i.config(t, "with-secret")
	wrong.ClientID = "nobody"
	realm := i.config(t, "with-secret")
	realm.Issuer += "/realms/absent"
	authority := i.config(t, "with-secret")
	authority.CABundle = nil
	for want, cfg := range map[string]identity.OIDCConfig{
		"invalid_client": wrong, "HTTP 404": realm, "unknown authority": authority,
	} {
		_, err := tokens(t, cfg).Token(t.Context())
		if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), want) || fault.Hint(err) == "" ||
			strings.Contains(err.Error(), clientSecret) {
			t.Errorf("%s: %v (%s)", want, err, fault.Hint(err))
		}
	}
}

// renewal asks for longer than a token lives: each one handed out has not ended, and there are few of them.
func (i *issuer) renewal(t *testing.T) {
	provider := tokens(t, i.config(t, "with-secret"))
	seen := map[string]bool{}
	for end := time.Now().Add(tokenLife + 2*time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		token, err := provider.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !seen[token] {
			i.verify(t, token)
		}
		seen[token] = true
		if claims, _ := identity.ParseClaims(token); !time.Now().Before(claims.Expires) {
			t.Fatalf("a token that ended at %s was handed out", claims.Expires)
		}
	}
	if len(seen) != 2 {
		t.Errorf("%d tokens in one lifetime and a little, want 2", len(seen))
	}
	last, _ := provider.Token(t.Context())
	provider.Invalidate() // as after a 401
	if next, err := provider.Token(t.Context()); err != nil || next == last {
		t.Errorf("no new token after a 401: %v", err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func jwk(t *testing.T, key any, id string) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: id, Algorithm: "ES256", Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pkcs8(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
