package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

// TestEvidence shows what this machine would prove, for people and for programs, and which PCRs to bind.
func TestEvidence(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	r := v.run("evidence")
	r.want(t, 0)
	for _, line := range []string{
		"source     nitrotpm\n", "module id  " + moduleID + "\n", "timestamp  20",
		fmt.Sprintf("PCR 4      %x\n", v.tpm.PCR(4)), fmt.Sprintf("PCR 12     %x\n", v.tpm.PCR(12)),
		"signed by  CN=" + moduleID + ",O=TEST,C=US, until 20",
		"signed by  CN=INSECURE TEST ROOT aws.nitro-enclaves,O=TEST,C=US, until 20",
		"bind  PCR 4 12: the boot image and its kernel command line", "bind  PCR 7: the Secure Boot keys",
		"not   PCR 0 1: ", "PCR 4 without 12 can be got around",
	} {
		if !strings.Contains(r.stdout, line) {
			t.Errorf("no %q in\n%s", line, r.stdout)
		}
	}

	var claims struct {
		Source, Nonce string
		ModuleID      string `json:"module_id"`
		Timestamp     time.Time
		PCRs          map[string]string
		Certificates  []struct{ Subject, SHA256 string }
		Document      []byte
	}
	r = v.run("evidence", "--json", "--attester", "nitrotpm", "--nonce", "c0ffee")
	r.want(t, 0)
	if err := json.Unmarshal([]byte(r.stdout), &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Source != "nitrotpm" || claims.ModuleID != moduleID || claims.Nonce != "c0ffee" || len(claims.PCRs) != 24 ||
		claims.PCRs["4"] != fmt.Sprintf("%x", v.tpm.PCR(4)) || time.Since(claims.Timestamp).Abs() > time.Minute ||
		len(claims.Document) < 1000 || len(claims.Certificates) != 4 || claims.Certificates[3].SHA256 != testRoot(t) {
		t.Errorf("claims: %+v", claims)
	}
	for _, args := range []string{"--attester=none", "--nonce=x", "--nonce=" + strings.Repeat("00", 1025), "more"} {
		v.run("evidence", args).want(t, 2, "(?m)^hint: ")
	}
	v.env["SEALFETCH_TPM"] = "/nonexistent/tpm0"
	v.run("evidence", "--json").want(t, 13, "/nonexistent/tpm0", "hint: give the container the device")
	v.leavesNothing()
}

// testRoot is the fingerprint of the root of these tests, in hex.
func testRoot(t *testing.T) string {
	t.Helper()
	root, err := machineRoot()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", root.RootSHA256())
}

// TestVerifyEvidence: a document under the root of these tests is not AWS's, in whatever form it comes.
func TestVerifyEvidence(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	r := v.run("evidence", "--json", "--attester", "nitrotpm")
	r.want(t, 0)
	var printed struct{ Document []byte }
	if err := json.Unmarshal([]byte(r.stdout), &printed); err != nil {
		t.Fatal(err)
	}
	foreign := "the root has fingerprint " + testRoot(t) + ", which is not trusted"
	damaged := flipped(printed.Document, len(printed.Document)/2)
	for _, c := range []struct {
		name  string
		data  []byte
		code  int
		cause string
	}{
		{"json", []byte(r.stdout), 13, foreign},
		{"binary", printed.Document, 13, foreign},
		{"base64", []byte(base64.StdEncoding.EncodeToString(printed.Document) + "\n"), 13, foreign},
		{"damaged", damaged, 13, "attestation document"},
		{"cut", printed.Document[:1000], 13, "attestation document"},
		{"empty", nil, 13, "attestation document"},
		{"text", []byte("hello"), 13, "attestation document"},
		{"huge", make([]byte, 1<<20), 2, "larger than"},
	} {
		v.write("evidence", c.data)
		r := v.run("verify-evidence", "evidence")
		r.want(t, c.code)
		if cause, hint := r.last(); !strings.Contains(cause, c.cause) || hint == "" || r.stdout != "" {
			t.Errorf("%s: %s\n%s\n%s", c.name, cause, hint, r.stdout)
		}
	}
	v.run("verify-evidence", "absent").want(t, 2)
	v.run("verify-evidence", "--at", "yesterday", "evidence").want(t, 2, "2026-01-02T15:04:05Z")
}

// doctorLine finds what doctor says of something.
func doctorLine(t *testing.T, out, state, what string) string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + state + ` +` + regexp.QuoteMeta(what) + ` .*$`).FindString(out)
	if line == "" {
		t.Errorf("no line %q %q in\n%s", state, what, out)
	}
	return line
}

