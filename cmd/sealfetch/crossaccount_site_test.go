package main_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

// The model's owner and whoever runs it have an AWS account each.
const (
	ownerAccount  = scriptAccount
	loaderAccount = "444455556666"
	loaderRole    = "arn:aws:iam::" + loaderAccount + ":role/predictor"
	ownerRole     = "arn:aws:iam::" + ownerAccount + ":role/model-reader"
	externalID    = "acme-7"
	podSubject    = "system:serviceaccount:inference:llama"
	stsAudience   = "sts.amazonaws.com"
	podSession    = "sealfetch-inference-llama-predictor-7d9f"
	siteModel     = "acme/fixture"
	siteURI       = "sealed+s3://models/acme/m"
)

// smallModel is for tests that are not about the data.
var smallModel = sync.OnceValues(func() (*fixture, error) {
	return newFixture(map[string]string{
		"config.json": `{"architectures":["x"]}`, "weights.safetensors": string(noise("small", 300_000)),
	})
})

// site is a sealed model in the owner's bucket, and a pod of the loader's cluster with what EKS and KServe inject.
// Nobody may do anything yet.
type site struct {
	*sandbox
	model  *fixture
	cloud  *testcloud.Cloud
	owner  *testcloud.Account
	loader *testcloud.Account
	bucket *testcloud.Bucket
	issuer *oidc.Issuer
	tokens string // directory of the projected token
}

