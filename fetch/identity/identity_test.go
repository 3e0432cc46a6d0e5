package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealfetch/sealfetch/internal/fault"
)

var staticKey = Static{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI",
	SessionToken: "tokentoken", From: "AWS_ACCESS_KEY_ID"}

// noSharedConfig keeps the tester's own AWS settings, and the network, out of a test.
func noSharedConfig(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", dir)
}

func TestWhichSourceWins(t *testing.T) {
	noSharedConfig(t)
	web := Config{RoleARN: loaderRole, WebIdentityTokenFile: "/token"}
	all := web
	all.Static, all.PodIdentity, all.Profile = staticKey, PodIdentity{URI: "http://169.254.170.23/v1/credentials"},
		"ops"
	webAndPod := web
	webAndPod.PodIdentity = all.PodIdentity
	issuer := Config{RoleARN: loaderRole, TokenProvider: TokenFile("/issuer"), Static: staticKey}
	issuerAndFile := web
	issuerAndFile.TokenProvider = TokenFile("/issuer")
	forced := all
	forced.Source = WebIdentity
	forcedIssuer := issuerAndFile
	forcedIssuer.Source = OIDC
	anonymous := all
	anonymous.Anonymous = true
	for _, tt := range []struct {
		name string
		cfg  Config
		why  []string // in the explanation
		warn string   // in the log
	}{
		{"web identity", web, []string{"web identity token /token for " + loaderRole}, ""},
		{"static key over web identity", all, []string{"static key …MPLE from AWS_ACCESS_KEY_ID",
			"not used: web identity", "pod identity", "profile ops"},
			"static key wins over web identity"},
		{"web identity over pod identity", webAndPod, []string{"web identity token", "not used: pod identity"}, ""},
		{"issuer over static key", issuer, []string{"token of /issuer", "not used: static key …MPLE"}, ""},
		{"token file over issuer", issuerAndFile, []string{"web identity token /token"}, ""},
		{"forced", forced, []string{"web identity token /token", "as demanded"}, ""},
		{"forced issuer", forcedIssuer, []string{"token of /issuer", "as demanded"}, ""},
		{"anonymous", anonymous, []string{"unsigned requests"}, ""},
		{"pod identity", Config{PodIdentity: all.PodIdentity}, []string{"pod identity from http://169.254.170.23"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			tt.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			p, why, err := Credentials(t.Context(), tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.why {
				if !strings.Contains(why, want) {
					t.Errorf("explanation %q lacks %q", why, want)
				}
			}
			if tt.warn == "" && strings.Contains(log.String(), "WARN") || !strings.Contains(log.String(), tt.warn) {
				t.Errorf("log %q, want a warning %q", log.String(), tt.warn)
			}
			if strings.Contains(why+log.String(), "wJalr") || strings.Contains(why+log.String(), "tokentoken") ||
				strings.Contains(why+log.String(), "AKIAIOS") {
				t.Error("a secret was printed")
			}
			if p.Anonymous() != tt.cfg.Anonymous {
				t.Errorf("anonymous: %v", p.Anonymous())
			}
		})
	}
}

func TestNoCredentialsAndNoMetadataService(t *testing.T) {
	noSharedConfig(t)
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the metadata service was asked for %s", r.URL)
	}))
	defer metadata.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.URL)
	for name, cfg := range map[string]Config{
		"nothing":               {},
		"role without token":    {RoleARN: loaderRole},
		"metadata not allowed":  {Source: InstanceRole},
		"profile that is empty": {Source: Shared},
	} {
		_, _, err := Credentials(t.Context(), cfg)
		if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "no AWS credentials") ||
			fault.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, err := Credentials(t.Context(), Config{RoleARN: loaderRole})
	if !strings.Contains(err.Error(), "a role without a web identity token file") {
		t.Errorf("%v does not name what is there", err)
	}
}

