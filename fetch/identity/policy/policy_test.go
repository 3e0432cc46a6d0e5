package policy_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s", name, got)
	}
}

const (
	key   = "arn:aws:kms:eu-central-1:222222222222:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	pcr   = "35c7b5b2c6f54ef0bd11c6dc1a4b1f6a7ba0d5c5e3e2f1b0a9988776655443322110ffeeddccbbaa0011223344556677"
	model = "llama-7b/v3"
)

func TestSession(t *testing.T) {
	for name, m := range map[string]policy.Model{
		"keys":    {Keys: []string{key}},
		"sealed":  {Bucket: "acme-models", Prefix: model, Keys: []string{key, "kbs:///models/llama/v3", key}},
		"plain":   {Bucket: "acme-models", Prefix: model, List: true},
		"bucket":  {Bucket: "acme-models", List: true},
		"publish": {Bucket: "acme-models", Prefix: model, WrapKeys: []string{key}, Write: true},
		"rewrap": {Bucket: "acme-models", Prefix: model, Keys: []string{key}, Write: true,
			WrapKeys: []string{"arn:aws:kms:eu-central-1:222222222222:alias/next"}},
		"china": {Bucket: "acme-models", Prefix: model,
			Keys: []string{"arn:aws-cn:kms:cn-north-1:222222222222:key/*"}, Partition: "aws-cn"},
		"gov": {Bucket: "acme-models", Prefix: model, Partition: "aws-us-gov"},
		"accesspoint": {Bucket: "arn:aws:s3:eu-central-1:222222222222:accesspoint/models", Prefix: model,
			Keys: []string{key}},
		"multi-region": {Bucket: "arn:aws:s3::222222222222:accesspoint/mfzwi23gnjvgw.mrap", Prefix: model, List: true},
		"wildcards": {Bucket: "acme-models", Prefix: "a*b?c$d",
			Keys: []string{"arn:aws:kms:eu-*:222222222222:key/mrk-[0-9]*"}},
		"alias": {Bucket: "acme-models", Prefix: model,
			Keys: []string{"arn:aws:kms:eu-central-1:222222222222:alias/models", key}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := policy.Session(m)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) > 2048 {
				t.Errorf("%d characters", len(got))
			}
			var d policy.Document
			if err := json.Unmarshal([]byte(got), &d); err != nil {
				t.Fatal(err)
			}
			golden(t, "session-"+name+".json", d.Indented())
			leastPrivilege(t, d, m.Write)
		})
	}
}

// leastPrivilege is what no generated policy may allow.
func leastPrivilege(t *testing.T, d policy.Document, write bool) {
	t.Helper()
	for _, s := range d.Statement {
		if s.Effect != "Allow" {
			t.Errorf("effect %q", s.Effect)
		}
		for _, action := range s.Action {
			if strings.HasSuffix(action, "*") || !write && (strings.Contains(action, "Put") || strings.Contains(action,
				"Delete") || strings.Contains(action, "Encrypt")) {
				t.Errorf("action %s is allowed", action)
			}
		}
		for _, r := range s.Resource {
			if r == "*" && s.Condition["StringLike"]["kms:ViaService"] == nil {
				t.Errorf("every resource is allowed: %+v", s)
			}
			if r == "arn:aws:s3:::acme-models/"+model+"*" {
				t.Error("models whose name begins alike are allowed")
			}
		}
	}
}

