//go:debug rsa1024min=0

// Without the line above, crypto/rsa would refuse to make the short key that is to be refused here.

package keyfile_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
)

// canary is a symmetric key that no error may show.
var canary = bytes.Repeat([]byte{0xC3, 0x5A}, 16)

func encode(t testing.TB, jwk any) []byte {
	t.Helper()
	data, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func must[T any](key T, err error) T {
	if err != nil {
		panic(err)
	}
	return key
}

func ecKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))
}

func rsaKey(bits int) *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, bits)) }

func edKey() ed25519.PrivateKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return must(private, err)
}

// wantRefused demands an error of the user's kind that shows nothing of the file.
func wantRefused(t *testing.T, err error, word string) {
	t.Helper()
	if !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), word) || fault.Hint(err) == "" {
		t.Errorf("%v; want %q", err, word)
		return
	}
	for _, leak := range []string{base64.RawURLEncoding.EncodeToString(canary)[:16], fmt.Sprintf("%x", canary)[:16], string(canary[:8])} {
		if strings.Contains(err.Error(), leak) {
			t.Errorf("the key is in: %v", err)
		}
	}
}

func TestParseKEK(t *testing.T) {
	p256 := ecKey(elliptic.P256())
	small := rsaKey(2048)
	for name, c := range map[string]struct {
		jwk       jose.JSONWebKey
		algorithm string
		opens     bool
	}{
		"oct":           {jose.JSONWebKey{Key: canary, KeyID: "a"}, "A256KW", true},
		"oct with alg":  {jose.JSONWebKey{Key: canary, KeyID: "a", Algorithm: "A256KW", Use: "enc"}, "A256KW", true},
		"P-256":         {jose.JSONWebKey{Key: p256, KeyID: "a"}, "ECDH-ES+A256KW", true},
		"P-256 public":  {jose.JSONWebKey{Key: p256.Public(), KeyID: "a", Algorithm: "ECDH-ES+A256KW"}, "ECDH-ES+A256KW", false},
		"P-384":         {jose.JSONWebKey{Key: ecKey(elliptic.P384())}, "ECDH-ES+A256KW", true},
		"P-521":         {jose.JSONWebKey{Key: ecKey(elliptic.P521())}, "ECDH-ES+A256KW", true},
		"RSA":           {jose.JSONWebKey{Key: small, KeyID: "a"}, "RSA-OAEP-256", true},
		"RSA public":    {jose.JSONWebKey{Key: small.Public(), KeyID: "a", Use: "enc"}, "RSA-OAEP-256", false},
		"longest kid":   {jose.JSONWebKey{Key: canary, KeyID: strings.Repeat("k", 128)}, "A256KW", true},
		"kid of an URL": {jose.JSONWebKey{Key: canary, KeyID: "https://kms.example/keys/1?v=2#x"}, "A256KW", true},
	} {
		t.Run(name, func(t *testing.T) {
			data := encode(t, c.jwk)
			kek, err := keyfile.ParseKEK(data)
			if err != nil {
				t.Fatal(err)
			}
			defer kek.Wipe()
			if kek.Algorithm != c.algorithm || kek.CanUnwrap() != c.opens || kek.ID == "" || c.jwk.KeyID != "" && kek.ID != c.jwk.KeyID {
				t.Errorf("%s, opens: %v, id %q", kek.Algorithm, kek.CanUnwrap(), kek.ID)
			}
			if !bytes.Equal(data, make([]byte, len(data))) {
				t.Error("the file's bytes are still in memory")
			}
			if key, ok := c.jwk.Key.([]byte); ok && !bytes.Equal(kek.Symmetric.Bytes(), key) {
				t.Error("another key")
			}
			if strings.Contains(fmt.Sprintf("%+v %v", kek, kek.Symmetric), string(canary)) {
				t.Error("printed")
			}
		})
	}
}

