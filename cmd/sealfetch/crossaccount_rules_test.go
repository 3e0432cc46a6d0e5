package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

// recorder notes what it is asked.
type recorder struct {
	mu    sync.Mutex
	asked []string
}

func (r *recorder) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, what)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// metadataService is that of an EC2 node (IMDSv2), with a role's credentials.
func metadataService(t *testing.T, s *site) *recorder {
	t.Helper()
	rec, keys := new(recorder), s.owner.NewSession(time.Hour)
	s.secrets = append(s.secrets, keys.SecretAccessKey, keys.SessionToken)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.note(r.Method + " " + r.URL.Path)
		switch r.URL.Path {
		case "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			io.WriteString(w, "imds-token")
		case "/latest/meta-data/iam/security-credentials/":
			io.WriteString(w, "node-role")
		case "/latest/meta-data/iam/security-credentials/node-role":
			json.NewEncoder(w).Encode(map[string]any{"Code": "Success", "Type": "AWS-HMAC",
				"AccessKeyId": keys.AccessKeyID, "SecretAccessKey": keys.SecretAccessKey, "Token": keys.SessionToken,
				"LastUpdated": time.Now().UTC(), "Expiration": keys.Expires.UTC()})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	s.env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = server.URL
	return rec
}

// TestInstanceMetadata: the node's role is not the pod's. It is used when somebody says so, and else not asked for.
func TestInstanceMetadata(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		flags []string
		code  int
	}{
		{"not by itself", nil, 10},
		{"not by its name alone", []string{"--identity", "instance-metadata"}, 10},
		{"when permitted", []string{"--allow-instance-metadata"}, 0},
		{"when demanded and permitted", []string{"--identity", "instance-metadata", "--allow-instance-metadata"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, testcloud.Options{})
			s.withoutWebIdentity()
			s.env["AWS_EC2_METADATA_DISABLED"] = "false" // the SDK's switch decides nothing here
			rec := metadataService(t, s)
			if c.code == 0 {
				s.loads(c.flags...)
				if len(rec.all()) == 0 {
					t.Error("the metadata service was not asked")
				}
				return
			}
			s.refuses(c.code, "no AWS credentials are configured", c.flags...)
			if asked := rec.all(); len(asked) > 0 {
				t.Errorf("the metadata service was asked: %q", asked)
			}
		})
	}
}

// TestRefusalsDoNotFallBack: a role that refuses is an error, not a reason to become somebody else.
func TestRefusalsDoNotFallBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.direct(s.request())
	rec := metadataService(t, s)
	s.project(oidc.Claims{Subject: "system:serviceaccount:inference:other"})
	s.refuses(10, "trust policy refuses sub", "--allow-instance-metadata")
	if asked := rec.all(); len(asked) > 0 {
		t.Errorf("the metadata service was asked: %q", asked)
	}
}

// TestLeftoverKey: a static key wins, as in every SDK, and is named with what it displaces, unless --identity decides.
func TestLeftoverKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.direct(s.request())
	keys := s.owner.NewAccessKey()
	s.env["AWS_ACCESS_KEY_ID"], s.env["AWS_SECRET_ACCESS_KEY"] = keys.AccessKeyID, keys.SecretAccessKey
	masked := "key …" + keys.AccessKeyID[len(keys.AccessKeyID)-4:] + " from AWS_ACCESS_KEY_ID"
	r := s.loads()
	r.want(t, 0, `"WARN".*a static key wins over web identity.*`+masked+`.*`+loaderRole)
	if strings.Contains(r.stderr, keys.AccessKeyID) {
		t.Error("the whole key id is in the log")
	}
	if len(s.assumed(r)) != 0 {
		t.Error("the role was assumed all the same")
	}
	r = s.loads("--identity", "web-identity")
	if roles := s.assumed(r); !slices.Equal(roles, []string{loaderRole}) || strings.Contains(r.stderr, "static key wins") {
		t.Errorf("assumed %q\n%s", roles, r.stderr)
	}

	storageConfig(t, s)
	delete(s.env, "AWS_ACCESS_KEY_ID")
	delete(s.env, "AWS_SECRET_ACCESS_KEY")
	s.loads().want(t, 0, `a static key wins over web identity.* from STORAGE_CONFIG"`)
}

