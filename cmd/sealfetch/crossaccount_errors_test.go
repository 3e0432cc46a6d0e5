package main_test

import (
	"encoding/base64"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

var updateTables = flag.Bool("update-tables", false, "write the tables of errors in docs anew")

// errorTable is the table of a document that shows what the program says: one row for each way to fail, with exit code,
// cause and cure. The tests keep it true.
type errorTable struct {
	path string
	mu   sync.Mutex
}

var (
	identityTable    = &errorTable{path: "../../docs/identity.md"}
	attestationTable = &errorTable{path: "../../docs/attestation.md"}
)

const beginRows, endRows = "| What is wrong | Exit | Cause | Cure |\n|---|---|---|---|\n", "\n\n"

// holds demands that the table has the row of a failed run.
func (e *errorTable) holds(t *testing.T, what string, r result, names ...string) {
	t.Helper()
	cause, hint := r.last()
	row := fmt.Sprintf("| %s | %d | %s | %s |", what, r.code, tidy(cause, names...), tidy(hint, names...))
	e.mu.Lock()
	defer e.mu.Unlock()
	before, rows, after := e.read(t)
	i := slices.IndexFunc(rows, func(have string) bool { return strings.HasPrefix(have, "| "+what+" |") })
	switch {
	case i >= 0 && rows[i] == row:
		return
	case !*updateTables:
		t.Errorf("%s: the table has no row\n%s\nRun the test with -update-tables, and look at what changes.", e.path, row)
		return
	case i >= 0:
		rows[i] = row
	default:
		rows = append(rows, row)
	}
	if err := os.WriteFile(e.path, []byte(before+strings.Join(rows, "\n")+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// hasOnly demands that the table has no row that no test keeps.
func (e *errorTable) hasOnly(t *testing.T, kept []string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	_, rows, _ := e.read(t)
	for _, row := range rows {
		what, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " |")
		if !slices.Contains(kept, what) {
			t.Errorf("%s: no test has the row %q", e.path, what)
		}
	}
}

func (e *errorTable) read(t *testing.T) (before string, rows []string, after string) {
	t.Helper()
	data, err := os.ReadFile(e.path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), beginRows)
	body, tail, okEnd := strings.Cut(rest, endRows)
	if !ok || !okEnd {
		t.Fatalf("%s has no table of errors", e.path)
	}
	if body != "" {
		rows = strings.Split(body, "\n")
	}
	return head + beginRows, rows, endRows + tail
}

// accidents are what is different in every run, and what stands for it in a table.
var accidents = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`request TC[0-9A-F]+`), "request 7Q4…"},
	{regexp.MustCompile(`request 00000000-[0-9a-f-]+`), "request 5f0c…"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "2026-01-02T15:04:05Z"},
	{regexp.MustCompile(`(/tmp|/dev/shm)/[^ ,;:"]*/token\b`), "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"},
	{regexp.MustCompile(`(/tmp|/dev/shm)/[^ ,;:"]*/`), ""},
	{regexp.MustCompile(`\b([0-9a-f]{8})[0-9a-f]{56,88}\b`), "9f86d081…"},
	{regexp.MustCompile(`\bkey/[a-z0-9-]{20,}`), "key/1234abcd"},
	{regexp.MustCompile(`\bid [A-Za-z0-9_-]{43}\b`), "id Q9rK…"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "server.example"},
	{regexp.MustCompile(`made at \S+ \d\S* ago|\d+m\d+s ago`), "10m0s ago"},
	{regexp.MustCompile(`NV index 0x[0-9a-f]+`), "NV index 0x1a5ea00"},
	{regexp.MustCompile(`kek-[A-Z2-7]{16}`), "kek-76SV3JCYXLTX64WF"},
	{regexp.MustCompile(`\[TC[0-9A-F]+\]`), "[7q4…]"},
	{regexp.MustCompile(`ended \S+ ago`), "ended 1h0m0s ago"},
	{regexp.MustCompile(`date/time \d+`), "date/time 17…"},
	{regexp.MustCompile(`(AKIA|ASIA)[A-Z2-7]{16}`), "AKIA…"},
}