// TestDoctor walks the road without taking the key.
func TestDoctor(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.env["SEALFETCH_DESTINATION"] = v.shm
	r := v.run("doctor", siteURI)
	r.want(t, 0)
	for what, words := range map[string]string{
		"web identity token": "sub " + podSubject + ", aud " + stsAudience, "issuer discovery": "answers",
		"identity, step 1": sessionOf(loaderRole), "session policy": v.key.ARN, "bucket": "models is in " + scriptRegion,
		"envelope": siteModel + " version 7", "key": v.key.ARN + " would be released", "destination": "is in memory",
	} {
		if line := doctorLine(t, r.stdout, "ok", what); !strings.Contains(line, words) {
			t.Errorf("no %q in %q", words, line)
		}
	}
	v.keepSecrets(r)
	v.notReleased(r)
	if asked := v.decrypts(); len(asked) != 1 || !asked[0].DryRun || asked[0].ModuleID != moduleID {
		t.Errorf("KMS was asked %+v", asked)
	}
	v.leavesNothing()

	v.tpm.Extend(4, []byte("another kernel"))
	r = v.run("doctor", siteURI)
	r.want(t, 14, "the first thing to mend: .*PCR4")
	doctorLine(t, r.stdout, "failed", "key")
	doctorLine(t, r.stdout, "ok", "destination") // it goes on
}

// TestDoctorFindsTheFirst names what stands in the way, first thing first.
func TestDoctorFindsTheFirst(t *testing.T) {
	t.Parallel()
	s := newSite(t, testcloud.Options{})
	s.chain(s.request())
	s.env["SEALFETCH_DESTINATION"] = s.shm
	s.env["SEALFETCH_EXTERNAL_ID"] = "another"
	r := s.run("doctor", siteURI)
	r.want(t, 10, "the first thing to mend: .*hop refused")
	doctorLine(t, r.stdout, "ok", "identity, step 1")
	doctorLine(t, r.stdout, "failed", "identity, step 2")
	doctorLine(t, r.stdout, "failed", "envelope")
	doctorLine(t, r.stdout, "skipped", "key")
	s.env["SEALFETCH_EXTERNAL_ID"] = externalID
	s.run("doctor", siteURI).want(t, 0)

	// An issuer that cannot be reached from here is no fault: AWS asks it, not the pod.
	s.useKey(s.owner.NewAccessKey())
	s.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = filepath.Join(s.tokens, "token")
	delete(s.env, "SEALFETCH_ROLE_ARN")
	s.project(oidc.Claims{Issuer: "https://127.0.0.1:1"})
	r = s.run("doctor", siteURI)
	r.want(t, 0)
	const cure = "system:service-account-issuer-discovery"
	if line := doctorLine(t, r.stdout, "skipped", "issuer discovery"); !strings.Contains(line, cure) {
		t.Errorf("no cure in %q", line)
	}
	s.project(oidc.Claims{Lifetime: -time.Hour})
	s.run("doctor", siteURI).want(t, 10, "the first thing to mend: expired at")
}

// printedPolicies takes the output of the policy command apart, as somebody would who pastes it.
func printedPolicies(t *testing.T, out string) map[string]string {
	t.Helper()
	documents := map[string]string{}
	for _, part := range strings.Split(out, "\n# ")[1:] {
		head, text, _ := strings.Cut(part, "\n")
		name := regexp.MustCompile(`^\d+\. ([a-z-]+)\.json: account \d{12}, `).FindStringSubmatch(head)
		if name == nil {
			continue // a title or a warning
		}
		if !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON:\n%s", name[1], text)
		}
		documents[name[1]] = text
	}
	return documents
}