func TestSessionRefusesOddModels(t *testing.T) {
	for name, m := range map[string]policy.Model{
		"no bucket": {}, "wildcard": {Bucket: "acme-*"}, "slash before": {Bucket: "b", Prefix: "/x"},
		"slash after":         {Bucket: "b", Prefix: "x/"},
		"not an access point": {Bucket: "arn:aws:s3:::bucket"}, "not S3": {Bucket: key},
	} {
		if got, err := policy.Session(m); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func request() policy.Request {
	return policy.Request{
		Model:      policy.Model{Bucket: "acme-models", Prefix: model, Keys: []string{key}},
		LoaderRole: "arn:aws:iam::111111111111:role/model-loader",
		OwnerRole:  "arn:aws:iam::222222222222:role/model-reader",
		Issuer:     "https://oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B716D3041E",
		Subject:    "system:serviceaccount:ml:model-loader",
		ModelName:  "acme/llama-7b",
		PCRs:       map[int]string{4: pcr, 12: strings.ToUpper(pcr)},
		ExternalID: "ml-platform-7",
	}
}

func TestPlans(t *testing.T) {
	bare := request()
	bare.PCRs, bare.ModelName, bare.ExternalID, bare.Model.List = nil, "", "", true
	tagged := request()
	tagged.SourceIdentity, tagged.SessionTags, tagged.Publisher = true, true, "arn:aws:iam::222222222222:role/publisher"
	noKey := request()
	noKey.Model.Keys, noKey.PCRs, noKey.OwnerAccount, noKey.OwnerRole = nil, nil, "222222222222", ""
	for _, tt := range []struct {
		name string
		plan func(policy.Request) (*policy.Plan, error)
		r    policy.Request
	}{
		{"direct", policy.Direct, request()}, {"chain", policy.Chain, request()}, {"direct-bare", policy.Direct, bare},
		{"chain-bare", policy.Chain, bare},
		{"chain-tagged", policy.Chain, tagged}, {"direct-no-key", policy.Direct, noKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.plan(tt.r)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if n, err := p.WriteTo(&b); err != nil || n != int64(b.Len()) {
				t.Errorf("%d bytes, error %v", n, err)
			}
			golden(t, "plan-"+tt.name+".txt", b.String())
		})
	}
}

// TestKeyPolicyHasNoWayAround: with PCRs, nothing but the conditioned statement gives out keys.
func TestKeyPolicyHasNoWayAround(t *testing.T) {
	p, err := policy.Chain(request())
	if err != nil {
		t.Fatal(err)
	}
	last := p.Parts[len(p.Parts)-1]
	if last.Name != "key-policy" {
		t.Fatalf("the last part is %s", last.Name)
	}
	for _, s := range last.Statement {
		for _, action := range s.Action {
			releases := action == "kms:Decrypt"
			if releases && (len(s.Condition["StringEqualsIgnoreCase"]) != 2 ||
				s.Principal["AWS"] != request().OwnerRole) {
				t.Errorf("kms:Decrypt without the PCRs, or for somebody else: %+v", s)
			}
			if strings.ContainsAny(action, "*") || action == "kms:CreateGrant" || action == "kms:ReEncryptFrom" ||
				strings.HasPrefix(action, "kms:GenerateDataKey") {
				t.Errorf("%s is a way around the condition", action)
			}
		}
	}
	if len(p.Warnings) != 0 {
		t.Errorf("warnings of a tight plan: %q", p.Warnings)
	}
}

func TestWarnings(t *testing.T) {
	for want, spoil := range map[string]func(*policy.Request){
		"no attestation condition": func(r *policy.Request) { r.PCRs = nil },
		"PCR 4 without PCR 12":     func(r *policy.Request) { delete(r.PCRs, 12) },
		"measures what boots":      func(r *policy.Request) { r.PCRs = map[int]string{0: pcr, 15: pcr} },
		"not bound to one model":   func(r *policy.Request) { r.ModelName = "" },
		"no external id":           func(r *policy.Request) { r.ExternalID = "" },
		"more than one key": func(r *policy.Request) {
			r.Model.Keys = []string{strings.Replace(key, "1234abcd",
				"*", 1)}
		},
		"no KMS key": func(r *policy.Request) { r.Model.Keys = []string{"kbs:///a/b/c"} },
	} {
		r := request()
		spoil(&r)
		p, err := policy.Chain(r)
		if err != nil || !strings.Contains(strings.Join(p.Warnings, "\n"), want) {
			t.Errorf("no warning %q: %v", want, err)
		}
	}
}

func TestRequestFaults(t *testing.T) {
	for want, spoil := range map[string]func(*policy.Request){
		"the bucket":     func(r *policy.Request) { r.Model.Bucket = "" },
		"loader role":    func(r *policy.Request) { r.LoaderRole = "arn:aws:iam::111111111111:role/*" },
		"owner role":     func(r *policy.Request) { r.OwnerRole = "" },
		"publisher role": func(r *policy.Request) { r.Publisher = "me" },
		"the issuer":     func(r *policy.Request) { r.Issuer = "oidc.example" },
		"the subject":    func(r *policy.Request) { r.Subject = "system:serviceaccount:*:*" },
		"PCR 24":         func(r *policy.Request) { r.PCRs = map[int]string{24: pcr} },
		"PCR 7":          func(r *policy.Request) { r.PCRs = map[int]string{7: "abcd"} },
	} {
		r := request()
		spoil(&r)
		if _, err := policy.Chain(r); !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	r := request()
	r.OwnerRole, r.Model.Keys = "", nil
	if _, err := policy.Direct(r); !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), "owner's account") {
		t.Errorf("no owner: %v", err)
	}
}

// TestExamples: the policies under deploy/examples are what the generator prints for the names that stand there.
func TestExamples(t *testing.T) {
	r := request()
	r.PCRs = nil
	for example, makePlan := range map[string]func(policy.Request) (*policy.Plan, error){"direct": policy.Direct,
		"chain": policy.Chain} {
		p, err := makePlan(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range p.Parts {
			golden(t, "../../../../deploy/examples/cross-account-"+example+"/policies/"+part.Name+".json",
				part.Indented())
		}
		files, err := filepath.Glob("../../../deploy/examples/cross-account-" + example + "/policies/*")
		if err != nil || len(files) != len(p.Parts) {
			t.Errorf("%s: %d files, %d policies, %v", example, len(files), len(p.Parts), err)
		}
	}
}
