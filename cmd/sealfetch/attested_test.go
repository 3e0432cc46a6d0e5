package main_test

import (
	"bytes"
	wire "encoding/binary"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

const moduleID = "i-0123456789abcdef0-tpm0000000000000000"

// attestedRows are the rows of the table in docs/attestation.md, in its order.
var attestedRows = []string{
	"anonymous access", "attester not decided", "unknown attester", "no TPM in the pod", "no TPM in software", "not a TPM",
	"not the name of a TPM", "no enclave", "no NitroTPM", "a resource manager in between", "no NV space",
	"an owner with a password", "another kernel", "another command line", "a document of yesterday",
	"a document of tomorrow", "a foreign root", "a replayed document",
	"no evidence where the key policy wants it, or not the role", "key disabled", "key about to be deleted",
	"version swapped", "model swapped", "wrap of another version", "ciphertext of another key", "wrong KeyId",
	"whole wrap of another model", "damaged", "untrusted key", "KMS answers: a key in the clear", "KMS answers: both",
	"KMS answers: neither", "KMS answers: another key's answer", "KMS answers: cut", "KMS answers: bottomless",
	"KMS answers: one bit",
}

func TestAttestationTable(t *testing.T) { attestationTable.hasOnly(t, attestedRows) }

// TestAttestedLoad is how it should be: one document, one key, released to this machine, and a TPM left as it was.
func TestAttestedLoad(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	r := v.loads()
	released := v.released(r)
	for field, want := range map[string]any{"assurance": "measured-boot", "attester": "nitrotpm", "module_id": moduleID,
		"wrap_type": "aws-kms", "key_id": v.key.ARN, "model": siteModel, "version": 7.0} {
		if released[field] != want {
			t.Errorf("audit: %s is %v, want %v", field, released[field], want)
		}
	}
	if id, _ := released["request_id"].(string); !strings.HasPrefix(id, "00000000-") {
		t.Errorf("audit: request id %q", id)
	}
	if all := records(r.stderr, "evidence.produced"); len(all) != 1 || all[0]["attester"] != "nitrotpm" {
		t.Errorf("audit: evidence.produced: %v", all)
	}
	asked := v.decrypts()
	want := kms.Record{Op: "Decrypt", Caller: sessionOf(loaderRole), KeyID: v.key.ARN, ModuleID: moduleID,
		EncryptionContext: map[string]string{"sealfetch:model": siteModel, "sealfetch:version": "7"}}
	if len(asked) != 1 || !reflect.DeepEqual(asked[0], want) {
		t.Errorf("KMS was asked %+v", asked)
	}
	if v.tpm.Sessions() == 0 {
		t.Error("no command was sent in an HMAC session")
	}
	v.leavesNothing()
}

// TestPlainRelease: without evidence, in so many words, and said so in the audit log.
func TestPlainRelease(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.grantAnyMachine()
	r := v.loads()
	released := v.released(r)
	if released["assurance"] != "none" || released["attester"] != "none" || released["module_id"] != "" {
		t.Errorf("audit: %v", released)
	}
	if commands := v.tpm.Commands(); len(commands) > 0 || len(records(r.stderr, "evidence.produced")) > 0 {
		t.Errorf("the TPM was sent %#x", commands)
	}
	if asked := v.decrypts(); len(asked) != 1 || asked[0].ModuleID != "" || len(asked[0].EncryptionContext) != 2 {
		t.Errorf("KMS was asked %+v", asked)
	}
}

// TestAttesterMustBeDecided: no decision is no release, and auto never means none.
func TestAttesterMustBeDecided(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.grantAnyMachine() // whoever asks without evidence gets the key
	for _, c := range []struct {
		what, attester, tpm string
		code                int
		cause, hint         string
	}{
		{"attester not decided", "", v.env["SEALFETCH_TPM"], 2, "it is not decided whether KMS is to be sent evidence",
			"--attester nitrotpm"},
		{"unknown attester", "sample", v.env["SEALFETCH_TPM"], 2, `--attester "sample" is unknown`, "nitrotpm and nsm"},
		{"no TPM in the pod", "auto", "/dev/tpm-absent", 13, "/dev/tpm-absent: no such file", "device plugin"},
		{"no TPM in software", "auto", "tcp:127.0.0.1:1", 13, "connection refused", "start the TPM"},
		{"not a TPM", "nitrotpm", "/dev/null", 13, "/dev/null", ""},
		{"not the name of a TPM", "nitrotpm", "tcp:nowhere", 2, "is no TPM", "tcp:HOST:PORT"},
		{"no enclave", "nsm", "", 13, "/dev/nsm", "Nitro Enclave"},
	} {
		v.env["SEALFETCH_ATTESTER"], v.env["SEALFETCH_TPM"] = c.attester, c.tpm
		r := v.refuses(c.code, c.cause)
		if _, hint := r.last(); !strings.Contains(hint, c.hint) {
			t.Errorf("%s: hint %q lacks %q", c.what, hint, c.hint)
		}
		attestationTable.holds(t, c.what, r)
		v.notReleased(r)
	}
	if asked := v.decrypts(); len(asked) > 0 {
		t.Errorf("KMS was asked %+v", asked)
	}
}

// TestAutomaticAttester finds the TPM and demands what --attester nitrotpm does.
func TestAutomaticAttester(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.env["SEALFETCH_ATTESTER"] = "auto"
	if released := v.released(v.loads()); released["attester"] != "nitrotpm" || released["assurance"] != "measured-boot" {
		t.Errorf("audit: %v", released)
	}
	v.leavesNothing()
}

// TestWrongMachine has everything right but the machine.
func TestWrongMachine(t *testing.T) {
	t.Parallel()
	foreign, err := nitrotpm.NewAuthority(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		machine     nitrotpm.Options
		change      func(*vault)
		code        int
		cause, hint string
		asked       int // requests to KMS
	}{
		{name: "another kernel", change: func(v *vault) { v.tpm.Extend(4, []byte("x")) }, code: 14, asked: 1,
			cause: "its conditions on the evidence are not met; the document of i-.* shows PCR4 ", hint: "NitroTPMPCR"},
		{name: "another command line", change: func(v *vault) { v.tpm.Extend(12, []byte("x")) }, code: 14, asked: 1,
			cause: "shows PCR4 .*PCR12 ", hint: "NitroTPMPCR"},
		{name: "a document of yesterday", machine: nitrotpm.Options{Now: ago(10 * time.Minute)}, code: 14, asked: 1,
			cause: "KMS does not accept the attestation document.*more than 5m0s", hint: "check the clocks"},
		{name: "a document of tomorrow", machine: nitrotpm.Options{Now: ago(-10 * time.Minute)}, code: 14, asked: 1,
			cause: "KMS does not accept the attestation document.*ahead", hint: "check the clocks"},
		{name: "a foreign root", machine: nitrotpm.Options{Authority: foreign}, code: 14, asked: 1,
			cause: "KMS does not accept the attestation document.*not trusted", hint: "no TPM in software"},
		{name: "a replayed document", machine: nitrotpm.Options{NoSessions: true}, change: replayDocuments, code: 13,
			cause: "does not carry the key that was made for this call", hint: "in the place of the machine's own TPM"},
		{name: "no NitroTPM", machine: nitrotpm.Options{NoVendorCommand: true}, code: 13,
			cause: `does not know the Nitro attestation request \(0x20000001\)`, hint: "no NitroTPM"},
		{name: "a resource manager in between", machine: nitrotpm.Options{Manager: true}, code: 13,
			cause: "resource manager does not pass on", hint: "/dev/tpm0"},
		{name: "no NV space", machine: nitrotpm.Options{NVSpace: 4096}, code: 13,
			cause: "no NV space left", hint: "tpm2_nvundefine"},
		{name: "an owner with a password", machine: nitrotpm.Options{OwnerAuth: []byte("x")}, code: 13,
			cause: "defining NV index", hint: "tpm2_changeauth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, c.machine)
			if c.change != nil {
				c.change(v)
			}
			before := len(v.decrypts())
			r := v.refuses(c.code, c.cause)
			if _, hint := r.last(); !strings.Contains(hint, c.hint) {
				t.Errorf("hint %q lacks %q", hint, c.hint)
			}
			attestationTable.holds(t, c.name, r)
			v.notReleased(r)
			if n := len(v.decrypts()) - before; n != c.asked {
				t.Errorf("KMS was asked %d times, want %d", n, c.asked)
			}
			v.leavesNothing()
		})
	}
}

