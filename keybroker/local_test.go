package keybroker

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/go-jose/go-jose/v4"
	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/internal/secret"
)

const (
	testModel   = "acme/model"
	testVersion = 3
)

var b64 = base64.RawURLEncoding.EncodeToString

// newKey makes a key of a kind.
func newKey(kind string) any {
	var key any
	var err error
	switch kind {
	case "oct":
		key = bytes.Repeat([]byte{0xA7}, 32)
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "P-256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	}
	if err != nil {
		panic(err)
	}
	return key
}

// keys are one key of each kind, made when they are first asked for.
var keys = func() map[string]func() any {
	all := map[string]func() any{}
	for _, kind := range []string{"oct", "RSA", "P-256", "P-384", "P-521"} {
		all[kind] = sync.OnceValue(func() any { return newKey(kind) })
	}
	return all
}()

// local makes a broker of a key of a kind, called "kek".
func local(t testing.TB, kind string) *Local {
	t.Helper()
	return localOf(t, jose.JSONWebKey{Key: keys[kind](), KeyID: "kek"})
}

func localOf(t testing.TB, jwk jose.JSONWebKey) *Local {
	t.Helper()
	data, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	kek, err := keyfile.ParseKEK(data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kek.Wipe)
	return NewLocal(kek)
}

func newMDK(t testing.TB) *secret.Key {
	t.Helper()
	mdk, err := secret.Random(KeySize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mdk.Wipe)
	return mdk
}

func request(w Wrap) Request { return Request{Wrap: w, Model: testModel, Version: testVersion} }

func TestWrapAndRelease(t *testing.T) {
	for kind := range keys {
		t.Run(kind, func(t *testing.T) {
			l, mdk := local(t, kind), newMDK(t)
			for range 20 { // coordinates and shared secrets have leading zeros now and then
				wrap, err := l.Wrap(t.Context(), mdk, testModel, testVersion)
				if err != nil {
					t.Fatal(err)
				}
				if !l.Holds(wrap) || wrap.Type != TypeJWE || wrap.KID != "kek" || strings.Contains(wrap.JWE, b64(mdk.Bytes())) {
					t.Errorf("%+v", wrap)
				}
				r, err := l.Release(t.Context(), request(wrap))
				if err != nil {
					t.Fatal(err)
				}
				if !r.MDK.Equal(mdk) || r.KeyID != "kek" || r.Assurance != AssuranceNone || r.Attester != "none" {
					t.Errorf("%+v", r)
				}
				r.MDK.Wipe()
			}
		})
	}
}

func TestHolds(t *testing.T) {
	l := local(t, "oct")
	for _, c := range []struct {
		wrap Wrap
		want bool
	}{
		{Wrap{Type: TypeJWE, KID: "kek"}, true},
		{Wrap{Type: TypeJWE, KID: "KEK"}, false},
		{Wrap{Type: TypeJWE, KID: "kek2"}, false},
		{Wrap{Type: TypeJWE}, false},
		{Wrap{Type: TypeKMS, KID: "kek", Key: "kek"}, false},
		{Wrap{Type: TypeKBS, KID: "kek", Resource: "kek"}, false},
	} {
		if got := l.Holds(c.wrap); got != c.want {
			t.Errorf("%+v: %v", c.wrap, got)
		}
	}
}

// TestPublicHalf wraps and does not open.
func TestPublicHalf(t *testing.T) {
	public := localOf(t, jose.JSONWebKey{Key: keys["P-256"]().(*ecdsa.PrivateKey).Public(), KeyID: "kek"})
	mdk := newMDK(t)
	wrap, err := public.Wrap(t.Context(), mdk, testModel, testVersion)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := public.Release(t.Context(), request(wrap)); !fault.Is(err, fault.Usage) {
		t.Errorf("%v", err)
	}
	r, err := local(t, "P-256").Release(t.Context(), request(wrap))
	if err != nil || !r.MDK.Equal(mdk) {
		t.Errorf("%v", err)
	}
}

// forged is a JWE that is authentic under the KEK, whatever its header says: what only the header check can refuse.
type forged struct {
	header  map[string]any // over the usual one; nil values remove
	raw     string         // in place of the header
	cek     []byte         // default: a fixed one
	key     []byte         // encrypted key; default: the CEK under the KEK
	content []byte         // default: 32 bytes
}

var fixedCEK = bytes.Repeat([]byte{0x5C}, 32)

func (f forged) compact(t testing.TB) string {
	t.Helper()
	header := map[string]any{"alg": "A256KW", "enc": "A256GCM", "kid": "kek", "model": testModel, "version": testVersion}
	for name, value := range f.header {
		if header[name] = value; value == nil {
			delete(header, name)
		}
	}
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	if f.raw != "" {
		raw = []byte(f.raw)
	}
	if f.cek == nil {
		f.cek = fixedCEK
	}
	if f.key == nil {
		f.key = wrapAES(t, keys["oct"]().([]byte), f.cek)
	}
	if f.content == nil {
		f.content = bytes.Repeat([]byte{0x11}, 32)
	}
	return sealCompact(t, raw, f.key, f.cek, f.content)
}

func wrapAES(t testing.TB, kek, cek []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := josecipher.KeyWrap(block, cek)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

func sealCompact(t testing.TB, header, key, cek, content []byte) string {
	t.Helper()
	block, err := aes.NewCipher(cek)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 12)
	sealed := gcm.Seal(nil, iv, content, []byte(b64(header)))
	n := len(content)
	return strings.Join([]string{b64(header), b64(key), b64(iv), b64(sealed[:n]), b64(sealed[n:])}, ".")
}

// wantRefused demands that a JWE does not open, as the wrap's fault, and that the error tells nothing secret.
func wantRefused(t *testing.T, l *Local, jwe, word string) {
	t.Helper()
	r, err := l.Release(t.Context(), request(Wrap{Type: TypeJWE, KID: "kek", JWE: jwe}))
	if err == nil {
		r.MDK.Wipe()
		t.Errorf("opened: %.200s", jwe)
		return
	}
	if !fault.Is(err, fault.KeyUnusable) || fault.Hint(err) == "" {
		t.Errorf("kind %v, hint %q: %v", fault.Of(err), fault.Hint(err), err)
	}
	if !strings.Contains(err.Error(), word) {
		t.Errorf("no %q in %v", word, err)
	}
	if len(err.Error()) > 700 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	for _, key := range [][]byte{keys["oct"]().([]byte), fixedCEK} {
		if s := err.Error(); strings.Contains(s, b64(key)) || strings.Contains(s, hex.EncodeToString(key)) || strings.Contains(s, string(key)) {
			t.Errorf("a key is in %v", err)
		}
	}
}

func TestForgedIsAuthentic(t *testing.T) {
	r, err := local(t, "oct").Release(t.Context(), request(Wrap{Type: TypeJWE, KID: "kek", JWE: forged{}.compact(t)}))
	if err != nil {
		t.Fatalf("the tests below prove nothing: %v", err)
	}
	r.MDK.Wipe()
}

func TestHostileHeaders(t *testing.T) {
	kek := keys["oct"]().([]byte)
	const notAllowed = "header that this format does not allow"
	for name, c := range map[string]struct {
		forged
		word string
	}{
		"alg none":              {forged{header: map[string]any{"alg": "none"}}, `uses "none"`},
		"alg dir":               {forged{header: map[string]any{"alg": "dir"}, cek: kek, key: []byte{}}, `uses "dir"`},
		"dir in disguise":       {forged{cek: kek, key: []byte{}}, "not opened"},
		"alg A128KW":            {forged{header: map[string]any{"alg": "A128KW"}}, `uses "A128KW"`},
		"alg A256GCMKW":         {forged{header: map[string]any{"alg": "A256GCMKW", "iv": b64(make([]byte, 12)), "tag": b64(make([]byte, 16))}}, notAllowed},
		"alg RSA1_5":            {forged{header: map[string]any{"alg": "RSA1_5"}}, `uses "RSA1_5"`},
		"alg RSA-OAEP-256":      {forged{header: map[string]any{"alg": "RSA-OAEP-256"}}, `uses "RSA-OAEP-256"`},
		"alg ECDH-ES":           {forged{header: map[string]any{"alg": "ECDH-ES"}}, `uses "ECDH-ES"`},
		"PBES2 of great work":   {forged{header: map[string]any{"alg": "PBES2-HS512+A256KW", "p2c": 1 << 50, "p2s": "c2FsdHNhbHQ"}}, notAllowed},
		"alg in lower case":     {forged{header: map[string]any{"alg": "a256kw"}}, `uses "a256kw"`},
		"alg absent":            {forged{header: map[string]any{"alg": nil}}, notAllowed},
		"enc A128GCM":           {forged{header: map[string]any{"enc": "A128GCM"}}, `"A128GCM"`},
		"enc A256CBC-HS512":     {forged{header: map[string]any{"enc": "A256CBC-HS512"}}, `"A256CBC-HS512"`},
		"zip":                   {forged{header: map[string]any{"zip": "DEF"}}, notAllowed},
		"crit":                  {forged{header: map[string]any{"crit": []string{"exp"}, "exp": 1}}, notAllowed},
		"empty crit":            {forged{header: map[string]any{"crit": []string{}}}, notAllowed},
		"jku":                   {forged{header: map[string]any{"jku": "https://mallory.example/"}}, notAllowed},
		"jwk":                   {forged{header: map[string]any{"jwk": map[string]string{"kty": "oct", "k": "AA"}}}, notAllowed},
		"apu":                   {forged{header: map[string]any{"apu": "AA"}}, notAllowed},
		"typ":                   {forged{header: map[string]any{"typ": "JWE"}}, notAllowed},
		"epk of no use":         {forged{header: map[string]any{"epk": map[string]string{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}}}, "sender's key"},
		"another kid":           {forged{header: map[string]any{"kid": "other"}}, `names the key "other"`},
		"kid absent":            {forged{header: map[string]any{"kid": nil}}, notAllowed},
		"another model":         {forged{header: map[string]any{"model": "acme/other"}}, `made for "acme/other" version 3`},
		"model absent":          {forged{header: map[string]any{"model": nil}}, notAllowed},
		"another version":       {forged{header: map[string]any{"version": 2}}, `made for "acme/model" version 2`},
		"version absent":        {forged{header: map[string]any{"version": nil}}, notAllowed},
		"version in words":      {forged{header: map[string]any{"version": "3"}}, notAllowed},
		"version of fractions":  {forged{header: map[string]any{"version": 3.5}}, notAllowed},
		"version null":          {forged{raw: `{"alg":"A256KW","enc":"A256GCM","kid":"kek","model":"acme/model","version":null}`}, notAllowed},
		"duplicate field":       {forged{raw: `{"alg":"A256KW","enc":"A256GCM","kid":"kek","model":"acme/other","model":"acme/model","version":3}`}, notAllowed},
		"field in other case":   {forged{raw: `{"Alg":"A256KW","enc":"A256GCM","kid":"kek","model":"acme/model","version":3}`}, notAllowed},
		"trailing bytes":        {forged{raw: `{"alg":"A256KW","enc":"A256GCM","kid":"kek","model":"acme/model","version":3}{}`}, notAllowed},
		"no object":             {forged{raw: `"A256KW"`}, notAllowed},
		"no JSON":               {forged{raw: `A256KW`}, notAllowed},
		"deep":                  {forged{raw: strings.Repeat("[", 5000)}, notAllowed},
		"hostile text":          {forged{header: map[string]any{"kid": strings.Repeat("\x1b[31m", 100)}}, "names the key"},
		"short content":         {forged{content: make([]byte, 31)}, "does not hold 32 bytes"},
		"long content":          {forged{content: make([]byte, 33)}, "does not hold 32 bytes"},
		"no content":            {forged{content: []byte{}}, "does not hold 32 bytes"},
		"short CEK":             {forged{cek: make([]byte, 16)}, "not opened"},
		"CEK under another key": {forged{key: wrapAES(t, make([]byte, 32), fixedCEK)}, "not opened"},
		"long encrypted key":    {forged{key: append(wrapAES(t, kek, fixedCEK), make([]byte, 8)...)}, "not opened"},
		"odd encrypted key":     {forged{key: make([]byte, 39)}, "not opened"},
		"no encrypted key":      {forged{key: []byte{}}, "not opened"},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, local(t, "oct"), c.compact(t), c.word) })
	}
}