// tunnel is a proxy that opens none, and notes for whom it was asked.
func tunnel(t *testing.T) (*recorder, string) {
	rec := new(recorder)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.note(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(server.Close)
	return rec, server.URL
}

// TestEndpointsStayApart: KServe's AWS_ENDPOINT_URL is S3's. Without endpoints of their own, STS and KMS are AWS's in
// the region, also for the hop, whose client the SDK would send to S3.
func TestEndpointsStayApart(t *testing.T) {
	t.Parallel()
	const kmsKey = "aws-kms:arn:aws:kms:eu-west-3:" + ownerAccount + ":key/1234abcd-12ab"
	for _, c := range []struct {
		name    string
		arrange func(*site)
		want    string // the host that is asked for
	}{
		{"web identity", func(*site) {}, "sts.eu-central-1.amazonaws.com"},
		{"hop", func(s *site) {
			s.useKey(s.loader.NewAccessKey())
			s.env["SEALFETCH_ROLE_ARN"] = ownerRole
		}, "sts.eu-central-1.amazonaws.com"},
		{"another region", func(s *site) { s.env["SEALFETCH_STS_REGION"] = "eu-west-1" }, "sts.eu-west-1.amazonaws.com"},
		{"own", func(s *site) { s.env["AWS_ENDPOINT_URL_STS"] = "https://sts.example" }, "sts.example"},
		{"FIPS", func(s *site) {
			s.env["AWS_USE_FIPS_ENDPOINT"], s.env["AWS_DEFAULT_REGION"] = "true", "us-west-2"
			delete(s.env, "AWS_ENDPOINT_URL")
		}, "sts-fips.us-west-2.amazonaws.com"},
		{"dual stack", func(s *site) {
			s.env["AWS_USE_DUALSTACK_ENDPOINT"] = "true"
			delete(s.env, "AWS_ENDPOINT_URL")
		}, "sts.eu-central-1.api.aws"},
		{"KMS", func(s *site) {
			s.useKey(s.owner.NewAccessKey())
			s.env["SEALFETCH_WRAP"] = kmsKey
		}, "kms.eu-west-3.amazonaws.com"},
		{"KMS of its own", func(s *site) {
			s.useKey(s.owner.NewAccessKey())
			s.env["AWS_ENDPOINT_URL_KMS"] = "https://kms.example"
			s.env["SEALFETCH_WRAP"] = kmsKey
		}, "kms.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, testcloud.Options{})
			rec, proxy := tunnel(t)
			s.env["HTTPS_PROXY"] = proxy // loopback is not proxied: S3 is reached
			delete(s.env, "AWS_ENDPOINT_URL_STS")
			s.env["SEALFETCH_WRAP"] = "jwk:kek.jwk"
			c.arrange(s)
			s.write("plain/file", []byte("plain"))
			p := s.start("seal", "--model", siteModel, "--version", "9", "plain", "s3://models/new")
			await(t, "request", func() bool { return len(rec.all()) > 0 })
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil { // the tunnel leads nowhere
				t.Fatal(err)
			}
			p.wait().want(t, 143)
			if asked := slices.Compact(rec.all()); !slices.Equal(asked, []string{"CONNECT " + c.want + ":443"}) {
				t.Errorf("asked for %q, want %q", asked, c.want)
			}
			for _, request := range s.cloud.S3Requests() {
				if request.Method == http.MethodPost || request.Op == "" {
					t.Errorf("S3 was sent %+v", request)
				}
			}
		})
	}
}