func newSite(t testing.TB, options testcloud.Options) *site {
	t.Helper()
	s := &site{sandbox: newSandbox(t), model: use(t, smallModel), cloud: testcloud.Start(t, options)}
	s.owner, s.loader = s.cloud.Account(ownerAccount), s.cloud.Account(loaderAccount)
	s.bucket = s.owner.NewBucket("models", scriptRegion)
	for name, object := range s.model.objects {
		s.bucket.Put("acme/m/"+name, object)
	}
	s.model.give(s.sandbox)
	var err error
	if s.issuer, err = s.cloud.NewIssuer(""); err != nil {
		t.Fatal(err)
	}
	s.loader.TrustIssuer(s.issuer.URL(), stsAudience)
	s.tokens = filepath.Join(s.dir, "projected")
	if err := os.Mkdir(s.tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	s.project(oidc.Claims{})
	maps.Copy(s.env, map[string]string{
		"AWS_ENDPOINT_URL": s.cloud.S3URL(), "AWS_ENDPOINT_URL_STS": s.cloud.STSURL(), "AWS_DEFAULT_REGION": scriptRegion,
		"AWS_ROLE_ARN": loaderRole, "AWS_WEB_IDENTITY_TOKEN_FILE": filepath.Join(s.tokens, "token"),
		"POD_NAMESPACE": "inference", "HOSTNAME": "llama-predictor-7d9f",
	})
	return s
}

// mint makes a token, of the pod's service account for AWS unless the claims say otherwise. No output may have it.
func (s *site) mint(c oidc.Claims) string {
	if c.Subject == "" {
		c.Subject = podSubject
	}
	if c.Audience == nil {
		c.Audience = []string{stsAudience}
	}
	token := s.issuer.Mint(c)
	s.secrets = append(s.secrets, token, strings.Split(token, ".")[2])
	return token
}

// project replaces the pod's token.
func (s *site) project(c oidc.Claims) {
	s.t.Helper()
	if _, err := oidc.WriteProjected(s.tokens, s.mint(c)+"\n"); err != nil {
		s.t.Fatal(err)
	}
}

// request is what the policies of these tests are generated from.
func (s *site) request() policy.Request {
	return policy.Request{
		Model: policy.Model{Bucket: "models", Prefix: "acme/m"}, LoaderRole: loaderRole, OwnerRole: ownerRole,
		OwnerAccount: ownerAccount, ExternalID: externalID, Subject: podSubject, ModelName: siteModel,
		Issuer: strings.Replace(s.issuer.URL(), "http:", "https:", 1),
	}
}

// direct has bucket and keys name the loader's role.
func (s *site) direct(r policy.Request) {
	s.t.Helper()
	r.ExternalID = ""
	s.plan(policy.Direct(r))
}

// chain has the loader's role assume one of the owner.
func (s *site) chain(r policy.Request) {
	s.t.Helper()
	s.plan(policy.Chain(r))
	s.env["SEALFETCH_ROLE_ARN"], s.env["SEALFETCH_EXTERNAL_ID"] = r.OwnerRole, r.ExternalID
}

func (s *site) plan(p *policy.Plan, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	documents := map[string]string{}
	for _, part := range p.Parts {
		documents[part.Name] = part.Compact()
	}
	s.install(documents)
}

// install puts documents where an administrator would, by the names that the generator gives them.
func (s *site) install(documents map[string]string) {
	s.t.Helper()
	s.role(loaderRole, documents["loader-trust-policy"], documents["loader-role-policy"])
	if trust := documents["owner-trust-policy"]; trust != "" {
		s.role(ownerRole, trust, documents["owner-role-policy"])
	}
	if err := s.bucket.SetPolicy(documents["bucket-policy"]); err != nil {
		s.t.Fatal(err)
	}
}

// role makes or replaces a role in the account of its ARN.
func (s *site) role(arn, trust, permissions string) *testcloud.Role {
	s.t.Helper()
	fields := strings.SplitN(arn, ":", 6)
	role, err := s.cloud.Account(fields[4]).NewRole(testcloud.RoleSpec{
		Name: strings.TrimPrefix(fields[5], "role/"), Trust: trust, Policy: permissions,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return role
}

// statements makes a policy of statements.
func statements(all ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(all, ",") + `]}`
}

// anything allows all of S3 and of STS to whoever has it.
var anything = statements(`{"Effect":"Allow","Action":["s3:*","sts:*","kms:*"],"Resource":"*"}`)

func (s *site) dest() string { return filepath.Join(s.shm, "model") }

// load runs init as KServe does.
func (s *site) load(flags ...string) result {
	s.t.Helper()
	r := s.run(slices.Concat([]string{"init"}, flags, []string{siteURI, s.dest()})...)
	s.keepSecrets(r)
	return r
}

// loads expects a load to succeed, and makes room for the next one.
func (s *site) loads(flags ...string) result {
	s.t.Helper()
	r := s.load(flags...)
	r.want(s.t, 0)
	wantFiles(s.t, s.dest(), s.model.files)
	if err := os.RemoveAll(s.dest()); err != nil {
		s.t.Error(err)
	}
	return r
}

// refuses expects a load to fail, with a hint, and nothing at the destination.
func (s *site) refuses(code int, pattern string, flags ...string) result {
	s.t.Helper()
	r := s.load(flags...)
	s.refused(r, code, pattern)
	return r
}

func (s *site) refused(r result, code int, pattern string) {
	s.t.Helper()
	r.want(s.t, code)
	cause, hint := r.last()
	if !regexp.MustCompile(pattern).MatchString(cause) || hint == "" {
		s.t.Errorf("no %q, or no hint, in\n%s\n%s", pattern, cause, hint)
	}
	wantNothing(s.t, s.dest())
	failed := records(r.stderr, "load.failed") // a wrong configuration may be found before there is a log
	if (code != 2 || len(failed) > 0) && (len(failed) != 1 || failed[0]["exit_code"] != float64(code)) {
		s.t.Errorf("audit: %v", failed)
	}
}

// keepSecrets demands of a run's output that it has no session token that the services saw.
func (s *site) keepSecrets(r result) {
	s.t.Helper()
	for _, request := range slices.Concat(s.cloud.S3Requests(), s.cloud.STSRequests()) {
		token := request.Header.Get("X-Amz-Security-Token")
		if token != "" && findSecret(r.stdout+r.stderr, []string{token}) != "" {
			s.t.Errorf("sealfetch %q: a session token is in the output\n%s", r.args, r.stderr)
		}
	}
}

// assumed checks the audit record of every hop against what STS logged, and returns the roles, in order.
func (s *site) assumed(r result) (roles []string) {
	s.t.Helper()
	granted := map[string]testcloud.Request{}
	for _, request := range s.cloud.STSRequests("AssumeRole", "AssumeRoleWithWebIdentity") {
		granted[request.ID] = request
	}
	for i, record := range records(r.stderr, "identity.assumed") {
		request, ok := granted[record["request_id"].(string)]
		role, _ := record["role_arn"].(string)
		roles = append(roles, role)
		id, _ := record["assumed_role_id"].(string)
		name := request.Params.Get("RoleSessionName")
		named := strings.HasPrefix(id, "AROA") && strings.HasSuffix(id, ":"+name)
		if !ok || !named || request.Params.Get("RoleArn") != role {
			s.t.Errorf("audit record %d, %v, is of no request to STS", i, record)
		}
	}
	return roles
}

// namesProgram demands the program's name in the user agent of every request, whatever the service.
func (s *site) namesProgram() {
	s.t.Helper()
	for _, request := range slices.Concat(s.cloud.S3Requests(), s.cloud.STSRequests()) {
		if !strings.Contains(request.UserAgent, "app/sealfetch") {
			s.t.Errorf("%s %s: user agent %q", request.Op, request.Key, request.UserAgent)
		}
	}
}

// readers are the distinct principals that read objects.
func (s *site) readers() (all []string) {
	for _, request := range s.cloud.S3Requests("GetObject") {
		all = append(all, request.Principal)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// sessionOf is the ARN of the pod's session of a role.
func sessionOf(role string) string {
	fields := strings.SplitN(role, ":", 6)
	return fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", fields[4], strings.TrimPrefix(fields[5], "role/"), podSession)
}
