//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// published is a model on a server, with the keys to it.
type published struct {
	server        s3Server
	source        string // the plaintext
	uri           string
	keys          string // directory
	kek, signer   string
	weights, size int64
}

// publish makes a model of about this size, seals it to the server, and wants every step to work.
func publish(t *testing.T, server s3Server, prefix string, weights int64) *published {
	t.Helper()
	p := &published{server: server, source: t.TempDir(), keys: t.TempDir(), weights: weights}
	makeModel(t, p.source, weights)
	p.uri = "sealed+s3://" + bucket + "/" + prefix
	p.kek, p.signer = filepath.Join(p.keys, "kek.jwk"), filepath.Join(p.keys, "signer.jwk")
	must(t, nil, "keygen", "--out", p.kek)
	must(t, nil, "keygen", "--type", "signing", "--out", p.signer)
	sealed := must(t, server.env(), p.sealArgs()...)
	_, p.size = digests(t, p.source)
	t.Logf("sealfetch seal, from disk to S3, signed: %s", sealed.figures(p.size))
	return p
}

func (p *published) sealArgs() []string {
	return []string{"seal", "--model", "acme/e2e", "--version", "3", "--wrap", "jwk:" + p.kek, "--sign", p.signer,
		p.source, strings.TrimPrefix(p.uri, "sealed+")}
}

// TestS3 takes a model through a real S3 server and back, and sees what must be refused refused.
func TestS3(t *testing.T) {
	server := startS3(t)
	p := publish(t, server, "acme/e2e/v3", sizeOf(t, "SEALFETCH_E2E_SIZE", "256Mi"))
	t.Run("init", p.testInit)
	t.Run("init with a signature", p.testSigned)
	t.Run("verify", p.testVerify)
	t.Run("inspect without a key", p.testInspect)
	t.Run("a selection", p.testSelection)
	t.Run("nothing is overwritten", p.testOverwrite)
	t.Run("keys that do not open it", p.testKeys)
	t.Run("pins", p.testPins)
	t.Run("credentials", p.testCredentials)
	t.Run("a store that changes one bit", p.testFlipped)
	t.Run("a store that swaps objects", p.testSwapped)
	t.Run("a store that cuts an object", p.testCut)
}

func (p *published) testInit(t *testing.T) {
	dir := memoryDir(t)
	o := must(t, p.server.env("SEALFETCH_TRUST_KEY=jwk:"+p.kek), "init", p.uri, dir)
	t.Logf("sealfetch init, from S3 to tmpfs: %s", o.figures(p.size))
	wantSame(t, dir, p.source)
}

func (p *published) testSigned(t *testing.T) {
	dir := memoryDir(t)
	o := must(t, p.server.env(), "init", "--trust-key", "jwk:"+p.kek, "--trust-signer", p.signer+".pub", p.uri, dir)
	t.Logf("sealfetch init --trust-signer, from S3 to tmpfs: %s", o.figures(p.size))
	wantSame(t, dir, p.source)

	other := filepath.Join(t.TempDir(), "other.jwk")
	must(t, nil, "keygen", "--type", "signing", "--out", other)
	empty := memoryDir(t)
	refused(t, p.server.env(), 12, "no signature is by a trusted key",
		"init", "--trust-key", "jwk:"+p.kek, "--trust-signer", other+".pub", p.uri, empty)
	wantNothing(t, empty)
}

func (p *published) testVerify(t *testing.T) {
	o := must(t, p.server.env(), "verify", "--trust-key", "jwk:"+p.kek, p.uri)
	t.Logf("sealfetch verify, from S3 to nowhere: %s", o.figures(p.size))
	if !strings.HasPrefix(o.stdout, "authentic: acme/e2e version 3, ") {
		t.Errorf("verify said %q", o.stdout)
	}
}

func (p *published) testInspect(t *testing.T) {
	o := must(t, p.server.env(), "inspect", "--json", p.uri)
	var found struct {
		Envelope struct {
			Model     string
			Version   int
			ModelSize int64 `json:"model_size"`
		}
		Manifest any
	}
	if err := json.Unmarshal([]byte(o.stdout), &found); err != nil {
		t.Fatal(err)
	}
	if found.Envelope.Model != "acme/e2e" || found.Envelope.Version != 3 || found.Envelope.ModelSize != p.size || found.Manifest != nil {
		t.Errorf("inspect without a key said %s", o.stdout)
	}
}

func (p *published) testSelection(t *testing.T) {
	dir := memoryDir(t)
	must(t, p.server.env(), "init", "--trust-key", "jwk:"+p.kek, p.uri+"?include=*.json", dir)
	got, _ := digests(t, dir)
	want, _ := digests(t, p.source)
	for name, sum := range want {
		if s, there := got[name]; there != strings.HasSuffix(name, ".json") || there && s != sum {
			t.Errorf("%s: there %v", name, there)
		}
	}
}

func (p *published) testOverwrite(t *testing.T) {
	envelope := p.server.object("acme/e2e/v3/envelope.json")
	before, err := os.ReadFile(envelope)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, p.server.env(), 2, "already published", p.sealArgs()...)
	if after, _ := os.ReadFile(envelope); !bytes.Equal(before, after) {
		t.Error("the envelope changed")
	}
	dir := memoryDir(t)
	must(t, p.server.env(), "init", "--trust-key", "jwk:"+p.kek, p.uri, dir)
	wantSame(t, dir, p.source)
}