// tidy takes out of a message what is different in every run. Names are pairs: what stands there, and what instead.
func tidy(message string, names ...string) string {
	message = strings.NewReplacer(names...).Replace(message)
	for _, a := range accidents {
		message = a.pattern.ReplaceAllString(message, a.instead)
	}
	return strings.ReplaceAll(message, "|", `\|`)
}

// mistake is one thing that is wrong on the way to a model.
type mistake struct {
	what    string
	code    int
	cause   string // a regular expression
	arrange func(*testing.T, *site)
	flags   []string
}

var mistakes = []mistake{
	{"no token file", 10, "no web identity token", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = s.dir + "/absent/token"
	}, nil},
	{"a log line in the token file", 10, "malformed web identity token.*white space", func(t *testing.T, s *site) {
		s.direct(s.request())
		token := s.mint(oidc.Claims{}) + "\ntime=12:00 level=info msg=rotated\n"
		if _, err := oidc.WriteProjected(s.tokens, token); err != nil {
			t.Fatal(err)
		}
	}, nil},
	{"token for another audience", 10, "wrong audience: the token is for vault", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.project(oidc.Claims{Audience: []string{"vault"}})
	}, nil},
	{"expired token", 10, "the token expired at", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.project(oidc.Claims{Lifetime: -time.Hour})
	}, nil},
	{"issuer not registered", 10, "does not know the issuer", func(t *testing.T, s *site) {
		s.direct(s.request())
		s.env["AWS_ROLE_ARN"] = ownerRole // in an account that has no provider for it
	}, nil},
	{"issuer out of reach", 20, "could not reach the issuer",
		func(_ *testing.T, s *site) {
			s.direct(s.request())
			s.issuer.SetDown(503)
		}, []string{"--attempts", "1"}},
	{"issuer does not publish the key it signs with", 10, "or the one that signed is not among them",
		func(_ *testing.T, s *site) {
			s.direct(s.request())
			s.issuer.Rotate(false)
			s.issuer.Mint(oidc.Claims{})
		}, []string{"--attempts", "1"}},
	{"another service account", 10, "trust policy refuses sub system:serviceaccount:inference:other",
		func(_ *testing.T, s *site) {
			s.direct(s.request())
			s.project(oidc.Claims{Subject: "system:serviceaccount:inference:other"})
		}, nil},
	{"no such role", 10, "or there is no such role", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.env["AWS_ROLE_ARN"] = loaderRole + "s"
	}, nil},
	{"not the ARN of a role", 2, "is not the ARN of a role", func(_ *testing.T, s *site) {
		s.env["AWS_ROLE_ARN"] = "predictor"
	}, nil},
	{"no credentials at all", 10, "no AWS credentials are configured", func(_ *testing.T, s *site) {
		s.withoutWebIdentity()
	}, nil},
	{"a role and no token", 10, "a role without a web identity token file", func(_ *testing.T, s *site) {
		delete(s.env, "AWS_WEB_IDENTITY_TOKEN_FILE")
	}, nil},
	{"half a static key", 2, "only one of access key id and secret access key", func(_ *testing.T, s *site) {
		s.env["AWS_ACCESS_KEY_ID"] = "AKIAIOSFODNN7EXAMPLE"
	}, nil},
	{"unknown access key", 10, "AWS does not know the access key", func(_ *testing.T, s *site) {
		s.useKey(testcloud.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "not/the/secret/key"})
	}, nil},
	{"wrong secret key", 10, "the signature does not match", func(_ *testing.T, s *site) {
		keys := s.owner.NewAccessKey()
		keys.SecretAccessKey = "not/the/secret/key"
		s.useKey(keys)
	}, nil},
	{"expired static session", 10, "the credentials have expired", func(_ *testing.T, s *site) {
		s.useKey(s.owner.NewSession(-time.Hour))
	}, nil},
	{"no such profile", 2, "reading the shared AWS configuration", func(_ *testing.T, s *site) {
		s.profile("models", s.owner.NewAccessKey())
		s.env["AWS_PROFILE"] = "model"
	}, nil},
	{"no pod identity association", 10, "ResourceNotFoundException|no association", func(t *testing.T, s *site) {
		podIdentity(t, s)
		const other = "system:serviceaccount:inference:other"
		s.project(oidc.Claims{Audience: []string{"pods.eks.amazonaws.com"}, Subject: other})
	}, nil},
	{"no pod identity agent", 20, "connection refused", func(_ *testing.T, s *site) {
		s.withoutWebIdentity()
		s.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://127.0.0.1:1/v1/credentials"
	}, []string{"--attempts", "1"}},
	{"hop: not trusted", 10, "hop refused: web identity, .* is not trusted", func(_ *testing.T, s *site) {
		s.chain(s.request())
		s.role(ownerRole, trusting("arn:aws:iam::"+loaderAccount+":role/other", `"sts:AssumeRole"`, ""), anything)
	}, nil},
	{"hop: not allowed to the role before", 10, "has no permission to assume the role", func(_ *testing.T, s *site) {
		s.chain(s.request())
		plan, _ := policy.Chain(s.request())
		s.role(loaderRole, plan.Parts[0].Compact(), assuming(gatewayRole))
	}, nil},
	{"hop: external id missing", 10, "hop refused", func(_ *testing.T, s *site) {
		s.chain(s.request())
		delete(s.env, "SEALFETCH_EXTERNAL_ID")
	}, nil},
	{"hop: another external id", 10, "hop refused", func(_ *testing.T, s *site) { s.chain(s.request()) },
		[]string{"--external-id", "acme-8"}},
	{"hop: session tags not allowed", 10, "may not pass session tags", func(_ *testing.T, s *site) {
		s.chain(s.request())
	}, []string{"--session-tag", "team=inference", "--session-policy", "off"}},
	{"hop: source identity not allowed", 10, "may not set a source identity", func(_ *testing.T, s *site) {
		s.chain(s.request())
	}, []string{"--source-identity", "llama", "--session-policy", "off"}},
	{"session longer than the role's", 10, "asked to last longer", func(_ *testing.T, s *site) {
		s.direct(s.request())
	}, []string{"--role-duration", "2h"}},
	{"session policy too large", 10, "too large together", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.write("own.json", []byte(statements(longStatement)))
	}, []string{"--session-policy", "own.json"}},
	{"session policy too tight", 11, "the session policy is too tight", func(_ *testing.T, s *site) {
		s.chain(s.request())
		const other = `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::other/*"}`
		s.write("own.json", []byte(statements(other)))
	}, []string{"--session-policy", "own.json"}},
	{"session policy is none", 10, "not a valid policy", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.write("own.json", []byte(`{"Statement":[]}`))
	}, []string{"--session-policy", "own.json"}},
	{"STS not active in the region", 10, "STS is not active in region", func(_ *testing.T, s *site) {
		s.direct(s.request())
		s.answer("sts", 403, "RegionDisabledException", "STS is not activated in this region for account:"+loaderAccount)
	}, nil},
	{"bucket of another account", 11, "the bucket does not belong to account", func(_ *testing.T, s *site) {
		s.chain(s.request())
	}, []string{"--expected-bucket-owner", "999999999999"}},
	{"no such bucket", 11, "there is no such bucket", func(_ *testing.T, s *site) {
		s.chain(s.request())
		s.answer("s3", 404, "NoSuchBucket", "The specified bucket does not exist")
	}, nil},
	{"access denied, across accounts", 11, "access denied, or there is no such object", func(t *testing.T, s *site) {
		s.direct(s.request())
		if err := s.bucket.SetPolicy(""); err != nil {
			t.Fatal(err)
		}
	}, nil},
	{"access denied, within the account", 11, "the role's own policy does not allow it", func(_ *testing.T, s *site) {
		s.chain(s.request())
		plan, _ := policy.Chain(s.request())
		s.role(ownerRole, plan.Parts[2].Compact(), assuming(gatewayRole))
	}, nil},
	{"access denied on the key of the bucket", 11, "but not the key that S3 encrypted it with", encryptedBucket, nil},
	{"anonymous, and the bucket is not public", 11, "access denied", func(*testing.T, *site) {}, []string{"--anonymous"}},
	{"wrong region, and S3 does not say which", 11, "wrong region", func(_ *testing.T, s *site) {
		s.chain(s.request())
		s.answer("s3", 301, "PermanentRedirect", "The bucket you are attempting to access must be addressed elsewhere.")
	}, nil},
	{"clock is slow, seen at S3", 10, "the clock of this machine is wrong", func(_ *testing.T, s *site) {
		s.useKey(s.owner.NewAccessKey())
		s.cloud.Advance(time.Hour)
	}, nil},
	{"clock is fast, seen at STS", 10, "by this machine's clock", func(_ *testing.T, s *site) {
		s.chain(s.request())
		s.cloud.Advance(-2 * time.Hour)
		s.project(oidc.Claims{})
	}, nil},
	{"OIDC: wrong client secret", 10, "invalid_client", func(t *testing.T, s *site) {
		secretFile(t, s)
		s.write("client.secret", []byte("not the secret"))
	}, nil},
	{"OIDC: audience not granted", 10, "invalid_target", func(t *testing.T, s *site) { secretFile(t, s) },
		[]string{"--oidc-audience", "vault"}},
	{"OIDC: scope not granted", 10, "invalid_scope", func(t *testing.T, s *site) { secretFile(t, s) },
		[]string{"--oidc-scope", "everything"}},
	{"OIDC: not an issuer", 10, "OIDC discovery", func(t *testing.T, s *site) {
		secretFile(t, s)
		s.env["SEALFETCH_OIDC_ISSUER"] = s.issuer.URL() + "/realms/absent"
	}, nil},
	{"OIDC: http", 2, "https is required", func(t *testing.T, s *site) {
		secretFile(t, s)
		s.env["SEALFETCH_OIDC_ISSUER"] = "http://keycloak.example/realms/ml"
	}, nil},
	{"OIDC: token is not a JWT", 10, "malformed web identity token from OIDC issuer", func(_ *testing.T, s *site) {
		s.client(oidc.Client{Secret: clientSecret, Opaque: true})
		s.env["SEALFETCH_OIDC_CLIENT_SECRET"] = clientSecret
	}, nil},
	{"STORAGE_CONFIG is not JSON", 2, "STORAGE_CONFIG is not a JSON object", func(_ *testing.T, s *site) {
		s.env["STORAGE_CONFIG"] = "type: s3"
	}, nil},
	{"endpoint and FIPS", 2, "cannot be combined with FIPS", func(_ *testing.T, s *site) {
		s.useKey(s.owner.NewAccessKey())
	}, []string{"--s3-fips"}},
}