func TestProfile(t *testing.T) {
	noSharedConfig(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "credentials"), "[default]\naws_access_key_id = AKIDEFAULT\naws_secret_access_key = "+
		"s\n[ops]\naws_access_key_id = AKIOPS\naws_secret_access_key = s\n")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	for profile, want := range map[string]string{"": "AKIDEFAULT", "ops": "AKIOPS"} {
		p, why, err := Credentials(t.Context(), Config{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		if creds, err := p.Retrieve(t.Context()); err != nil || creds.AccessKeyID != want || !strings.Contains(why,
			"shared AWS configuration") {
			t.Errorf("profile %q: key %s, error %v, explanation %q", profile, creds.AccessKeyID, err, why)
		}
	}
	if _, _, err := Credentials(t.Context(), Config{Profile: "absent"}); !fault.Is(err, fault.Usage) ||
		!strings.Contains(err.Error(), "absent") {
		t.Errorf("absent profile: %v", err)
	}
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	_, _, err := Credentials(t.Context(), Config{
		RoleARN: "loader", SessionName: "a b", Duration: 13 * time.Hour, Static: Static{AccessKeyID: "AKIA"},
		RoleChain: []Hop{{
			RoleARN: "arn:aws:iam::1:user/x", ExternalID: "a b", SourceIdentity: "?", SessionName: "x",
			Tags: map[string]string{"": "v"}, TransitiveTags: []string{"t"}, Duration: -1,
		}},
		SessionPolicy: SessionPolicy{JSON: "{"},
		PodIdentity:   PodIdentity{URI: "http://credentials.example/"},
	})
	if !fault.Is(err, fault.Usage) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"role of the web identity", `session name "a b"`, "13h0m0s", "hop 1: the role",
		"hop 1: the external id",
		"hop 1: source identity", `hop 1: session name "x"`, "hop 1: session tag", "transitive tag", "not JSON",
		"credentials.example", "access key id and secret"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	for name, cfg := range map[string]Config{
		"anonymous chain":     {Anonymous: true, RoleChain: []Hop{{RoleARN: ownerRole}}},
		"policy nobody takes": {Static: staticKey, SessionPolicy: SessionPolicy{JSON: "{}", Required: true}},
		"demanded, not set":   {Source: Pod},
		"unknown source":      {Source: "kerberos"},
		"empty policy":        {Static: staticKey, SessionPolicy: SessionPolicy{Required: true}},
		"bad CA bundle":       {Static: staticKey, CABundle: []byte("x")},
		"too long a policy": {Static: staticKey, SessionPolicy: SessionPolicy{JSON: `"` + strings.Repeat("x", 2048) +
			`"`, Required: true}},
		"odd container URI": {PodIdentity: PodIdentity{URI: "ftp://127.0.0.1/"}},
	} {
		if _, _, err := Credentials(t.Context(), cfg); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPolicyThatNobodyTakesIsNamed(t *testing.T) {
	var log bytes.Buffer
	cfg := Config{Static: staticKey, SessionPolicy: SessionPolicy{JSON: "{}"},
		Logger: slog.New(slog.NewTextHandler(&log, nil))}
	if _, _, err := Credentials(t.Context(), cfg); err != nil || !strings.Contains(log.String(), "no session policy") {
		t.Errorf("error %v, log %q", err, log.String())
	}
	log.Reset()
	cfg = Config{RoleARN: loaderRole, WebIdentityTokenFile: "/token", SessionPolicy: SessionPolicy{JSON: `"` +
		strings.Repeat("x", 2048) + `"`}, Logger: cfg.Logger}
	if _, _, err := Credentials(t.Context(), cfg); err != nil || !strings.Contains(log.String(),
		"longer than AWS takes") {
		t.Errorf("error %v, log %q", err, log.String())
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	cfg := Config{Static: staticKey, PodIdentity: PodIdentity{URI: "http://127.0.0.1/", Token: "podsecret"}}
	encoded, err := json.Marshal(struct {
		Static      Static
		PodIdentity PodIdentity
	}{cfg.Static, cfg.PodIdentity})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "static", cfg.Static, "pod", cfg.PodIdentity)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "static", &cfg.Static, "pod", &cfg.PodIdentity)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", cfg, cfg, cfg.Static, cfg.PodIdentity), string(encoded),
		log.String()} {
		for _, leak := range []string{"wJalr", "tokentoken", "podsecret", "AKIAIOS"} {
			if strings.Contains(text, leak) {
				t.Errorf("%q is in %q", leak, text)
			}
		}
	}
}

func TestDefaultRegion(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "us-east-1"},
		{Config{Region: "eu-central-1", RoleARN: "arn:aws-cn:iam::1:role/x"}, "eu-central-1"},
		{Config{RoleARN: "arn:aws-cn:iam::1:role/x"}, "cn-north-1"},
		{Config{RoleChain: []Hop{{RoleARN: "arn:aws-us-gov:iam::1:role/x"}}}, "us-gov-west-1"},
	} {
		if got := tt.cfg.region(); got != tt.want {
			t.Errorf("region %s, want %s", got, tt.want)
		}
	}
}

