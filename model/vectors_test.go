package model_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/internal/strictjson"
	"github.com/sealfetch/sealfetch/model"
)

const (
	vectorsDir = "../testdata/vectors"
	specFile   = "../SPEC.md"
)

// vector is vector.json; testdata/vectors/README.md explains it.
type vector struct {
	Comment string                `json:"comment"`
	Rules   []string              `json:"rules"`
	MDK     string                `json:"mdk"`
	Pins    *vectorPins           `json:"pins,omitempty"`
	Trust   []string              `json:"trust,omitempty"`
	Include []string              `json:"include,omitempty"`
	Exclude []string              `json:"exclude,omitempty"`
	Expect  int                   `json:"expect"`
	Keyless bool                  `json:"keyless,omitempty"`
	Error   string                `json:"error,omitempty"`
	Files   map[string]vectorFile `json:"files,omitempty"`
}

type vectorPins struct {
	Version    uint64    `json:"version,omitempty"`
	MinVersion uint64    `json:"min_version,omitempty"`
	MDKID      *model.ID `json:"mdk_id,omitempty"`
}

type vectorFile struct {
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"`
	Executable bool   `json:"executable"`
}

// exitCodes are the public codes of the kinds that vectors have.
var exitCodes = map[fault.Kind]int{
	fault.Access: 11, fault.Format: 12, fault.KeyUnusable: 15, fault.NotAuthentic: 16,
}

// loaded is a model that was read: nothing of it is to be seen unless all of it is authentic.
type loaded map[string]vectorFile

// TestVectors reads every vector as a loader would.
func TestVectors(t *testing.T) {
	for _, name := range vectorNames(t) {
		t.Run(name, func(t *testing.T) {
			v := readVector(t, name)
			r := reader{t: t, vector: v, dir: filepath.Join(vectorsDir, name, "sealed")}
			got, err := r.load()
			if v.Expect == 0 {
				if err != nil || !maps.Equal(got, v.Files) {
					t.Fatalf("got %v, %v\nwant %v", got, err, v.Files)
				}
				return
			}
			if err == nil || exitCodes[fault.Of(err)] != v.Expect || !strings.Contains(err.Error(), v.Error) {
				t.Errorf("error %v of kind %d; want %q, exit code %d", err, fault.Of(err), v.Error, v.Expect)
			}
			if v.Error == "" || v.Files != nil {
				t.Error("a refused vector says why and has no files")
			}
			if v.Keyless == r.unlocked {
				t.Errorf("keyless is %v, and the key was used: %v", v.Keyless, r.unlocked)
			}
			if fault.Of(err) == fault.Format && fault.Hint(err) == "" {
				t.Error("no hint")
			}
		})
	}
}

func vectorNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(vectorsDir, "*", "vector.json"))
	if err != nil || len(files) < 50 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for i, f := range files {
		files[i] = filepath.Base(filepath.Dir(f))
	}
	return files
}

func readVector(t *testing.T, name string) vector {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectorsDir, name, "vector.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v vector
	if err := strictjson.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// reader is a loader in its plainest form: it reads a directory, one part after the other, into memory.
type reader struct {
	t        *testing.T
	vector   vector
	dir      string
	unlocked bool // the key was used
}

func (r *reader) load() (loaded, error) {
	raw, err := r.read(model.EnvelopeName)
	if err != nil {
		return nil, err
	}
	e, err := model.ParseEnvelope(raw)
	if err != nil {
		return nil, err
	}
	if err := r.pins().Check(e); err != nil {
		return nil, err
	}
	if err := r.verify(e); err != nil {
		return nil, err
	}
	keys, err := r.unlock(e)
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	m, plan, err := r.plan(e, keys)
	if err != nil {
		return nil, err
	}
	return r.readFiles(keys, m, plan)
}

func (r *reader) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Access, "", "%s: missing", name)
	}
	return data, err
}

func (r *reader) pins() model.Pins {
	p := r.vector.Pins
	if p == nil {
		return model.Pins{}
	}
	pins := model.Pins{Version: p.Version, MinVersion: p.MinVersion}
	if p.MDKID != nil {
		pins.MDKID = p.MDKID[:]
	}
	return pins
}

func (r *reader) verify(e *model.Envelope) error {
	if r.vector.Trust == nil {
		return nil
	}
	signature, err := r.read(model.SignatureName)
	if fault.Is(err, fault.Access) {
		return fault.New(fault.Format, "sign it", "no signature")
	}
	if err != nil {
		return err
	}
	manifest, err := r.read(model.ManifestName)
	if err != nil {
		return err
	}
	var trusted []crypto.PublicKey
	for _, name := range r.vector.Trust {
		trusted = append(trusted, readPublicKey(r.t, name))
	}
	return model.VerifySignature(signature, trusted, e.Statement(manifest))
}

