package model_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

func testMDK() []byte { return bytes.Repeat([]byte{42}, decrypt.KeySize) }

func deriveKeys(t *testing.T, name string, version uint64) *model.Keys {
	t.Helper()
	k, err := model.DeriveKeys(takeKey(t, testMDK()), name, version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func TestIDDependsOnEverything(t *testing.T) {
	seen := make(map[model.ID]string)
	other, err := model.DeriveKeys(takeKey(t, bytes.Repeat([]byte{43}, decrypt.KeySize)), "acme/m", 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*model.Keys{
		"base": deriveKeys(t, "acme/m", 1), "name": deriveKeys(t, "acme/n", 1), "version": deriveKeys(t, "acme/m",
			2), "key": other,
	} {
		if twin := seen[k.ID()]; twin != "" {
			t.Errorf("%s and %s have one id", name, twin)
		}
		seen[k.ID()] = name
	}
	if again := deriveKeys(t, "acme/m", 1); seen[again.ID()] != "base" {
		t.Error("the same key, name and version have another id")
	}
}

func TestDeriveKeysFaults(t *testing.T) {
	for _, c := range []struct {
		size    int
		model   string
		version uint64
		kind    fault.Kind
	}{
		{31, "acme/m", 1, fault.KeyUnusable},
		{33, "acme/m", 1, fault.KeyUnusable},
		{32, "", 1, fault.Usage},
		{32, "acme/m", 0, fault.Usage},
		{32, "acme/m", model.MaxVersion + 1, fault.Usage},
	} {
		if k, err := model.DeriveKeys(takeKey(t, make([]byte, c.size)), c.model,
			c.version); k != nil || fault.Of(err) != c.kind {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestSealAndOpen goes the whole way with the package's own sealing, which the vectors' generator goes round in part.
func TestSealAndOpen(t *testing.T) {
	keys := deriveKeys(t, "acme/m", 7)
	m, err := model.NewManifest("acme/m", 7, vectorTime, []model.Source{{Path: "a", Size: 5}})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := keys.SealObject(&m.Objects[0])
	if err != nil {
		t.Fatal(err)
	}
	chunk, err := sealer.Seal(0, nil, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := keys.SealManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	data, err := keys.NewEnvelope(m, sealed, []model.Wrap{{Type: model.WrapKBS, Resource: "kbs:///a/b/c"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}

	e, err := model.ParseEnvelope(data)
	if err != nil {
		t.Fatal(err)
	}
	unlocked, err := e.Unlock(takeKey(t, testMDK()))
	if err != nil {
		t.Fatal(err)
	}
	defer unlocked.Wipe()
	opened, err := unlocked.OpenManifest(sealed, e)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := unlocked.OpenObject(opened.Objects[0])
	if err != nil {
		t.Fatal(err)
	}
	if plaintext, err := opener.Open(0, chunk); err != nil || string(plaintext) != "hello" {
		t.Errorf("%q, %v", plaintext, err)
	}
}

func TestSealManifestFaults(t *testing.T) {
	keys := deriveKeys(t, "acme/m", 7)
	m, err := model.NewManifest("acme/m", 8, vectorTime, []model.Source{{Path: "a", Size: 5}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.SealManifest(m); err == nil || !strings.Contains(err.Error(),
		"version 8 with the keys of acme/m version 7") {
		t.Errorf("another version's manifest: %v", err)
	}
	m.Version, m.Files[0].Path = 7, "../a"
	if _, err := keys.SealManifest(m); !fault.Is(err, fault.Usage) {
		t.Errorf("a path that climbs: %v", err)
	}
}

func TestWipedKeysOpenNothing(t *testing.T) {
	keys := deriveKeys(t, "acme/m", 7)
	o := model.Object{Name: "data/00000", Size: 5}
	if _, err := keys.SealObject(&o); err != nil {
		t.Fatal(err)
	}
	keys.Wipe()
	keys.Wipe()
	if _, err := keys.OpenObject(o); !fault.Is(err, fault.KeyUnusable) {
		t.Errorf("after Wipe: %v", err)
	}
	(*model.Keys)(nil).Wipe()
}
