package main_test

import (
	wire "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

// machineRoot signs the documents of all simulated machines of these tests.
var machineRoot = sync.OnceValues(func() (*nitrotpm.Authority, error) { return nitrotpm.NewAuthority(time.Now) })

// vault is a site whose model is sealed under a KMS key of the owner, and a pod on a machine with a NitroTPM. The key's
// policy names PCRs 4 and 12 as they are when the machine boots.
type vault struct {
	*site
	kms *kms.KMS
	key *kms.Key
	tpm *nitrotpm.TPM
}

func newVault(t testing.TB, options nitrotpm.Options) *vault {
	t.Helper()
	root, err := machineRoot()
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{site: newSite(t, testcloud.Options{})}
	if v.kms, err = kms.New(v.cloud, kms.Options{Roots: [][32]byte{root.RootSHA256()}}); err != nil {
		t.Fatal(err)
	}
	v.env["AWS_ENDPOINT_URL_KMS"] = v.kms.URL()
	v.key = v.newKey(scriptRegion)
	v.env["SEALFETCH_ATTESTER"] = "nitrotpm"
	if options.Authority == nil {
		options.Authority = root
	}
	v.boot(options)
	v.publish("acme/m", "7", v.key.ARN)
	v.grant(v.key)
	return v
}

// newKey makes a key that only its owner's administrators may use yet.
func (v *vault) newKey(region string) *kms.Key {
	v.t.Helper()
	open := statements(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + ownerAccount +
		`:root"},"Action":"kms:*","Resource":"*"}`)
	key, err := v.kms.CreateKey(v.owner, region, open)
	if err != nil {
		v.t.Fatal(err)
	}
	return key
}

// boot puts the pod on a machine.
func (v *vault) boot(options nitrotpm.Options) {
	v.t.Helper()
	var err error
	if v.tpm, err = nitrotpm.New(options); err != nil {
		v.t.Fatal(err)
	}
	server, err := v.tpm.Serve("unix", v.socket())
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(server.Close)
	v.env["SEALFETCH_TPM"] = server.Device()
}

// socket is a path for a socket, which must be short.
func (v *vault) socket() string {
	v.t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "tpm.sock")
}

// asOwner is the sandbox of the model's owner.
func (v *vault) asOwner() *sandbox {
	keys, s := v.owner.NewAccessKey(), *v.sandbox
	s.env = maps.Clone(v.env)
	(&site{sandbox: &s}).withoutWebIdentity()
	delete(s.env, "SEALFETCH_ROLE_ARN")
	delete(s.env, "SEALFETCH_EXTERNAL_ID")
	s.env["AWS_ACCESS_KEY_ID"], s.env["AWS_SECRET_ACCESS_KEY"] = keys.AccessKeyID, keys.SecretAccessKey
	return &s
}

// publish seals the files in the place of what is at a prefix: under a local key, which shows these tests the secret
// that no output may have, and under KMS keys.
func (v *vault) publish(prefix, version string, keys ...string) {
	v.t.Helper()
	for name, content := range v.model.files {
		v.write("model/"+name, []byte(content))
	}
	for _, key := range v.bucket.Keys() {
		if strings.HasPrefix(key, prefix+"/") {
			v.bucket.Delete(key)
		}
	}
	args := []string{"seal", "--model", siteModel, "--version", version, "--wrap", "jwk:kek.jwk"}
	for _, key := range keys {
		args = append(args, "--wrap", "aws-kms:"+key)
	}
	v.asOwner().run(append(args, "model", "s3://models/"+prefix)...).want(v.t, 0)
	if version != "7" { // which is the fixture's, and what unwrap asks for
		return
	}
	sealed := &fixture{kek: v.model.kek, objects: map[string][]byte{"envelope.json": v.get(prefix + "/envelope.json")}}
	mdk, err := sealed.unwrap()
	if err != nil {
		v.t.Fatal(err)
	}
	v.secrets = append(v.secrets, mdk)
}

func (v *vault) get(key string) []byte {
	v.t.Helper()
	data, ok := v.bucket.Get(key)
	if !ok {
		v.t.Fatalf("no object %s", key)
	}
	return data
}