func readPublicKey(t *testing.T, name string) crypto.PublicKey {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectorsDir, "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (r *reader) unlock(e *model.Envelope) (*model.Keys, error) {
	r.unlocked = true
	b, err := hex.DecodeString(r.vector.MDK)
	if err != nil {
		return nil, err
	}
	mdk, err := secret.Take(b)
	if err != nil {
		return nil, err
	}
	defer mdk.Wipe()
	return e.Unlock(mdk)
}

func (r *reader) plan(e *model.Envelope, keys *model.Keys) (*model.Manifest, *model.Plan, error) {
	sealed, err := r.read(model.ManifestName)
	if err != nil {
		return nil, nil, err
	}
	m, err := keys.OpenManifest(sealed, e)
	if err != nil {
		return nil, nil, err
	}
	if r.vector.Trust != nil {
		if err := m.RequireDigests(); err != nil {
			return nil, nil, err
		}
	}
	selection, err := model.NewSelection(r.vector.Include, r.vector.Exclude)
	if err != nil {
		return nil, nil, err
	}
	files, err := m.Select(selection)
	if err != nil {
		return nil, nil, err
	}
	plan, err := m.Plan(files, decrypt.SealedChunkSize) // the smallest parts: one chunk
	return m, plan, err
}

func (r *reader) readFiles(keys *model.Keys, m *model.Manifest, plan *model.Plan) (loaded, error) {
	files := make(map[int][]byte)
	for part := range plan.Parts() {
		if err := r.readPart(keys, m, plan, part, files); err != nil {
			return nil, err
		}
	}
	out := make(loaded)
	for _, i := range plan.Files() {
		f, content := m.Files[i], files[i]
		digest := fmt.Sprintf("%x", sha256.Sum256(content))
		if r.vector.Trust != nil && digest != f.SHA256 {
			return nil, fault.New(fault.NotAuthentic, "", "file %q is not what was signed", f.Path)
		}
		if int64(len(content)) != f.Size {
			return nil, fmt.Errorf("file %q: %d of %d bytes", f.Path, len(content), f.Size)
		}
		out[f.Path] = vectorFile{f.Size, digest, f.Executable()}
	}
	return out, nil
}

func (r *reader) readPart(keys *model.Keys, m *model.Manifest, plan *model.Plan, part model.Part,
	files map[int][]byte) error {
	o := m.Objects[part.Object]
	object, err := r.read(o.Name)
	if err != nil {
		return err
	}
	if int64(len(object)) != decrypt.SealedSize(o.Size) {
		return fault.New(fault.NotAuthentic, "", "object %q has %d bytes", o.Name, len(object))
	}
	opener, err := keys.OpenObject(o)
	if err != nil {
		return err
	}
	i := part.FirstChunk
	for chunk := range slices.Chunk(object[part.Offset:part.Offset+part.Size], decrypt.SealedChunkSize) {
		plaintext, err := opener.Open(i, chunk)
		if err != nil {
			return fmt.Errorf("object %q: %w", o.Name, err)
		}
		for p := range plan.Pieces(part.Object, i*decrypt.ChunkSize, plaintext) {
			if p.Offset != int64(len(files[p.File])) {
				return fmt.Errorf("a piece for %d behind %d bytes", p.Offset, len(files[p.File]))
			}
			files[p.File] = append(files[p.File], p.Data...)
		}
		i++
	}
	return nil
}

// ruleInSpec finds the rules of SPEC.md. The dagger marks those that no sealed model can show.
var ruleInSpec = regexp.MustCompile(`(?m)^- \*\*([A-Z]-\d+)\*\*(†?) `)

// TestRulesHaveVectors holds SPEC.md and the vectors together: each rule that a file can break has a vector, and each
// vector shows rules that exist.
func TestRulesHaveVectors(t *testing.T) {
	spec, err := os.ReadFile(specFile)
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	for _, name := range vectorNames(t) {
		v := readVector(t, name)
		if len(v.Rules) == 0 || v.Comment == "" {
			t.Errorf("%s shows no rule, or has no comment", name)
		}
		for _, rule := range v.Rules {
			shown[rule] = true
		}
	}
	stated := make(map[string]bool)
	for _, match := range ruleInSpec.FindAllSubmatch(spec, -1) {
		rule, exempt := string(match[1]), len(match[2]) > 0
		if stated[rule] {
			t.Errorf("rule %s is stated twice", rule)
		}
		if shown[rule] == exempt {
			t.Errorf("rule %s: shown by a vector: %v, marked as not showable: %v", rule, shown[rule], exempt)
		}
		stated[rule] = true
	}
	for rule := range shown {
		if !stated[rule] {
			t.Errorf("vectors show rule %s, which SPEC.md does not state", rule)
		}
	}
	if len(stated) < 40 {
		t.Errorf("only %d rules were found", len(stated))
	}
}

// marshalIndent is how vector.json is written.
func marshalIndent(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