// TestEndpointsThatExclude: settings that no endpoint can serve are a mistake, not trouble that may pass.
func TestEndpointsThatExclude(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.useKey(s.owner.NewAccessKey())
	for _, flag := range []string{"--s3-fips", "--s3-dual-stack", "--s3-accelerate"} {
		s.refuses(2, "endpoint", flag).want(t, 2, "hint: drop one of the settings that exclude one another")
	}
}

// TestRegionIsFound: with no region set at all, S3 says where the bucket is.
func TestRegionIsFound(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]testcloud.Options{"regional endpoint": {}, "global": {GlobalEndpoint: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, options)
			s.direct(s.request())
			delete(s.env, "AWS_DEFAULT_REGION")
			s.loads()
			var regions []string
			for _, request := range s.cloud.S3Requests() {
				_, scope, _ := strings.Cut(request.Header.Get("Authorization"), "Credential=")
				if fields := strings.Split(scope, "/"); len(fields) > 2 {
					regions = append(regions, fields[2])
				}
			}
			if regions[0] != "us-east-1" || slices.Contains(regions[1:], "us-east-1") {
				t.Errorf("signed for %q: one request finds the region", regions)
			}
		})
	}
}

// TestBucketOfAnother checks who must own the bucket and who pays.
func TestBucketOfAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.chain(s.request())
	s.loads("--expected-bucket-owner", ownerAccount)
	for _, request := range s.cloud.S3Requests("GetObject") {
		if request.Header.Get("X-Amz-Expected-Bucket-Owner") != ownerAccount {
			t.Errorf("%s without the expected owner", request.Key)
		}
	}
	s.refuses(11, "does not belong to account "+loaderAccount, "--expected-bucket-owner", loaderAccount)

	s = newSite(t, testcloud.Options{})
	s.direct(s.request())
	s.bucket.SetRequesterPays(true)
	s.refuses(11, "access denied")
	s.loads("--requester-pays")
}

// policyReceived returns the session policy that STS got for a role.
func (s *site) policyReceived(role string) string {
	for _, request := range s.cloud.STSRequests("AssumeRole", "AssumeRoleWithWebIdentity") {
		if request.Params.Get("RoleArn") == role && request.Status == 200 {
			return request.Params.Get("Policy")
		}
	}
	return ""
}

// TestSessionPolicy: the role may read everything; its session may read this model.
func TestSessionPolicy(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.chain(s.request())
	s.role(ownerRole, trusting(loaderRole, `"sts:AssumeRole"`, ""), anything)
	s.bucket.Put("acme/m2/envelope.json", s.model.objects["envelope.json"]) // begins alike, is another model
	s.loads()
	narrowed := s.policyReceived(ownerRole)
	wide := strings.Contains(narrowed, "s3:ListBucket") || strings.Contains(narrowed, "s3:PutObject")
	if wide || !strings.Contains(narrowed, `"arn:aws:s3:::models/acme/m/*"`) {
		t.Errorf("the session policy: %s", narrowed)
	}
	var way struct {
		Statement []struct{ Action, Resource any }
	}
	err := json.Unmarshal([]byte(s.policyReceived(loaderRole)), &way)
	if err != nil || len(way.Statement) != 1 || way.Statement[0].Resource != ownerRole {
		t.Errorf("the session on the way may do more than to assume the next role: %+v, %v", way, err)
	}

	// The same policy against another prefix: it narrows what the role would allow.
	s.write("narrow.json", []byte(narrowed))
	other := []string{"init", "--session-policy", "narrow.json", "sealed+s3://models/acme/m2", s.dest()}
	s.refused(s.run(other...), 11, "the session policy is too tight")
}