// TestHostileSpellings takes a good JWE and spells it in ways that some parsers forgive.
func TestHostileSpellings(t *testing.T) {
	l := local(t, "oct")
	good := forged{}.compact(t)
	parts := strings.Split(good, ".")
	with := func(i int, part string) string {
		changed := slices.Clone(parts)
		changed[i] = part
		return strings.Join(changed, ".")
	}
	const word = "is not a compact JWE"
	for name, jwe := range map[string]string{
		"nothing": "", "dots": "....", "four parts": strings.Join(parts[:4], "."), "six parts": good + ".", "six full parts": good + "." + parts[4],
		"white space": good + "\n", "white space in front": " " + good, "padding": with(2, parts[2]+"="), "line break": with(3, parts[3][:10]+"\n"+parts[3][10:]),
		"no IV": with(2, ""), "short IV": with(2, b64(make([]byte, 11))), "long IV": with(2, b64(make([]byte, 16))),
		"no tag": with(4, ""), "short tag": with(4, b64(make([]byte, 12))), "long tag": with(4, b64(make([]byte, 17))),
		"tag in the ciphertext": strings.Join([]string{parts[0], parts[1], parts[2], parts[3] + parts[4], ""}, "."),
		"JSON":                  `{"protected":"` + parts[0] + `","encrypted_key":"` + parts[1] + `","iv":"` + parts[2] + `","ciphertext":"` + parts[3] + `","tag":"` + parts[4] + `"}`,
		"too long":              with(3, strings.Repeat("A", maxJWE)), "standard alphabet": with(3, "+/+/"),
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, l, jwe, word) })
	}
	for i, part := range parts {
		// The last character of 2 or 3 carries bits that mean nothing: only one of the spellings is right.
		if rest := len(part) % 4; rest != 0 {
			alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
			at := strings.IndexByte(alphabet, part[len(part)-1])
			wantRefused(t, l, with(i, part[:len(part)-1]+alphabet[at+1:at+2]), word)
		}
	}
}