func ago(d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(-d) }
}

// replayDocuments records a good run's document, and has the TPM answer it again to the next.
func replayDocuments(v *vault) {
	v.t.Helper()
	var mu sync.Mutex
	var recorded [][]byte
	replaying := false
	v.inTheMiddle(func(command tpm2.TPMCC, response []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case command != tpm2.TPMCCNVRead:
		case !replaying:
			recorded = append(recorded, bytes.Clone(response))
		case len(recorded) > 0:
			response, recorded = recorded[0], recorded[1:]
		}
		return response
	})
	v.loads()
	mu.Lock()
	defer mu.Unlock()
	replaying = true
}

// TestTPMWithoutSessions: the plain form serves where the TPM refuses the session.
func TestTPMWithoutSessions(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{NoSessions: true})
	v.loads()
	v.leavesNothing()
}

// TestLyingTPM: what answers in the TPM's place can refuse evidence, and nothing more.
func TestLyingTPM(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{NoSessions: true})
	for name, spoil := range map[string]func([]byte) []byte{
		"cut":       func(r []byte) []byte { return resized(r[:len(r)/2]) },
		"long":      func(r []byte) []byte { return resized(append(bytes.Clone(r), 0)) },
		"huge":      func(r []byte) []byte { return append([]byte{0x80, 2, 0xff, 0xff, 0xff, 0xff}, r[6:]...) },
		"empty":     func(r []byte) []byte { return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0} },
		"one bit":   func(r []byte) []byte { return flipped(r, len(r)/2) },
		"no answer": func(r []byte) []byte { return flipped(r, 16) }, // the first byte of the CBOR
	} {
		v.inTheMiddle(func(command tpm2.TPMCC, response []byte) []byte {
			if command != tpm2.TPMCCNVRead {
				return response
			}
			return spoil(response)
		})
		r := v.load()
		if r.code != 13 && r.code != 14 {
			t.Errorf("%s: exit code %d\n%s", name, r.code, r.stderr)
		}
		v.notReleased(r)
		wantNothing(t, v.dest())
	}
}

