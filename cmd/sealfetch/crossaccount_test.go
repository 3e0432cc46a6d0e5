package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

// shape is one way in which a pod can come to read a bucket of another account. docs/identity.md lists them.
type shape struct {
	name    string
	arrange func(*testing.T, *site)
	roles   []string // assumed, in order
	reader  string   // who reads the objects, to S3
}

var shapes = []shape{
	{"direct grant", func(_ *testing.T, s *site) { s.direct(s.request()) }, []string{loaderRole}, sessionOf(loaderRole)},
	{"chain of one hop", func(_ *testing.T, s *site) { s.chain(s.request()) }, bothRoles, sessionOf(ownerRole)},
	{"chain of two hops", twoHops, []string{loaderRole, gatewayRole, ownerRole}, sessionOf(ownerRole)},
	{"chain with tags and source identity", taggedChain, bothRoles, sessionOf(ownerRole)},
	{"web identity straight into the owner's account", straight, []string{ownerRole}, sessionOf(ownerRole)},
	{"pod identity", podIdentity, nil, ""}, // the agent names the session
	{"pod identity, then a hop", podIdentityHop, []string{ownerRole}, sessionOf(ownerRole)},
	{"static key", staticKey, nil, ownerAdmin},
	{"static key, then a hop", staticHop, []string{ownerRole}, sessionOf(ownerRole)},
	{"session token", staticSession, nil, ownerAdmin},
	{"anonymous", anonymous, nil, ""},
	{"anonymous by STORAGE_CONFIG", anonymousStorage, nil, ""},
	{"STORAGE_CONFIG", storageConfig, nil, ownerAdmin},
	{"STORAGE_OVERRIDE_CONFIG", storageOverride, nil, ownerAdmin},
	{"client credentials, secret in a file", secretFile, []string{loaderRole}, sessionOf(loaderRole)},
	{"client credentials, secret in the environment", secretVariable, []string{loaderRole}, sessionOf(loaderRole)},
	{"client credentials, private_key_jwt", privateKey, []string{loaderRole}, sessionOf(loaderRole)},
	{"client credentials, then a hop", clientHop, bothRoles, sessionOf(ownerRole)},
	{"profile", namedProfile, nil, ownerAdmin},
	{"default profile", defaultProfile, nil, ownerAdmin},
	{"profile, then a hop", profileHop, []string{ownerRole}, sessionOf(ownerRole)},
}

const ownerAdmin = "arn:aws:iam::" + ownerAccount + ":user/admin"

var bothRoles = []string{loaderRole, ownerRole}

// TestIdentityShapes loads by every way, and checks who read, under which session name, what the audit log says of each
// hop, and that the program's name is in every request and no token in any output.
func TestIdentityShapes(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range shapes {
		if !strings.Contains(string(document), "\n| "+c.name+" | ") {
			t.Errorf("docs/identity.md does not list %q", c.name)
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, testcloud.Options{})
			c.arrange(t, s)
			r := s.loads()
			if roles := s.assumed(r); !slices.Equal(roles, c.roles) {
				t.Errorf("assumed %q, want %q", roles, c.roles)
			}
			if readers := s.readers(); c.reader != "" && !slices.Equal(readers, []string{c.reader}) {
				t.Errorf("the objects were read by %q, want %q", readers, c.reader)
			}
			s.namesProgram()
		})
	}
}

const gatewayRole = "arn:aws:iam::" + ownerAccount + ":role/gateway"

// trusting is a trust policy of one role.
func trusting(role string, actions string, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return statements(fmt.Sprintf(`{"Effect":"Allow","Principal":{"AWS":%q},"Action":%s%s}`, role, actions, condition))
}

// assuming is a policy that allows to assume one role.
func assuming(role string) string {
	return statements(fmt.Sprintf(`{"Effect":"Allow","Action":"sts:AssumeRole","Resource":%q}`, role))
}

