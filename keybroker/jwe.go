package keybroker

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/sealfetch/sealfetch/internal/keyfile"
)

// Lengths of A256GCM's parts in bytes (RFC 7518, section 5.3).
const (
	jweIVSize  = 12
	jweTagSize = 16
)

// compactJWE is a JWE in its compact serialization (RFC 7516, section 7.1), decoded.
//
// go-jose opens content with a nonce of the caller's choice, which GODEBUG=fips140=only forbids though it is about
// sealing; so the last step, and with it the parts, are done here. Key unwrapping and key agreement stay the library's.
type compactJWE struct {
	protected string // as it arrived: the AAD
	header    []byte
	key       []byte // the content encryption key, wrapped
	sealed    []byte // IV, ciphertext and tag
}

var errNotCompact = errors.New("is not a compact JWE")

// parseCompact wants the one spelling that a JWE has: five parts of canonical unpadded base64url.
func parseCompact(s string) (compactJWE, error) {
	parts := strings.Split(s, ".")
	if len(s) > maxJWE || len(parts) != 5 {
		return compactJWE{}, errNotCompact
	}
	raw := make([][]byte, len(parts))
	for i, part := range parts {
		var err error
		raw[i], err = base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || base64.RawURLEncoding.EncodeToString(raw[i]) != part { // the decoder skips line breaks
			return compactJWE{}, errNotCompact
		}
	}
	if len(raw[2]) != jweIVSize || len(raw[4]) != jweTagSize {
		return compactJWE{}, errNotCompact
	}
	return compactJWE{parts[0], raw[0], raw[1], slices.Concat(raw[2], raw[3], raw[4])}, nil
}

// open decrypts the content with what the KEK is. Callers do not tell one error from another: the step that fails is
// nobody's business.
func (j compactJWE) open(kek *keyfile.KEK, sender *senderKey) ([]byte, error) {
	cek, err := j.unwrap(kek, sender)
	if err != nil {
		return nil, err
	}
	defer clear(cek)
	if len(cek) != KeySize {
		return nil, errNotOpened
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, nil, j.sealed, []byte(j.protected))
}

var errNotOpened = errors.New("is not opened by this key")

// unwrap returns the content encryption key.
func (j compactJWE) unwrap(kek *keyfile.KEK, sender *senderKey) ([]byte, error) {
	if kek.Symmetric != nil {
		return unwrapAES(kek.Symmetric.Bytes(), j.key)
	}
	switch private := kek.Private.(type) {
	case *rsa.PrivateKey:
		return rsa.DecryptOAEP(sha256.New(), nil, private, j.key, nil)
	case *ecdsa.PrivateKey:
		return j.agree(private, sender)
	}
	return nil, errNotOpened
}

// senderKey is the epk of a key agreement: an EC public key in JWK (RFC 7518, section 6.2.1), and nothing more.
type senderKey struct {
	Type  string `json:"kty"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

// on returns the key if it is a point of the curve.
func (k *senderKey) on(curve elliptic.Curve) (*ecdsa.PublicKey, error) {
	size := (curve.Params().BitSize + 7) / 8
	x, errX := base64.RawURLEncoding.Strict().DecodeString(k.X)
	y, errY := base64.RawURLEncoding.Strict().DecodeString(k.Y)
	if err := errors.Join(errX, errY); err != nil {
		return nil, err
	}
	if k.Type != "EC" || k.Curve != curve.Params().Name || len(x) != size || len(y) != size {
		return nil, errNotOpened
	}
	return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
}

// agree is ECDH-ES+A256KW (RFC 7518, section 4.6) without apu and apv.
func (j compactJWE) agree(private *ecdsa.PrivateKey, sender *senderKey) ([]byte, error) {
	if sender == nil {
		return nil, errNotOpened
	}
	public, err := sender.on(private.Curve)
	if err != nil {
		return nil, err
	}
	wrapping := josecipher.DeriveECDHES(string(jose.ECDH_ES_A256KW), nil, nil, private, public, KeySize)
	defer clear(wrapping)
	return unwrapAES(wrapping, j.key)
}

// unwrapAES is A256KW (RFC 3394).
func unwrapAES(key, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return josecipher.KeyUnwrap(block, wrapped)
}