// resized corrects the size in the header of a response.
func resized(response []byte) []byte {
	response = bytes.Clone(response)
	wire.BigEndian.PutUint32(response[2:], uint32(len(response)))
	return response
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// TestWrongWrap: the encryption context and KeyId keep a wrap from being passed off as another's.
func TestWrongWrap(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.grantAnyMachine()
	r := v.request()
	r.ModelName = "" // the key policy does not tell models apart: KMS itself has to
	second := v.newKey(scriptRegion)
	v.allow(r, v.key, second)
	v.publish("acme/v8", "8", v.key.ARN)
	v.publish("acme/second", "7", second.ARN)
	good := v.get("acme/m/envelope.json")
	var other, elsewhere map[string]any
	v.envelope("acme/v8", func(e map[string]any) { other = kmsWrap(e) })
	v.envelope("acme/second", func(e map[string]any) { elsewhere = kmsWrap(e) })
	for _, c := range []struct {
		name   string
		change func(map[string]any)
		code   int
		cause  string
	}{
		{"version swapped", func(e map[string]any) { e["version"] = 8 }, 15, "not made for this model and version"},
		{"model swapped", func(e map[string]any) { e["model"] = "acme/other" }, 15, "not made for this model and version"},
		{"wrap of another version", func(e map[string]any) { kmsWrap(e)["ciphertext"] = other["ciphertext"] }, 15,
			"not made for this model and version"},
		{"ciphertext of another key", func(e map[string]any) { kmsWrap(e)["ciphertext"] = elsewhere["ciphertext"] }, 15,
			"made with another key"},
		{"wrong KeyId", func(e map[string]any) { kmsWrap(e)["key"] = second.ARN }, 15, "made with another key"},
		{"whole wrap of another model", func(e map[string]any) { e["wraps"].([]any)[1] = elsewhere }, 15,
			"the released key has id"},
		{"damaged", func(e map[string]any) { kmsWrap(e)["ciphertext"] = "AAAA" }, 15, "or is damaged"},
		{"untrusted key", func(e map[string]any) { kmsWrap(e)["key"] = v.newKey(scriptRegion).ARN }, 12, "is trusted"},
	} {
		v.bucket.Put("acme/m/envelope.json", good)
		v.envelope("acme/m", c.change)
		r := v.refuses(c.code, c.cause)
		attestationTable.holds(t, c.name, r)
		v.notReleased(r)
		if t.Failed() {
			t.Fatal(c.name)
		}
	}
	v.bucket.Put("acme/m/envelope.json", good)
	v.loads()
}

// TestKeyStates: a key that cannot be used is told from one that may not be.
func TestKeyStates(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.grantAnyMachine()
	v.kms.Throttle(1)
	v.loads()
	for _, c := range []struct {
		what  string
		state kms.State
		cause string
	}{
		{"key disabled", kms.Disabled, "the key is disabled"},
		{"key about to be deleted", kms.PendingDeletion, "cannot be used in its state"},
	} {
		v.key.SetState(c.state)
		r := v.refuses(14, c.cause)
		attestationTable.holds(t, c.what, r)
		v.notReleased(r)
	}
	v.key.SetState(kms.Enabled)
	if err := v.key.SetPolicy(statements(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + ownerAccount +
		`:root"},"Action":"kms:*","Resource":"*"}`)); err != nil {
		t.Fatal(err)
	}
	r := v.refuses(14, "the key policy does not let this identity in")
	attestationTable.holds(t, "no evidence where the key policy wants it, or not the role", r)
	v.notReleased(r)
}

// TestImpostor has something in the place of KMS.
func TestImpostor(t *testing.T) {
	t.Parallel()
	stolen := []byte("CANARYCANARYCANARYCANARYCANARY32")
	inCMS := func(change func([]byte) []byte) func(kms.Reply) {
		return func(r kms.Reply) {
			r["CiphertextForRecipient"] = change(r["CiphertextForRecipient"].([]byte))
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(kms.Reply)
		code  int
		cause string
	}{
		{"a key in the clear", func(r kms.Reply) { delete(r, "CiphertextForRecipient"); r["Plaintext"] = stolen }, 14,
			"in the clear instead of encrypted"},
		{"both", func(r kms.Reply) { r["Plaintext"] = stolen }, 14, "in the clear instead of encrypted"},
		{"neither", func(r kms.Reply) { delete(r, "CiphertextForRecipient") }, 14, "no key encrypted to this machine"},
		{"another key's answer", func(r kms.Reply) { r["KeyId"] = r["KeyId"].(string) + "0" }, 14,
			"the reply is of another key"},
		{"cut", inCMS(func(b []byte) []byte { return b[:len(b)/2] }), 15, "kms on arn:"},
		{"bottomless", inCMS(func([]byte) []byte { return bytes.Repeat([]byte{0x30, 0x80}, 5000) }), 15, "kms on arn:"},
		{"one bit", inCMS(func(b []byte) []byte { return flipped(b, len(b)-8) }), 15, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, nitrotpm.Options{})
			v.secrets = append(v.secrets, string(stolen), "Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZMzI")
			v.kms.OnReply(func(op string, r kms.Reply) {
				if op == "Decrypt" {
					c.spoil(r)
				}
			})
			r := v.refuses(c.code, c.cause)
			attestationTable.holds(t, "KMS answers: "+c.name, r)
			v.notReleased(r)
			v.leavesNothing()
		})
	}
}

