package testcloud_test

//lint:file-ignore SA1019 PackedPolicySize is what STS still sends beside its successor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const (
	home     = "111111111111" // the cluster's account
	abroad   = "222222222222" // the models' account
	audience = "sts.amazonaws.com"
	subject  = "system:serviceaccount:team:llm"
)

// world is two accounts: at home a role for web identities, abroad a role that it may assume and a bucket.
type world struct {
	*testcloud.Cloud
	issuer *oidc.Issuer
	first  *testcloud.Role
	second *testcloud.Role
	bucket *testcloud.Bucket
}

func policy(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newWorld(t *testing.T, opts testcloud.Options) *world {
	t.Helper()
	w := &world{Cloud: testcloud.Start(t, opts)}
	w.issuer = must[*oidc.Issuer](t)(w.NewIssuer("/cluster"))
	provider := w.Account(home).TrustIssuer(w.issuer.URL(), audience)
	name := strings.TrimPrefix(strings.TrimPrefix(w.issuer.URL(), "https://"), "http://")
	second := "arn:aws:iam::" + abroad + ":role/models/reader"
	w.first = must[*testcloud.Role](t)(w.Account(home).NewRole(testcloud.RoleSpec{
		Name: "loader",
		Trust: policy(fmt.Sprintf(`{"Effect":"Allow","Principal":{"Federated":%q},
			"Action":["sts:AssumeRoleWithWebIdentity","sts:TagSession","sts:SetSourceIdentity"],
			"Condition":{"StringEquals":{%q:%q,%q:%q}}}`, provider, name+":sub", subject, name+":aud", audience)),
		Policy: policy(`{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"],
			"Resource":"`+second+`"}`, `{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":"*"}`),
		MaxSession: 2 * time.Hour,
	}))
	w.second = must[*testcloud.Role](t)(w.Account(abroad).NewRole(testcloud.RoleSpec{
		Name: "models/reader",
		Trust: policy(`{"Effect":"Allow","Principal":{"AWS":"`+w.first.ARN+`"},"Action":"sts:AssumeRole",
			"Condition":{"StringEquals":{"sts:ExternalId":"ext"}}}`,
			`{"Effect":"Allow","Principal":{"AWS":"`+w.first.ARN+`"},"Action":["sts:TagSession","sts:SetSourceIdentity"]}`),
		Policy: policy(`{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],
			"Resource":["arn:aws:s3:::models","arn:aws:s3:::models/*"]}`),
		MaxSession: 12 * time.Hour,
	}))
	w.bucket = w.Account(abroad).NewBucket("models", region)
	w.bucket.Put("llm/a", []byte("data"))
	w.bucket.Put("other/a", []byte("data"))
	return w
}

func (w *world) sts(keys aws.CredentialsProvider) *sts.Client {
	return sts.New(sts.Options{
		Region: region, BaseEndpoint: aws.String(w.STSURL()), HTTPClient: w.HTTPClient(),
		Credentials: keys, Retryer: aws.NopRetryer{},
	})
}

func provider(c *types.Credentials) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(*c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken)
}

func keysOf(c *types.Credentials) testcloud.Credentials {
	return testcloud.Credentials{
		AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken,
	}
}

// webIdentity assumes the first role with a token, after change has had its way with the request.
func (w *world) webIdentity(t *testing.T, token string, change func(*sts.AssumeRoleWithWebIdentityInput)) (
	*sts.AssumeRoleWithWebIdentityOutput, error) {
	t.Helper()
	in := &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &w.first.ARN, RoleSessionName: aws.String("pod"), WebIdentityToken: &token,
	}
	change(in)
	return w.sts(aws.AnonymousCredentials{}).AssumeRoleWithWebIdentity(t.Context(), in)
}

func unchanged(*sts.AssumeRoleWithWebIdentityInput) {}

func (w *world) token(extra map[string]any) string {
	return w.issuer.Mint(oidc.Claims{Subject: subject, Audience: []string{audience}, Extra: extra})
}

