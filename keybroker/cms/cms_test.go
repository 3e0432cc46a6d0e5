package cms_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sealfetch/sealfetch/keybroker/cms"
)

// newKey makes the one recipient of this test binary.
var newKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func recipient(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := newKey()
	check(t, err)
	return key
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tlv is an element of definite length.
func tlv(tag byte, content ...[]byte) []byte {
	body := bytes.Join(content, nil)
	head := []byte{tag, byte(len(body))}
	switch {
	case len(body) >= 0x100:
		head = []byte{tag, 0x82, byte(len(body) >> 8), byte(len(body))}
	case len(body) >= 0x80:
		head = []byte{tag, 0x81, byte(len(body))}
	}
	return append(head, body...)
}

// open is an element of indefinite length.
func open(tag byte, content ...[]byte) []byte {
	return append(append([]byte{tag, 0x80}, bytes.Join(content, nil)...), 0, 0)
}

// parts are the pieces of a message, which a test may spoil before build puts them together.
type parts struct {
	outerOID, version []byte
	recipients        [][]byte // complete; nil means one made of what follows
	ri, rid           []byte
	oaep              []byte
	encryptedKey      []byte
	innerOID          []byte
	cbc, iv           []byte
	ciphertext        []byte // the [0] element, complete; nil means made of content
	content           []byte
}

var (
	oidEnveloped = []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03")
	oidData      = []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01")
	oidOAEP      = []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07")
	oidMGF1      = []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08")
	sha256ID     = []byte("\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00")
	sha256Bare   = []byte("\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01")
	sha1ID       = []byte("\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00")
	oidAES256CBC = []byte("\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a")
	oidAES128CBC = []byte("\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x02")
)

func oaep(hash, mask []byte) []byte {
	return tlv(0x30, oidOAEP, tlv(0x30, tlv(0xa0, hash), tlv(0xa1, tlv(0x30, oidMGF1, mask))))
}

// message holds plaintext for a key as AWS sends it. padding replaces the padding if it is not nil.
func message(t testing.TB, key *rsa.PublicKey, plaintext, padding []byte) *parts {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	check(t, err)
	id := sha256.Sum256(spki)
	contentKey, iv := make([]byte, 32), make([]byte, 16)
	rand.Read(contentKey)
	rand.Read(iv)
	encryptedKey, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, contentKey, nil)
	check(t, err)
	if padding == nil {
		n := 16 - len(plaintext)%16
		padding = bytes.Repeat([]byte{byte(n)}, n)
	}
	return &parts{
		outerOID: oidEnveloped, version: []byte{2, 1, 2}, ri: []byte{2, 1, 2}, rid: tlv(0x80, id[:]),
		oaep: oaep(sha256ID, sha256ID), encryptedKey: encryptedKey,
		innerOID: oidData, cbc: oidAES256CBC, iv: iv,
		content: encrypt(t, contentKey, iv, append(bytes.Clone(plaintext), padding...)),
	}
}

func encrypt(t testing.TB, key, iv, padded []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	check(t, err)
	out := make([]byte, len(padded))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, padded)
	return out
}

func (p *parts) recipient() []byte {
	return tlv(0x30, p.ri, p.rid, p.oaep, tlv(0x04, p.encryptedKey))
}

func (p *parts) build() []byte {
	recipients := p.recipients
	if recipients == nil {
		recipients = [][]byte{p.recipient()}
	}
	ciphertext := p.ciphertext
	if ciphertext == nil {
		ciphertext = open(0xa0, tlv(0x04, p.content))
	}
	return open(0x30, p.outerOID, open(0xa0, open(0x30, p.version,
		tlv(0x31, recipients...),
		open(0x30, p.innerOID, tlv(0x30, p.cbc, tlv(0x04, p.iv)), ciphertext))))
}

var plaintext = []byte("thirty-two bytes of a secret key")

