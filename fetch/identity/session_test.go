package identity

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const (
	loaderRole = "arn:aws:iam::111111111111:role/loader"
	ownerRole  = "arn:aws:iam::222222222222:role/models/reader"
	lastRole   = "arn:aws:iam::333333333333:role/archive"
)

// fakeSTS answers the query protocol of STS and keeps what it was asked. It checks nothing: the strict one is the test
// cloud's.
type fakeSTS struct {
	*httptest.Server
	clock *clock
	life  time.Duration
	// refuse gives the nth request (from 0) an error: code and message; an empty code lets it pass.
	refuse func(n int, form url.Values) (status int, code, message string)

	mu    sync.Mutex
	asked []url.Values
	keys  []string // access key of each request, empty for unsigned ones
	agent string
}

func newFakeSTS(t *testing.T) *fakeSTS {
	f := &fakeSTS{clock: newClock(), life: time.Hour}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeSTS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.asked)
	f.asked = append(f.asked, r.PostForm)
	f.keys = append(f.keys, signedWith(r))
	f.agent = r.UserAgent()
	w.Header().Set("X-Amzn-Requestid", fmt.Sprintf("request-%d", n))
	if f.refuse != nil {
		if status, code, message := f.refuse(n, r.PostForm); code != "" {
			w.WriteHeader(status)
			fmt.Fprintf(w,
				`<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error>`+
					`<RequestId>request-%d</RequestId></ErrorResponse>`,
				code, message, n)
			return
		}
	}
	f.grant(w, n, r.PostForm)
}

func (f *fakeSTS) grant(w http.ResponseWriter, n int, form url.Values) {
	action, role := form.Get("Action"), form.Get("RoleArn")
	if action == "GetCallerIdentity" {
		fmt.Fprintf(w,
			`<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::1:assumed-role/who/%s</Arn>`+
				`<Account>1</Account><UserId>u</UserId></GetCallerIdentityResult></GetCallerIdentityResponse>`,
			f.keys[n])
		return
	}
	arn := strings.NewReplacer(":iam:", ":sts:", ":role/", ":assumed-role/").Replace(role) + "/" +
		form.Get("RoleSessionName")
	fmt.Fprintf(w,
		`<%[1]sResponse><%[1]sResult><Credentials><AccessKeyId>ASIA%04[2]d</AccessKeyId><SecretAccessKey>s</SecretAccessKey>`+
			`<SessionToken>t</SessionToken><Expiration>%[3]s</Expiration></Credentials><AssumedRoleUser><Arn>%[4]s</Arn>`+
			`<AssumedRoleId>AROAID:%[5]s</AssumedRoleId></AssumedRoleUser><PackedPolicySize>6</PackedPolicySize>`+
			`<SourceIdentity>%[6]s</SourceIdentity></%[1]sResult>`+
			`<ResponseMetadata><RequestId>request-%[2]d</RequestId></ResponseMetadata></%[1]sResponse>`,
		action, n, f.clock.Now().Add(f.life).Format(time.RFC3339), arn, form.Get("RoleSessionName"),
		form.Get("SourceIdentity"))
}

func signedWith(r *http.Request) string {
	_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(after, "/")
	return key
}

// config is a web identity of a token file at the fake STS.
func (f *fakeSTS) config(t *testing.T) Config {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, testToken("one")+"\n")
	return Config{
		RoleARN: loaderRole, WebIdentityTokenFile: path, STSEndpoint: f.URL, Now: f.clock.Now,
		SessionName: "sealfetch-ml-llama-x2k4p", AppID: "sealfetch-test",
	}
}

func testToken(id string) string {
	return unsigned(`{"alg":"RS256"}`,
		`{"iss":"https://oidc.example/id/1","sub":"system:serviceaccount:ml:loader","aud":["sts.amazonaws.com"],"jti":"`+id+`"}`)
}

