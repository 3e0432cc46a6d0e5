package main_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

const vectorsDir = "../../testdata/vectors"

// vector is vector.json, as testdata/vectors/README.md explains it.
type vector struct {
	Name string `json:"-"`
	MDK  string `json:"mdk"`
	Pins struct {
		Version    uint64 `json:"version"`
		MinVersion uint64 `json:"min_version"`
		MDKID      string `json:"mdk_id"`
	} `json:"pins"`
	Trust   []string `json:"trust"`
	Include []string `json:"include"`
	Exclude []string `json:"exclude"`
	Expect  int      `json:"expect"`
	Keyless bool     `json:"keyless"`
	Error   string   `json:"error"`
	Files   map[string]struct {
		Size       int64  `json:"size"`
		SHA256     string `json:"sha256"`
		Executable bool   `json:"executable"`
	} `json:"files"`
}

func vectors(t testing.TB) (all []vector) {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(vectorsDir, "*", "vector.json"))
	for _, path := range paths {
		data, err := os.ReadFile(path)
		v := vector{Name: filepath.Base(filepath.Dir(path))}
		if err == nil {
			err = json.Unmarshal(data, &v)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, v)
	}
	if len(all) < 100 {
		t.Fatalf("only %d vectors in %s", len(all), vectorsDir)
	}
	return all
}

// args are the demands of a vector on a command line.
func (v vector) args(t testing.TB, s *sandbox) []string {
	keys, err := filepath.Abs(filepath.Join(vectorsDir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"init", "--trust-key", "jwk:" + filepath.Join(keys, "kek.json")}
	if v.Pins.Version != 0 {
		args = append(args, "--version", fmt.Sprint(v.Pins.Version))
	}
	if v.Pins.MinVersion != 0 {
		args = append(args, "--min-version", fmt.Sprint(v.Pins.MinVersion))
	}
	if v.Pins.MDKID != "" {
		args = append(args, "--mdk-id", v.Pins.MDKID)
	}
	var signers []byte
	for _, name := range v.Trust {
		pem, err := os.ReadFile(filepath.Join(keys, name))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, pem...)
	}
	if signers != nil {
		path := filepath.Join(s.dir, "signers.pem")
		if err := os.WriteFile(path, signers, 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--trust-signer", path)
	}
	return args
}

func (v vector) query() string {
	q := url.Values{"include": v.Include, "exclude": v.Exclude}.Encode()
	if q == "" {
		return ""
	}
	return "?" + q
}

// secrets are what a run of a vector handles.
func (v vector) secrets(t testing.TB) []string {
	data, err := os.ReadFile(filepath.Join(vectorsDir, "keys", "kek.json"))
	if err != nil {
		t.Fatal(err)
	}
	mdk, err := hex.DecodeString(v.MDK)
	if err != nil {
		t.Fatal(err)
	}
	return append(secretsOfJWK(data), base64.RawURLEncoding.EncodeToString(mdk))
}

// check holds a run against what the vector expects.
func (v vector) check(t *testing.T, r result, dest string) {
	t.Helper()
	if r.code != v.Expect {
		t.Errorf("exit code %d, want %d\n%s", r.code, v.Expect, r.stderr)
	}
	if keyed := len(records(r.stderr, "key.released")) > 0; v.Keyless && keyed {
		t.Error("a key was asked for")
	}
	if v.Expect == 0 {
		v.checkFiles(t, dest)
		return
	}
	cause, hint := r.last()
	if words := v.words(); !words.MatchString(cause) {
		t.Errorf("no %q in %s", words, cause)
	}
	if hint == "" {
		t.Errorf("no hint after: %s", cause)
	}
	if !namesPlace(v.Name, cause) {
		t.Errorf("names no object: %s", cause)
	}
	wantNothing(t, dest)
}

// words is what the cause must say. The vectors' own words are those of package model, which reads whole objects; what
// the loader finds before it gets there, it says in words of its own.
func (v vector) words() *regexp.Regexp {
	switch {
	case strings.HasPrefix(v.Name, "data-"), v.Name == "header-wrong":
		return regexp.MustCompile(`^data/0000\d (\(file ".*"\) )?at sealed\+.* ` +
			`(is \d+ bytes long, its manifest says \d+|ends before byte \d+, .*|chunk \d+ is not authentic|.*commitment.*)$`)
	case v.Name == "key-short":
		return regexp.MustCompile("does not hold 32 bytes")
	case v.Name == "signature-forged-content":
		return regexp.MustCompile(`config\.json at .*: the file's SHA-256 is not the one its publisher signed`)
	case v.Name == "signature-missing":
		return regexp.MustCompile("signature is demanded: .*release.dsse.json")
	case strings.HasSuffix(v.Name, "-too-large"):
		return regexp.MustCompile("(envelope|release.dsse).json at .* is larger than the 65536 bytes it may have")
	case strings.HasPrefix(v.Name, "missing-"):
		return regexp.MustCompile("(no such file|there is no such object|is missing)")
	}
	return regexp.MustCompile(regexp.QuoteMeta(v.Error))
}

// namesPlace reports whether the cause says which object is at fault.
func namesPlace(name, cause string) bool {
	kind, _, _ := strings.Cut(name, "-")
	places := map[string][]string{
		"data": {"data/0000"}, "header": {"data/0000"}, "envelope": {"envelope.json"}, "pin": {"envelope.json"},
		"manifest": {"manifest.enc"}, "signature": {"release.dsse.json", "manifest.enc", "sha256", "SHA-256"},
		"missing": {"data/0000", "manifest.enc", "envelope.json"},
	}[kind]
	return places == nil || slices.ContainsFunc(places, func(p string) bool { return strings.Contains(cause, p) })
}

// checkFiles demands the files of the vector, and nothing else.
func (v vector) checkFiles(t *testing.T, dest string) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		found++
		name, _ := filepath.Rel(dest, path)
		want, ok := v.Files[name]
		data, err := os.ReadFile(path)
		info, errInfo := d.Info()
		if err != nil || errInfo != nil || !ok {
			t.Errorf("%q: %v, %v, wanted %v", name, err, errInfo, ok)
			return nil
		}
		sum := sha256.Sum256(data)
		if hex.EncodeToString(sum[:]) != want.SHA256 || int64(len(data)) != want.Size || (info.Mode()&0o111 != 0) != want.Executable {
			t.Errorf("%q is not as expected: %v", name, info.Mode())
		}
		return nil
	})
	if err != nil || found != len(v.Files) {
		t.Errorf("%d files, want %d (%v)", found, len(v.Files), err)
	}
}