func TestOpen(t *testing.T) {
	key := recipient(t)
	for name, spell := range map[string]func(*parts) []byte{
		"as AWS sends it": (*parts).build,
		"all definite": func(p *parts) []byte {
			return tlv(0x30, p.outerOID, tlv(0xa0, tlv(0x30, p.version, tlv(0x31, p.recipient()),
				tlv(0x30, p.innerOID, tlv(0x30, p.cbc, tlv(0x04, p.iv)), tlv(0x80, p.content)))))
		},
		"content in pieces": func(p *parts) []byte {
			p.ciphertext = tlv(0xa0, tlv(0x04, p.content[:7]), tlv(0x04), tlv(0x04, p.content[7:]))
			return p.build()
		},
		"SHA-256 without parameters": func(p *parts) []byte {
			p.oaep = oaep(sha256Bare, sha256ID)
			return p.build()
		},
	} {
		got, err := cms.Open(spell(message(t, &key.PublicKey, plaintext, nil)), key)
		if err != nil || !bytes.Equal(got.Bytes(), plaintext) {
			t.Errorf("%s: %v", name, err)
		}
		got.Wipe()
	}
	for _, size := range []int{1, 15, 16, 17, 4096} {
		want := bytes.Repeat([]byte{9}, size)
		got, err := cms.Open(message(t, &key.PublicKey, want, nil).build(), key)
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes: %v", size, err)
		}
		got.Wipe()
	}
}

// TestHostileContent has messages in the right form that must not open. All are refused with the same words.
func TestHostileContent(t *testing.T) {
	key := recipient(t)
	const refusal = "the message does not decrypt under the recipient's key"
	padded := func(size int, padding ...byte) *parts { return message(t, &key.PublicKey, plaintext[:size], padding) }
	spoilt := func(change func(*parts)) *parts {
		p := message(t, &key.PublicKey, plaintext, nil)
		change(p)
		return p
	}
	for name, p := range map[string]*parts{
		"padding of 0":       padded(31, 0),
		"padding of 17":      padded(15, bytes.Repeat([]byte{17}, 17)...),
		"padding of 255":     padded(31, 255),
		"uneven padding":     padded(28, 4, 3, 4, 4),
		"padding alone":      padded(0, bytes.Repeat([]byte{16}, 16)...),
		"padding made wrong": spoilt(func(p *parts) { p.content[31] ^= 1 }),
		"last block cut off": spoilt(func(p *parts) { p.content = p.content[:32] }),
		"another key inside": spoilt(func(p *parts) { p.encryptedKey[40] ^= 1 }),
		"key cut":            spoilt(func(p *parts) { p.encryptedKey = p.encryptedKey[1:] }),
		"no key":             spoilt(func(p *parts) { p.encryptedKey = nil }),
		"content key of 16":  withContentKey(t, key, make([]byte, 16), nil),
		"content key of 33":  withContentKey(t, key, make([]byte, 33), nil),
		"OAEP label":         withContentKey(t, key, make([]byte, 32), []byte("label")),
		"OAEP with SHA-1":    withSHA1(t, key),
	} {
		got, err := cms.Open(p.build(), key)
		if err == nil || err.Error() != refusal {
			t.Errorf("%s: error %v, want %q", name, err, refusal)
		}
		if got != nil {
			t.Errorf("%s: a key beside an error", name)
		}
	}
}

func withContentKey(t *testing.T, key *rsa.PrivateKey, contentKey, label []byte) *parts {
	t.Helper()
	p := message(t, &key.PublicKey, plaintext, nil)
	var err error
	p.encryptedKey, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, contentKey, label)
	check(t, err)
	return p
}

func withSHA1(t *testing.T, key *rsa.PrivateKey) *parts {
	t.Helper()
	p := message(t, &key.PublicKey, plaintext, nil)
	var err error
	p.encryptedKey, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, &key.PublicKey, make([]byte, 32), nil)
	check(t, err)
	return p
}