// TestPrintedPolicies: what the policy command prints, pasted, is enough for an attested load and no other machine's.
func TestPrintedPolicies(t *testing.T) {
	t.Parallel()
	for way, roles := range map[string]int{"direct": 1, "chain": 2} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, nitrotpm.Options{})
			args := []string{"policy", "--way", way, "--loader-role", loaderRole, "--owner-role", ownerRole,
				"--owner-account", ownerAccount, "--issuer", strings.Replace(v.issuer.URL(), "http:", "https:", 1),
				"--namespace", "inference", "--service-account", "llama", "--external-id", externalID,
				"--model", siteModel, "--key", v.key.ARN}
			for _, pcr := range []int{4, 12} {
				args = append(args, "--pcr", fmt.Sprintf("%d=%X", pcr, v.tpm.PCR(pcr))) // any case will do
			}
			r := v.run(append(args, siteURI)...)
			r.want(t, 0)
			if strings.Contains(r.stdout, "WARNING") {
				t.Errorf("warnings in\n%s", r.stdout)
			}
			documents := printedPolicies(t, r.stdout)
			v.install(documents)
			if err := v.key.SetPolicy(documents["key-policy"]); err != nil {
				t.Fatal(err)
			}
			if way == "chain" {
				v.env["SEALFETCH_ROLE_ARN"], v.env["SEALFETCH_EXTERNAL_ID"] = ownerRole, externalID
			}
			r = v.loads()
			if got := v.assumed(r); len(got) != roles {
				t.Errorf("assumed %q", got)
			}
			v.tpm.Extend(12, []byte("init=/bin/sh"))
			v.notReleased(v.refuses(14, "PCR12"))
			v.env["SEALFETCH_ATTESTER"] = "none"
			v.notReleased(v.refuses(14, "conditions are not met"))
		})
	}
}

// TestPolicyWarns of what would let somebody around the conditions.
func TestPolicyWarns(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	base := []string{"policy", "--way", "direct", "--loader-role", loaderRole, "--owner-account", ownerAccount,
		"--issuer", "https://oidc.example", "--namespace", "inference", "--service-account", "llama"}
	pcr, anyKey := strings.Repeat("ab", 48), "arn:aws:kms:eu-central-1:"+ownerAccount+":key/*"
	for warning, args := range map[string][]string{
		"no attestation condition":  {"--key", v.key.ARN},
		"PCR 4 without PCR 12":      {"--key", v.key.ARN, "--pcr", "4=" + pcr},
		"none of the bound PCRs":    {"--key", v.key.ARN, "--pcr", "1=" + pcr},
		"not bound to one model":    {"--key", v.key.ARN, "--pcr", "7=" + pcr},
		"no KMS key is named":       {"--model", siteModel},
		"lets in more than one key": {"--key", anyKey, "--pcr", "7=" + pcr},
	} {
		r := v.run(append(append(base[:len(base):len(base)], args...), siteURI)...)
		r.want(t, 0)
		if !strings.Contains(r.stdout, warning) {
			t.Errorf("no %q in\n%s", warning, r.stdout)
		}
	}
	for _, flag := range []string{"--pcr=4", "--pcr=4=ab", "--pcr=x=" + pcr, "--pcr=24=" + pcr, "--way=up"} {
		v.run(append(base[:len(base):len(base)], flag, siteURI)...).want(t, 2, "(?m)^hint: ")
	}
}

// TestPublishingSessions: a publisher's session is narrowed to the prefix and to the keys that it wraps under.
func TestPublishingSessions(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.role(loaderRole, v.trustOfPod(), anything)
	everything := `{"Effect":"Allow","Principal":{"AWS":"` + loaderRole + `"},"Action":`
	if err := v.bucket.SetPolicy(statements(everything + `"s3:*","Resource":"arn:aws:s3:::models/*"}`)); err != nil {
		t.Fatal(err)
	}
	if err := v.key.SetPolicy(statements(everything + `"kms:*","Resource":"*"}`)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(v.dir, "model")); err != nil {
		t.Fatal(err)
	}
	v.write("model/f", []byte("f"))
	r := v.run("seal", "--model", "acme/other", "--version", "1", "--wrap", "aws-kms:"+v.key.ARN, "model",
		"s3://models/acme/o")
	r.want(t, 0)
	v.keepSecrets(r)
	sent := v.policyReceived(loaderRole)
	for _, want := range []string{`"kms:Encrypt"`, v.key.ARN, "s3:PutObject", "arn:aws:s3:::models/acme/o/*"} {
		if !strings.Contains(sent, want) {
			t.Errorf("no %s in the session policy %s", want, sent)
		}
	}
}