// TestVectors runs every vector through the binary, from a directory and from S3.
func TestVectors(t *testing.T) {
	t.Parallel()
	s3 := newStore(t, testcloud.Options{})
	for _, v := range vectors(t) {
		dir, err := filepath.Abs(filepath.Join(vectorsDir, v.Name, "sealed"))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			s3.upload(t, dir, v.Name)
			for _, place := range []string{"file://" + dir, "s3://models/" + v.Name} {
				s := newSandbox(t)
				s.secrets = v.secrets(t)
				s3.configure(s)
				dest := filepath.Join(s.shm, "model")
				v.check(t, s.run(append(v.args(t, s), "sealed+"+place+v.query(), dest)...), dest)
			}
		})
	}
}

// TestVectorsUnderFIPS opens vectors in the strictest mode of the Go Cryptographic Module; sealing is refused clearly.
func TestVectorsUnderFIPS(t *testing.T) {
	t.Parallel()
	s3 := newStore(t, testcloud.Options{TLS: true})
	for _, v := range vectors(t) {
		if !slices.Contains([]string{"ok-packed", "ok-objects", "ok-signed-p256", "ok-signed-ed25519", "data-first-bit", "key-wrong"}, v.Name) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			s := newSandbox(t)
			s.secrets = v.secrets(t)
			s3.upload(t, filepath.Join(vectorsDir, v.Name, "sealed"), v.Name)
			s3.configure(s)
			s.env["GODEBUG"] = "fips140=only"
			dest := filepath.Join(s.shm, "model")
			v.check(t, s.run(append(v.args(t, s), "sealed+s3://models/"+v.Name+v.query(), dest)...), dest)
		})
	}
}