// TestSignalDuringCollection stops a run while the TPM works on its request: the TPM is cleaned up all the same.
func TestSignalDuringCollection(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.tpm.HangOn(nitrotpm.CommandNSM)
	p := v.start("init", siteURI, v.dest())
	await(t, "request to the TPM", func() bool { return slices.Contains(v.tpm.Commands(), nitrotpm.CommandNSM) })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	v.tpm.HangOn(0)
	time.AfterFunc(200*time.Millisecond, v.tpm.Release) // it comes back within the time that the command is given
	r := p.wait()
	v.refused(r, 143, "stopped by signal: terminated")
	v.notReleased(r)
	v.leavesNothing()
}

// TestIndexOfAKilledRun: what a killed run leaves in the TPM is in nobody's way, and goes once it is nobody's for sure.
func TestIndexOfAKilledRun(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.tpm.HangOn(nitrotpm.CommandNSM)
	p := v.start("evidence", "--attester", "nitrotpm")
	await(t, "request to the TPM", func() bool { return slices.Contains(v.tpm.Commands(), nitrotpm.CommandNSM) })
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	v.tpm.HangOn(0)
	v.tpm.Release()
	left := v.tpm.Indices()
	if len(left) != 1 {
		t.Fatalf("indices %#x", left)
	}
	v.loads()
	if now := v.tpm.Indices(); !slices.Equal(now, left) {
		t.Errorf("indices %#x: the killed run could be another pod's", now)
	}
	v.age(left[0], time.Hour)
	v.loads()
	if now := v.tpm.Indices(); len(now) > 0 {
		t.Errorf("indices %#x", now)
	}
}