// twoHops has a gateway between the two roles. External ids are one for each hop.
func twoHops(_ *testing.T, s *site) {
	s.chain(s.request())
	s.role(gatewayRole, trusting(loaderRole, `"sts:AssumeRole"`, `{"StringEquals":{"sts:ExternalId":"gate-1"}}`),
		assuming(ownerRole))
	plan, _ := policy.Chain(s.request())
	trust := strings.ReplaceAll(plan.Parts[2].Compact(), loaderRole, gatewayRole)
	s.role(ownerRole, trust, plan.Parts[3].Compact())
	s.role(loaderRole, plan.Parts[0].Compact(), assuming(gatewayRole))
	s.env["SEALFETCH_ROLE_ARN"] = gatewayRole + "," + ownerRole
	s.env["SEALFETCH_EXTERNAL_ID"] = "gate-1," + externalID
}

func taggedChain(_ *testing.T, s *site) {
	r := s.request()
	r.SourceIdentity, r.SessionTags = true, true
	s.chain(r)
	s.env["SEALFETCH_SOURCE_IDENTITY"] = "llama"
	s.env["SEALFETCH_SESSION_TAG"], s.env["SEALFETCH_TRANSITIVE_TAG"] = "team=inference,stage=prod", "team"
}

// straight has the owner trust the cluster's issuer. The pod's annotation still names the role of its own account.
func straight(_ *testing.T, s *site) {
	s.owner.TrustIssuer(s.issuer.URL(), stsAudience)
	r := s.request()
	r.LoaderRole = ownerRole
	plan, err := policy.Direct(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.role(ownerRole, plan.Parts[0].Compact(), plan.Parts[1].Compact())
	s.env["SEALFETCH_WEB_IDENTITY_ROLE_ARN"] = ownerRole
}

func podIdentity(_ *testing.T, s *site) {
	r := s.request()
	r.SessionTags = true // the agent's sessions have tags that pass on
	s.direct(r)
	plan, _ := policy.Direct(r)
	s.podIdentity(plan.Parts[1].Compact())
}

func podIdentityHop(_ *testing.T, s *site) {
	r := s.request()
	r.SessionTags = true
	s.chain(r)
	plan, _ := policy.Chain(r)
	s.podIdentity(plan.Parts[1].Compact())
}

// podIdentity gives the pod the loader's role by an agent, in place of a web identity.
func (s *site) podIdentity(permissions string) {
	s.t.Helper()
	agent, err := s.cloud.NewPodIdentityAgent(s.issuer)
	if err != nil {
		s.t.Fatal(err)
	}
	const trust = `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},` +
		`"Action":["sts:AssumeRole","sts:TagSession"]}`
	agent.Associate("inference", "llama", s.role(loaderRole, statements(trust), permissions))
	s.project(oidc.Claims{Audience: []string{"pods.eks.amazonaws.com"}})
	s.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = agent.URL()
	s.env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = s.env["AWS_WEB_IDENTITY_TOKEN_FILE"]
	s.withoutWebIdentity()
}

func (s *site) withoutWebIdentity() {
	delete(s.env, "AWS_WEB_IDENTITY_TOKEN_FILE")
	delete(s.env, "AWS_ROLE_ARN")
}

// useKey has the pod hold a static key in place of a web identity.
func (s *site) useKey(keys testcloud.Credentials) {
	s.withoutWebIdentity()
	s.env["AWS_ACCESS_KEY_ID"], s.env["AWS_SECRET_ACCESS_KEY"] = keys.AccessKeyID, keys.SecretAccessKey
	if keys.SessionToken != "" {
		s.env["AWS_SESSION_TOKEN"] = keys.SessionToken
	}
}

func staticKey(_ *testing.T, s *site) { s.useKey(s.owner.NewAccessKey()) }

func staticSession(_ *testing.T, s *site) { s.useKey(s.owner.NewSession(3600e9)) }

// staticHop has a user of the loader's account assume the owner's role.
func staticHop(_ *testing.T, s *site) {
	s.chain(s.request())
	plan, _ := policy.Chain(s.request())
	s.role(ownerRole, trusting("arn:aws:iam::"+loaderAccount+":root", `"sts:AssumeRole"`, ""), plan.Parts[3].Compact())
	s.useKey(s.loader.NewAccessKey())
}

func anonymous(t *testing.T, s *site) {
	const everybody = `{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/*"}`
	if err := s.bucket.SetPolicy(statements(everybody)); err != nil {
		t.Fatal(err)
	}
	s.env["awsAnonymousCredential"] = "True"
}

func anonymousStorage(t *testing.T, s *site) {
	anonymous(t, s)
	s.env["awsAnonymousCredential"] = "false"
	s.env["STORAGE_CONFIG"] = fmt.Sprintf(`{"type":"s3","anonymous":"true","endpoint_url":%q}`, s.cloud.S3URL())
}

// storageConfig is the secret of KServe's storage-spec. It replaces what the ServiceAccount gives.
func storageConfig(_ *testing.T, s *site) { s.storageConfig(s.cloud.S3URL(), scriptRegion) }

// storageOverride has the parameters of the InferenceService correct what is wrong in the secret.
func storageOverride(_ *testing.T, s *site) {
	s.storageConfig("http://127.0.0.1:1", "nowhere-1")
	s.env["STORAGE_OVERRIDE_CONFIG"] = fmt.Sprintf(`{"region":%q,"endpoint_url":%q}`, scriptRegion, s.cloud.S3URL())
}

func (s *site) storageConfig(endpoint, region string) {
	keys := s.owner.NewAccessKey()
	text, _ := json.Marshal(map[string]string{"type": "s3", "access_key_id": keys.AccessKeyID,
		"secret_access_key": keys.SecretAccessKey, "endpoint_url": endpoint, "region": region})
	s.env["STORAGE_CONFIG"] = string(text)
	s.secrets = append(s.secrets, keys.SecretAccessKey)
	delete(s.env, "AWS_ENDPOINT_URL")
	delete(s.env, "AWS_DEFAULT_REGION")
}

const clientSecret = "client secret & 100 % more" // has characters that must be encoded

// client has the pod be a client of an issuer such as Keycloak. The role stays: it is what the token is exchanged for.
func (s *site) client(c oidc.Client) {
	s.t.Helper()
	s.direct(s.request())
	c.ID, c.Subject, c.Audiences = "loader", podSubject, []string{stsAudience}
	s.issuer.AddClient(c)
	s.env["SEALFETCH_OIDC_ISSUER"], s.env["SEALFETCH_OIDC_CLIENT_ID"] = s.issuer.URL(), c.ID
	s.secrets = append(s.secrets, c.Secret)
	delete(s.env, "AWS_WEB_IDENTITY_TOKEN_FILE")
}

func secretFile(_ *testing.T, s *site) {
	s.client(oidc.Client{Secret: clientSecret})
	s.write("client.secret", []byte(clientSecret+"\n"))
	s.env["SEALFETCH_OIDC_CLIENT_SECRET_FILE"] = "client.secret"
}

func secretVariable(_ *testing.T, s *site) {
	s.client(oidc.Client{Secret: clientSecret})
	s.env["SEALFETCH_OIDC_CLIENT_SECRET"] = clientSecret
}

func privateKey(t *testing.T, s *site) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.client(oidc.Client{PublicKey: &key.PublicKey})
	s.write("client.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	s.env["SEALFETCH_OIDC_CLIENT_KEY_FILE"] = "client.key"
}

func clientHop(t *testing.T, s *site) {
	secretFile(t, s)
	s.chain(s.request())
}

func namedProfile(_ *testing.T, s *site) {
	s.profile("models", s.owner.NewAccessKey())
	s.env["AWS_PROFILE"] = "models"
}

func defaultProfile(_ *testing.T, s *site) { s.profile("default", s.owner.NewAccessKey()) }

func profileHop(t *testing.T, s *site) {
	staticHop(t, s)
	s.profile("default", s.loader.NewAccessKey())
}

// profile puts a static key into a file as `aws configure` writes it, and leaves nothing else.
func (s *site) profile(name string, keys testcloud.Credentials) {
	s.secrets = append(s.secrets, keys.SecretAccessKey)
	s.write("credentials", fmt.Appendf(nil, "[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", name,
		keys.AccessKeyID, keys.SecretAccessKey))
	s.write("config", nil)
	s.env["AWS_SHARED_CREDENTIALS_FILE"], s.env["AWS_CONFIG_FILE"] = "credentials", "config"
	delete(s.env, "AWS_ACCESS_KEY_ID")
	delete(s.env, "AWS_SECRET_ACCESS_KEY")
	s.withoutWebIdentity()
}

// write puts a file into the sandbox.
func (s *site) write(name string, data []byte) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}