// TestHostileForm has messages that are not of the one form.
func TestHostileForm(t *testing.T) {
	key := recipient(t)
	spoil := func(change func(*parts)) []byte {
		p := message(t, &key.PublicKey, plaintext, nil)
		change(p)
		return p.build()
	}
	good := spoil(func(*parts) {})
	pkcs15 := []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00")
	wide := tlv(0x30, bytes.Repeat(tlv(0x30, bytes.Repeat([]byte{5, 0}, 20)), 20))
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"empty":                {nil, "ends in the middle"},
		"one byte":             {good[:1], "ends in the middle"},
		"a tail":               {append(bytes.Clone(good), 0), "1 bytes after the message"},
		"too long":             {make([]byte, 8<<10+1), "more than 8192"},
		"all zeros":            {make([]byte, 100), "after the message"},
		"endless nesting":      {bytes.Repeat([]byte{0x30, 0x80}, 4000), "nested deeper than 16"},
		"many elements":        {tlv(0x30, bytes.Repeat([]byte{5, 0}, 300)), "more than 256 elements"},
		"many, deeper":         {wide, "more than 256 elements"},
		"long tag":             {[]byte{0x3f, 0x81, 0x01, 0}, "tag of more than one byte"},
		"length of 3 bytes":    {[]byte{0x30, 0x83, 0, 0, 1, 0}, "length of 3 bytes"},
		"length of 127 bytes":  {[]byte{0x30, 0xff, 1}, "length of 127 bytes"},
		"length not shortest":  {[]byte{0x30, 0x81, 0x02, 5, 0}, "longer than need be"},
		"length not shortest2": {append([]byte{0x30, 0x82, 0, 0x80}, make([]byte, 128)...), "longer than need be"},
		"length beyond end":    {[]byte{0x30, 0x7f, 5, 0}, "ends in the middle"},
		"length cut":           {[]byte{0x30, 0x82, 1}, "ends in the middle"},
		"indefinite primitive": {[]byte{0x04, 0x80, 0, 0}, "primitive element"},
		"no end":               {good[:len(good)-2], "ends in the middle"},

		"signed data":        {spoil(func(p *parts) { p.outerOID = oidData }), "content type"},
		"version 0":          {spoil(func(p *parts) { p.version = []byte{2, 1, 0} }), "version 00"},
		"version of 2 bytes": {spoil(func(p *parts) { p.version = []byte{2, 2, 0, 2} }), "version 0002"},
		"no recipient":       {spoil(func(p *parts) { p.recipients = [][]byte{} }), "recipients: tag 0x31 with 0 fields"},
		"two recipients": {spoil(func(p *parts) {
			p.recipients = [][]byte{p.recipient(), p.recipient()}
		}), "with 2 fields"},
		"password recipient": {spoil(func(p *parts) { p.recipients = [][]byte{tlv(0xa3, p.ri)} }), "recipient: tag 0xa3"},
		"recipient v0":       {spoil(func(p *parts) { p.ri = []byte{2, 1, 0} }), "recipient: version 00"},
		"issuer and serial":  {spoil(func(p *parts) { p.rid = tlv(0x30, []byte{2, 1, 1}) }), "key identifier: tag 0x30"},
		"another's key":      {spoil(func(p *parts) { p.rid = tlv(0x80, make([]byte, 32)) }), "for another key"},
		"short identifier":   {spoil(func(p *parts) { p.rid = p.rid[:2]; p.rid[1] = 0 }), "for another key"},
		"PKCS #1 v1.5":       {spoil(func(p *parts) { p.oaep = pkcs15 }), "key encryption: object"},
		"OAEP by default":    {spoil(func(p *parts) { p.oaep = tlv(0x30, oidOAEP, tlv(0x30)) }), "OAEP parameters"},
		"OAEP bare":          {spoil(func(p *parts) { p.oaep = tlv(0x30, oidOAEP) }), "key encryption"},
		"OAEP hash SHA-1":    {spoil(func(p *parts) { p.oaep = oaep(sha1ID, sha256ID) }), "OAEP hash: object"},
		"OAEP mask SHA-1":    {spoil(func(p *parts) { p.oaep = oaep(sha256ID, sha1ID) }), "OAEP mask generation: object"},
		"OAEP not MGF1": {spoil(func(p *parts) {
			p.oaep = tlv(0x30, oidOAEP, tlv(0x30, tlv(0xa0, sha256ID), tlv(0xa1, tlv(0x30, oidOAEP, sha256ID))))
		}), "OAEP mask generation: object"},
		"OAEP label": {spoil(func(p *parts) {
			mask := tlv(0xa1, tlv(0x30, oidMGF1, sha256ID))
			p.oaep = tlv(0x30, oidOAEP, tlv(0x30, tlv(0xa0, sha256ID), mask, tlv(0xa2, tlv(4))))
		}), "OAEP parameters"},
		"SHA-256 with parameters": {spoil(func(p *parts) {
			p.oaep = oaep(tlv(0x30, sha256Bare[2:], tlv(4, []byte{1})), sha256ID)
		}), "SHA-256 with parameters"},
		"content is signed data": {spoil(func(p *parts) { p.innerOID = oidEnveloped }), "encrypted content: object"},
		"AES-128":                {spoil(func(p *parts) { p.cbc = oidAES128CBC }), "content encryption: object"},
		"short IV":               {spoil(func(p *parts) { p.iv = p.iv[:15] }), "vector of 15 bytes"},
		"no content":             {spoil(func(p *parts) { p.ciphertext = tlv(0x80) }), "content of 0 bytes"},
		"half a block":           {spoil(func(p *parts) { p.content = p.content[:40] }), "content of 40 bytes"},
		"content under [1]":      {spoil(func(p *parts) { p.ciphertext = tlv(0x81, p.content) }), "content: tag 0x81"},
		"content in a sequence":  {spoil(func(p *parts) { p.ciphertext = tlv(0xa0, tlv(0x30)) }), "content: tag 0x30"},
	} {
		got, err := cms.Open(test.raw, key)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
		if got != nil {
			t.Errorf("%s: a key beside an error", name)
		}
	}
}

