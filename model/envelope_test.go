package model_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

func goodEnvelope() *model.Envelope {
	return &model.Envelope{
		Format: model.Format, Suite: model.Suite, Model: "acme/m", Version: 3, MDKID: model.ID(idA),
		Manifest: model.ManifestRef{Size: 100}, ModelSize: 5, Wraps: []model.Wrap{
			{Type: model.WrapKMS, Key: "arn:aws:kms:eu-central-1:111122223333:key/k", Ciphertext: "AQICAHg"},
			{Type: model.WrapKBS, Resource: "kbs:///models/m/v3"},
			{Type: model.WrapJWE, KID: "team", JWE: "e30.e30.e30.e30.e30"},
		},
	}
}

func TestEnvelopeComesBack(t *testing.T) {
	e := goodEnvelope()
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := model.ParseEnvelope(data)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v, %v", got, err)
	}
	if !bytes.Contains(data, []byte(`"mdk_id": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"`)) || bytes.Contains(data,
		[]byte(`""`)) {
		t.Errorf("%s", data)
	}
}

// TestMarshalRefuses: what a loader would refuse is not published. The vectors show the parser's side of these rules.
func TestMarshalRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*model.Envelope){
		"format":       func(e *model.Envelope) { e.Format = "" },
		"suite":        func(e *model.Envelope) { e.Suite = "" },
		"name":         func(e *model.Envelope) { e.Model = "a b" },
		"version":      func(e *model.Envelope) { e.Version = 0 },
		"size":         func(e *model.Envelope) { e.Manifest.Size = 72 }, // of an empty plaintext
		"model size":   func(e *model.Envelope) { e.ModelSize = -1 },
		"no wraps":     func(e *model.Envelope) { e.Wraps = nil },
		"wrap":         func(e *model.Envelope) { e.Wraps[1].Resource = "" },
		"line break":   func(e *model.Envelope) { e.Wraps[0].Ciphertext = "AQIC\nAHg" },
		"mixed fields": func(e *model.Envelope) { e.Wraps[2].Key = "k" },
		"too large":    func(e *model.Envelope) { e.Wraps[2].JWE = strings.Repeat("A", model.MaxEnvelopeSize) },
	} {
		e := goodEnvelope()
		spoil(e)
		if data, err := e.Marshal(); data != nil || !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseID(t *testing.T) {
	id := model.ID(idA)
	if got, err := model.ParseID(id.String()); err != nil || got != id {
		t.Errorf("%v, %v", got, err)
	}
	text := id.String()
	for _, s := range []string{"", text[:42], text + "A", text + "=", text[:42] + "F", text[:42] + "\n", text[:41] + "+E",
		strings.Repeat("x", 1000)} {
		if _, err := model.ParseID(s); !fault.Is(err, fault.Usage) || len(err.Error()) > 300 {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzParseEnvelope(f *testing.F) {
	data, err := goodEnvelope().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, name := range []string{"envelope-unknown-field", "envelope-wrap-foreign-field", "ok-white-space"} {
		seed, err := os.ReadFile(filepath.Join(vectorsDir, name, "sealed", model.EnvelopeName))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := model.ParseEnvelope(data)
		if err != nil {
			if e != nil || !fault.Is(err, fault.Format) || len(err.Error()) > 1000 {
				t.Fatalf("%+v, %v", e, err)
			}
			return
		}
		var plain model.Envelope
		if err := json.Unmarshal(data, &plain); err != nil || !reflect.DeepEqual(&plain, e) {
			t.Fatalf("encoding/json reads another envelope: %+v, %v", plain, err)
		}
		again, err := e.Marshal()
		if err != nil {
			if len(data) > model.MaxEnvelopeSize/2 {
				return // it was dense, and Marshal indents
			}
			t.Fatal(err)
		}
		if twin, err := model.ParseEnvelope(again); err != nil || !reflect.DeepEqual(twin, e) {
			t.Fatalf("it does not come back: %v", err)
		}
	})
}