// TestEveryBitCounts flips each bit of a JWE under each kind of key.
func TestEveryBitCounts(t *testing.T) {
	for _, kind := range []string{"oct", "RSA", "P-256"} {
		l := local(t, kind)
		wrap, err := l.Wrap(t.Context(), newMDK(t), testModel, testVersion)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(wrap.JWE, ".")
		for i := range parts {
			raw, err := base64.RawURLEncoding.DecodeString(parts[i])
			if err != nil {
				t.Fatal(err)
			}
			step := 1
			if kind == "RSA" && i == 1 {
				step = 61 // each costs an exponentiation
			}
			for bit := 0; bit < 8*len(raw); bit += step {
				changed := slices.Clone(raw)
				changed[bit/8] ^= 1 << (bit % 8)
				all := slices.Clone(parts)
				all[i] = b64(changed)
				wantRefused(t, l, strings.Join(all, "."), "the wrap under key kek")
			}
		}
	}
}

// TestHostileSenders: points that are none, on another curve, or spelled otherwise.
func TestHostileSenders(t *testing.T) {
	private := keys["P-256"]().(*ecdsa.PrivateKey)
	l := local(t, "P-256")
	coordinates := func(curve ecdh.Curve) (x, y []byte) {
		k, err := curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point := k.PublicKey().Bytes()[1:]
		return point[:len(point)/2], point[len(point)/2:]
	}
	epk := func(kty, crv string, x, y []byte) map[string]string {
		return map[string]string{"kty": kty, "crv": crv, "x": b64(x), "y": b64(y)}
	}
	x, y := coordinates(ecdh.P256())
	x384, y384 := coordinates(ecdh.P384())
	wrong := slices.Clone(y)
	wrong[31] ^= 1
	field := private.Curve.Params().P.Bytes()
	for name, sender := range map[string]any{
		"absent":           nil,
		"off the curve":    epk("EC", "P-256", x, wrong),
		"zero":             epk("EC", "P-256", make([]byte, 32), make([]byte, 32)),
		"beyond the field": epk("EC", "P-256", field, y),
		"other curve":      epk("EC", "P-384", x384, y384),
		"in disguise":      epk("EC", "P-256", x384, y384),
		"wrong name":       epk("EC", "P-384", x, y),
		"short":            epk("EC", "P-256", x[1:], y),
		"long":             epk("EC", "P-256", append([]byte{0}, x...), y),
		"OKP":              epk("OKP", "P-256", x, y),
		"private":          map[string]string{"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "d": b64(x)},
		"no y":             map[string]string{"kty": "EC", "crv": "P-256", "x": b64(x)},
		"not base64":       map[string]string{"kty": "EC", "crv": "P-256", "x": b64(x) + "!", "y": b64(y)},
		"null":             json.RawMessage("null"),
		"a string":         "P-256",
	} {
		t.Run(name, func(t *testing.T) {
			jwe := forged{header: map[string]any{"alg": "ECDH-ES+A256KW", "epk": sender}}.compact(t)
			wantRefused(t, l, jwe, "the wrap under key kek")
		})
	}
}

// TestOAEPOnly: an RSA key opens what OAEP with SHA-256 wrapped, and nothing of older making.
func TestOAEPOnly(t *testing.T) {
	public := &keys["RSA"]().(*rsa.PrivateKey).PublicKey
	//lint:ignore SA1019 it is what must be refused
	pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, public, fixedCEK)
	if err != nil {
		t.Fatal(err)
	}
	sha1, err := rsa.EncryptOAEP(crypto.SHA1.New(), rand.Reader, public, fixedCEK, nil)
	if err != nil {
		t.Fatal(err)
	}
	label, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, fixedCEK, []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]forged{
		"RSA1_5":             {header: map[string]any{"alg": "RSA1_5"}, key: pkcs1},
		"RSA1_5 in disguise": {header: map[string]any{"alg": "RSA-OAEP-256"}, key: pkcs1},
		"RSA-OAEP":           {header: map[string]any{"alg": "RSA-OAEP"}, key: sha1},
		"RSA-OAEP disguised": {header: map[string]any{"alg": "RSA-OAEP-256"}, key: sha1},
		"label":              {header: map[string]any{"alg": "RSA-OAEP-256"}, key: label},
		"zero":               {header: map[string]any{"alg": "RSA-OAEP-256"}, key: make([]byte, 256)},
		"short":              {header: map[string]any{"alg": "RSA-OAEP-256"}, key: pkcs1[1:]},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, local(t, "RSA"), c.compact(t), "the wrap under key kek") })
	}
}

