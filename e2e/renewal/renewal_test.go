//go:build e2e

package renewal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

var duration = flag.Duration("duration", 10*time.Minute, "how long the download is to last")

const (
	loaderAccount = "111111111111"
	ownerAccount  = "222222222222"
	loaderRole    = "arn:aws:iam::" + loaderAccount + ":role/model-loader"
	ownerRole     = "arn:aws:iam::" + ownerAccount + ":role/model-reader"
	subject       = "system:serviceaccount:ml:model-loader"
	region        = "eu-central-1"
	lifetime      = time.Minute // of every session
	files         = 192
	fileSize      = 4 << 20
	connections   = 4
)

// site is two accounts, with policies as the generator prints them, and the model that one publishes for the other.
type site struct {
	t      *testing.T
	cloud  *testcloud.Cloud
	issuer *oidc.Issuer
	dir    string
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	objects := filepath.Join(dir, "objects")
	if err := os.Mkdir(objects, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, cloud: testcloud.Start(t, testcloud.Options{DataDir: objects})}
	s.issuer = oidc.New(nil)
	url, err := s.cloud.Serve(s.issuer)
	if err != nil {
		t.Fatal(err)
	}
	s.issuer.SetURL(url)
	s.cloud.Account(loaderAccount).TrustIssuer(url, "sts.amazonaws.com")
	s.cloud.Account(ownerAccount).NewBucket("acme-models", region)
	plan, err := policy.Chain(policy.Request{
		Model: policy.Model{Bucket: "acme-models", Prefix: "llama/v3"}, LoaderRole: loaderRole, OwnerRole: ownerRole,
		ExternalID: "ml-7",
		Issuer:     strings.Replace(url, "http:", "https:", 1), Subject: subject,
	})
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string]string{}
	for _, part := range plan.Parts {
		documents[part.Name] = part.Compact()
	}
	s.role(loaderAccount, "model-loader", documents["loader-trust-policy"], documents["loader-role-policy"])
	s.role(ownerAccount, "model-reader", documents["owner-trust-policy"], documents["owner-role-policy"])
	return s
}

func (s *site) role(account, name, trust, permissions string) {
	s.t.Helper()
	if _, err := s.cloud.Account(account).NewRole(testcloud.RoleSpec{Name: name, Trust: trust,
		Policy: permissions}); err != nil {
		s.t.Fatal(err)
	}
}

// path is a file of the site.
func (s *site) path(elem ...string) string { return filepath.Join(append([]string{s.dir}, elem...)...) }

func (s *site) publish() {
	s.t.Helper()
	if err := os.Mkdir(s.path("model"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{1})
	for n := range files {
		data := make([]byte, fileSize)
		source.Read(data)
		s.write(s.path("model", fmt.Sprintf("model-%03d.safetensors", n)), data)
	}
	key := s.cloud.Account(ownerAccount).NewAccessKey()
	s.must(nil, "keygen", "--type", "kek", "--out", s.path("kek.jwk"))
	s.must([]string{"AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey,
		"AWS_ENDPOINT_URL=" + s.cloud.S3URL(),
		"AWS_DEFAULT_REGION=" + region}, "seal", "--model", "acme/llama", "--version", "3", "--wrap",
		"jwk:"+s.path("kek.jwk"), s.path("model"),
		"s3://acme-models/llama/v3")
}

func (s *site) write(path string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) must(env []string, args ...string) (stderr string) {
	s.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(s.path("sealfetch"), args...)
	cmd.Env, cmd.Stderr = append([]string{}, env...), &log
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("sealfetch %s: %v\n%s", args[0], err, log.String())
	}
	return log.String()
}

func (s *site) build() {
	s.t.Helper()
	cmd := exec.Command("go", "build", "-o", s.path("sealfetch"), "../../cmd/sealfetch")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("building sealfetch: %v\n%s", err, out)
	}
}

