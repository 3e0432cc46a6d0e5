package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"maps"
	"slices"
)

// A ciphertext is: one byte of version, the length of the key's ARN in two, the ARN, and AES-GCM of the plaintext with
// a random nonce in front. The encryption context is authenticated with it.
const blobVersion = 1

func (key *Key) seal(plaintext []byte, context map[string]string) []byte {
	head := append([]byte{blobVersion}, binary.BigEndian.AppendUint16(nil, uint16(len(key.ARN)))...)
	head = append(head, key.ARN...)
	return key.aead().Seal(head, nil, plaintext, additional(head, context))
}

func (key *Key) open(blob []byte, context map[string]string) ([]byte, bool) {
	head := blob[:3+len(key.ARN)]
	plaintext, err := key.aead().Open(nil, nil, blob[len(head):], additional(head, context))
	return plaintext, err == nil
}

// madeWith reads the key's ARN from a ciphertext.
func madeWith(blob []byte) (arn string, ok bool) {
	if len(blob) < 3 || blob[0] != blobVersion {
		return "", false
	}
	n := int(binary.BigEndian.Uint16(blob[1:]))
	if len(blob) < 3+n {
		return "", false
	}
	return string(blob[3 : 3+n]), true
}

func (key *Key) aead() cipher.AEAD {
	block, _ := aes.NewCipher(key.material[:])
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return aead
}

// additional spells out head and context, each string with its length.
func additional(head []byte, context map[string]string) []byte {
	out := bytes.Clone(head)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, s := range []string{name, context[name]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(s)))
			out = append(out, s...)
		}
	}
	return out
}

// Envelope encrypts a plaintext to a recipient as KMS does: CMS EnvelopedData in BER, the outer elements of indefinite
// length, one recipient named by the SHA-256 of its public key, OAEP with SHA-256, AES-256-CBC.
func Envelope(to *rsa.PublicKey, plaintext []byte) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(to)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	contentKey, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	rand.Read(contentKey)
	rand.Read(iv)
	encryptedKey, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, to, contentKey, nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, err
	}
	padding := aes.BlockSize - len(plaintext)%aes.BlockSize
	content := append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)

	sha := definite(0x30, oid(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01), []byte{5, 0})
	mgf1 := definite(0x30, pkcs1(8), sha)
	oaep := definite(0x30, pkcs1(7), definite(0x30, definite(0xa0, sha), definite(0xa1, mgf1)))
	recipient := definite(0x30, version2(), definite(0x80, id[:]), oaep, definite(0x04, encryptedKey))
	cbc := definite(0x30, oid(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a), definite(0x04, iv))
	return indefinite(0x30, pkcs7(3), indefinite(0xa0, indefinite(0x30,
		version2(), definite(0x31, recipient),
		indefinite(0x30, pkcs7(1), cbc, indefinite(0xa0, definite(0x04, content)))))), nil
}

func version2() []byte        { return []byte{2, 1, 2} }
func oid(body ...byte) []byte { return definite(0x06, body) }

// pkcs1 and pkcs7 are the arcs 1.2.840.113549.1.1 and .1.7.
func pkcs1(last byte) []byte { return oid(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last) }
func pkcs7(last byte) []byte { return oid(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, last) }

func definite(tag byte, content ...[]byte) []byte {
	body := bytes.Join(content, nil)
	head := []byte{tag}
	switch n := len(body); {
	case n < 0x80:
		head = append(head, byte(n))
	case n < 0x100:
		head = append(head, 0x81, byte(n))
	default:
		head = append(head, 0x82, byte(n>>8), byte(n))
	}
	return append(head, body...)
}

func indefinite(tag byte, content ...[]byte) []byte {
	return append(append([]byte{tag, 0x80}, bytes.Join(content, nil)...), 0, 0)
}