// age replaces an index by one that was made some time ago.
func (v *vault) age(handle uint32, by time.Duration) {
	v.t.Helper()
	tpm := direct{v.tpm}
	public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(handle)}.Execute(tpm)
	if err != nil {
		v.t.Fatal(err)
	}
	contents, err := public.NVPublic.Contents()
	if err != nil {
		v.t.Fatal(err)
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	index := tpm2.NamedHandle{Handle: tpm2.TPMHandle(handle), Name: public.NVName}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: index}).Execute(tpm); err != nil {
		v.t.Fatal(err)
	}
	old := *contents
	old.Attributes.Written = false
	mark := old.AuthPolicy.Buffer
	at := bytes.IndexByte(mark, 0) + 1 // the mark is a name, a zero byte, and the time in Unix seconds
	wire.BigEndian.PutUint64(mark[at:], uint64(time.Now().Add(-by).Unix()))
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(old)}).Execute(tpm); err != nil {
		v.t.Fatal(err)
	}
}

// direct is the TPM without its socket.
type direct struct{ tpm *nitrotpm.TPM }

// Send implements transport.TPM.
func (d direct) Send(command []byte) ([]byte, error) { return d.tpm.Execute(command), nil }

// TestSeveralKeys: the first key that answers is enough, and when none does the causes of all are told.
func TestSeveralKeys(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	second := v.newKey("us-west-2")
	v.publish("acme/m", "7", v.key.ARN, second.ARN)
	v.grantAnyMachine()
	v.allow(v.request(), v.key, second)
	v.key.SetState(kms.Disabled)
	if released := v.released(v.loads()); released["key_id"] != second.ARN {
		t.Errorf("audit: %v", released)
	}
	second.SetState(kms.PendingDeletion)
	r := v.refuses(14, "the key is disabled")
	r.want(t, 14, `"WARN".*another wrap failed, too.*cannot be used in its state`)
	v.notReleased(r)

	v.env["SEALFETCH_TRUST_KEY"] = second.ARN // only the keys that are listed are asked
	before := len(v.decrypts())
	v.refuses(14, "cannot be used in its state")
	if asked := v.decrypts()[before:]; len(asked) != 1 || asked[0].KeyID != second.ARN {
		t.Errorf("KMS was asked %+v", asked)
	}
	v.env["SEALFETCH_TRUST_KEY"] = "arn:aws:kms:*:" + ownerAccount + ":key/*"
	v.key.SetState(kms.Enabled)
	v.loads()
	v.env["SEALFETCH_TRUST_KEY"] = "arn:aws:kms:*:" + loaderAccount + ":key/*"
	v.refuses(12, "none of the model's keys is trusted")
}

// TestAlias: a model can be sealed under an alias, which goes on to name the key.
func TestAlias(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	alias := v.key.Alias("models")
	v.publish("acme/m", "7", alias)
	v.grantAnyMachine()
	v.env["SEALFETCH_TRUST_KEY"] = alias
	if released := v.released(v.loads()); released["key_id"] != v.key.ARN {
		t.Errorf("audit: %v, want the key behind the alias", released)
	}
	if asked := v.decrypts(); asked[len(asked)-1].KeyID != alias {
		t.Errorf("KMS was asked for %s", asked[len(asked)-1].KeyID)
	}
	other := v.newKey(scriptRegion)
	v.allow(v.request(), v.key, other)
	v.env["SEALFETCH_TRUST_KEY"] = alias
	other.Alias("models")
	v.notReleased(v.refuses(15, "made with another key"))
}

// TestKeyOfAnotherRegion: the bucket's region is not the key's.
func TestKeyOfAnotherRegion(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	key := v.newKey("us-west-2")
	v.publish("acme/m", "7", key.ARN)
	v.grant(key)
	if released := v.released(v.loads()); released["key_id"] != key.ARN {
		t.Errorf("audit: %v", released)
	}
}