func mustCredentials(t *testing.T, cfg Config) *Provider {
	t.Helper()
	p, _, err := Credentials(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChainOfRoles(t *testing.T) {
	// What KServe sets for S3 must not reach STS.
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	f := newFakeSTS(t)
	cfg := f.config(t)
	cfg.RoleChain = []Hop{
		{RoleARN: ownerRole, ExternalID: "tenant-7", SourceIdentity: "loader", Tags: map[string]string{"team": "ml",
			"app": "x"},
			TransitiveTags: []string{"team"}, Duration: 8 * time.Hour},
		{RoleARN: lastRole, SessionName: "last"},
	}
	cfg.SessionPolicy = SessionPolicy{JSON: `{"Version":"2012-10-17"}`}
	var assumed []Assumed
	cfg.OnAssumed = func(a Assumed) { assumed = append(assumed, a) }
	creds, err := mustCredentials(t, cfg).Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if creds.AccessKeyID != "ASIA0002" || creds.AccountID != "333333333333" ||
		!creds.Expires.Equal(f.clock.Now().Add(time.Hour)) {
		t.Errorf("credentials %s of account %s until %s", creds.AccessKeyID, creds.AccountID, creds.Expires)
	}
	want := []url.Values{
		{"Action": {"AssumeRoleWithWebIdentity"}, "RoleArn": {loaderRole}, "RoleSessionName": {cfg.SessionName},
			"WebIdentityToken": {testToken("one")},
			"Policy":           {onlyAssume(ownerRole)}},
		{"Action": {"AssumeRole"}, "RoleArn": {ownerRole}, "RoleSessionName": {cfg.SessionName},
			"ExternalId": {"tenant-7"}, "SourceIdentity": {"loader"},
			"Tags.member.1.Key": {"app"}, "Tags.member.1.Value": {"x"}, "Tags.member.2.Key": {"team"},
			"Tags.member.2.Value":        {"ml"},
			"TransitiveTagKeys.member.1": {"team"}, "DurationSeconds": {"3600"}, "Policy": {onlyAssume(lastRole)}},
		{"Action": {"AssumeRole"}, "RoleArn": {lastRole}, "RoleSessionName": {"last"},
			"Policy": {cfg.SessionPolicy.JSON}},
	}
	for i, form := range f.asked {
		form.Del("Version")
		if got, want := form.Encode(), want[i].Encode(); got != want {
			t.Errorf("request %d:\n got %s\nwant %s", i, got, want)
		}
	}
	if want := []string{"", "ASIA0000", "ASIA0001"}; !slices.Equal(f.keys, want) {
		t.Errorf("requests signed with %q, want %q", f.keys, want)
	}
	if !strings.Contains(f.agent, "app/sealfetch-test") {
		t.Errorf("user agent %q lacks the application id", f.agent)
	}
	checkAssumed(t, assumed)
}

func onlyAssume(role string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` +
		`"Action":["sts:AssumeRole","sts:SetSourceIdentity","sts:TagSession"],"Resource":"` + role + `"}]}`
}

func checkAssumed(t *testing.T, assumed []Assumed) {
	t.Helper()
	if len(assumed) != 3 {
		t.Fatalf("%d sessions reported, want 3", len(assumed))
	}
	first := assumed[0]
	first.Expires = time.Time{}
	if want := (Assumed{
		Hop: 0, Action: "sts:AssumeRoleWithWebIdentity", RoleARN: loaderRole,
		AssumedRoleARN: "arn:aws:sts::111111111111:assumed-role/loader/sealfetch-ml-llama-x2k4p",
		AssumedRoleID:  "AROAID:sealfetch-ml-llama-x2k4p",
		AccountID:      "111111111111", SessionName: "sealfetch-ml-llama-x2k4p", Issuer: "https://oidc.example/id/1",
		Subject: "system:serviceaccount:ml:loader", Audience: "sts.amazonaws.com", RequestID: "request-0",
		PolicySize: 6, SessionPolicy: "sent",
	}); first != want {
		t.Errorf("reported\n%+v, want\n%+v", first, want)
	}
	if assumed[1].Hop != 1 || assumed[1].SourceIdentity != "loader" || assumed[1].Subject != "" ||
		assumed[2].Hop != 2 ||
		assumed[2].RequestID != "request-2" {
		t.Errorf("hops reported as %+v", assumed[1:])
	}
	if text := fmt.Sprintf("%+v", assumed); strings.Contains(text, testToken("one")) || strings.Contains(text, "ASIA") {
		t.Error("a token or key is in the report")
	}
}

// TestDurationOfUnchainedRole: one hour is the limit of a role assumed by a role, not of one assumed by a user.
func TestDurationOfUnchainedRole(t *testing.T) {
	for _, tt := range []struct{ sessionToken, want string }{{"", "28800"}, {"token", "3600"}} {
		f := newFakeSTS(t)
		cfg := Config{STSEndpoint: f.URL, Now: f.clock.Now, Static: Static{AccessKeyID: "AKIA1", SecretAccessKey: "s",
			SessionToken: tt.sessionToken},
			RoleChain: []Hop{{RoleARN: ownerRole, Duration: 8 * time.Hour}}}
		if _, err := mustCredentials(t, cfg).Retrieve(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := f.asked[0].Get("DurationSeconds"); got != tt.want {
			t.Errorf("session token %q: asked for %s seconds, want %s", tt.sessionToken, got, tt.want)
		}
	}
}

func TestPolicyTooLarge(t *testing.T) {
	const tooLarge = "Packed policy consumes 118% of allotted space"
	for _, required := range []bool{false, true} {
		f := newFakeSTS(t)
		f.refuse = func(_ int, form url.Values) (int, string, string) {
			if form.Has("Policy") {
				return 400, "PackedPolicyTooLarge", tooLarge
			}
			return 0, "", ""
		}
		cfg := f.config(t)
		var logged bytes.Buffer
		var assumed []Assumed
		cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		cfg.OnAssumed = func(a Assumed) { assumed = append(assumed, a) }
		cfg.SessionPolicy = SessionPolicy{JSON: `{"Version":"2012-10-17"}`, Required: required}
		_, err := mustCredentials(t, cfg).Retrieve(t.Context())
		if required {
			if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), tooLarge) || len(f.asked) != 1 {
				t.Errorf("a required policy was not insisted on: %v after %d requests", err, len(f.asked))
			}
			continue
		}
		if err != nil || len(f.asked) != 2 || len(assumed) != 1 || assumed[0].SessionPolicy != "dropped" {
			t.Errorf("error %v, %d requests, reported %+v; want success without the policy", err, len(f.asked), assumed)
		}
		if !strings.Contains(logged.String(), "level=WARN") || !strings.Contains(logged.String(),
			"PackedPolicyTooLarge") {
			t.Errorf("log %q does not warn of it by name", logged.String())
		}
	}
}

// TestRotatedToken: STS refuses the token that was in the file when the request started; by then the file holds
// another.
func TestRotatedToken(t *testing.T) {
	f := newFakeSTS(t)
	cfg := f.config(t)
	f.refuse = func(n int, form url.Values) (int, string, string) {
		if form.Get("WebIdentityToken") != testToken("two") {
			write(t, cfg.WebIdentityTokenFile, testToken("two"))
			return 400, "ExpiredTokenException", "Token expired: current date/time 1740387458 must be before the " +
				"expiration date/time 1740319004"
		}
		return 0, "", ""
	}
	if _, err := mustCredentials(t, cfg).Retrieve(t.Context()); err != nil || len(f.asked) != 2 {
		t.Errorf("error %v after %d requests", err, len(f.asked))
	}
}

// TestSameTokenIsNotSentTwice: a token that STS refused and nobody replaced is not offered again.
func TestSameTokenIsNotSentTwice(t *testing.T) {
	f := newFakeSTS(t)
	f.refuse = func(int, url.Values) (int, string, string) {
		return 400, "InvalidIdentityToken", "Incorrect token audience"
	}
	_, err := mustCredentials(t, f.config(t)).Retrieve(t.Context())
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(),
		"wrong audience: the token is for sts.amazonaws.com") || len(f.asked) != 1 {
		t.Errorf("%v after %d requests", err, len(f.asked))
	}
	if strings.Contains(fmt.Sprint(err, fault.Hint(err)), testToken("one")) {
		t.Error("the error repeats the token")
	}
}

// TestHopRenewsWhatIsBehindIt: when the session behind a hop is refused as expired, it is renewed and the hop succeeds.
func TestHopRenewsWhatIsBehindIt(t *testing.T) {
	f := newFakeSTS(t)
	f.refuse = func(n int, form url.Values) (int, string, string) {
		if n == 2 {
			return 403, "ExpiredToken", "The security token included in the request is expired"
		}
		return 0, "", ""
	}
	cfg := f.config(t)
	cfg.RoleChain = []Hop{{RoleARN: ownerRole}}
	p := mustCredentials(t, cfg)
	if _, err := p.Retrieve(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(57*time.Minute +
		30*time.Second) // both sessions are due; the first hop is renewed only when refused
	p.steps[0].creds.entry.Load().renewAt = f.clock.Now().Add(time.Minute)
	creds, err := p.Retrieve(t.Context())
	if err != nil || creds.AccessKeyID != "ASIA0004" {
		t.Errorf("credentials %s, error %v", creds.AccessKeyID, err)
	}
	var actions []string
	for _, form := range f.asked {
		actions = append(actions, form.Get("Action"))
	}
	const web, hop = "AssumeRoleWithWebIdentity", "AssumeRole"
	if want := []string{web, hop, hop, web, hop}; !slices.Equal(actions, want) {
		t.Errorf("asked %q, want %q", actions, want)
	}
}

func TestClockSkewOfNewCredentials(t *testing.T) {
	f := newFakeSTS(t)
	cfg := f.config(t)
	cfg.Now = func() time.Time { return f.clock.Now().Add(2 * time.Hour) }
	_, err := mustCredentials(t, cfg).Retrieve(t.Context())
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "ended 1h0m0s ago by this machine's clock") ||
		!strings.Contains(fault.Hint(err), "clock") {
		t.Errorf("%v (%s)", err, fault.Hint(err))
	}
}

func TestMalformedTokenIsNotSent(t *testing.T) {
	f := newFakeSTS(t)
	cfg := f.config(t)
	write(t, cfg.WebIdentityTokenFile, testToken("one")+"\ntoken refreshed")
	_, err := mustCredentials(t, cfg).Retrieve(t.Context())
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "white space") || !strings.Contains(err.Error(),
		cfg.WebIdentityTokenFile) {
		t.Errorf("%v", err)
	}
	if len(f.asked) != 0 {
		t.Error("the token was sent")
	}
}

// TestOwnAuthority: STS behind an authority of one's own is trusted with its CA bundle only, and the cause is named.
func TestOwnAuthority(t *testing.T) {
	f := newFakeSTS(t)
	secure := httptest.NewUnstartedServer(f)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	cfg := f.config(t)
	cfg.STSEndpoint = secure.URL
	_, err := mustCredentials(t, cfg).Retrieve(t.Context())
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "unknown authority") ||
		!strings.Contains(fault.Hint(err), "AWS_CA_BUNDLE") {
		t.Errorf("without the bundle: %v (%s)", err, fault.Hint(err))
	}
	if strings.Contains(err.Error(), testToken("one")) || len(f.asked) != 0 {
		t.Error("the token went to an unknown server, or into the error")
	}
	cfg.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if _, err := mustCredentials(t, cfg).Retrieve(t.Context()); err != nil {
		t.Errorf("with the bundle: %v", err)
	}
}

func TestAssumedIsPlainData(t *testing.T) {
	if _, err := json.Marshal(Assumed{}); err != nil {
		t.Error(err)
	}
}
