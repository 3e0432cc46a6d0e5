package model_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

func ed25519Key(tb testing.TB, b byte) ed25519.PrivateKey {
	tb.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func ecdsaKey(tb testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func sign(tb testing.TB, signer crypto.Signer, s model.Statement) []byte {
	tb.Helper()
	data, err := model.Sign(signer, s)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestSignatures(t *testing.T) {
	want := goodEnvelope().Statement([]byte("sealed manifest"))
	ed, p256, stranger := ed25519Key(t, 1), ecdsaKey(t, elliptic.P256()), ed25519Key(t, 2)
	for _, signer := range []crypto.Signer{ed, p256} {
		data := sign(t, signer, want)
		if err := model.VerifySignature(data, []crypto.PublicKey{stranger.Public(), signer.Public()}, want); err != nil {
			t.Errorf("%T: %v", signer, err)
		}
		if err := model.VerifySignature(data, []crypto.PublicKey{stranger.Public()}, want); !fault.Is(err, fault.Format) {
			t.Errorf("%T, not trusted: %v", signer, err)
		}
		for name, other := range map[string]model.Statement{
			"manifest": goodEnvelope().Statement([]byte("another manifest")),
			"version":  {want.Format, want.Suite, want.Model, 4, want.MDKID, want.ManifestSHA256},
			"model":    {want.Format, want.Suite, "acme/other", want.Version, want.MDKID, want.ManifestSHA256},
			"mdk_id":   {want.Format, want.Suite, want.Model, want.Version, model.ID(idB), want.ManifestSHA256},
			"suite":    {want.Format, "rot13", want.Model, want.Version, want.MDKID, want.ManifestSHA256},
		} {
			err := model.VerifySignature(data, []crypto.PublicKey{signer.Public()}, other)
			if !fault.Is(err, fault.Format) || !strings.Contains(err.Error(), "not what is published") {
				t.Errorf("%T, another %s: %v", signer, name, err)
			}
		}
	}
}

// TestPreAuthEncoding is DSSE's own test vector: what is signed is the encoding of type and payload, not the payload.
func TestPreAuthEncoding(t *testing.T) {
	if got := model.PreAuthEncoding("http://example.com/HelloWorld",
		[]byte("hello world")); string(got) != "DSSEv1 29 http://example.com/HelloWorld 11 hello world" {
		t.Errorf("%q", got)
	}
	signer := ed25519Key(t, 1)
	var d struct {
		Payload    []byte `json:"payload"`
		Signatures []struct {
			Sig []byte `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(sign(t, signer, goodEnvelope().Statement(nil)), &d); err != nil {
		t.Fatal(err)
	}
	key := signer.Public().(ed25519.PublicKey)
	if ed25519.Verify(key, d.Payload, d.Signatures[0].Sig) || !ed25519.Verify(key,
		model.PreAuthEncoding(model.PayloadType, d.Payload), d.Signatures[0].Sig) {
		t.Error("the bare payload is signed, or its encoding is not")
	}
}

type brokenSigner struct{ crypto.PublicKey }

func (s brokenSigner) Public() crypto.PublicKey { return s.PublicKey }

func (brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the token is gone")
}

func TestKeysThatCannotSign(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	want := goodEnvelope().Statement(nil)
	good := ed25519Key(t, 1)
	data := sign(t, good, want)
	for _, signer := range []crypto.Signer{weak, ecdsaKey(t, elliptic.P384()), brokenSigner{ed25519.PublicKey("short")},
		brokenSigner{nil}} {
		if _, err := model.Sign(signer, want); !fault.Is(err, fault.Usage) {
			t.Errorf("%T signs: %v", signer.Public(), err)
		}
		// Beside a key that would do: a list that is not understood is not trusted in part.
		if err := model.VerifySignature(data, []crypto.PublicKey{good.Public(), signer.Public()}, want); !fault.Is(err,
			fault.Usage) {
			t.Errorf("%T is trusted: %v", signer.Public(), err)
		}
	}
	if _, err := model.Sign(brokenSigner{good.Public()}, want); err == nil || !strings.Contains(err.Error(),
		"the token is gone") {
		t.Errorf("%v", err)
	}
	if err := model.VerifySignature(data, nil, want); !fault.Is(err, fault.Usage) {
		t.Errorf("no trusted keys: %v", err)
	}
}

// FuzzVerifySignature expects that nothing but a signature of the statement itself is ever accepted.
func FuzzVerifySignature(f *testing.F) {
	want := goodEnvelope().Statement([]byte("sealed manifest"))
	other := want
	other.Version++
	signer := ed25519Key(f, 1)
	trusted := []crypto.PublicKey{signer.Public()}
	good, err := model.Sign(signer, want)
	if err != nil {
		f.Fatal(err)
	}
	stale, err := model.Sign(signer, other)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(stale)
	f.Add([]byte(`{"payload":"","payloadType":"` + model.PayloadType + `","signatures":[{"sig":""}]}`))
	var goodDSSE struct {
		Payload string `json:"payload"`
	}
	if err := json.Unmarshal(good, &goodDSSE); err != nil {
		f.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(goodDSSE.Payload)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		switch err := model.VerifySignature(data, trusted, want); {
		case err != nil && !fault.Is(err, fault.Format):
			t.Fatalf("kind %d: %v", fault.Of(err), err)
		case err == nil:
			var d struct {
				Payload string `json:"payload"`
			}
			if err := json.Unmarshal(data, &d); err != nil {
				t.Fatal(err)
			}
			got, _ := base64.StdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(d.Payload))
			if !bytes.Equal(got, payload) {
				t.Fatalf("accepted %s", data)
			}
		}
	})
}