// TestRewrap moves a model from a local key to KMS, to another key of KMS and back, in sessions that may do no more.
func TestRewrap(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	second := v.newKey("us-west-2")
	v.role(loaderRole, v.trustOfPod(), anything)
	everything := `{"Effect":"Allow","Principal":{"AWS":"` + loaderRole + `"},"Action":`
	if err := v.bucket.SetPolicy(statements(everything + `"s3:*","Resource":"arn:aws:s3:::models/*"}`)); err != nil {
		t.Fatal(err)
	}
	for _, key := range []*kms.Key{v.key, second} {
		if err := key.SetPolicy(statements(everything + `"kms:*","Resource":"*"}`)); err != nil {
			t.Fatal(err)
		}
	}
	data := v.dataObjects()
	for _, c := range []struct {
		attester, trust, wrap, name string
	}{
		{"none", "jwk:kek.jwk", "aws-kms:" + v.key.ARN, v.key.ARN},
		{"nitrotpm", v.key.ARN, "aws-kms:" + second.ARN, second.ARN},
		{"none", second.ARN, "jwk:kek.jwk", "jwe:kek-"},
	} {
		v.env["SEALFETCH_ATTESTER"], v.env["SEALFETCH_TRUST_KEY"] = c.attester, c.trust
		r := v.run("rewrap", "--wrap", c.wrap, siteURI)
		r.want(t, 0)
		if !strings.HasPrefix(r.stdout, "key: "+c.name) || strings.Count(r.stdout, "key: ") != 1 {
			t.Errorf("from %s to %s: %s", c.trust, c.wrap, r.stdout)
		}
		v.keepSecrets(r)
		v.leavesNothing()
	}
	v.loads("--trust-key", "jwk:kek.jwk")
	if now := v.dataObjects(); now != data {
		t.Error("data was touched")
	}
	sent := v.policyReceived(loaderRole)
	if !strings.Contains(sent, `"kms:Encrypt"`) || strings.Contains(sent, `"kms:*"`) {
		t.Errorf("the session policy: %s", sent)
	}
}

// trustOfPod is the trust policy that the generator prints.
func (v *vault) trustOfPod() string {
	v.t.Helper()
	r := v.request()
	r.ExternalID = ""
	plan, err := policy.Direct(r)
	if err != nil {
		v.t.Fatal(err)
	}
	return plan.Parts[0].Compact()
}

// dataObjects are the versions of all that is not the envelope.
func (v *vault) dataObjects() string {
	all := map[string]string{}
	for _, key := range v.bucket.Keys() {
		if !strings.HasSuffix(key, "/envelope.json") {
			all[key] = string(v.get(key))
		}
	}
	text, _ := json.Marshal(all)
	return string(text)
}

// TestKMSForOtherStores: a key of KMS opens a model that is not in S3, in a session of the same role.
func TestKMSForOtherStores(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	for _, key := range v.bucket.Keys() {
		if name, ok := strings.CutPrefix(key, "acme/m/"); ok {
			v.write("published/"+name, v.get(key))
		}
	}
	dest := v.dest()
	r := v.run("init", "sealed+file://"+v.dir+"/published", dest)
	r.want(t, 0)
	wantFiles(t, dest, v.model.files)
	if released := v.released(r); released["assurance"] != "measured-boot" {
		t.Errorf("audit: %v", released)
	}
	if sent := v.policyReceived(loaderRole); !strings.Contains(sent, "kms:Decrypt") || strings.Contains(sent, "s3:") {
		t.Errorf("the session policy: %s", sent)
	}
	r = v.run("doctor", "--destination", v.shm, "sealed+file://"+v.dir+"/published")
	r.want(t, 0)
	doctorLine(t, r.stdout, "ok", "identity, step 1")
	doctorLine(t, r.stdout, "ok", "key")
	v.leavesNothing()
}

// TestKMSIsNotAnonymous: a public bucket does not make a public key.
func TestKMSIsNotAnonymous(t *testing.T) {
	t.Parallel()
	v := newVault(t, nitrotpm.Options{})
	v.env["SEALFETCH_ATTESTER"] = "none"
	anonymous(t, v.site)
	attestationTable.holds(t, "anonymous access", v.refuses(2, "KMS takes no anonymous requests"))
}