// wycheproofGroup is a key of json_web_encryption_test.json with its tests.
type wycheproofGroup struct {
	Private json.RawMessage `json:"private"`
	Tests   []struct {
		ID      int             `json:"tcId"`
		Comment string          `json:"comment"`
		JWE     json.RawMessage `json:"jwe"`
		Text    string          `json:"pt"`
		Result  string          `json:"result"`
	} `json:"tests"`
}

func wycheproofGroups(t *testing.T) []wycheproofGroup {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, "json_web_encryption_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []wycheproofGroup `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.TestGroups
}

// TestWycheproof opens what Wycheproof has under our algorithms, and nothing else that is under our keys. None of it is
// a wrap: its headers bind no model.
func TestWycheproof(t *testing.T) {
	opened, refused := 0, 0
	for _, group := range wycheproofGroups(t) {
		kek, err := keyfile.ParseKEK(slices.Clone([]byte(group.Private)))
		if err != nil {
			continue // of an algorithm or a length that is not ours
		}
		for _, test := range group.Tests {
			var jwe string
			_ = json.Unmarshal(test.JWE, &jwe) // JSON serialization is no string
			_, err := NewLocal(kek).Release(t.Context(), request(Wrap{Type: TypeJWE, KID: kek.ID, JWE: jwe}))
			if !fault.Is(err, fault.KeyUnusable) {
				t.Errorf("%d %s: %v", test.ID, test.Comment, err)
			}
			text, err := openAny(kek, jwe)
			switch {
			case err != nil:
				refused++
			case test.Result == "valid" && hex.EncodeToString(text) == test.Text:
				opened++
			default:
				t.Errorf("%d %s: opened, %s", test.ID, test.Comment, test.Result)
			}
			if ours := test.Result == "valid" && usesOurs(kek, jwe); ours && err != nil {
				t.Errorf("%d %s: %v", test.ID, test.Comment, err)
			}
		}
	}
	if opened < 3 || refused < 30 {
		t.Errorf("opened %d, refused %d", opened, refused)
	}
}

