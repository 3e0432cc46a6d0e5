//go:build e2e && linux

package versitygw

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const (
	loaderRole = "arn:aws:iam::" + account + ":role/model-loader"
	wideRole   = "arn:aws:iam::" + account + ":role/reads-everything"
	subject    = "system:serviceaccount:ml:model-loader"
	audience   = "sts.amazonaws.com"
)

// site is the running servers with two sealed models in the bucket.
type site struct {
	t      *testing.T
	issuer *oidc.Issuer
	source string // the model's plaintext
	kek    string
	token  string // token file
}

func newSite(t *testing.T) *site {
	t.Helper()
	issuer, caFile, thumbprint := startIssuer(t)
	startGateway(t, caFile)
	iam(t, "CreateOpenIDConnectProvider", url.Values{
		"Url": {issuer.URL()}, "ClientIDList.member.1": {audience}, "ThumbprintList.member.1": {thumbprint},
	})
	dir := t.TempDir()
	s := &site{t: t, issuer: issuer, source: filepath.Join(dir, "model"), kek: filepath.Join(dir, "kek.jwk"),
		token: filepath.Join(dir, "token")}
	s.createRoles()
	s.publish()
	return s
}

// createRoles makes one role from the generated policies, for one model, and one that may read the whole bucket.
func (s *site) createRoles() {
	s.t.Helper()
	plan, err := policy.Direct(policy.Request{
		Model: policy.Model{Bucket: bucket, Prefix: "llama/v3"}, LoaderRole: loaderRole, OwnerAccount: account,
		Issuer: s.issuer.URL(), Subject: subject,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	parts := map[string]string{}
	for _, part := range plan.Parts {
		parts[part.Name] = part.Compact()
	}
	everything := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`
	for name, permissions := range map[string]string{"model-loader": parts["loader-role-policy"],
		"reads-everything": everything} {
		iam(s.t, "CreateRole", url.Values{"RoleName": {name},
			"AssumeRolePolicyDocument": {parts["loader-trust-policy"]}})
		iam(s.t, "PutRolePolicy", url.Values{"RoleName": {name}, "PolicyName": {"read"},
			"PolicyDocument": {permissions}})
	}
}

func (s *site) publish() {
	s.t.Helper()
	if err := os.Mkdir(s.source, 0o700); err != nil {
		s.t.Fatal(err)
	}
	writeFile(s.t, filepath.Join(s.source, "config.json"), []byte(`{"model_type":"llama"}`))
	writeFile(s.t, filepath.Join(s.source, "model.safetensors"), bytes.Repeat([]byte("0123456789abcdef"),
		1<<19)) // 8 MiB
	s.must(s.run(nil, "keygen", "--type", "kek", "--out", s.kek))
	root := []string{"AWS_ACCESS_KEY_ID=" + rootKey, "AWS_SECRET_ACCESS_KEY=" + rootSecret, "AWS_ENDPOINT_URL=" + s3URL,
		"AWS_DEFAULT_REGION=" + region}
	for _, prefix := range []string{"llama/v3", "llama/v30"} {
		s.must(s.run(root, "seal", "--model", "acme/llama", "--version", "3", "--wrap", "jwk:"+s.kek, s.source,
			"s3://"+bucket+"/"+prefix))
	}
}

type outcome struct {
	code           int
	stdout, stderr string
}

func (s *site) run(env []string, args ...string) outcome {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program("sealfetch"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{}, env...), &stdout, &stderr
	err := cmd.Run()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		s.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (s *site) must(o outcome) {
	s.t.Helper()
	if o.code != 0 {
		s.t.Fatalf("exit code %d\n%s", o.code, o.stderr)
	}
}

// env is what EKS and KServe give the init container of a pod with a role and an s3-endpoint annotation.
func (s *site) env(role string, extra ...string) []string {
	return append([]string{
		"AWS_ROLE_ARN=" + role, "AWS_WEB_IDENTITY_TOKEN_FILE=" + s.token, "AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
		"AWS_ENDPOINT_URL=" + s3URL, "SEALFETCH_STS_ENDPOINT=" + stsURL, "SEALFETCH_TRUST_KEY=jwk:" + s.kek,
		"SEALFETCH_LOG_FORMAT=json",
		"POD_NAMESPACE=ml", "POD_NAME=llama-x2k4p",
	}, extra...)
}

func (s *site) mint(c oidc.Claims) {
	s.t.Helper()
	if c.Subject == "" {
		c.Subject = subject
	}
	if c.Audience == nil {
		c.Audience = []string{audience}
	}
	writeFile(s.t, s.token, []byte(s.issuer.Mint(c)+"\n"))
}

// tmpfs mounts a memory file system as the pod's volume.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func empty(t *testing.T, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}

// TestWebIdentity goes through real trust policies, real tokens and a real session policy.
func TestWebIdentity(t *testing.T) {
	s := newSite(t)
	const model, other = "sealed+s3://" + bucket + "/llama/v3", "sealed+s3://" + bucket + "/llama/v30"
	onlyOther := filepath.Join(t.TempDir(), "policy.json")
	document, err := policy.Session(policy.Model{Bucket: bucket, Prefix: "llama/v30"})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, onlyOther, []byte(document))
	for _, tt := range []struct {
		name   string
		claims oidc.Claims
		env    []string
		uri    string
		code   int
		stderr string
	}{
		{"generated policies", oidc.Claims{}, s.env(loaderRole), model, 0, ":sealfetch-ml-llama-x2k4p"},
		{"RS256 token", oidc.Claims{Algorithm: "RS256"}, s.env(loaderRole), model, 0, ""},
		{"no session policy", oidc.Claims{}, s.env(loaderRole, "SEALFETCH_SESSION_POLICY=off"), model, 0, ""},
		{"another model", oidc.Claims{}, s.env(loaderRole), other, 11, ""},
		{"wide role", oidc.Claims{}, s.env(wideRole), other, 0, ""},
		{"wide role under a session policy for another model", oidc.Claims{}, s.env(wideRole,
			"SEALFETCH_SESSION_POLICY="+onlyOther), model, 11, ""},
		{"wrong audience", oidc.Claims{Audience: []string{"vault"}}, s.env(loaderRole), model, 10, "vault"},
		{"wrong subject", oidc.Claims{Subject: "system:serviceaccount:ml:other"}, s.env(loaderRole), model, 10,
			"system:serviceaccount:ml:other"},
		{"expired", oidc.Claims{Lifetime: -time.Hour}, s.env(loaderRole), model, 10, "the token expired at"},
		{"unknown issuer", oidc.Claims{Issuer: "https://elsewhere.example"}, s.env(loaderRole), model, 10,
			"elsewhere.example"},
		{"unknown role", oidc.Claims{}, s.env(loaderRole + "x"), model, 10, "no such role"},
		{"chain, which versitygw does not know", oidc.Claims{}, s.env(loaderRole, "SEALFETCH_ROLE_ARN="+wideRole),
			model, 10, "hop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.mint(tt.claims)
			dir := tmpfs(t)
			got := s.run(tt.env, "init", tt.uri, dir)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) {
				t.Fatalf("exit code %d, want %d with %q\n%s", got.code, tt.code, tt.stderr, got.stderr)
			}
			token, _ := os.ReadFile(s.token)
			if strings.Contains(got.stderr+got.stdout, string(bytes.TrimSpace(token))) {
				t.Error("the token is in the output")
			}
			if tt.code != 0 {
				if !empty(t, dir) {
					t.Error("a failed load left files")
				}
				return
			}
			for _, name := range []string{"config.json", "model.safetensors"} {
				want, _ := os.ReadFile(filepath.Join(s.source, name))
				if have, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(have, want) {
					t.Errorf("%s differs (%v)", name, err)
				}
			}
		})
	}
}
