package model_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/model"
)

var update = flag.Bool("update", false, "write testdata/vectors anew")

// TestUpdateVectors writes the vectors. Randomness is seeded by their names, so that one vector's change is one diff.
func TestUpdateVectors(t *testing.T) {
	if !*update {
		t.Skip("runs with -update")
	}
	if err := removeVectors(); err != nil {
		t.Fatal(err)
	}
	g := newGenerator(t)
	for _, c := range slices.Concat(goodCases(), selectionCases(), dataCases(), reusedKeyCases(), keyCases(),
		envelopeCases(), envelopeJSONCases(), wrapCases(),
		manifestCases(), manifestJSONCases(), objectCases(), pathCases(),
		goodSignatureCases(g), signatureCases(g), digestCases(g)) {
		g.write(c)
	}
}

// removeVectors makes room, so that no vector outlives its case.
func removeVectors() error {
	dirs, err := filepath.Glob(filepath.Join(vectorsDir, "*", ""))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if filepath.Ext(dir) == "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// vectorCase is a vector in the making.
type vectorCase struct {
	name   string
	vector                                     // without what follows from the model: MDK, files
	build  publication                         // the model, as its publisher makes it
	tamper func(t *testing.T, objects objects) // what the store does to it
}

// objects are what lies under a model's prefix.
type objects map[string][]byte

// content is a file to be sealed.
type content struct {
	path       string
	data       []byte
	executable bool
}

// publication is a model and how it is published. The zero values of its hooks do nothing.
type publication struct {
	model        string
	version      uint64
	mdk          []byte // random where nil
	wrapped      []byte // what the wrap holds: the MDK where nil
	files        []content
	apart        bool                    // an object for each file, however small
	layout       func(m *model.Manifest) // changes the layout before it is sealed
	editManifest edit                    // of the JSON
	editEnvelope edit
	signers      []crypto.Signer
	noDigests    bool // leave them out of a signed model
	editObject   func(index int, plaintext []byte)
}

type generator struct {
	t        *testing.T
	kek      []byte
	ed25519  ed25519.PrivateKey
	p256     *ecdsa.PrivateKey
	stranger ed25519.PrivateKey
}

const kekID = "vectors-kek"

func newGenerator(t *testing.T) *generator {
	seed(t, "keys")
	g := &generator{t: t, kek: make([]byte, 32)}
	rand.Read(g.kek)
	var err error
	if _, g.ed25519, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	if _, g.stranger, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	if g.p256, err = ecdsa.GenerateKey(elliptic.P256(), nil); err != nil {
		t.Fatal(err)
	}
	g.writeKeys()
	return g
}

func seed(t *testing.T, name string) {
	h := fnv.New64a()
	h.Write([]byte(name))
	cryptotest.SetGlobalRandom(t, h.Sum64())
}

func (g *generator) writeKeys() {
	dir := filepath.Join(vectorsDir, "keys")
	kek := map[string]string{"kty": "oct", "kid": kekID, "alg": "A256KW", "use": "enc",
		"k": base64.RawURLEncoding.EncodeToString(g.kek)}
	writeFile(g.t, dir, "kek.json", marshalIndent(g.t, kek))
	for name, key := range map[string]crypto.Signer{"ed25519.pem": g.ed25519, "p256.pem": g.p256,
		"stranger.pem": g.stranger} {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			g.t.Fatal(err)
		}
		writeFile(g.t, dir, name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
}

func writeFile(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (g *generator) write(c vectorCase) {
	g.t.Log(c.name)
	seed(g.t, c.name)
	objects, mdk := g.publish(c.build)
	if c.tamper != nil {
		c.tamper(g.t, objects)
	}
	v := c.vector
	v.MDK = hex.EncodeToString(mdk)
	if v.Expect == 0 {
		v.Files = wantedFiles(g.t, c.build.files, v)
	}
	dir := filepath.Join(vectorsDir, c.name)
	if err := os.RemoveAll(dir); err != nil {
		g.t.Fatal(err)
	}
	for name, data := range objects {
		writeFile(g.t, filepath.Join(dir, "sealed"), name, data)
	}
	writeFile(g.t, dir, "vector.json", marshalIndent(g.t, v))
}

func wantedFiles(t *testing.T, files []content, v vector) map[string]vectorFile {
	s, err := model.NewSelection(v.Include, v.Exclude)
	if err != nil {
		t.Fatal(err)
	}
	wanted := make(map[string]vectorFile)
	for _, f := range files {
		if s.Match(f.path) {
			wanted[f.path] = vectorFile{int64(len(f.data)), fmt.Sprintf("%x", sha256.Sum256(f.data)), f.executable}
		}
	}
	return wanted
}

// publish seals a model. It returns its objects and the key that a broker would release.
func (g *generator) publish(p publication) (objects, []byte) {
	if p.mdk == nil {
		p.mdk = make([]byte, decrypt.KeySize)
		rand.Read(p.mdk)
	}
	if p.wrapped == nil {
		p.wrapped = p.mdk
	}
	keys, err := model.DeriveKeys(takeKey(g.t, p.mdk), p.model, p.version)
	if err != nil {
		g.t.Fatal(err)
	}
	defer keys.Wipe()
	m := g.manifest(p)
	out := g.sealObjects(p, keys, m)
	sealed := g.sealManifest(p, m)
	e := keys.NewEnvelope(m, sealed, []model.Wrap{g.wrap(p)})
	envelope, err := e.Marshal()
	if err != nil {
		g.t.Fatal(err)
	}
	if p.editEnvelope != nil {
		envelope = []byte(p.editEnvelope(g.t, string(envelope)))
	}
	out[model.EnvelopeName], out[model.ManifestName] = envelope, sealed
	if p.signers != nil {
		out[model.SignatureName] = g.sign(p.signers, e.Statement(sealed))
	}
	return out, p.wrapped
}

func takeKey(t *testing.T, b []byte) *secret.Key {
	t.Helper()
	k, err := secret.Take(slices.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

var vectorTime = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func (g *generator) manifest(p publication) *model.Manifest {
	sources := make([]model.Source, len(p.files))
	for i, f := range p.files {
		sources[i] = model.Source{Path: f.path, Size: int64(len(f.data)), Executable: f.executable}
	}
	m, err := model.NewManifest(p.model, p.version, vectorTime, sources)
	if err != nil {
		g.t.Fatal(err)
	}
	if p.apart {
		m.Objects = nil
		for i := range m.Files {
			m.Files[i].Object, m.Files[i].Offset = i, 0
			m.Objects = append(m.Objects, model.Object{Name: fmt.Sprintf("data/%05d", i), Size: m.Files[i].Size})
		}
	}
	if p.layout != nil {
		p.layout(m)
	}
	return m
}

func (g *generator) sealObjects(p publication, keys *model.Keys, m *model.Manifest) objects {
	data := make(map[string]content)
	for _, f := range p.files {
		data[f.path] = f
	}
	out := make(objects)
	for o, files := range m.Contents() {
		var plaintext []byte
		for _, i := range files {
			f := &m.Files[i]
			plaintext = append(plaintext, data[f.Path].data...)
			if p.signers != nil && !p.noDigests {
				f.SHA256 = fmt.Sprintf("%x", sha256.Sum256(data[f.Path].data))
			}
		}
		if p.editObject != nil {
			p.editObject(o, plaintext)
		}
		s, err := keys.SealObject(&m.Objects[o])
		if err != nil {
			g.t.Fatal(err)
		}
		object := m.Objects[o].Header[:]
		for i := range s.Chunks() {
			chunk := plaintext[i*decrypt.ChunkSize : min((i+1)*decrypt.ChunkSize, int64(len(plaintext)))]
			if object, err = s.Seal(i, object, chunk); err != nil {
				g.t.Fatal(err)
			}
		}
		out[m.Objects[o].Name] = object
	}
	return out
}

// sealManifest seals what model.SealManifest would refuse, too. Its derivations are written out a second time, from
// SPEC.md, so that they are held against the package's own.
func (g *generator) sealManifest(p publication, m *model.Manifest) []byte {
	text, err := json.Marshal(m)
	if err != nil {
		g.t.Fatal(err)
	}
	if p.editManifest != nil {
		text = []byte(p.editManifest(g.t, string(text)))
	}
	id := string(binary.BigEndian.AppendUint16(nil,
		uint16(len(p.model)))) + p.model + string(binary.BigEndian.AppendUint64(nil, p.version))
	key, err := decrypt.DeriveKey(takeKey(g.t, p.mdk), []byte("sealfetch/v1\x00manifest\x00\x00\x0fcobblestone-256"+id))
	if err != nil {
		g.t.Fatal(err)
	}
	defer key.Wipe()
	sealed, err := decrypt.SealAll(key, []byte("sealfetch/v1/manifest\x00"+id), text)
	if err != nil {
		g.t.Fatal(err)
	}
	return sealed
}

func (g *generator) wrap(p publication) model.Wrap {
	options := (&jose.EncrypterOptions{}).WithHeader("model", p.model).WithHeader("version", p.version)
	encrypter, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.A256KW, Key: g.kek, KeyID: kekID},
		options)
	if err != nil {
		g.t.Fatal(err)
	}
	jwe, err := encrypter.Encrypt(p.wrapped)
	if err != nil {
		g.t.Fatal(err)
	}
	compact, err := jwe.CompactSerialize()
	if err != nil {
		g.t.Fatal(err)
	}
	return model.Wrap{Type: model.WrapJWE, KID: kekID, JWE: compact}
}

// sign makes one envelope of all signatures.
func (g *generator) sign(signers []crypto.Signer, s model.Statement) []byte {
	var all map[string]any
	for i, signer := range signers {
		data, err := model.Sign(signer, s)
		if err != nil {
			g.t.Fatal(err)
		}
		var one map[string]any
		if err := json.Unmarshal(data, &one); err != nil {
			g.t.Fatal(err)
		}
		if i == 0 {
			all = one
			continue
		}
		all["signatures"] = append(all["signatures"].([]any), one["signatures"].([]any)...)
	}
	return marshalIndent(g.t, all)
}

// edit changes a document.
type edit = func(t *testing.T, s string) string

// swap returns an edit that replaces exactly one place.
func swap(before, after string) edit {
	return func(t *testing.T, s string) string {
		t.Helper()
		if strings.Count(s, before) != 1 {
			t.Fatalf("%q is not once in %.2000s", before, s)
		}
		return strings.Replace(s, before, after, 1)
	}
}

// set returns an edit that gives the first field of a name another value.
func set(name, value string) edit {
	field := regexp.MustCompile(`"` + name + `": ?("[^"]*"|[0-9]+)`)
	return func(t *testing.T, s string) string {
		t.Helper()
		at := field.FindStringSubmatchIndex(s)
		if at == nil {
			t.Fatalf("no %q in %.2000s", name, s)
		}
		return s[:at[2]] + value + s[at[3]:]
	}
}

// until returns an edit that keeps what stands in front of key, and has tail behind it.
func until(key, tail string) edit {
	return func(_ *testing.T, s string) string {
		before, _, _ := strings.Cut(s, key)
		return before + tail
	}
}

// is returns an edit that leaves nothing of the document.
func is(whole string) edit { return func(*testing.T, string) string { return whole } }

func around(prefix, suffix string) edit {
	return func(_ *testing.T, s string) string { return prefix + s + suffix }
}

// flipDigit returns an edit that flips the lowest bit of the base64 digit behind a mark.
func flipDigit(mark string) edit {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return func(t *testing.T, s string) string {
		t.Helper()
		at := strings.Index(s, mark) + len(mark)
		digit := strings.IndexByte(digits, s[at])
		if digit < 0 {
			t.Fatalf("no digit but %q behind %q", s[at], mark)
		}
		return s[:at] + digits[digit^1:][:1] + s[at+1:]
	}
}

// padTo returns an edit that adds spaces up to a size.
func padTo(size int) edit {
	return func(_ *testing.T, s string) string { return s + strings.Repeat(" ", size-len(s)) }
}

func both(first, then edit) edit {
	return func(t *testing.T, s string) string { return then(t, first(t, s)) }
}

// bytesOf returns content in which no two chunks and no two names are alike.
func bytesOf(name string, size int) []byte {
	h := fnv.New64a()
	h.Write([]byte(name))
	x := h.Sum64() | 1
	b := make([]byte, size)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}

func file(path string, size int) content { return content{path: path, data: bytesOf(path, size)} }

// small has three files in one object of one chunk.
func small() publication {
	return publication{model: "acme/tiny-lm", version: 3, files: []content{
		{path: "config.json", data: []byte("{\"layers\": 2}\n")},
		file("tokenizer/merges.txt", 40),
		file("weights.bin", 300),
	}}
}

// pair has two files of the same size in two objects of two chunks each.
func pair() publication {
	const size = decrypt.ChunkSize + 100
	return publication{model: "acme/tiny-lm", version: 3, apart: true, files: []content{file("a.bin", size),
		file("b.bin", size)}}
}

// chunks has one file of three chunks: two full ones and one of a hundred bytes.
func chunks() publication {
	return publication{model: "acme/tiny-lm", version: 3, files: []content{file("weights.bin", 2*decrypt.ChunkSize+100)}}
}