// TestThumbprint: the id of an asymmetric key without a kid is RFC 7638's, here that of its own example.
func TestThumbprint(t *testing.T) {
	kek, err := keyfile.ParseKEK([]byte(`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; kek.ID != want {
		t.Errorf("%s, want %s", kek.ID, want)
	}
}

func TestKEKsRefused(t *testing.T) {
	k := base64.RawURLEncoding.EncodeToString(canary)
	oct := func(fields string) string { return `{"kty":"oct","k":"` + k + `"` + fields + `}` }
	for name, c := range map[string]struct{ file, word string }{
		"nothing":             {"", "not a valid JWK"},
		"the raw key":         {string(canary), "not a valid JWK"},
		"base64 of it":        {k, "not a valid JWK"},
		"no kid":              {oct(""), "it has no kid"},
		"empty kid":           {oct(`,"kid":""`), "it has no kid"},
		"long kid":            {oct(`,"kid":"` + strings.Repeat("k", 129) + `"`), "longer than 128 bytes"},
		"kid with a space":    {oct(`,"kid":"my key"`), "printable ASCII"},
		"kid with a line end": {oct(`,"kid":"a\nb"`), "printable ASCII"},
		"kid of other script": {oct(`,"kid":"schlüssel"`), "printable ASCII"},
		"short":               {`{"kty":"oct","kid":"a","k":"` + k[:22] + `"}`, "has 16 bytes, not 32"},
		"long":                {`{"kty":"oct","kid":"a","k":"` + k + `AAAA"}`, "not 32"},
		"empty":               {`{"kty":"oct","kid":"a","k":""}`, ""},
		"other alg":           {oct(`,"kid":"a","alg":"A256GCMKW"`), `its alg is "A256GCMKW"`},
		"for signing":         {oct(`,"kid":"a","use":"sig"`), `its use is "sig"`},
		"trailing":            {oct(`,"kid":"a"`) + "x", "not a valid JWK"},
		"two keys":            {oct(`,"kid":"a"`) + oct(`,"kid":"b"`), "not a valid JWK"},
		"a set":               {`{"keys":[` + oct(`,"kid":"a"`) + `]}`, "not a valid JWK"},
		"too large":           {oct(`,"kid":"a"`) + strings.Repeat(" ", keyfile.MaxSize), "larger than"},
		"Ed25519":             {string(encode(t, jose.JSONWebKey{Key: edKey(), KeyID: "a"})), "is oct, RSA or EC"},
		"small RSA":           {string(encode(t, jose.JSONWebKey{Key: rsaKey(1024), KeyID: "a"})), "1024 bits, at least 2048"},
		"EC off the curve":    {`{"kty":"EC","kid":"a","crv":"P-256","x":"` + k + `","y":"` + k + `"}`, "not a valid JWK"},
		"EC of alg RSA":       {string(encode(t, jose.JSONWebKey{Key: ecKey(elliptic.P256()), KeyID: "a", Algorithm: "RSA-OAEP-256"})), "its alg is"},
		"EC for ECDH-ES":      {string(encode(t, jose.JSONWebKey{Key: ecKey(elliptic.P256()), KeyID: "a", Algorithm: "ECDH-ES"})), "its alg is"},
	} {
		t.Run(name, func(t *testing.T) {
			data := []byte(c.file)
			kek, err := keyfile.ParseKEK(data)
			if err == nil {
				t.Fatalf("taken: %s", kek.ID)
			}
			wantRefused(t, err, c.word)
			if !bytes.Equal(data, make([]byte, len(data))) {
				t.Error("the file's bytes are still in memory")
			}
		})
	}
}

func TestParseSigner(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"Ed25519": edKey(), "P-256": ecKey(elliptic.P256())} {
		data := encode(t, jose.JSONWebKey{Key: key})
		signer, err := keyfile.ParseSigner(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: another key", name)
		}
		if !bytes.Equal(data, make([]byte, len(data))) {
			t.Errorf("%s: the file's bytes are still in memory", name)
		}
	}
	for name, key := range map[string]any{
		"oct": canary, "P-384": ecKey(elliptic.P384()), "RSA": rsaKey(2048), "public": edKey().Public(), "public EC": ecKey(elliptic.P256()).Public(),
	} {
		_, err := keyfile.ParseSigner(encode(t, jose.JSONWebKey{Key: key, KeyID: "a"}))
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		wantRefused(t, err, "a signing key is a private Ed25519 or P-256 key")
	}
}

func pemOf(t testing.TB, kind string, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestParseVerifiers(t *testing.T) {
	ed, ec := edKey(), ecKey(elliptic.P256())
	edJWK, ecJWK := string(encode(t, jose.JSONWebKey{Key: ed.Public()})), string(encode(t, jose.JSONWebKey{Key: ec.Public(), KeyID: "b"}))
	for name, c := range map[string]struct {
		file string
		want []crypto.PublicKey
	}{
		"JWK":           {edJWK, []crypto.PublicKey{ed.Public()}},
		"private JWK":   {string(encode(t, jose.JSONWebKey{Key: ec})), []crypto.PublicKey{ec.Public()}},
		"JWK set":       {`{"keys":[` + edJWK + "," + ecJWK + `]}`, []crypto.PublicKey{ed.Public(), ec.Public()}},
		"PEM":           {pemOf(t, "PUBLIC KEY", ec.Public()), []crypto.PublicKey{ec.Public()}},
		"PEMs":          {"# ours\n" + pemOf(t, "PUBLIC KEY", ec.Public()) + "\n" + pemOf(t, "PUBLIC KEY", ed.Public()), []crypto.PublicKey{ec.Public(), ed.Public()}},
		"with line end": {edJWK + "\n", []crypto.PublicKey{ed.Public()}},
	} {
		got, err := keyfile.ParseVerifiers([]byte(c.file))
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: %d keys, %v", name, len(got), err)
			continue
		}
		for i := range got {
			if !got[i].(interface{ Equal(crypto.PublicKey) bool }).Equal(c.want[i]) {
				t.Errorf("%s: key %d is another one", name, i)
			}
		}
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	private, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, word string }{
		"nothing":              {"", "not a valid JWK"},
		"empty set":            {`{"keys":[]}`, "not a valid JWK"},
		"P-384":                {pemOf(t, "PUBLIC KEY", ecKey(elliptic.P384()).Public()), "Ed25519 or P-256"},
		"RSA":                  {pemOf(t, "PUBLIC KEY", rsaKey(2048).Public()), "Ed25519 or P-256"},
		"one RSA":              {pemOf(t, "PUBLIC KEY", ec.Public()) + pemOf(t, "PUBLIC KEY", rsaKey(2048).Public()), "Ed25519 or P-256"},
		"RSA JWK":              {string(encode(t, jose.JSONWebKey{Key: rsaKey(2048).Public()})), "Ed25519 or P-256"},
		"symmetric":            {string(encode(t, jose.JSONWebKey{Key: canary, KeyID: "a"})), ""},
		"certificate":          {string(certificate), "no public key"},
		"private PEM":          {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "no public key"},
		"too many":             {strings.Repeat(pemOf(t, "PUBLIC KEY", ed.Public()), 33), "33 keys"},
		"set of nulls":         {`{"keys":[null]}`, ""},
		"set of the symmetric": {`{"keys":[` + string(encode(t, jose.JSONWebKey{Key: canary, KeyID: "a"})) + `]}`, ""},
		"too large":            {edJWK + strings.Repeat(" ", keyfile.MaxSize), "larger than"},
	} {
		got, err := keyfile.ParseVerifiers([]byte(c.file))
		if err == nil {
			t.Errorf("%s: %d keys taken", name, len(got))
			continue
		}
		wantRefused(t, err, c.word)
	}
}

// TestGenerate: what keygen makes is what the parsers take, and two keys are never one.
func TestGenerate(t *testing.T) {
	ids := map[string]bool{}
	for _, kind := range []string{keyfile.TypeKEK, keyfile.TypeKEKEC, keyfile.TypeSigning, keyfile.TypeKEK, keyfile.TypeKEKEC, keyfile.TypeSigning} {
		private, public, id, err := keyfile.Generate(kind)
		if err != nil {
			t.Fatal(err)
		}
		if ids[id] || id == "" {
			t.Errorf("%s: id %q", kind, id)
		}
		ids[id] = true
		if (public == nil) != (kind == keyfile.TypeKEK) || bytes.Contains(public, []byte(`"d"`)) || bytes.Contains(public, []byte(`"k"`)) {
			t.Errorf("%s: public half %s", kind, public)
		}
		if kind == keyfile.TypeSigning {
			signer, err := keyfile.ParseSigner(private)
			if err != nil {
				t.Fatal(err)
			}
			if verifiers, err := keyfile.ParseVerifiers(public); err != nil || !verifiers[0].(ed25519.PublicKey).Equal(signer.Public()) {
				t.Errorf("%s: %v", kind, err)
			}
			continue
		}
		for _, half := range [][]byte{private, public} {
			if half == nil {
				continue
			}
			if kek, err := keyfile.ParseKEK(half); err != nil || kek.ID != id {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
	if _, _, _, err := keyfile.Generate("rsa"); !fault.Is(err, fault.Usage) {
		t.Errorf("%v", err)
	}
}

// FuzzParse: no file makes a parser panic, and every error is the user's and shows no key.
func FuzzParse(f *testing.F) {
	for _, kind := range []string{keyfile.TypeKEK, keyfile.TypeKEKEC, keyfile.TypeSigning} {
		private, public, _, err := keyfile.Generate(kind)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(private)
		f.Add(public)
	}
	f.Add([]byte(pemOf(f, "PUBLIC KEY", edKey().Public())))
	f.Add([]byte(`{"keys":[null,{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if keys, err := keyfile.ParseVerifiers(bytes.Clone(data)); err != nil && !fault.Is(err, fault.Usage) || err == nil && len(keys) == 0 {
			t.Errorf("verifiers: %d, %v", len(keys), err)
		}
		if _, err := keyfile.ParseSigner(bytes.Clone(data)); err != nil && !fault.Is(err, fault.Usage) {
			t.Errorf("signer: %v", err)
		}
		kek, err := keyfile.ParseKEK(bytes.Clone(data))
		if err != nil && !fault.Is(err, fault.Usage) {
			t.Errorf("kek: %v", err)
		}
		if err == nil {
			kek.Wipe()
		}
	})
}