// TestTruncated cuts a message at every byte.
func TestTruncated(t *testing.T) {
	key := recipient(t)
	good := message(t, &key.PublicKey, plaintext, nil).build()
	for n := range good {
		if _, err := cms.Open(good[:n], key); err == nil {
			t.Errorf("%d bytes of %d open", n, len(good))
		}
	}
}

// FuzzOpen looks for panics, and for messages that open to anything but their plaintext or an error.
func FuzzOpen(f *testing.F) {
	key := recipient(f)
	good := message(f, &key.PublicKey, plaintext, nil)
	f.Add(good.build())
	good.ciphertext = tlv(0xa0, tlv(0x04, good.content[:16]), tlv(0x04, good.content[16:]))
	f.Add(good.build())
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := cms.Open(raw, key)
		if (err == nil) != (len(got.Bytes()) > 0) {
			t.Errorf("%d bytes with error %v", len(got.Bytes()), err)
		}
		got.Wipe()
	})
}

// TestPublishedReply opens a reply of the real KMS, which the test of another library publishes together with its key.
// It is read from that library's source in the module cache, since it is not ours to copy:
//
//	go mod download github.com/edgebitio/nitro-enclaves-sdk-go@v1.0.0
func TestPublishedReply(t *testing.T) {
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Skipf("asking for the module cache: %v", err)
	}
	source := filepath.Join(strings.TrimSpace(string(cache)),
		"github.com/edgebitio/nitro-enclaves-sdk-go@v1.0.0/crypto/cms/cms_test.go")
	if _, err := os.Stat(source); err != nil {
		t.Skipf("the module is not in the cache: %v", err)
	}
	values := variables(t, source)
	block, _ := pem.Decode([]byte(values["testPrivateKey"]))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	check(t, err)
	raw, err := base64.StdEncoding.DecodeString(values["testCiphertextString"])
	check(t, err)
	got, err := cms.Open(raw, key)
	check(t, err)
	if string(got.Bytes()) != values["plaintextKey"] {
		t.Error("the reply opens to another key than the published one")
	}
	got.Wipe()
}

// variables reads the string and byte slice variables of a Go file.
func variables(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	check(t, err)
	values := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		switch value := spec.Values[0].(type) {
		case *ast.BasicLit:
			values[spec.Names[0].Name], _ = strconv.Unquote(value.Value)
		case *ast.CompositeLit:
			var all []byte
			for _, item := range value.Elts {
				if literal, ok := item.(*ast.BasicLit); ok {
					b, _ := strconv.ParseUint(literal.Value, 0, 8)
					all = append(all, byte(b))
				}
			}
			values[spec.Names[0].Name] = string(all)
		}
		return true
	})
	return values
}
