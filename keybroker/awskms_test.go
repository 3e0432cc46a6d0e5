package keybroker_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
	"github.com/sealfetch/sealfetch/keybroker"
)

const (
	ownerAccount  = "111111111111"
	loaderAccount = "222222222222"
	region        = "eu-central-1"
	model         = "acme/llama-7b"
	version       = 3
)

// newAuthority signs the documents of all simulated machines here.
var newAuthority = sync.OnceValues(func() (*nitrotpm.Authority, error) { return nitrotpm.NewAuthority(time.Now) })

// newKey makes the one recipient key of most tests.
var newKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 3072) })

// req is short for the tables below.
type req = keybroker.Request

// stage is a KMS with one key of the owner, a loader in another account, and a machine with a NitroTPM.
type stage struct {
	t        *testing.T
	cloud    *testcloud.Cloud
	kms      *kms.KMS
	key      *kms.Key
	loader   testcloud.Credentials
	tpm      *nitrotpm.TPM
	attester attest.Attester
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func setUp(t *testing.T) *stage {
	t.Helper()
	authority, err := newAuthority()
	check(t, err)
	s := &stage{t: t, cloud: testcloud.Start(t, testcloud.Options{})}
	s.kms, err = kms.New(s.cloud, kms.Options{Roots: [][32]byte{authority.RootSHA256()}})
	check(t, err)
	s.tpm, s.attester = s.machine(authority, nitrotpm.Options{})
	s.key, err = s.kms.CreateKey(s.cloud.Account(ownerAccount), region, s.policy(true))
	check(t, err)
	s.loader = s.cloud.Account(loaderAccount).NewAccessKey()
	return s
}

// machine starts a simulated NitroTPM and makes an attester of it.
func (s *stage) machine(authority *nitrotpm.Authority, opts nitrotpm.Options) (*nitrotpm.TPM, attest.Attester) {
	s.t.Helper()
	opts.Authority = authority
	tpm, err := nitrotpm.New(opts)
	check(s.t, err)
	server, err := tpm.Serve("unix", filepath.Join(s.t.TempDir(), "tpm"))
	check(s.t, err)
	s.t.Cleanup(server.Close)
	attester, err := attest.NewNitroTPM(server.Device())
	check(s.t, err)
	return tpm, attester
}

// policy lets the owner's account encrypt, and the loader's decrypt: only with the PCRs that the machine has now where
// attested says so, and only keys of our model.
func (s *stage) policy(attested bool) string {
	conditions := fmt.Sprintf(`"kms:EncryptionContext:sealfetch:model": %q`, model)
	if attested {
		for _, pcr := range []int{4, 12} {
			conditions += fmt.Sprintf(`, "kms:RecipientAttestation:NitroTPMPCR%d": "%x"`, pcr, s.tpm.PCR(pcr))
		}
	}
	return fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Sid": "Publish", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::%s:root"},
		 "Action": ["kms:Encrypt", "kms:DescribeKey"], "Resource": "*"},
		{"Sid": "Load", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::%s:root"},
		 "Action": "kms:Decrypt", "Resource": "*", "Condition": {"StringEqualsIgnoreCase": {%s}}}]}`,
		ownerAccount, loaderAccount, conditions)
}

// config reaches the KMS with somebody's credentials and no pause between attempts.
func (s *stage) config(c testcloud.Credentials) keybroker.KMSConfig {
	return keybroker.KMSConfig{
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		Endpoint:    s.kms.URL(),
		HTTPClient:  s.cloud.HTTPClient(),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = 3
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
		}),
	}
}

// wrap seals a fresh key under a key ARN, as the owner.
func (s *stage) wrap(arn, model string, version uint64) (*secret.Key, keybroker.Request) {
	s.t.Helper()
	wrapper, err := keybroker.NewKMSWrapper(s.config(s.cloud.Account(ownerAccount).NewAccessKey()), arn)
	check(s.t, err)
	mdk, err := secret.Random(keybroker.KeySize)
	check(s.t, err)
	s.t.Cleanup(mdk.Wipe)
	wrap, err := wrapper.Wrap(s.t.Context(), mdk, model, version)
	check(s.t, err)
	return mdk, keybroker.Request{Wrap: wrap, Model: model, Version: version}
}

func (s *stage) broker(evidence keybroker.EvidencePolicy) *keybroker.KMS {
	s.t.Helper()
	broker, err := keybroker.NewKMS(s.config(s.loader), evidence)
	check(s.t, err)
	key, err := newKey()
	check(s.t, err)
	broker.SetKey(key)
	return broker
}

// attested is the broker that all but the plain tests use.
func (s *stage) attested() *keybroker.KMS { return s.broker(keybroker.RequireEvidence(s.attester)) }

// wantRefusal checks kind, words and cure of an error, and that no key comes with it.
func wantRefusal(t *testing.T, release *keybroker.Release, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if release != nil {
		t.Error("a release beside an error")
	}
	if !fault.Is(err, kind) {
		t.Fatalf("error of kind %v: %v; want kind %v", fault.Of(err), err, kind)
	}
	if fault.Hint(err) == "" {
		t.Errorf("no cure for: %v", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error()+" | "+fault.Hint(err), w) {
			t.Errorf("error %q with hint %q lacks %q", err, fault.Hint(err), w)
		}
	}
}

func TestKMSReleasesToTheRightMachine(t *testing.T) {
	s := setUp(t)
	mdk, request := s.wrap(s.key.ARN, model, version)
	w := request.Wrap
	if w.Type != keybroker.TypeKMS || w.Key != s.key.ARN || w.Ciphertext == "" || w.Name() != s.key.ARN {
		t.Errorf("wrap %+v", w)
	}
	broker := s.attested()
	if !broker.Holds(request.Wrap) || broker.Holds(keybroker.Wrap{Type: keybroker.TypeJWE}) {
		t.Error("the broker does not know which wraps are its own")
	}
	check(t, broker.Preflight(t.Context(), request))
	release, err := broker.Release(t.Context(), request)
	check(t, err)
	defer release.MDK.Wipe()
	if !release.MDK.Equal(mdk) {
		t.Error("the released key is not the one that was wrapped")
	}
	if release.KeyID != s.key.ARN || release.RequestID == "" || release.Assurance != keybroker.AssuranceMeasuredBoot ||
		release.Attester != attest.TypeNitroTPM || release.ModuleID != "i-0123456789abcdef0-tpm0000000000000000" {
		t.Errorf("release %+v", release)
	}
	records := s.kms.Records()
	last := records[len(records)-1]
	if last.EncryptionContext["sealfetch:model"] != model || last.EncryptionContext["sealfetch:version"] != "3" ||
		len(last.EncryptionContext) != 2 || last.KeyID != s.key.ARN || last.ModuleID != release.ModuleID {
		t.Errorf("KMS saw %+v", last)
	}
	if left := s.tpm.Indices(); len(left) != 0 {
		t.Errorf("NV indices left in the TPM: %#x", left)
	}
}

// recorder remembers what evidence was to carry.
type recorder struct {
	attest.Attester
	bindings []attest.Binding
}

func (r *recorder) Collect(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	r.bindings = append(r.bindings, b)
	return r.Attester.Collect(ctx, b)
}

// TestKMSKeyOfTheReply looks at the keys that replies are encrypted to: large enough, and never the same twice.
func TestKMSKeyOfTheReply(t *testing.T) {
	s := setUp(t)
	mdk, request := s.wrap(s.key.ARN, model, version)
	r := &recorder{Attester: s.attester}
	broker, err := keybroker.NewKMS(s.config(s.loader), keybroker.RequireEvidence(r))
	check(t, err)
	seen := map[string]bool{}
	for range 2 {
		release, err := broker.Release(t.Context(), request)
		check(t, err)
		if !release.MDK.Equal(mdk) {
			t.Error("the released key is not the one that was wrapped")
		}
		release.MDK.Wipe()
		spki := r.bindings[len(r.bindings)-1].PublicKey
		key, err := x509.ParsePKIXPublicKey(spki)
		check(t, err)
		if bits := key.(*rsa.PublicKey).N.BitLen(); bits != 3072 || seen[string(spki)] {
			t.Errorf("a key of %d bits, seen before: %v", bits, seen[string(spki)])
		}
		seen[string(spki)] = true
	}
}

func TestKMSAlias(t *testing.T) {
	s := setUp(t)
	alias := s.key.Alias("models")
	mdk, request := s.wrap(alias, model, version)
	if request.Wrap.Key != alias {
		t.Errorf("the wrap names %s", request.Wrap.Key)
	}
	release, err := s.attested().Release(t.Context(), request)
	check(t, err)
	defer release.MDK.Wipe()
	if !release.MDK.Equal(mdk) || release.KeyID != s.key.ARN {
		t.Errorf("release under %s", release.KeyID)
	}

	other, err := s.kms.CreateKey(s.cloud.Account(ownerAccount), region, s.policy(true))
	check(t, err)
	other.Alias("models")
	release, err = s.attested().Release(t.Context(), request)
	wantRefusal(t, release, err, fault.KeyUnusable, "made with another key", "IncorrectKeyException", alias)
}

func TestKMSWithoutEvidence(t *testing.T) {
	s := setUp(t)
	mdk, request := s.wrap(s.key.ARN, model, version)
	plain := s.broker(keybroker.WithoutEvidenceUnsafe())
	release, err := plain.Release(t.Context(), request)
	wantRefusal(t, release, err, fault.Refused, "AccessDeniedException", "key policy")

	check(t, s.key.SetPolicy(s.policy(false)))
	check(t, plain.Preflight(t.Context(), request))
	release, err = plain.Release(t.Context(), request)
	check(t, err)
	defer release.MDK.Wipe()
	if !release.MDK.Equal(mdk) || release.Assurance != keybroker.AssuranceNone || release.Attester != "none" ||
		release.ModuleID != "" {
		t.Errorf("release %+v", release)
	}
}

func TestKMSNeedsADecision(t *testing.T) {
	s := setUp(t)
	for name, evidence := range map[string]keybroker.EvidencePolicy{
		"zero": {}, "no attester": keybroker.RequireEvidence(nil),
	} {
		if _, err := keybroker.NewKMS(s.config(s.loader), evidence); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := keybroker.NewKMS(keybroker.KMSConfig{}, keybroker.WithoutEvidenceUnsafe())
	if !fault.Is(err, fault.Identity) {
		t.Errorf("no credentials: %v", err)
	}
}

func TestKMSWrongMachine(t *testing.T) {
	for pcr, name := range map[int]string{4: "another image", 12: "another command line"} {
		t.Run(name, func(t *testing.T) {
			s := setUp(t)
			_, request := s.wrap(s.key.ARN, model, version)
			s.tpm.Extend(pcr, []byte("something else booted"))
			release, err := s.attested().Release(t.Context(), request)
			wantRefusal(t, release, err, fault.Refused,
				"refuses this identity, or its conditions on the evidence are not met", "i-0123456789abcdef0",
				fmt.Sprintf("PCR%d %x", pcr, s.tpm.PCR(pcr)), "PCR7 ", "request 00000000-", "NitroTPMPCR")
			err = s.attested().Preflight(t.Context(), request)
			wantRefusal(t, nil, err, fault.Refused, fmt.Sprintf("PCR%d ", pcr))
		})
	}
}

// fixed replays one piece of evidence.
type fixed struct {
	attest.Attester
	evidence attest.Evidence
}

func (f fixed) Collect(context.Context, attest.Binding) (attest.Evidence, error) {
	return f.evidence, nil
}

func TestKMSBadDocuments(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	ours, err := newAuthority()
	check(t, err)
	foreign, err := nitrotpm.NewAuthority(time.Now)
	check(t, err)
	_, stranger := s.machine(foreign, nitrotpm.Options{})
	_, late := s.machine(ours, nitrotpm.Options{Now: func() time.Time { return time.Now().Add(-6 * time.Minute) }})
	_, early := s.machine(ours, nitrotpm.Options{Now: func() time.Time { return time.Now().Add(10 * time.Minute) }})
	for name, test := range map[string]struct {
		attester attest.Attester
		words    string
	}{
		"foreign root":  {stranger, "not trusted"},
		"expired":       {late, "ago, more than 5m0s"},
		"of the future": {early, "ahead"},
	} {
		release, err := s.broker(keybroker.RequireEvidence(test.attester)).Release(t.Context(), request)
		wantRefusal(t, release, err, fault.Refused,
			"KMS does not accept the attestation document", test.words, "check the clocks")
		if t.Failed() {
			t.Fatal(name)
		}
	}

	// A document that was good for an earlier call vouches for that call's key: KMS is not even asked.
	earlier, err := s.attester.Collect(t.Context(), attest.Binding{PublicKey: publicKey(t)})
	check(t, err)
	before := len(s.kms.Records())
	release, err := s.broker(keybroker.RequireEvidence(fixed{s.attester, earlier})).Release(t.Context(), request)
	wantRefusal(t, release, err, fault.Evidence, "does not carry the key that was made for this call")
	if len(s.kms.Records()) != before {
		t.Error("KMS was sent a document for another's key")
	}

	junk := fixed{s.attester, attest.Evidence{Type: "nitrotpm", Blob: []byte("junk")}}
	release, err = s.broker(keybroker.RequireEvidence(junk)).Release(t.Context(), request)
	wantRefusal(t, release, err, fault.Evidence, "no attestation document of Nitro")
}

func TestKMSNoEvidence(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	before := len(s.kms.Records())
	attester, err := attest.NewNitroTPM("/nonexistent/tpmrm0")
	check(t, err)
	release, err := s.broker(keybroker.RequireEvidence(attester)).Release(t.Context(), request)
	wantRefusal(t, release, err, fault.Evidence, "/nonexistent/tpmrm0", "device plugin")
	if len(s.kms.Records()) != before {
		t.Error("KMS was asked without evidence")
	}
}

func TestKMSWrongWrap(t *testing.T) {
	s := setUp(t)
	quoted := fmt.Sprintf("%q", model)
	check(t, s.key.SetPolicy(strings.ReplaceAll(s.policy(true), quoted, "["+quoted+`, "acme/other"]`)))
	_, request := s.wrap(s.key.ARN, model, version)
	_, other := s.wrap(s.key.ARN, "acme/other", version)
	secondKey, err := s.kms.CreateKey(s.cloud.Account(ownerAccount), region, s.policy(true))
	check(t, err)
	const (
		swapped = "not made for this model and version"
		nothing = "no ciphertext of KMS"
	)
	elsewhere := strings.Replace(s.key.ARN, region, "eu-west-1", 1)
	huge := strings.Repeat("A", 8196)
	for name, test := range map[string]struct {
		change func(*req)
		kind   fault.Kind
		words  string
	}{
		"version swapped":           {func(r *req) { r.Version = 2 }, fault.KeyUnusable, swapped},
		"model swapped":             {func(r *req) { r.Model = "acme/other" }, fault.KeyUnusable, swapped},
		"wrap of another model":     {func(r *req) { r.Wrap = other.Wrap }, fault.KeyUnusable, swapped},
		"a model that nobody may":   {func(r *req) { r.Model = "acme/third" }, fault.Refused, "refuses this identity"},
		"wrong key":                 {func(r *req) { r.Wrap.Key = secondKey.ARN }, fault.KeyUnusable, "with another key"},
		"no such key":               {func(r *req) { r.Wrap.Key = s.key.ARN + "0" }, fault.Refused, "AccessDenied"},
		"the key's region is wrong": {func(r *req) { r.Wrap.Key = elsewhere }, fault.Refused, "AccessDenied"},
		"not an ARN":                {func(r *req) { r.Wrap.Key = "alias/models" }, fault.Usage, "is not the ARN"},
		"no ciphertext":             {func(r *req) { r.Wrap.Ciphertext = "" }, fault.KeyUnusable, nothing},
		"not base64url":             {func(r *req) { r.Wrap.Ciphertext = "a+/=" }, fault.KeyUnusable, nothing},
		"a huge ciphertext":         {func(r *req) { r.Wrap.Ciphertext = huge }, fault.KeyUnusable, nothing},
		"not a ciphertext of KMS":   {func(r *req) { r.Wrap.Ciphertext = "AAAA" }, fault.KeyUnusable, "or is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request
			test.change(&r)
			release, err := s.attested().Release(t.Context(), r)
			wantRefusal(t, release, err, test.kind, test.words)
		})
	}
}

func TestKMSKeyStates(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	for state, words := range map[kms.State]string{
		kms.Disabled: "the key is disabled", kms.PendingDeletion: "cancel the deletion",
	} {
		s.key.SetState(state)
		release, err := s.attested().Release(t.Context(), request)
		wantRefusal(t, release, err, fault.Refused, words, s.key.ARN, "request 00000000-")
		wantRefusal(t, nil, s.attested().Preflight(t.Context(), request), fault.Refused, words)
	}
}

func TestKMSThrottled(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	s.kms.Throttle(2)
	release, err := s.attested().Release(t.Context(), request)
	check(t, err)
	release.MDK.Wipe()

	s.kms.Throttle(100)
	before := len(s.kms.Records())
	release, err = s.attested().Release(t.Context(), request)
	wantRefusal(t, release, err, fault.Transient, "ThrottlingException")
	if n := len(s.kms.Records()) - before; n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

func TestKMSOutOfReach(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	config := s.config(s.loader)
	config.Endpoint = "http://127.0.0.1:1"
	broker, err := keybroker.NewKMS(config, keybroker.WithoutEvidenceUnsafe())
	check(t, err)
	release, err := broker.Release(t.Context(), request)
	wantRefusal(t, release, err, fault.Transient, "refused")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	release, err = s.attested().Release(ctx, request)
	if release != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled release: %v", err)
	}
}

func TestKMSCredentials(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	wrong := s.loader
	wrong.SecretAccessKey = "wrong"
	for name, c := range map[string]testcloud.Credentials{
		"wrong secret": wrong, "unknown key": {AccessKeyID: "AKIAUNKNOWN", SecretAccessKey: "x"},
	} {
		broker, err := keybroker.NewKMS(s.config(c), keybroker.WithoutEvidenceUnsafe())
		check(t, err)
		release, err := broker.Release(t.Context(), request)
		wantRefusal(t, release, err, fault.Identity)
		if strings.Contains(fmt.Sprint(err), c.SecretAccessKey+" ") {
			t.Errorf("%s: the secret is in the message: %v", name, err)
		}
	}
}

// TestKMSImpostor has something in the place of KMS that spoils one field of a good reply.
func TestKMSImpostor(t *testing.T) {
	s := setUp(t)
	_, request := s.wrap(s.key.ARN, model, version)
	stolen := []byte("CANARYCANARYCANARYCANARYCANARY32")
	to := envelopeTo(t, stolen)
	const envelope = "CiphertextForRecipient"
	alias, other := s.key.Alias("x"), strings.Replace(s.key.ARN, ownerAccount, loaderAccount, 1)
	set := func(field string, value any) func(kms.Reply) { return func(r kms.Reply) { r[field] = value } }
	drop := func(field string) func(kms.Reply) { return func(r kms.Reply) { delete(r, field) } }
	for name, test := range map[string]struct {
		spoil func(kms.Reply)
		kind  fault.Kind
		words string
	}{
		"ignores the recipient": {func(r kms.Reply) {
			delete(r, envelope)
			r["Plaintext"] = stolen
		}, fault.Refused, "in the clear"},
		"plaintext beside the envelope": {set("Plaintext", stolen), fault.Refused, "in the clear"},
		"empty plaintext beside":        {set("Plaintext", ""), 0, ""},
		"no key":                        {drop(envelope), fault.Refused, "no key encrypted to this machine"},
		"no key id":                     {drop("KeyId"), fault.Refused, `names "" as its key`},
		"another key's id":              {set("KeyId", other), fault.Refused, "of another key"},
		"an alias as id":                {set("KeyId", alias), fault.Refused, "as its key"},
		"envelope for another":          {set(envelope, to), fault.KeyUnusable, "for another key"},
		"envelope of junk":              {set(envelope, []byte("junk")), fault.KeyUnusable, "reading CMS"},
		"envelope cut": {func(r kms.Reply) {
			r[envelope] = r[envelope].([]byte)[:300]
		}, fault.KeyUnusable, "reading CMS"},
		"envelope changed": {func(r kms.Reply) { flip(r[envelope].([]byte)) }, fault.KeyUnusable, "does not decrypt"},
	} {
		t.Run(name, func(t *testing.T) {
			s.kms.OnReply(func(op string, reply kms.Reply) {
				if op == "Decrypt" {
					test.spoil(reply)
				}
			})
			release, err := s.attested().Release(t.Context(), request)
			if test.words == "" {
				check(t, err)
				release.MDK.Wipe()
				return
			}
			wantRefusal(t, release, err, test.kind, test.words, "request 00000000-")
			said := fmt.Sprintf("%v %+v", err, err)
			if strings.Contains(said, "CANARY") || strings.Contains(said, base64.StdEncoding.EncodeToString(stolen)) {
				t.Errorf("the key is in the message: %v", err)
			}
		})
	}
}

// TestKMSWrongSizes has wraps that hold another number of bytes than a key has.
func TestKMSWrongSizes(t *testing.T) {
	s := setUp(t)
	check(t, s.key.SetPolicy(s.policy(false)))
	for _, size := range []int{16, 31, 33, 64} {
		wrapper, err := keybroker.NewKMSWrapper(s.config(s.cloud.Account(ownerAccount).NewAccessKey()), s.key.ARN)
		check(t, err)
		short, err := secret.Random(size)
		check(t, err)
		wrap, err := wrapper.Wrap(t.Context(), short, model, version)
		check(t, err)
		short.Wipe()
		request := keybroker.Request{Wrap: wrap, Model: model, Version: version}
		for _, broker := range []*keybroker.KMS{s.attested(), s.broker(keybroker.WithoutEvidenceUnsafe())} {
			release, err := broker.Release(t.Context(), request)
			wantRefusal(t, release, err, fault.KeyUnusable, fmt.Sprintf("holds %d bytes", size))
		}
	}
}

// TestKMSPlainImpostor spoils replies to a broker that sends no evidence.
func TestKMSPlainImpostor(t *testing.T) {
	s := setUp(t)
	check(t, s.key.SetPolicy(s.policy(false)))
	_, request := s.wrap(s.key.ARN, model, version)
	for words, spoil := range map[string]func(kms.Reply){
		"although none was named": func(r kms.Reply) { r["CiphertextForRecipient"] = []byte("x") },
		"the reply has no key":    func(r kms.Reply) { delete(r, "Plaintext") },
		"of another key":          func(r kms.Reply) { r["KeyId"] = s.key.ARN + "0" },
	} {
		s.kms.OnReply(func(op string, reply kms.Reply) { spoil(reply) })
		release, err := s.broker(keybroker.WithoutEvidenceUnsafe()).Release(t.Context(), request)
		kind := fault.Refused
		if strings.Contains(words, "no key") {
			kind = fault.KeyUnusable
		}
		wantRefusal(t, release, err, kind, words)
	}
}

func TestKMSWrapRefused(t *testing.T) {
	s := setUp(t)
	mdk, err := secret.Random(keybroker.KeySize)
	check(t, err)
	defer mdk.Wipe()
	stranger, err := keybroker.NewKMSWrapper(s.config(s.loader), s.key.ARN)
	check(t, err)
	_, err = stranger.Wrap(t.Context(), mdk, model, version)
	wantRefusal(t, nil, err, fault.Refused, "kms:Encrypt", s.key.ARN)
	wantRefusal(t, nil, stranger.Preflight(t.Context(), model, version), fault.Refused, "kms:Encrypt")

	owner, err := keybroker.NewKMSWrapper(s.config(s.cloud.Account(ownerAccount).NewAccessKey()), s.key.ARN)
	check(t, err)
	check(t, owner.Preflight(t.Context(), model, version))
	s.kms.OnReply(func(op string, reply kms.Reply) { reply["KeyId"] = s.key.ARN + "0" })
	_, err = owner.Wrap(t.Context(), mdk, model, version)
	wantRefusal(t, nil, err, fault.Refused, "of another key")
	s.kms.OnReply(func(op string, reply kms.Reply) { reply["CiphertextBlob"] = "" })
	_, err = owner.Wrap(t.Context(), mdk, model, version)
	wantRefusal(t, nil, err, fault.KeyUnusable, "ciphertext of 0 bytes")

	_, err = keybroker.NewKMSWrapper(s.config(s.loader), "arn:aws:s3:::bucket")
	wantRefusal(t, nil, err, fault.Usage, "arn:aws:kms")
}

// TestKMSPreflightWithoutCiphertext asks before there is a model.
func TestKMSPreflightWithoutCiphertext(t *testing.T) {
	s := setUp(t)
	wrap := keybroker.Wrap{Type: keybroker.TypeKMS, Key: s.key.ARN}
	request := keybroker.Request{Wrap: wrap, Model: model, Version: version}
	check(t, s.attested().Preflight(t.Context(), request))
	s.tpm.Extend(4, []byte("x"))
	wantRefusal(t, nil, s.attested().Preflight(t.Context(), request), fault.Refused, "PCR4")
}

// TestKMSRegions has each call go to the region of its key, and to AWS's own endpoints unless one is given.
func TestKMSRegions(t *testing.T) {
	seen := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer server.Close()
	config := keybroker.KMSConfig{
		Credentials: credentials.NewStaticCredentialsProvider("AKIA", "secret", ""),
		Endpoint:    server.URL, Retryer: aws.NopRetryer{},
	}
	for arn, scope := range map[string]string{
		"arn:aws:kms:eu-west-1:111111111111:key/mrk-1234567890abcdef":   "/eu-west-1/kms/aws4_request",
		"arn:aws-cn:kms:cn-north-1:111111111111:alias/a/b":              "/cn-north-1/kms/aws4_request",
		"arn:aws-us-gov:kms:us-gov-west-1:111111111111:key/1234-abcdef": "/us-gov-west-1/kms/aws4_request",
	} {
		broker, err := keybroker.NewKMS(config, keybroker.WithoutEvidenceUnsafe())
		check(t, err)
		wrap := keybroker.Wrap{Type: keybroker.TypeKMS, Key: arn, Ciphertext: "AAAA"}
		_, err = broker.Release(t.Context(), keybroker.Request{Wrap: wrap})
		if err == nil || !strings.Contains(<-seen, scope) {
			t.Errorf("%s: %v", arn, err)
		}
	}
	const good = "arn:aws:kms:eu-west-1:111111111111:key/a"
	for _, arn := range []string{
		"", "alias/a", " " + good, good + "\n", good + " b", strings.TrimSuffix(good, "a"),
		strings.Replace(good, "111111111111", "1", 1), strings.Replace(good, "eu-west-1", "", 1),
		strings.Replace(good, "eu-west-1", "eu-west-1.evil.example", 1), strings.Replace(good, "key", "grant", 1),
	} {
		if _, err := keybroker.NewKMSWrapper(config, arn); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v", arn, err)
		}
	}
}