// rotate puts a new token into the token file each minute, as the kubelet does.
func (s *site) rotate(done <-chan struct{}) {
	for {
		token := s.issuer.Mint(oidc.Claims{Subject: subject, Audience: []string{"sts.amazonaws.com"},
			Lifetime: 2 * time.Minute})
		s.write(s.path("token.new"), []byte(token+"\n"))
		if err := os.Rename(s.path("token.new"), s.path("token")); err != nil {
			s.t.Error(err)
		}
		select {
		case <-time.After(time.Minute):
		case <-done:
			return
		}
	}
}

// TestTenMinutes also makes tokens end and be replaced while it runs.
func TestTenMinutes(t *testing.T) {
	s := newSite(t)
	s.build()
	s.publish()
	s.cloud.SetCredentialLifetime(lifetime)
	s.cloud.ForgetRequests()
	pace := int64(files * fileSize / connections / duration.Seconds())
	s.cloud.Inject(testcloud.Rule{Op: "GetObject", Key: "*/data/*", Fault: testcloud.Fault{Bandwidth: pace}})
	done := make(chan struct{})
	s.write(s.path("token"), nil)
	go s.rotate(done)
	defer close(done)
	out, err := os.MkdirTemp("/dev/shm", "sealfetch-e2e-")
	if err != nil {
		t.Skip("no tmpfs at /dev/shm: ", err)
	}
	defer os.RemoveAll(out)
	time.Sleep(time.Second) // the first token
	begun := time.Now()
	log := s.must([]string{
		"AWS_ROLE_ARN=" + loaderRole, "AWS_WEB_IDENTITY_TOKEN_FILE=" + s.path("token"), "AWS_DEFAULT_REGION=" + region,
		"AWS_ENDPOINT_URL=" + s.cloud.S3URL(), "SEALFETCH_STS_ENDPOINT=" + s.cloud.STSURL(),
		"SEALFETCH_TRUST_KEY=jwk:" + s.path("kek.jwk"),
		"SEALFETCH_ROLE_ARN=" + ownerRole, "SEALFETCH_EXTERNAL_ID=ml-7", "SEALFETCH_CONNECTIONS=" +
			fmt.Sprint(connections),
		"SEALFETCH_LOG_FORMAT=json",
	}, "init", "sealed+s3://acme-models/llama/v3", out)
	took := time.Since(begun)
	s.compare(out)
	s.checkRequests(took)
	t.Logf("%d files of %d MiB in %s; identity.assumed %d times; requests: %d GetObject, %d "+
		"AssumeRoleWithWebIdentity, %d AssumeRole", files,
		fileSize>>20, took.Round(time.Second), strings.Count(log, `"event":"identity.assumed"`),
		len(s.cloud.S3Requests("GetObject")),
		len(s.cloud.STSRequests("AssumeRoleWithWebIdentity")), len(s.cloud.STSRequests("AssumeRole")))
}

func (s *site) compare(out string) {
	s.t.Helper()
	for n := range files {
		name := fmt.Sprintf("model-%03d.safetensors", n)
		want, err := os.ReadFile(s.path("model", name))
		have, haveErr := os.ReadFile(filepath.Join(out, name))
		if err := errors.Join(err, haveErr); err != nil || !bytes.Equal(want, have) {
			s.t.Errorf("%s differs (%v)", name, err)
		}
	}
}

// checkRequests sees to it that nothing was refused or sent twice, and that there were as many sessions as their
// lifetime demands.
func (s *site) checkRequests(took time.Duration) {
	s.t.Helper()
	keys := map[string]bool{}
	for _, r := range s.cloud.S3Requests() {
		keys[r.AccessKeyID] = true
		if r.Status >= 400 {
			s.t.Errorf("%s %s was answered %d %s", r.Op, r.Key, r.Status, r.Code)
		}
	}
	for _, r := range s.cloud.STSRequests() {
		if r.Status != 200 {
			s.t.Errorf("%s was answered %d %s", r.Op, r.Status, r.Code)
		}
	}
	// A session is asked for with a request, and requests come every few seconds.
	if least := int(took/lifetime) - 1; len(keys) < least {
		s.t.Errorf("%d sessions signed requests in %s, at least %d expected", len(keys), took, least)
	}
}
