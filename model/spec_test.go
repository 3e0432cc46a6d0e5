package model_test

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/model"
)

// TestSpecValues holds the values in SPEC.md, which were computed in another language, against this implementation.
func TestSpecValues(t *testing.T) {
	spec := readSpec(t)
	mdk := make([]byte, decrypt.KeySize)
	for i := range mdk {
		mdk[i] = byte(i)
	}
	keys, err := model.DeriveKeys(takeKey(t, mdk), "acme/llama-7b", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Wipe()
	id := keys.ID()
	for _, value := range []string{hex.EncodeToString(id[:]), id.String()} {
		if !strings.Contains(spec, value) {
			t.Errorf("SPEC.md does not have the mdk_id %s", value)
		}
	}

	object, err := hex.DecodeString(between(t, spec, "object      ", "```"))
	if err != nil {
		t.Fatal(err)
	}
	o := model.Object{Name: "data/00000", Size: 5, Header: model.Header(object[:decrypt.HeaderSize])}
	opener, err := keys.OpenObject(o)
	if err != nil {
		t.Fatal(err)
	}
	if plaintext, err := opener.Open(0, object[decrypt.HeaderSize:]); err != nil || string(plaintext) != "hello" {
		t.Errorf("the object of SPEC.md opens to %q, %v", plaintext, err)
	}
}

// TestSpecExamples parses the envelope and the statement that SPEC.md shows, after filling their placeholders.
func TestSpecExamples(t *testing.T) {
	example := between(t, readSpec(t), "## 7. The envelope", "```\n\n- **E-1**")
	_, example, _ = strings.Cut(example, "```json")
	text := strings.NewReplacer("<base64url>", "AAAA", "<compact JWE>", "e30.e30.e30.e30.e30").Replace(example)
	e, err := model.ParseEnvelope([]byte(text))
	if err != nil || e.Model != "acme/llama-7b" || len(e.Wraps) != 3 {
		t.Errorf("%+v, %v", e, err)
	}
}

func readSpec(t *testing.T) string {
	t.Helper()
	spec, err := os.ReadFile(specFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(spec)
}

// between returns what stands between two marks, without white space in front, inside or behind it.
func between(t *testing.T, s, from, to string) string {
	t.Helper()
	_, rest, ok := strings.Cut(s, from)
	middle, _, found := strings.Cut(rest, to)
	if !ok || !found {
		t.Fatalf("no %q, %q", from, to)
	}
	return strings.Join(strings.Fields(middle), "")
}
