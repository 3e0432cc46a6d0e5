package identity_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const (
	loaderAccount = "111111111111"
	ownerAccount  = "222222222222"
	region        = "eu-central-1"
	subject       = "system:serviceaccount:ml:model-loader"
	audience      = "sts.amazonaws.com"
	modelKey      = "llama/v3/envelope.json"
	otherKey      = "llama/v30/envelope.json" // begins alike, is another model
	objectURI     = "s3://acme-models/" + modelKey
)

// world is two accounts: a loader whose pods have web identities, and an owner with a bucket. All policies in it are
// those that the policy generator prints.
type world struct {
	t      *testing.T
	cloud  *testcloud.Cloud
	issuer *oidc.Issuer
	bucket *testcloud.Bucket
	roles  map[string]*testcloud.Role
	token  string // the token file
}

func newWorld(t *testing.T, opts testcloud.Options, makePlan func(policy.Request) (*policy.Plan, error),
	request policy.Request) *world {
	t.Helper()
	cloud := testcloud.Start(t, opts)
	w := &world{t: t, cloud: cloud, issuer: oidc.New(cloud.Now), token: filepath.Join(t.TempDir(), "token"),
		roles: map[string]*testcloud.Role{}}
	url, err := cloud.Serve(w.issuer)
	if err != nil {
		t.Fatal(err)
	}
	w.issuer.SetURL(url)
	w.bucket = cloud.Account(ownerAccount).NewBucket("acme-models", region)
	w.bucket.Put(modelKey, []byte("model"))
	w.bucket.Put(otherKey, []byte("other"))
	cloud.Account(loaderAccount).TrustIssuer(url, audience)
	request.Model, request.Subject, request.Issuer = policy.Model{Bucket: "acme-models", Prefix: "llama/v3"}, subject,
		strings.Replace(url, "http:", "https:", 1)
	request.LoaderRole, request.OwnerAccount = "arn:aws:iam::"+loaderAccount+":role/model-loader", ownerAccount
	plan, err := makePlan(request)
	if err != nil {
		t.Fatal(err)
	}
	w.install(plan, request)
	w.mint(oidc.Claims{})
	return w
}