func TestWebIdentity(t *testing.T) {
	for _, tls := range []bool{false, true} {
		w := newWorld(t, testcloud.Options{TLS: tls})
		out, err := w.webIdentity(t, w.token(nil), unchanged)
		if err != nil {
			t.Fatal(err)
		}
		arn := "arn:aws:sts::" + home + ":assumed-role/loader/pod"
		if *out.AssumedRoleUser.Arn != arn || *out.SubjectFromWebIdentityToken != subject || *out.Audience != audience ||
			out.PackedPolicySize != nil || time.Until(*out.Credentials.Expiration) > time.Hour {
			t.Errorf("%+v", out)
		}
		who, err := w.sts(provider(out.Credentials)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil || *who.Arn != arn || *who.Account != home || *who.UserId != w.first.ID+":pod" {
			t.Errorf("%+v, %v", who, err)
		}
		log := w.STSRequests("AssumeRoleWithWebIdentity")
		if len(log) != 1 || log[0].Status != 200 || log[0].Params.Get("RoleSessionName") != "pod" ||
			log[0].Params.Has("WebIdentityToken") {
			t.Errorf("log: %+v", log)
		}
	}
}

func TestWebIdentityRefusals(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	stranger := must[*oidc.Issuer](t)(w.NewIssuer(""))
	mint := func(c oidc.Claims) string { return w.issuer.Mint(c) }
	aud := []string{audience}
	type input = sts.AssumeRoleWithWebIdentityInput
	good := w.token(nil)
	for _, test := range []struct {
		name   string
		token  string
		change func(*input)
		code   string
		says   string
	}{
		{"subject", mint(oidc.Claims{Subject: subject + "2", Audience: aud}), unchanged,
			"AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{"audience", mint(oidc.Claims{Subject: subject, Audience: []string{"x"}}), unchanged,
			"InvalidIdentityToken", "Incorrect token audience"},
		{"authorized party", w.token(map[string]any{"azp": "x"}), unchanged,
			"InvalidIdentityToken", "Incorrect token audience"},
		{"expired", mint(oidc.Claims{Subject: subject, Audience: aud, Lifetime: -time.Minute}), unchanged,
			"ExpiredTokenException", "must be before the expiration date/time"},
		{"issuer", stranger.Mint(oidc.Claims{Subject: subject, Audience: aud}), unchanged,
			"InvalidIdentityToken", "No OpenIDConnect provider found in your account for " + stranger.URL()},
		{"issuer's key", stranger.Mint(oidc.Claims{Subject: subject, Audience: aud, Issuer: w.issuer.URL()}), unchanged,
			"InvalidIdentityToken", "verification key"},
		{"line feed", good + "\n", unchanged, "InvalidIdentityToken", "not a valid JWT"},
		{"role", good, func(in *input) { in.RoleArn = aws.String(w.first.ARN + "x") }, "AccessDenied", "Not authorized"},
		{"account", good, func(in *input) { in.RoleArn = aws.String("arn:aws:iam::333333333333:role/x") },
			"AccessDenied", "Not authorized"},
		{"account without the issuer", good, func(in *input) { in.RoleArn = &w.second.ARN },
			"InvalidIdentityToken", "No OpenIDConnect provider"},
		{"session name", good, func(in *input) { in.RoleSessionName = aws.String("a b") },
			"ValidationError", "roleSessionName"},
		{"too short", good, func(in *input) { in.DurationSeconds = aws.Int32(899) },
			"ValidationError", "greater than or equal to 900"},
		{"longer than the role's", good, func(in *input) { in.DurationSeconds = aws.Int32(7201) },
			"ValidationError", "MaxSessionDuration"},
		{"policy", good, func(in *input) { in.Policy = aws.String(`{"Version":"2012-10-17"}`) },
			"MalformedPolicyDocument", ""},
		{"long policy", good, func(in *input) { in.Policy = aws.String(strings.Repeat(" ", 2049)) },
			"ValidationError", "2048"},
	} {
		_, err := w.webIdentity(t, test.token, test.change)
		if code(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %s %s", test.name, err, test.code, test.says)
		}
	}
	w.issuer.SetDown(http.StatusServiceUnavailable)
	if _, err := w.webIdentity(t, good, unchanged); code(err) != "IDPCommunicationError" {
		t.Errorf("issuer down: %v", err)
	}
	w.issuer.SetDown(0)
	throttled := testcloud.Fault{Error: &testcloud.Error{Status: 400, Code: "Throttling"}}
	w.Inject(testcloud.Rule{Service: "sts", Times: 1, Fault: throttled})
	if _, err := w.webIdentity(t, good, unchanged); code(err) != "Throttling" {
		t.Errorf("throttled: %v", err)
	}
	w.Advance(2 * time.Hour)
	if _, err := w.webIdentity(t, good, unchanged); code(err) != "ExpiredTokenException" {
		t.Errorf("two hours later: %v", err)
	}
}

// chain assumes the second role from a session of the first.
func (w *world) chain(t *testing.T, from *types.Credentials, change func(*sts.AssumeRoleInput)) (
	*sts.AssumeRoleOutput, error) {
	t.Helper()
	in := &sts.AssumeRoleInput{RoleArn: &w.second.ARN, RoleSessionName: aws.String("hop"), ExternalId: aws.String("ext")}
	change(in)
	return w.sts(provider(from)).AssumeRole(t.Context(), in)
}

func (w *world) firstHop(t *testing.T, extra map[string]any) *types.Credentials {
	t.Helper()
	out, err := w.webIdentity(t, w.token(extra), unchanged)
	if err != nil {
		t.Fatal(err)
	}
	return out.Credentials
}

func TestRoleChain(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	hop := w.firstHop(t, nil)
	out, err := w.chain(t, hop, func(in *sts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(3600) })
	if err != nil {
		t.Fatal(err)
	}
	if *out.AssumedRoleUser.Arn != "arn:aws:sts::"+abroad+":assumed-role/reader/hop" {
		t.Errorf("%+v", out.AssumedRoleUser)
	}
	in := s3.GetObjectInput{Key: aws.String("llm/a"), ExpectedBucketOwner: aws.String(abroad)}
	if _, _, err := get(t.Context(), s3Client(w.Cloud, keysOf(out.Credentials)), in); err != nil {
		t.Errorf("reading with the second role: %v", err)
	}
	if _, _, err := get(t.Context(), s3Client(w.Cloud, keysOf(hop)), in); code(err) != "AccessDenied" {
		t.Errorf("reading with the first role, which the bucket does not name: %v", err)
	}
	log := w.S3Requests()[0]
	if log.Account != abroad || !strings.HasSuffix(log.Principal, ":assumed-role/reader/hop") {
		t.Errorf("log: %+v", log)
	}
}

func TestRoleChainRefusals(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	hop := w.firstHop(t, nil)
	type input = sts.AssumeRoleInput
	tag := func(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }
	for _, test := range []struct {
		name   string
		change func(*input)
		code   string
		says   string
	}{
		{"no external id", func(in *input) { in.ExternalId = nil },
			"AccessDenied", "sts:AssumeRole on resource: " + w.second.ARN},
		{"wrong external id", func(in *input) { in.ExternalId = aws.String("other") }, "AccessDenied", "sts:AssumeRole"},
		{"more than an hour", func(in *input) { in.DurationSeconds = aws.Int32(3601) },
			"ValidationError", "1 hour session limit"},
		{"role missing", func(in *input) { in.RoleArn = aws.String(w.second.ARN + "x") },
			"AccessDenied", "sts:AssumeRole on resource"},
		{"own role", func(in *input) { in.RoleArn = &w.first.ARN }, "AccessDenied", "sts:AssumeRole"},
		{"tag twice", func(in *input) { in.Tags = []types.Tag{tag("a", "1"), tag("A", "2")} },
			"ValidationError", "Duplicate"},
		{"transitive tag that is none", func(in *input) { in.TransitiveTagKeys = []string{"a"} },
			"ValidationError", "transitive"},
		{"managed policy", func(in *input) {
			in.PolicyArns = []types.PolicyDescriptorType{{Arn: aws.String("arn:aws:iam::aws:policy/ReadOnlyAccess")}}
		}, "ValidationError", "PolicyArns"},
	} {
		if _, err := w.chain(t, hop, test.change); code(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %s %s", test.name, err, test.code, test.says)
		}
	}
	tampered := *hop
	tampered.SecretAccessKey = aws.String("x")
	if _, err := w.chain(t, &tampered, func(*input) {}); code(err) != "SignatureDoesNotMatch" {
		t.Errorf("wrong secret: %v", err)
	}
	unknown := *hop
	unknown.AccessKeyId = aws.String("ASIAXXXXXXXXXXXXXXXX")
	if _, err := w.chain(t, &unknown, func(*input) {}); code(err) != "InvalidClientTokenId" {
		t.Errorf("unknown key: %v", err)
	}
	in := &input{RoleArn: &w.second.ARN, RoleSessionName: aws.String("hop")}
	_, err := w.sts(aws.AnonymousCredentials{}).AssumeRole(t.Context(), in)
	if code(err) != "MissingAuthenticationToken" {
		t.Errorf("unsigned: %v", err)
	}
	if err := w.first.SetPolicy(policy(`{"Effect":"Allow","Action":"s3:*","Resource":"*"}`)); err != nil {
		t.Fatal(err)
	}
	_, err = w.chain(t, hop, func(*input) {})
	if !strings.Contains(fmt.Sprint(err), "because no identity-based policy allows the sts:AssumeRole action") {
		t.Errorf("without permission at home: %v", err)
	}
	w.Advance(61 * time.Minute)
	client := sts.New(sts.Options{
		Region: region, BaseEndpoint: aws.String(w.STSURL()), Credentials: provider(hop), Retryer: aws.NopRetryer{},
	})
	_, err = client.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if code(err) != "SignatureDoesNotMatch" { // the client's clock is behind by an hour now
		t.Errorf("an hour later: %v", err)
	}
}

func TestTagsAndSourceIdentity(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	claims := map[string]any{
		"https://aws.amazon.com/source_identity": "alice",
		"https://aws.amazon.com/tags": map[string]any{
			"principal_tags":      map[string]any{"team": []string{"ml"}, "env": []string{"prod"}},
			"transitive_tag_keys": []string{"team"},
		},
	}
	out, err := w.webIdentity(t, w.token(claims), unchanged)
	if err != nil || *out.SourceIdentity != "alice" || *out.PackedPolicySize == 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := w.second.SetPolicy(policy(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/*",
		"Condition":{"StringEquals":{"aws:PrincipalTag/team":"ml","aws:SourceIdentity":"alice"},
		"Null":{"aws:PrincipalTag/env":"true"}}}`)); err != nil {
		t.Fatal(err)
	}
	next, err := w.chain(t, out.Credentials, func(*sts.AssumeRoleInput) {})
	if err != nil || *next.SourceIdentity != "alice" {
		t.Fatalf("%+v, %v", next, err)
	}
	client := s3Client(w.Cloud, keysOf(next.Credentials))
	if _, _, err := get(t.Context(), client, s3.GetObjectInput{Key: aws.String("llm/a")}); err != nil {
		t.Errorf("reading by inherited tag and source identity: %v", err)
	}
	for name, change := range map[string]func(*sts.AssumeRoleInput){
		"inherited tag changed": func(in *sts.AssumeRoleInput) {
			in.Tags = []types.Tag{{Key: aws.String("Team"), Value: aws.String("x")}}
		},
		"source identity changed": func(in *sts.AssumeRoleInput) { in.SourceIdentity = aws.String("bob") },
	} {
		if _, err := w.chain(t, out.Credentials, change); err == nil {
			t.Errorf("%s: allowed", name)
		}
	}
	onlyAssume := policy(`{"Effect":"Allow","Principal":{"AWS":"` + home + `"},"Action":"sts:AssumeRole"}`)
	if err := w.second.SetTrust(onlyAssume); err != nil {
		t.Fatal(err)
	}
	_, err = w.chain(t, out.Credentials, func(*sts.AssumeRoleInput) {})
	if code(err) != "AccessDenied" || !strings.Contains(err.Error(), "sts:TagSession") {
		t.Errorf("trust policy without sts:TagSession: %v", err)
	}
	if _, err := w.chain(t, w.firstHop(t, nil), func(*sts.AssumeRoleInput) {}); err != nil {
		t.Errorf("a session without tags: %v", err)
	}
}

func TestSessionPolicy(t *testing.T) {
	w := newWorld(t, testcloud.Options{PackedLimit: 200})
	narrow := policy(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/llm/*"}`)
	out, err := w.chain(t, w.firstHop(t, nil), func(in *sts.AssumeRoleInput) { in.Policy = &narrow })
	if err != nil || *out.PackedPolicySize <= 0 || *out.PackedPolicySize > 100 {
		t.Fatalf("%+v, %v", out, err)
	}
	client := s3Client(w.Cloud, keysOf(out.Credentials))
	for key, want := range map[string]string{"llm/a": "<nil>", "other/a": "AccessDenied", "llm/missing": "AccessDenied"} {
		if _, _, err := get(t.Context(), client, s3.GetObjectInput{Key: &key}); code(err) != want {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
	_, err = client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("models")})
	if code(err) != "AccessDenied" || !strings.Contains(err.Error(), "no session policy allows the s3:ListBucket action") {
		t.Errorf("listing: %v", err)
	}
	large := policy(`{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::models/` + string(noise(300)) + `"}`)
	_, err = w.chain(t, w.firstHop(t, nil), func(in *sts.AssumeRoleInput) { in.Policy = &large })
	if code(err) != "PackedPolicyTooLarge" {
		t.Errorf("large policy: %v", err)
	}
}

// noise is text that does not compress well.
func noise(n int) []byte {
	text, state := make([]byte, n), uint32(1)
	for i := range text {
		state = state*1664525 + 1013904223
		text[i] = 'a' + byte(state>>24)%26
	}
	return text
}

func TestBucketPolicyAcrossAccounts(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	hop := w.firstHop(t, nil)
	client := s3Client(w.Cloud, keysOf(hop))
	read := func(key string) string {
		_, _, err := get(t.Context(), client, s3.GetObjectInput{Key: &key})
		return code(err)
	}
	if err := w.bucket.SetPolicy(policy(
		`{"Effect":"Allow","Principal":{"AWS":"`+w.first.ARN+`"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::models/*"}`,
		`{"Effect":"Allow","Principal":{"AWS":"`+home+`"},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::models",
			"Condition":{"StringLike":{"s3:prefix":"llm/*"}}}`,
		`{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::models/other/*"}`)); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"llm/a": "<nil>", "other/a": "AccessDenied", "llm/none": "AccessDenied"} {
		if got := read(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	list := func(prefix string) string {
		_, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("models"), Prefix: &prefix})
		return code(err)
	}
	if list("llm/") != "<nil>" || list("") != "AccessDenied" || list("other/") != "AccessDenied" {
		t.Errorf("listing: %s, %s, %s", list("llm/"), list(""), list("other/"))
	}
	if err := w.first.SetPolicy(policy(`{"Effect":"Allow","Action":"s3:ListBucket","Resource":"*"}`)); err != nil {
		t.Fatal(err)
	}
	if got := read("llm/a"); got != "AccessDenied" {
		t.Errorf("without permission at home: %s", got)
	}
	for _, bad := range []string{
		policy(`{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::other/*"}`),
		policy(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/*"}`),
	} {
		if w.bucket.SetPolicy(bad) == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

func TestPublicBucket(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	if err := w.bucket.SetPolicy(policy(
		`{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/llm/*"}`)); err != nil {
		t.Fatal(err)
	}
	anonymous := func(o *s3.Options) { o.Credentials = aws.AnonymousCredentials{} }
	client := s3Client(w.Cloud, testcloud.Credentials{}, anonymous)
	for key, want := range map[string]string{"llm/a": "<nil>", "other/a": "AccessDenied"} {
		if _, _, err := get(t.Context(), client, s3.GetObjectInput{Key: &key}); code(err) != want {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPolicyThatCannotBeEvaluatedFailsTheTest(t *testing.T) {
	var heard []string
	hear := func(format string, args ...any) { heard = append(heard, fmt.Sprintf(format, args...)) }
	w := newWorld(t, testcloud.Options{Errorf: hear})
	if err := w.bucket.SetPolicy(policy(`{"Sid":"net","Effect":"Allow","Principal":"*","Action":"s3:GetObject",
		"Resource":"arn:aws:s3:::models/*","Condition":{"IpAddress":{"aws:SourceIp":"127.0.0.1"}}}`)); err != nil {
		t.Fatal(err)
	}
	client := s3Client(w.Cloud, w.Account(abroad).NewAccessKey())
	_, _, err := get(t.Context(), client, s3.GetObjectInput{Key: aws.String("llm/a")})
	if code(err) != "AccessDenied" || len(heard) != 1 || !strings.Contains(heard[0], "IpAddress") {
		t.Errorf("%v, heard %q", err, heard)
	}
}

func TestCredentialsExpireAndAreRenewed(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	w.SetCredentialLifetime(5 * time.Minute)
	dir := t.TempDir()
	path, err := oidc.WriteProjected(dir, w.token(nil))
	if err != nil {
		t.Fatal(err)
	}
	stsClient := w.sts(aws.AnonymousCredentials{})
	cache := aws.NewCredentialsCache(stscreds.NewWebIdentityRoleProvider(stsClient, w.first.ARN,
		stscreds.IdentityTokenFile(path), func(o *stscreds.WebIdentityRoleOptions) { o.RoleSessionName = "pod" }))
	client := w.sts(cache)
	who := func() error {
		_, err := client.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		return err
	}
	keys, err := cache.Retrieve(t.Context())
	if err != nil || who() != nil || keys.AccountID != home || time.Until(keys.Expires) > 5*time.Minute {
		t.Fatalf("%+v, %v", keys, err)
	}
	w.Advance(5 * time.Minute)
	old := w.sts(credentials.StaticCredentialsProvider{Value: keys})
	if _, err := old.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); code(err) != "ExpiredToken" {
		t.Errorf("expired: %v", err)
	}
	cache.Invalidate()
	if err := who(); err != nil {
		t.Errorf("renewed: %v", err)
	}
	if n := len(w.STSRequests("AssumeRoleWithWebIdentity")); n != 2 {
		t.Errorf("%d assumptions", n)
	}
}

func TestPodIdentity(t *testing.T) {
	w := newWorld(t, testcloud.Options{})
	agent := must[*testcloud.PodIdentityAgent](t)(w.NewPodIdentityAgent(w.issuer))
	role := must[*testcloud.Role](t)(w.Account(home).NewRole(testcloud.RoleSpec{
		Name: "pod", Policy: policy(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}`),
		Trust: policy(`{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},
			"Action":["sts:AssumeRole","sts:TagSession"]}`),
	}))
	agent.Associate("team", "llm", role)
	path := filepath.Join(t.TempDir(), "token")
	ask := func(c oidc.Claims) (aws.Credentials, error) {
		if err := os.WriteFile(path, []byte(w.issuer.Mint(c)), 0o600); err != nil {
			t.Fatal(err)
		}
		return endpointcreds.New(agent.URL(), func(o *endpointcreds.Options) {
			o.Retryer = aws.NopRetryer{}
			o.AuthorizationTokenProvider = tokenFile(path)
		}).Retrieve(t.Context())
	}
	aud := []string{"pods.eks.amazonaws.com"}
	pod := map[string]any{"kubernetes.io": map[string]any{"pod": map[string]any{"name": "llm-0"}}}
	keys, err := ask(oidc.Claims{Subject: subject, Audience: aud, Extra: pod})
	if err != nil || keys.AccountID != home || !keys.CanExpire {
		t.Fatalf("%+v, %v", keys, err)
	}
	client := w.sts(credentials.StaticCredentialsProvider{Value: keys})
	who, err := client.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || !strings.HasPrefix(*who.Arn, "arn:aws:sts::"+home+":assumed-role/pod/eks-test-llm-0-") {
		t.Errorf("%+v, %v", who, err)
	}
	for name, c := range map[string]oidc.Claims{
		"audience":       {Subject: subject, Audience: []string{audience}},
		"expired":        {Subject: subject, Audience: aud, Lifetime: -time.Minute},
		"no association": {Subject: subject + "2", Audience: aud},
	} {
		if _, err := ask(c); err == nil {
			t.Errorf("%s: credentials given", name)
		}
	}
	if err := role.SetTrust(policy(`{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},
		"Action":"sts:AssumeRole"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(oidc.Claims{Subject: subject, Audience: aud}); err == nil {
		t.Error("trust policy without sts:TagSession: credentials given")
	}
}

type tokenFile string

func (f tokenFile) GetToken() (string, error) {
	token, err := os.ReadFile(string(f))
	return string(token), err
}

func TestAuthenticateForOtherServices(t *testing.T) {
	c := testcloud.Start(t, testcloud.Options{})
	address, err := c.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, body, failure := c.Authenticate(r, "s3") // the request below is signed for S3
		if failure != nil {
			http.Error(w, failure.Code, failure.Status)
			return
		}
		json.NewEncoder(w).Encode([]string{caller.ARN, string(body)})
	}))
	if err != nil {
		t.Fatal(err)
	}
	r := signed(t, c, c.Account(owner).NewAccessKey(), "POST", "/", "body")
	host := r.URL.Host
	if r.URL, err = url.Parse(address); err != nil {
		t.Fatal(err)
	}
	r.Host = host // as signed
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var got []string
	err = json.NewDecoder(answer.Body).Decode(&got)
	if err != nil || got[0] != "arn:aws:iam::"+owner+":user/admin" || got[1] != "body" {
		t.Errorf("%q, %v", got, err)
	}
}