type anyHeader struct {
	Alg, Enc, Zip string
	EPK           *senderKey
}

func headerOf(jwe string) (h anyHeader) {
	first, _, _ := strings.Cut(jwe, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(first)
	_ = json.Unmarshal(raw, &h)
	return h
}

func usesOurs(kek *keyfile.KEK, jwe string) bool {
	h := headerOf(jwe)
	return h.Alg == kek.Algorithm && h.Enc == "A256GCM" && h.Zip == ""
}

// openAny opens a JWE whatever else its header says.
func openAny(kek *keyfile.KEK, jwe string) ([]byte, error) {
	object, err := parseCompact(jwe)
	if err != nil {
		return nil, err
	}
	if !usesOurs(kek, jwe) {
		return nil, fmt.Errorf("%+v", headerOf(jwe))
	}
	return object.open(kek, headerOf(jwe).EPK)
}

// FuzzRelease: whatever the envelope says, Release ends in an error of its kind, or in 32 bytes.
func FuzzRelease(f *testing.F) {
	f.Add(forged{}.compact(f))
	f.Add(forged{header: map[string]any{"zip": "DEF"}}.compact(f))
	f.Add("....")
	f.Add("eyJhbGciOiJub25lIn0....")
	l := local(f, "oct")
	f.Fuzz(func(t *testing.T, jwe string) {
		r, err := l.Release(t.Context(), request(Wrap{Type: TypeJWE, KID: "kek", JWE: jwe}))
		if err != nil {
			if !fault.Is(err, fault.KeyUnusable) {
				t.Errorf("%v", err)
			}
			return
		}
		defer r.MDK.Wipe()
		if len(r.MDK.Bytes()) != KeySize {
			t.Errorf("%d bytes", len(r.MDK.Bytes()))
		}
	})
}