func TestPodIdentity(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var authorization string
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		if authorization != "pod-token" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"code":"InvalidParameterException","message":"no association"}`)
			return
		}
		fmt.Fprintf(w, `{"AccessKeyId":"ASIAPOD","SecretAccessKey":"s","Token":"t","Expiration":%q}`,
			time.Now().Add(time.Hour).Format(time.RFC3339))
	}))
	defer agent.Close()
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "pod-token\n")
	p := mustCredentials(t, Config{PodIdentity: PodIdentity{URI: agent.URL, TokenFile: path}})
	if creds, err := p.Retrieve(t.Context()); err != nil || creds.AccessKeyID != "ASIAPOD" || !creds.CanExpire {
		t.Errorf("credentials %s, error %v, sent %q", creds.AccessKeyID, err, authorization)
	}
	p = mustCredentials(t, Config{PodIdentity: PodIdentity{URI: agent.URL, Token: "wrong"}})
	if _, err := p.Retrieve(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(),
		"no association") {
		t.Errorf("%v", err)
	}
	p = mustCredentials(t, Config{PodIdentity: PodIdentity{URI: agent.URL, TokenFile: path + ".absent"}})
	if _, err := p.Retrieve(t.Context()); !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("%v", err)
	}
}

// expiringS3 refuses the keys it is told to, as S3 refuses an ended session.
func expiringS3(t *testing.T, refuse map[string]bool, seen *[]string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := signedWith(r)
		*seen = append(*seen, key)
		if !refuse[key] {
			w.Header().Set("Content-Length", "2")
			fmt.Fprint(w, "ok")
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		if r.Method != http.MethodHead {
			fmt.Fprint(w, `<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>`)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestExpiredSessionIsRenewedWithinARequest(t *testing.T) {
	f := newFakeSTS(t)
	p := mustCredentials(t, f.config(t))
	var seen []string
	server := expiringS3(t, map[string]bool{"ASIA0000": true, "ASIA0001": true}, &seen)
	client := s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: p,
		Retryer: p.Retryer(quick{})})
	if _, err := p.Retrieve(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(invalidateAge)
	if _, err := client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("b"),
		Key: aws.String("k")}); err == nil {
		t.Error("the second session, refused too and just fetched, was replaced by a third")
	}
	f.clock.Advance(invalidateAge)
	if _, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("b"),
		Key: aws.String("k")}); err != nil {
		t.Errorf("GET after renewal: %v", err)
	}
	if got, want := strings.Join(seen, " "), "ASIA0000 ASIA0001 ASIA0001 ASIA0001 ASIA0002"; got != want {
		t.Errorf("requests signed with %s, want %s", got, want)
	}
}

// quick retries at once.
type quick struct{ aws.NopRetryer }

func (quick) MaxAttempts() int                             { return 3 }
func (quick) RetryDelay(int, error) (time.Duration, error) { return 0, nil }

func TestStaticSessionIsNotRenewed(t *testing.T) {
	p := mustCredentials(t, Config{Static: staticKey})
	var seen []string
	server := expiringS3(t, map[string]bool{staticKey.AccessKeyID: true}, &seen)
	client := s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: p,
		Retryer: p.Retryer(quick{})})
	_, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("b"), Key: aws.String("k")})
	err = Diagnose(err, Op{Action: "s3:GetObject", Resource: "s3://b/k"})
	if !fault.Is(err, fault.Identity) || !strings.Contains(err.Error(), "expired") || len(seen) != 1 {
		t.Errorf("%v after %d requests", err, len(seen))
	}
}

func TestAnonymousRequestsAreUnsigned(t *testing.T) {
	p := mustCredentials(t, Config{Anonymous: true})
	var seen []string
	server := expiringS3(t, nil, &seen)
	client := s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: p})
	if _, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("b"),
		Key: aws.String("k")}); err != nil || seen[0] != "" {
		t.Errorf("error %v, signed with %q", err, seen)
	}
	if p.Renew(awsError(http.StatusBadRequest, "ExpiredToken", "")) {
		t.Error("anonymous access has nothing to renew")
	}
}

func TestCallers(t *testing.T) {
	f := newFakeSTS(t)
	cfg := f.config(t)
	cfg.RoleChain = []Hop{{RoleARN: ownerRole}, {RoleARN: lastRole}}
	f.refuse = func(_ int, form url.Values) (int, string, string) {
		if form.Get("RoleArn") == lastRole {
			return 403, "AccessDenied", "User: x is not authorized to perform: sts:AssumeRole on resource: " + lastRole
		}
		return 0, "", ""
	}
	callers := mustCredentials(t, cfg).Callers(t.Context())
	if len(callers) != 3 || callers[0].ARN != "arn:aws:sts::1:assumed-role/who/ASIA0000" ||
		callers[1].ARN != "arn:aws:sts::1:assumed-role/who/ASIA0002" {
		t.Fatalf("callers %+v", callers)
	}
	if last := callers[2]; !fault.Is(last.Err, fault.Identity) || last.ARN != "" || !strings.Contains(last.Step,
		lastRole) {
		t.Errorf("refused hop: %+v", last)
	}
	if got := mustCredentials(t, Config{Anonymous: true}).Callers(t.Context()); len(got) != 0 {
		t.Errorf("anonymous access has callers %+v", got)
	}
}
