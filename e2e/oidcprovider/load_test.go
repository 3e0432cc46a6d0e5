//go:build e2e

package oidcprovider

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
)

const (
	loaderRole    = "arn:aws:iam::444455556666:role/predictor"
	ownerAccount  = "111122223333"
	region        = "eu-central-1"
	sessionLife   = 10 * time.Second
	downloadTime  = 70 * time.Second // longer than two tokens live
	downloadFiles = 24
	downloadSize  = 4 << 20 // bytes of each file: it gets an object and a request of its own
)

// front is the issuer under the authority of the test cloud, whose STS asks no other.
type front struct {
	url     string
	granted atomic.Int64 // tokens
	proxy   atomic.Pointer[httputil.ReverseProxy]
}

func newFront(t *testing.T, cloud *testcloud.Cloud) *front {
	t.Helper()
	f := &front{}
	var err error
	f.url, err = cloud.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			f.granted.Add(1)
		}
		f.proxy.Load().ServeHTTP(w, r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *front) leadTo(t *testing.T, i *issuer) {
	t.Helper()
	target, err := url.Parse(i.backend)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(i.ca)
	f.proxy.Store(&httputil.ReverseProxy{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host // by which the issuer names its endpoints
		},
	})
}

// place is the owner's bucket with a sealed model, and a role that takes the client's tokens.
type place struct {
	t      *testing.T
	cloud  *testcloud.Cloud
	dir    string
	issuer *issuer
	tokens *front
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, cloud: testcloud.Start(t, testcloud.Options{TLS: true}), dir: t.TempDir()}
	p.tokens = newFront(t, p.cloud)
	p.issuer = startIssuer(t, p.tokens.url)
	p.tokens.leadTo(t, p.issuer)
	bucket := p.cloud.Account(ownerAccount).NewBucket("models", region)
	loader := p.cloud.Account("444455556666")
	loader.TrustIssuer(p.issuer.url, audience)
	plan, err := policy.Direct(policy.Request{
		Model: policy.Model{Bucket: "models", Prefix: "m"}, LoaderRole: loaderRole, OwnerAccount: ownerAccount,
		Issuer: p.issuer.url, Subject: "with-secret", Audience: audience,
	})
	if err != nil {
		t.Fatal(err)
	}
	spec := testcloud.RoleSpec{Name: "predictor", Trust: plan.Parts[0].Compact(), Policy: plan.Parts[1].Compact()}
	if _, err := loader.NewRole(spec); err != nil {
		t.Fatal(err)
	}
	if err := bucket.SetPolicy(plan.Parts[2].Compact()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

func (p *place) build() {
	p.t.Helper()
	cmd := exec.Command("go", "build", "-o", p.path("sealfetch"), "../../cmd/sealfetch")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("building sealfetch: %v\n%s", err, out)
	}
}

func (p *place) run(env []string, args ...string) (stderr string) {
	p.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(p.path("sealfetch"), args...)
	cmd.Env = append([]string{"AWS_ENDPOINT_URL=" + p.cloud.S3URL(), "AWS_ENDPOINT_URL_STS=" + p.cloud.STSURL(),
		"AWS_DEFAULT_REGION=" + region, "AWS_CA_BUNDLE=" + p.path("ca.pem")}, env...)
	cmd.Stderr = &log
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("sealfetch %s: %v\n%s", args[0], err, log.String())
	}
	return log.String()
}

func (p *place) publish() {
	p.t.Helper()
	if err := os.Mkdir(p.path("model"), 0o700); err != nil {
		p.t.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{2})
	for n := range downloadFiles {
		data := make([]byte, downloadSize)
		_, _ = source.Read(data)
		write(p.t, p.path(fmt.Sprintf("model/%02d.safetensors", n)), data)
	}
	keys := p.cloud.Account(ownerAccount).NewAccessKey()
	p.run(nil, "keygen", "--out", p.path("kek.jwk"))
	p.run([]string{"AWS_ACCESS_KEY_ID=" + keys.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + keys.SecretAccessKey},
		"seal", "--model", "acme/m", "--version", "1", "--wrap", "jwk:"+p.path("kek.jwk"), p.path("model"), "s3://models/m")
}

// TestLoad has the binary load a model with tokens of 30 seconds and sessions of 10, for longer than either lasts.
func TestLoad(t *testing.T) {
	p := newPlace(t)
	p.build()
	write(t, p.path("ca.pem"), p.cloud.CAPEM())
	write(t, p.path("secret"), []byte(clientSecret+"\n"))
	p.publish()
	p.cloud.ForgetRequests()
	p.cloud.SetCredentialLifetime(sessionLife)
	pace := int64(downloadFiles * downloadSize / downloadTime.Seconds())
	p.cloud.Inject(testcloud.Rule{Key: "m/data/*", Fault: testcloud.Fault{Bandwidth: pace}})
	out, err := os.MkdirTemp("/dev/shm", "sealfetch-e2e-")
	if err != nil {
		t.Skip("no tmpfs at /dev/shm: ", err)
	}
	defer os.RemoveAll(out)
	begun := time.Now()
	log := p.run([]string{"AWS_ROLE_ARN=" + loaderRole, "SEALFETCH_OIDC_ISSUER=" + p.issuer.url,
		"SEALFETCH_OIDC_CLIENT_ID=with-secret", "SEALFETCH_OIDC_CLIENT_SECRET_FILE=" + p.path("secret"),
		"SEALFETCH_OIDC_AUDIENCE=" + audience, "SEALFETCH_OIDC_SCOPE=models", "SEALFETCH_CONNECTIONS=1",
		"SEALFETCH_TRUST_KEY=jwk:" + p.path("kek.jwk")}, "init", "sealed+s3://models/m", out)
	p.check(out, log, time.Since(begun))
}

func (p *place) check(out, log string, took time.Duration) {
	p.t.Helper()
	for n := range downloadFiles {
		name := fmt.Sprintf("%02d.safetensors", n)
		want, _ := os.ReadFile(p.path("model/" + name))
		if have, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(want, have) {
			p.t.Errorf("%s differs (%v)", name, err)
		}
	}
	for _, r := range p.cloud.S3Requests("GetObject") {
		if r.Status >= 300 {
			p.t.Errorf("%s %s was answered %d %s", r.Key, r.Range, r.Status, r.Code)
		}
	}
	sessions, tokens := strings.Count(log, `"event":"identity.assumed"`), int(p.tokens.granted.Load())
	if least := int(took / sessionLife); sessions < least {
		p.t.Errorf("%d sessions in %s, at least %d expected", sessions, took, least)
	}
	if least := int(took / tokenLife); tokens < least || tokens > 2*least+2 {
		p.t.Errorf("%d tokens in %s, %d or a few more expected", tokens, took, least)
	}
	if strings.Contains(log, clientSecret) || strings.Contains(log, "eyJ") {
		p.t.Error("a secret or a token is in the log")
	}
	p.t.Logf("%s, %d sessions, %d tokens, %d requests to S3", took.Round(time.Second), sessions, tokens,
		len(p.cloud.S3Requests("GetObject")))
}
