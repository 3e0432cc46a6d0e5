package main_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/keybroker"
)

// fixture is a model that the binary sealed once, for all tests of a kind. Nobody changes what is in it.
type fixture struct {
	files   map[string]string // what was sealed
	objects map[string][]byte // what was published, by name
	kek     []byte            // JWK
	mdk     string            // base64url: a secret that no output may have
}

// bigSize makes several parts, and a last chunk that is neither empty nor full.
const bigSize = 20<<20 + 12345

// manyFiles has objects of several files and several of one, bigFile one object of several parts.
var (
	manyFiles = sync.OnceValues(func() (*fixture, error) {
		files := map[string]string{"config.json": `{"architectures":["x"]}`, "empty": ""}
		for i := range 3 {
			name := fmt.Sprintf("model-%05d-of-00003.safetensors", i+1)
			files[name] = string(noise(name, 4<<20+i*100_000))
		}
		for i := range 20 {
			name := fmt.Sprintf("vocab/%02d.txt", i)
			files[name] = string(noise(name, i*3000))
		}
		return newFixture(files)
	})
	bigFile = sync.OnceValues(func() (*fixture, error) {
		return newFixture(map[string]string{"weights.safetensors": string(noise("weights", bigSize))})
	})
)

// use returns a fixture, or fails the test.
func use(t testing.TB, f func() (*fixture, error)) *fixture {
	t.Helper()
	found, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func newFixture(files map[string]string) (*fixture, error) {
	dir, err := os.MkdirTemp("", "sealfetch-fixture-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, content := range files {
		path := filepath.Join(dir, "m", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return sealFixture(dir, files)
}

// sealFixture seals dir/m with a new key.
func sealFixture(dir string, plain map[string]string) (*fixture, error) {
	kek := filepath.Join(dir, "kek.jwk")
	for _, args := range [][]string{
		{"keygen", "--out", kek},
		{"seal", "--model", "acme/fixture", "--version", "7", "--wrap", "jwk:" + kek, filepath.Join(dir, "m"), filepath.Join(dir, "pub")},
	} {
		if out, err := command(args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("sealfetch %q: %w\n%s", args, err, out)
		}
	}
	f := &fixture{files: plain, objects: map[string][]byte{}}
	objects, err := files(filepath.Join(dir, "pub"))
	if err != nil {
		return nil, err
	}
	for name, data := range objects {
		f.objects[name] = []byte(data)
	}
	if f.kek, err = os.ReadFile(kek); err != nil {
		return nil, err
	}
	f.mdk, err = f.unwrap()
	return f, err
}

// unwrap opens the wrap in the envelope.
func (f *fixture) unwrap() (string, error) {
	var envelope struct {
		Wraps []struct{ KID, JWE string }
	}
	if err := json.Unmarshal(f.objects["envelope.json"], &envelope); err != nil {
		return "", err
	}
	kek, err := keyfile.ParseKEK([]byte(string(f.kek)))
	if err != nil {
		return "", err
	}
	released, err := keybroker.NewLocal(kek).Release(context.Background(), keybroker.Request{Model: "acme/fixture", Version: 7,
		Wrap: keybroker.Wrap{Type: keybroker.TypeJWE, KID: envelope.Wraps[0].KID, JWE: envelope.Wraps[0].JWE}})
	if err != nil {
		return "", err
	}
	defer released.MDK.Wipe()
	return base64.RawURLEncoding.EncodeToString(released.MDK.Bytes()), nil
}

// give writes the key into a sandbox and adds the secrets to what the sandbox looks for.
func (f *fixture) give(s *sandbox) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "kek.jwk"), f.kek, 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.env["SEALFETCH_TRUST_KEY"] = "jwk:kek.jwk" // relative: a test's directory may have a comma in its name
	s.secrets = append(s.secrets, f.mdk)
}

// copy returns the objects, to be changed.
func (f *fixture) copy() map[string][]byte { return maps.Clone(f.objects) }

// rangeOf parses a Range header.
func rangeOf(t testing.TB, header string) (first, last int64) {
	t.Helper()
	span, ok := strings.CutPrefix(header, "bytes=")
	from, to, both := strings.Cut(span, "-")
	first, errFirst := strconv.ParseInt(from, 10, 64)
	last, errLast := strconv.ParseInt(to, 10, 64)
	if !ok || !both || errFirst != nil || errLast != nil {
		t.Fatalf("Range: %q", header)
	}
	return first, last
}