// install sets up what a plan says, as an administrator would.
func (w *world) install(plan *policy.Plan, request policy.Request) {
	w.t.Helper()
	parts := map[string]string{}
	for _, part := range plan.Parts {
		parts[part.Name] = part.Compact()
	}
	w.role(request.LoaderRole, loaderAccount, parts["loader-trust-policy"], parts["loader-role-policy"])
	if parts["owner-trust-policy"] != "" {
		w.role(request.OwnerRole, ownerAccount, parts["owner-trust-policy"], parts["owner-role-policy"])
	}
	if document := parts["bucket-policy"]; document != "" {
		if err := w.bucket.SetPolicy(document); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) role(arn, account, trust, permissions string) {
	w.t.Helper()
	_, name, _ := strings.Cut(arn, ":role/")
	role, err := w.cloud.Account(account).NewRole(testcloud.RoleSpec{Name: name, Trust: trust, Policy: permissions})
	if err != nil {
		w.t.Fatal(err)
	}
	w.roles[name] = role
}

// mint puts a token with the given claims, or else those of the pod, into the token file.
func (w *world) mint(c oidc.Claims) {
	w.t.Helper()
	if c.Subject == "" {
		c.Subject = subject
	}
	if c.Audience == nil {
		c.Audience = []string{audience}
	}
	w.write(w.issuer.Mint(c) + "\n")
}

func (w *world) write(token string) {
	w.t.Helper()
	if err := os.WriteFile(w.token, []byte(token), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() identity.Config {
	return identity.Config{
		Region: region, STSEndpoint: w.cloud.STSURL(), RoleARN: "arn:aws:iam::" + loaderAccount + ":role/model-loader",
		WebIdentityTokenFile: w.token, SessionName: identity.SessionName("sealfetch", "ml", "llama", "x2k4p"),
		AppID: "sealfetch",
		Now:   w.cloud.Now,
	}
}

func (w *world) provider(cfg identity.Config) *identity.Provider {
	w.t.Helper()
	p, _, err := identity.Credentials(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) s3(p *identity.Provider) *s3.Client {
	url := w.cloud.S3URL()
	return s3.New(s3.Options{Region: region, BaseEndpoint: &url, UsePathStyle: true, Credentials: p,
		Retryer: p.Retryer(atOnce{})})
}

// get reads an object as the loader does and diagnoses what goes wrong.
func (w *world) get(client *s3.Client, key, owner string) (string, error) {
	in := &s3.GetObjectInput{Bucket: aws.String("acme-models"), Key: &key}
	if owner != "" {
		in.ExpectedBucketOwner = &owner
	}
	out, err := client.GetObject(w.t.Context(), in)
	if err != nil {
		return "", identity.Diagnose(err, identity.Op{Action: "s3:GetObject", Resource: "s3://acme-models/" + key,
			Region: region, Owner: owner})
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	return string(data), err
}

// atOnce retries without a pause.
type atOnce struct{ aws.NopRetryer }

func (atOnce) MaxAttempts() int                             { return 3 }
func (atOnce) RetryDelay(int, error) (time.Duration, error) { return 0, nil }

func chainRequest() policy.Request {
	return policy.Request{OwnerRole: "arn:aws:iam::" + ownerAccount + ":role/model-reader", ExternalID: "ml-7",
		SourceIdentity: true, SessionTags: true}
}

func chainHop() identity.Hop {
	return identity.Hop{RoleARN: "arn:aws:iam::" + ownerAccount + ":role/model-reader", ExternalID: "ml-7",
		SourceIdentity: "model-loader",
		Tags:           map[string]string{"team": "ml"}}
}

func sessionPolicy(t *testing.T) identity.SessionPolicy {
	t.Helper()
	document, err := policy.Session(policy.Model{Bucket: "acme-models", Prefix: "llama/v3"})
	if err != nil {
		t.Fatal(err)
	}
	return identity.SessionPolicy{JSON: document}
}

// TestGeneratedPoliciesWork: what the generator prints is enough for the model, and for nothing else.
func TestGeneratedPoliciesWork(t *testing.T) {
	for _, shape := range []string{"direct", "chain"} {
		for _, policyOf := range []string{"off", "auto"} {
			t.Run(shape+" "+policyOf, func(t *testing.T) {
				makePlan := policy.Direct
				if shape == "chain" {
					makePlan = policy.Chain
				}
				w := newWorld(t, testcloud.Options{}, makePlan, chainRequest())
				cfg := w.config()
				if shape == "chain" {
					cfg.RoleChain = []identity.Hop{chainHop()}
				}
				if policyOf == "auto" {
					cfg.SessionPolicy = sessionPolicy(t)
				}
				var assumed []identity.Assumed
				cfg.OnAssumed = func(a identity.Assumed) { assumed = append(assumed, a) }
				client := w.s3(w.provider(cfg))
				if got, err := w.get(client, modelKey, ownerAccount); err != nil || got != "model" {
					t.Fatalf("%q, %v", got, err)
				}
				if _, err := w.get(client, otherKey, ownerAccount); !fault.Is(err, fault.Access) {
					t.Errorf("a model whose name begins alike: %v", err)
				}
				if _, err := client.ListObjectsV2(t.Context(),
					&s3.ListObjectsV2Input{Bucket: aws.String("acme-models")}); err == nil {
					t.Error("the bucket can be listed")
				}
				checkAudit(t, w, assumed, len(cfg.RoleChain)+1)
			})
		}
	}
}

// checkAudit compares what is reported with what STS logged.
func checkAudit(t *testing.T, w *world, assumed []identity.Assumed, want int) {
	t.Helper()
	requests := w.cloud.STSRequests()
	if len(assumed) != want || len(requests) != want {
		t.Fatalf("%d sessions reported, %d requests, want %d of each", len(assumed), len(requests), want)
	}
	for n, a := range assumed {
		if a.RequestID != requests[n].ID || a.Hop != n || !strings.HasSuffix(a.AssumedRoleID,
			":sealfetch-ml-llama-x2k4p") ||
			!strings.Contains(requests[n].UserAgent, "app/sealfetch") {
			t.Errorf("session %d reported as %+v, logged as request %s of %q", n, a, requests[n].ID,
				requests[n].UserAgent)
		}
	}
}

// TestSessionPolicyNarrowsAWideRole: the session may read one model though its role may read the bucket.
func TestSessionPolicyNarrowsAWideRole(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	wide := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`
	if err := w.roles["model-reader"].SetPolicy(wide); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	cfg.RoleChain = []identity.Hop{chainHop()}
	if got, err := w.get(w.s3(w.provider(cfg)), otherKey, ""); err != nil || got != "other" {
		t.Errorf("without a session policy: %q, %v", got, err)
	}
	cfg.SessionPolicy = sessionPolicy(t)
	client := w.s3(w.provider(cfg))
	if got, err := w.get(client, modelKey, ""); err != nil || got != "model" {
		t.Errorf("the model: %q, %v", got, err)
	}
	_, err := w.get(client, otherKey, "")
	if !fault.Is(err, fault.Access) || !strings.Contains(err.Error(), "session policy is too tight") {
		t.Errorf("another model: %v", err)
	}
}

func TestPackedPolicyTooLarge(t *testing.T) {
	w := newWorld(t, testcloud.Options{PackedLimit: 60}, policy.Chain, chainRequest())
	cfg := w.config()
	cfg.RoleChain, cfg.SessionPolicy = []identity.Hop{chainHop()}, sessionPolicy(t)
	if got, err := w.get(w.s3(w.provider(cfg)), modelKey, ""); err != nil || got != "model" {
		t.Errorf("%q, %v", got, err)
	}
	cfg.SessionPolicy.Required = true
	_, err := w.get(w.s3(w.provider(cfg)), modelKey, "")
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "too large together") ||
		!strings.Contains(fault.Hint(err), "--session-policy off") {
		t.Errorf("required: %v", err)
	}
}

// TestDirectWebIdentityIntoOwnerAccount: the owner trusts the cluster's issuer, and no role is assumed by a role.
func TestDirectWebIdentityIntoOwnerAccount(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Direct, chainRequest())
	provider := w.cloud.Account(ownerAccount).TrustIssuer(w.issuer.URL(), audience)
	trust := fmt.Sprintf(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Federated":%q},`+
		`"Action":"sts:AssumeRoleWithWebIdentity"}}`, provider)
	w.role("arn:aws:iam::"+ownerAccount+":role/federated", ownerAccount, trust,
		allow("s3:GetObject", "arn:aws:s3:::acme-models/*"))
	cfg := w.config()
	cfg.RoleARN = "arn:aws:iam::" + ownerAccount + ":role/federated"
	if got, err := w.get(w.s3(w.provider(cfg)), modelKey, ""); err != nil || got != "model" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestClientCredentialsAsWebIdentity: tokens of 30 seconds from an issuer such as Keycloak, for ten minutes.
func TestClientCredentialsAsWebIdentity(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	w.issuer.AddClient(oidc.Client{ID: "loader", Secret: "hush", Subject: subject, Audiences: []string{audience},
		Lifetime: 30 * time.Second})
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := identity.NewOIDC(identity.OIDCConfig{Issuer: w.issuer.URL(), ClientID: "loader",
		ClientSecretFile: secretFile,
		Audience:         audience, Now: w.cloud.Now, HTTPClient: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	cfg.WebIdentityTokenFile, cfg.TokenProvider, cfg.RoleChain = "", tokens, []identity.Hop{chainHop()}
	w.cloud.SetCredentialLifetime(time.Minute)
	w.readFor(w.s3(w.provider(cfg)), 10*time.Minute)
}

// TestTenMinutesOfOneMinuteSessions: both hops end every minute, and no read notices.
func TestTenMinutesOfOneMinuteSessions(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	cfg := w.config()
	cfg.RoleChain = []identity.Hop{chainHop()}
	w.cloud.SetCredentialLifetime(time.Minute)
	w.readFor(w.s3(w.provider(cfg)), 10*time.Minute)
	for _, r := range w.cloud.S3Requests() {
		if r.Status != http.StatusOK {
			t.Errorf("a request was refused: %d %s", r.Status, r.Code)
		}
	}
	// A session of the first hop is only asked for when the second one is due: it may have ended long before.
	for op, least := range map[string]int{"AssumeRole": 10, "AssumeRoleWithWebIdentity": 5} {
		if n := len(w.cloud.STSRequests(op)); n < least || n > 16 {
			t.Errorf("%d times %s in ten minutes of one-minute sessions", n, op)
		}
	}
}

// readFor reads every two seconds of the cloud's time.
func (w *world) readFor(client *s3.Client, d time.Duration) {
	w.t.Helper()
	for passed := time.Duration(0); passed < d; passed += 2 * time.Second {
		if got, err := w.get(client, modelKey, ""); err != nil || got != "model" {
			w.t.Fatalf("after %s: %q, %v", passed, got, err)
		}
		w.cloud.Advance(2 * time.Second)
		w.mint(oidc.Claims{})
	}
}

// TestExpiredTokenIsRetriedWithNewCredentials: this machine's clock is behind, so that it takes ended credentials for
// good ones.
func TestExpiredTokenIsRetriedWithNewCredentials(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	cfg := w.config()
	offset := time.Duration(0)
	cfg.Now = func() time.Time { return w.cloud.Now().Add(-offset) }
	cfg.RoleChain = []identity.Hop{chainHop()}
	w.cloud.SetCredentialLifetime(time.Minute)
	client := w.s3(w.provider(cfg))
	if _, err := w.get(client, modelKey, ""); err != nil {
		t.Fatal(err)
	}
	offset = 61*time.Second - 30*time.Second
	w.cloud.Advance(61 * time.Second)
	if got, err := w.get(client, modelKey, ""); err != nil || got != "model" {
		t.Errorf("%q, %v", got, err)
	}
	refused := 0
	for _, r := range w.cloud.S3Requests() {
		if r.Code == "ExpiredToken" {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d requests refused for expired credentials, want 1", refused)
	}
}

// TestAttemptsDoNotMultiply: where the first hop fails, the hops and requests after it do not try it again and again.
func TestAttemptsDoNotMultiply(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	w.issuer.SetDown(http.StatusBadGateway)
	cfg := w.config()
	cfg.RoleChain = []identity.Hop{chainHop()}
	_, err := w.get(w.s3(w.provider(cfg)), modelKey, "")
	if !fault.Is(err, fault.Transient) || !strings.Contains(err.Error(), "could not reach the issuer") {
		t.Errorf("%v", err)
	}
	if n := len(w.cloud.STSRequests()); n != 3 {
		t.Errorf("STS was asked %d times, want 3", n)
	}
}

// TestRealRefusals goes through what an administrator can get wrong, against a cloud that really checks.
func TestRealRefusals(t *testing.T) {
	for _, tt := range []struct {
		name          string
		spoil         func(*world, *identity.Config)
		kind          fault.Kind
		cause, remedy string
	}{
		{"no token file", func(w *world, _ *identity.Config) { os.Remove(w.token) }, fault.Identity, "no such file",
			"ServiceAccount"},
		{"malformed token", func(w *world, _ *identity.Config) { w.write("eyJ token") }, fault.Identity, "malformed",
			"one JSON web token"},
		{"wrong audience", func(w *world, _ *identity.Config) { w.mint(oidc.Claims{Audience: []string{"vault"}}) },
			fault.Identity,
			"wrong audience: the token is for vault", "sts.amazonaws.com"},
		{"expired token", func(w *world, _ *identity.Config) { w.mint(oidc.Claims{Lifetime: -time.Hour}) },
			fault.Identity, "the token expired at", "renews it"},
		{"issuer not trusted", func(w *world, _ *identity.Config) { w.mint(oidc.Claims{Issuer: "http://127.0.0.1:9"}) },
			fault.Identity,
			"does not know the issuer http://127.0.0.1:9", "IAM OIDC provider"},
		{"another's signature", func(w *world, _ *identity.Config) {
			w.write(w.issuer.Mint(oidc.Claims{Subject: subject, Audience: []string{audience}}))
			w.issuer.Rotate(false)
		}, fault.Identity, "could not fetch the keys", "jwks_uri"},
		{"trust policy refuses sub", func(w *world,
			_ *identity.Config) {
			w.mint(oidc.Claims{Subject: "system:serviceaccount:ml:other"})
		}, fault.Identity,
			"trust policy refuses sub system:serviceaccount:ml:other", "trust policy of arn:aws:iam::" + loaderAccount},
		{"role missing", func(_ *world, c *identity.Config) { c.RoleARN += "x" }, fault.Identity,
			"there is no such role", "model-loaderx"},
		{"external id missing", func(_ *world, c *identity.Config) { c.RoleChain[0].ExternalID = "" }, fault.Identity,
			"hop refused", "sends no external id"},
		{"external id wrong", func(_ *world, c *identity.Config) { c.RoleChain[0].ExternalID = "ml-8" }, fault.Identity,
			"hop refused", "must be the one"},
		{"hop to a missing role", func(_ *world, c *identity.Config) { c.RoleChain[0].RoleARN += "x" }, fault.Identity,
			"no such role", "model-readerx"},
		{"hop not permitted", func(w *world, _ *identity.Config) {
			w.must(w.roles["model-loader"].SetPolicy(allow("s3:GetObject", "*")))
		}, fault.Identity, "has no permission to assume", "allow sts:AssumeRole"},
		{"tags not permitted", func(w *world, _ *identity.Config) {
			w.must(w.roles["model-loader"].SetPolicy(allow("sts:AssumeRole\",\"sts:SetSourceIdentity", "*")))
		}, fault.Identity, "may not pass session tags", "sts:TagSession"},
		{"own session policy too tight", func(_ *world, c *identity.Config) {
			c.SessionPolicy = identity.SessionPolicy{JSON: allow("s3:PutObject", "*"), Required: true}
		}, fault.Access, "session policy is too tight", "--session-policy"},
		{"malformed session policy", func(_ *world, c *identity.Config) {
			c.SessionPolicy = identity.SessionPolicy{JSON: `{"Version":"x"}`, Required: true}
		},
			fault.Identity, "not a valid policy", "--session-policy"},
		{"role may not read", func(w *world, _ *identity.Config) {
			w.must(w.roles["model-reader"].SetPolicy(allow("s3:PutObject", "*")))
		}, fault.Access, "role's own policy does not allow", "s3:GetObject"},
		{"bucket denies", func(w *world, _ *identity.Config) {
			deny := strings.Replace(allow("s3:*", "arn:aws:s3:::acme-models/*"), `"Allow"`, `"Deny","Principal":"*"`, 1)
			w.must(w.bucket.SetPolicy(deny))
		}, fault.Access, "a policy denies it", "Deny"},
		{"deleted static key", func(w *world, c *identity.Config) {
			key := w.cloud.Account(loaderAccount).NewAccessKey()
			c.Source, c.Static = identity.StaticKeys, identity.Static{AccessKeyID: key.AccessKeyID,
				SecretAccessKey: key.SecretAccessKey}
			w.cloud.Revoke(key.AccessKeyID)
		}, fault.Identity, "does not know the access key", "deleted"},
		{"wrong secret", func(w *world, c *identity.Config) {
			key := w.cloud.Account(loaderAccount).NewAccessKey()
			c.Source, c.Static = identity.StaticKeys, identity.Static{AccessKeyID: key.AccessKeyID,
				SecretAccessKey: "x"}
		}, fault.Identity, "signature does not match", "secret access key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // some are tried three times
			w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
			cfg := w.config()
			cfg.RoleChain = []identity.Hop{chainHop()}
			tt.spoil(w, &cfg)
			got, err := w.get(w.s3(w.provider(cfg)), modelKey, ownerAccount)
			t.Logf("%v\nhint: %s", err, fault.Hint(err)) // with -v, the messages as people see them
			if got != "" || fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.cause) ||
				!strings.Contains(fault.Hint(err), tt.remedy) {
				t.Errorf("%q, kind %d\nerror: %v\n hint: %s", got, fault.Of(err), err, fault.Hint(err))
			}
			if strings.Contains(err.Error(), "eyJ") {
				t.Error("the error holds a token")
			}
		})
	}
}

// allow is a policy of one statement; action may be several, with the quotes and commas between them.
func allow(action, resource string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["%s"],"Resource":%q}}`,
		action, resource)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestWrongOwnerAndWrongRegion(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	cfg := w.config()
	cfg.RoleChain = []identity.Hop{chainHop()}
	p := w.provider(cfg)
	_, err := w.get(w.s3(p), modelKey, loaderAccount)
	if !fault.Is(err, fault.Access) || !strings.Contains(err.Error(), "does not belong to account "+loaderAccount) {
		t.Errorf("wrong owner: %v", err)
	}
	url := w.cloud.S3URL()
	elsewhere := s3.New(s3.Options{Region: "us-west-2", BaseEndpoint: &url, UsePathStyle: true, Credentials: p,
		Retryer: aws.NopRetryer{}})
	_, err = elsewhere.GetObject(context.Background(), &s3.GetObjectInput{Bucket: aws.String("acme-models"),
		Key: aws.String(modelKey)})
	err = identity.Diagnose(err, identity.Op{Action: "s3:GetObject", Resource: objectURI, Region: "us-west-2"})
	if !fault.Is(err, fault.Access) || !strings.Contains(err.Error(),
		"wrong region: the bucket is in "+region+", the client in us-west-2") {
		t.Errorf("wrong region: %v", err)
	}
}

func TestIdentityOfEachHop(t *testing.T) {
	w := newWorld(t, testcloud.Options{}, policy.Chain, chainRequest())
	cfg := w.config()
	cfg.RoleChain, cfg.SessionPolicy = []identity.Hop{chainHop()}, sessionPolicy(t)
	callers := w.provider(cfg).Callers(t.Context())
	if len(callers) != 2 || callers[0].Account != loaderAccount || callers[1].Account != ownerAccount ||
		callers[1].ARN != "arn:aws:sts::"+ownerAccount+":assumed-role/model-reader/sealfetch-ml-llama-x2k4p" {
		t.Errorf("callers %+v", callers)
	}
}