// answer has a service answer everything with an error.
func (s *site) answer(service string, status int, code, message string) {
	s.cloud.Inject(testcloud.Rule{Service: service,
		Fault: testcloud.Fault{Error: &testcloud.Error{Status: status, Code: code, Message: message}}})
}

// longStatement does not compress into what a session may have.
var longStatement = `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/` +
	base64.RawURLEncoding.EncodeToString(incompressible(1400)) + `"}`

func incompressible(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

// encryptedBucket is under SSE-KMS with a key that lets nobody else in.
func encryptedBucket(t *testing.T, s *site) {
	s.direct(s.request())
	key, err := iam.Parse(iam.Resource, statements(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+ownerAccount+
		`:root"},"Action":"kms:*","Resource":"*"}`))
	if err != nil {
		t.Fatal(err)
	}
	s.bucket.EncryptWith(&testcloud.KMSKey{
		ARN: "arn:aws:kms:eu-central-1:" + ownerAccount + ":key/1234abcd", Owner: ownerAccount, Policy: key,
	})
}

// TestIdentityErrors tells them apart, each with exit code, cause and cure, and keeps the table in docs.
func TestIdentityErrors(t *testing.T) {
	t.Parallel()
	var kept []string
	for _, m := range mistakes {
		kept = append(kept, m.what)
		t.Run(m.what, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, testcloud.Options{})
			m.arrange(t, s)
			r := s.refuses(m.code, m.cause, m.flags...)
			identityTable.holds(t, m.what, r, s.issuer.URL(), "https://oidc.example")
		})
	}
	identityTable.hasOnly(t, kept)
}