// TestSessionPolicyChoices: off sends none, FILE and its twin send the file's.
func TestSessionPolicyChoices(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.direct(s.request())
	s.loads("--session-policy", "off")
	if sent := s.policyReceived(loaderRole); sent != "" {
		t.Errorf("off sent %s", sent)
	}
	own := statements(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}`)
	s.write("own.json", []byte(own))
	for name, set := range map[string]func(){
		"file": func() { s.env["SEALFETCH_SESSION_POLICY"] = "own.json" },
		"twin": func() { s.env["SEALFETCH_SESSION_POLICY_JSON"] = own },
	} {
		set()
		s.cloud.ForgetRequests()
		s.loads()
		delete(s.env, "SEALFETCH_SESSION_POLICY")
		if sent := s.policyReceived(loaderRole); sent != own {
			t.Errorf("%s: sent %s", name, sent)
		}
	}
}

// TestPackedPolicyTooLarge: what AWS cannot pack is left out, loudly; a policy that somebody demands is not.
func TestPackedPolicyTooLarge(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{PackedLimit: 100})
	s.direct(s.request())
	r := s.loads()
	r.want(t, 0, `"WARN".*PackedPolicyTooLarge.*going on with all permissions of the role.*`+loaderRole)
	if n := strings.Count(r.stderr, `"WARN"`); n != 1 {
		t.Errorf("%d warnings, want one\n%s", n, r.stderr)
	}
	const own = `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/acme/m/*"}`
	s.write("own.json", []byte(statements(own)))
	s.refuses(10, "too large", "--session-policy", "own.json")
}

// TestRenewalInMidDownload: sessions of one to two seconds, over a store that takes longer than several of them. The
// kubelet replaces the token meanwhile, and the issuer its keys, so that only the new token is good for another session.
func TestRenewalInMidDownload(t *testing.T) {
	t.Parallel()
	s, f := newSite(t, testcloud.Options{}), use(t, manyFiles)
	s.chain(s.request())
	for name, object := range f.objects {
		s.bucket.Put("acme/m/"+name, object)
	}
	f.give(s.sandbox)
	s.cloud.SetCredentialLifetime(2 * time.Second)
	s.cloud.Inject(testcloud.Rule{Key: "acme/m/data/*", Fault: testcloud.Fault{Bandwidth: 5 << 19}})
	p := s.start("init", "--connections", "1", siteURI, s.dest())
	await(t, "first session", func() bool { return len(s.cloud.S3Requests()) > 0 })
	s.issuer.Rotate(false)
	s.project(oidc.Claims{})
	r := p.wait()
	r.want(t, 0)
	wantFiles(t, s.dest(), f.files)
	s.keepSecrets(r)
	hops := map[string]int{}
	for _, role := range s.assumed(r) {
		hops[role]++
	}
	if hops[loaderRole] < 3 || hops[ownerRole] < 3 {
		t.Errorf("sessions: %v, want several of each", hops)
	}
	keys := map[string]bool{}
	for _, request := range s.cloud.S3Requests("GetObject") {
		keys[request.AccessKeyID] = true
		if request.Status >= 300 {
			t.Errorf("part %s of %s: %d %s", request.Range, request.Key, request.Status, request.Code)
		}
	}
	if len(keys) < 3 {
		t.Errorf("the objects were read with %d sessions", len(keys))
	}
}

// TestOwnAuthority: everything is behind an authority of one's own, the issuer included, and one setting trusts it.
func TestOwnAuthority(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{TLS: true})
	secretFile(t, s)
	s.chain(s.request())
	s.write("ca.pem", s.cloud.CAPEM())
	s.env["AWS_CA_BUNDLE"] = "ca.pem"
	if roles := s.assumed(s.loads()); !slices.Equal(roles, bothRoles) {
		t.Errorf("assumed %q", roles)
	}
	delete(s.env, "AWS_CA_BUNDLE")
	s.refuses(10, "unknown authority").want(t, 10, "hint: give the authority's certificate with AWS_CA_BUNDLE")
	s.env["SEALFETCH_OIDC_CA"] = "ca.pem" // the issuer's alone: STS is still not trusted
	s.refuses(10, "sts:AssumeRoleWithWebIdentity.*unknown authority")
	s.env["S3_VERIFY_SSL"] = "0" // S3's alone, too
	s.refuses(10, "sts:AssumeRoleWithWebIdentity.*unknown authority")
}