func (p *published) testKeys(t *testing.T) {
	dir := memoryDir(t)
	refused(t, p.server.env(), 2, "no key is trusted", "init", p.uri, dir)

	other := filepath.Join(t.TempDir(), "other.jwk")
	must(t, nil, "keygen", "--out", other)
	refused(t, p.server.env(), 12, "none of the model's keys is trusted", "init", "--trust-key", "jwk:"+other, p.uri, dir)

	// The right name on the wrong key.
	right, wrong := readJWK(t, p.kek), readJWK(t, other)
	wrong["kid"] = right["kid"]
	impostor := filepath.Join(t.TempDir(), "impostor.jwk")
	data, _ := json.Marshal(wrong)
	if err := os.WriteFile(impostor, data, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, p.server.env(), 15, "is not opened by this key", "init", "--trust-key", "jwk:"+impostor, p.uri, dir)
	wantNothing(t, dir)
}

func readJWK(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var jwk map[string]string
	if err := json.Unmarshal(data, &jwk); err != nil {
		t.Fatal(err)
	}
	return jwk
}

func (p *published) testPins(t *testing.T) {
	dir := memoryDir(t)
	trust := []string{"init", "--trust-key", "jwk:" + p.kek}
	refused(t, p.server.env("SEALFETCH_MIN_VERSION=4"), 12, "version 4 or later is demanded", append(trust, p.uri, dir)...)
	refused(t, p.server.env(), 12, "version 2 is demanded", append(trust, p.uri+"?version=2", dir)...)
	refused(t, p.server.env("SEALFETCH_VERSION=3"), 2, "can only tighten", append(trust, p.uri+"?version=4", dir)...)
	refused(t, p.server.env(), 12, "not among the trusted ones", append(trust, "--trust-model", "acme/other", p.uri, dir)...)
	wantNothing(t, dir)
}

func (p *published) testCredentials(t *testing.T) {
	dir := memoryDir(t)
	trust := []string{"init", "--trust-key", "jwk:" + p.kek}
	env := p.server.env()
	env[1] = "AWS_SECRET_ACCESS_KEY=not-the-secret"
	refused(t, env, 10, "SignatureDoesNotMatch", append(trust, p.uri, dir)...)
	refused(t, p.server.env("SEALFETCH_ANONYMOUS=true"), 11, "AccessDenied", append(trust, p.uri, dir)...)
	refused(t, p.server.env(), 11, "NoSuchKey", append(trust, p.uri+"-not-there", dir)...)
	wantNothing(t, dir)
}

// dataObjects returns the files that hold the data objects, by name.
func (p *published) dataObjects(t *testing.T) []string {
	t.Helper()
	objects, err := filepath.Glob(p.server.object("acme/e2e/v3/data/*"))
	if err != nil || len(objects) < 3 {
		t.Fatalf("%d data objects: %v", len(objects), err)
	}
	return objects
}

// tampered loads the model and wants exit code 16, words, and nothing at the destination.
func (p *published) tampered(t *testing.T, words string) {
	t.Helper()
	dir := memoryDir(t)
	refused(t, p.server.env(), 16, words, "init", "--trust-key", "jwk:"+p.kek, p.uri, dir)
	wantNothing(t, dir)
	refused(t, p.server.env(), 16, words, "verify", "--trust-key", "jwk:"+p.kek, p.uri)
}

func (p *published) testFlipped(t *testing.T) {
	object := p.dataObjects(t)[1]
	f, err := os.OpenFile(object, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flip := func() {
		var b [1]byte
		if _, err := f.ReadAt(b[:], 100_000); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b[:], 100_000); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	defer flip()
	p.tampered(t, "data/"+filepath.Base(object))
}

func (p *published) testSwapped(t *testing.T) {
	objects := p.dataObjects(t)
	// Two shards of one size: only their names and headers tell them apart.
	a, b := sameSize(t, objects)
	swap := func() {
		aside := a + ".aside"
		for _, move := range [][2]string{{a, aside}, {b, a}, {aside, b}} {
			if err := os.Rename(move[0], move[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap()
	defer swap()
	p.tampered(t, "data/")
}

func sameSize(t *testing.T, objects []string) (a, b string) {
	t.Helper()
	seen := map[int64]string{}
	for _, o := range objects {
		info, err := os.Stat(o)
		if err != nil {
			t.Fatal(err)
		}
		if other := seen[info.Size()]; other != "" {
			return other, o
		}
		seen[info.Size()] = o
	}
	t.Fatal("no two objects of one size")
	return "", ""
}

func (p *published) testCut(t *testing.T) {
	object := p.dataObjects(t)[1]
	f, err := os.OpenFile(object, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var last [1]byte
	end := info.Size() - 1
	if _, err := f.ReadAt(last[:], end); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(end); err != nil {
		t.Fatal(err)
	}
	p.tampered(t, "data/"+filepath.Base(object))
	if _, err := f.WriteAt(last[:], end); err != nil {
		t.Fatal(err)
	}
}