// grant lets the pod's machine, as it is now, use keys, by a direct grant.
func (v *vault) grant(keys ...*kms.Key) {
	v.t.Helper()
	r := v.request()
	r.PCRs = map[int]string{4: fmt.Sprintf("%x", v.tpm.PCR(4)), 12: fmt.Sprintf("%x", v.tpm.PCR(12))}
	v.allow(r, keys...)
}

// grantAnyMachine lets whoever has the pod's role use a key.
func (v *vault) grantAnyMachine() {
	v.t.Helper()
	v.allow(v.request(), v.key)
	v.env["SEALFETCH_ATTESTER"] = "none"
}

func (v *vault) allow(r policy.Request, keys ...*kms.Key) {
	v.t.Helper()
	r.ExternalID, v.env["SEALFETCH_TRUST_KEY"] = "", ""
	for _, key := range keys {
		r.Model.Keys = append(r.Model.Keys, key.ARN)
	}
	v.env["SEALFETCH_TRUST_KEY"] = strings.Join(r.Model.Keys, ",")
	plan, err := policy.Direct(r)
	v.plan(plan, err)
	for _, key := range keys {
		if err := key.SetPolicy(plan.Parts[3].Compact()); err != nil {
			v.t.Fatal(err)
		}
	}
}

// leavesNothing demands that the TPM is as it was.
func (v *vault) leavesNothing() {
	v.t.Helper()
	if indices := v.tpm.Indices(); len(indices) > 0 {
		v.t.Errorf("NV indices %#x are left", indices)
	}
	if loaded := v.tpm.Loaded(); loaded > 0 {
		v.t.Errorf("%d objects and sessions are left in the TPM", loaded)
	}
}

// released returns the one key.released record of a run.
func (v *vault) released(r result) map[string]any {
	v.t.Helper()
	all := records(r.stderr, "key.released")
	if len(all) != 1 {
		v.t.Fatalf("%d audit records key.released, want one\n%s", len(all), r.stderr)
	}
	return all[0]
}

// notReleased demands that no key was had.
func (v *vault) notReleased(r result) {
	v.t.Helper()
	if all := records(r.stderr, "key.released"); len(all) > 0 {
		v.t.Errorf("audit: %v", all)
	}
}

// decrypts are the requests for keys that KMS got from the pod.
func (v *vault) decrypts() (all []kms.Record) {
	for _, record := range v.kms.Records() {
		if record.Op == "Decrypt" {
			all = append(all, record)
		}
	}
	return all
}

// envelope changes the published envelope.
func (v *vault) envelope(prefix string, change func(map[string]any)) {
	v.t.Helper()
	var envelope map[string]any
	if err := json.Unmarshal(v.get(prefix+"/envelope.json"), &envelope); err != nil {
		v.t.Fatal(err)
	}
	change(envelope)
	data, err := json.Marshal(envelope)
	if err != nil {
		v.t.Fatal(err)
	}
	v.bucket.Put(prefix+"/envelope.json", data)
}

// kmsWrap is the wrap of KMS in an envelope of publish.
func kmsWrap(envelope map[string]any) map[string]any {
	return envelope["wraps"].([]any)[1].(map[string]any)
}

// inTheMiddle is something between pod and TPM. It hands on every command and may change each response.
func (v *vault) inTheMiddle(spoil func(command tpm2.TPMCC, response []byte) []byte) {
	v.t.Helper()
	path := v.socket()
	listener, err := net.Listen("unix", path)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go relay(conn, v.tpm, spoil)
		}
	}()
	v.env["SEALFETCH_TPM"] = "unix:" + path
}

func relay(conn net.Conn, tpm *nitrotpm.TPM, spoil func(tpm2.TPMCC, []byte) []byte) {
	defer conn.Close()
	for {
		header := make([]byte, 10)
		if _, err := io.ReadFull(conn, header); err != nil {
			return
		}
		command := append(header, make([]byte, wire.BigEndian.Uint32(header[2:])-10)...)
		if _, err := io.ReadFull(conn, command[10:]); err != nil {
			return
		}
		response := spoil(tpm2.TPMCC(wire.BigEndian.Uint32(command[6:])), tpm.Execute(command))
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}
