package keybroker_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
)

// publicKey is the SubjectPublicKeyInfo of somebody else.
func publicKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	check(t, err)
	return spki
}

// envelopeTo encrypts a plaintext to somebody else.
func envelopeTo(t *testing.T, plaintext []byte) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	envelope, err := kms.Envelope(&key.PublicKey, plaintext)
	check(t, err)
	return envelope
}

// flip spoils the padding of an envelope: it is made from the last block of the content, before ten end octets.
func flip(envelope []byte) { envelope[len(envelope)-10-17] ^= 0x10 }
