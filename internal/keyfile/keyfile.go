// Package keyfile reads and makes the keys that an operator keeps in files: JWKs (RFC 7517), and PEM for public keys.
package keyfile

import (
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
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

// MaxSize is the largest key file that is read, in bytes.
const MaxSize = 64 << 10

// Limits of keys and key lists.
const (
	minRSABits   = 2048
	maxKeys      = 32
	symmetricLen = 32 // A256KW
	maxKeyID     = 128
)

// KEK is a key encryption key that wraps models' data keys.
type KEK struct {
	ID        string           // the JWK's kid; for a public key without one its RFC 7638 thumbprint
	Algorithm string           // A256KW, RSA-OAEP-256 or ECDH-ES+A256KW
	Symmetric *secret.Key      // A256KW; else nil
	Public    crypto.PublicKey // the other two
	Private   crypto.PrivateKey
}

// CanUnwrap reports whether the file held the secret half.
func (k *KEK) CanUnwrap() bool { return k.Symmetric != nil || k.Private != nil }

// Wipe zeroes a symmetric key. Private keys of the other kinds are big integers of the standard library, beyond reach.
func (k *KEK) Wipe() { k.Symmetric.Wipe() }

// ParseKEK reads a JWK: oct of 32 bytes, RSA of 2048 bits or more, or EC on P-256, P-384 or P-521. It zeroes data.
func ParseKEK(data []byte) (*KEK, error) {
	defer clear(data)
	jwk, err := parseJWK(data)
	if err != nil {
		return nil, err
	}
	kek := &KEK{ID: jwk.KeyID}
	if err := kek.set(jwk.Key); err != nil {
		return nil, err
	}
	if jwk.Algorithm != "" && jwk.Algorithm != kek.Algorithm {
		return nil, unusable("its alg is %q, and a key of its type is used with %s", jwk.Algorithm, kek.Algorithm)
	}
	if jwk.Use != "" && jwk.Use != "enc" {
		return nil, unusable("its use is %q, not enc", jwk.Use)
	}
	return kek, nil
}

func (k *KEK) set(key any) (err error) {
	switch key := key.(type) {
	case []byte:
		if len(key) != symmetricLen {
			clear(key)
			return unusable("a symmetric key has %d bytes, not %d", len(key), symmetricLen)
		}
		k.Algorithm = string(jose.A256KW)
		k.Symmetric, err = secret.Take(key)
		return err
	case *rsa.PrivateKey:
		k.Private = key
		return k.setPublic(&key.PublicKey)
	case *ecdsa.PrivateKey:
		k.Private = key
		return k.setPublic(&key.PublicKey)
	default:
		return k.setPublic(key)
	}
}

func (k *KEK) setPublic(key any) error {
	k.Public = key
	switch key := key.(type) {
	case *rsa.PublicKey:
		k.Algorithm = string(jose.RSA_OAEP_256)
		if key.N.BitLen() < minRSABits {
			return unusable("an RSA key has %d bits, at least %d are needed", key.N.BitLen(), minRSABits)
		}
	case *ecdsa.PublicKey:
		k.Algorithm = string(jose.ECDH_ES_A256KW)
		if _, err := key.ECDH(); err != nil {
			return unusable("its point is not on its curve")
		}
	default:
		return unusable("a key encryption key is oct, RSA or EC")
	}
	return nil
}

// ParseSigner reads a private JWK that signs releases: OKP Ed25519, or EC on P-256. It zeroes data.
func ParseSigner(data []byte) (crypto.Signer, error) {
	defer clear(data)
	jwk, err := parseJWK(data)
	if err != nil {
		return nil, err
	}
	signer, ok := jwk.Key.(crypto.Signer)
	if !ok || !verifies(signer.Public()) {
		return nil, unusable("a signing key is a private Ed25519 or P-256 key")
	}
	return signer, nil
}

// ParseVerifiers reads the public keys that may sign releases: a JWK, a JWK set, or PEM (SubjectPublicKeyInfo), one or
// more of them.
func ParseVerifiers(data []byte) ([]crypto.PublicKey, error) {
	keys, err := publicKeys(data)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, unusable("it holds %d keys; 1 to %d are of use", len(keys), maxKeys)
	}
	for _, key := range keys {
		if !verifies(key) {
			return nil, unusable("a signer's public key is Ed25519 or P-256")
		}
	}
	return keys, nil
}

func verifies(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256()
	}
	return false
}

func publicKeys(data []byte) (keys []crypto.PublicKey, err error) {
	if block, rest := pem.Decode(data); block != nil {
		for ; block != nil; block, rest = pem.Decode(rest) {
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, unusable("a PEM block %q is no public key", block.Type)
			}
			keys = append(keys, key)
		}
		return keys, nil
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) == 0 {
		jwk, err := parseJWK(data)
		if err != nil {
			return nil, err
		}
		set.Keys = []jose.JSONWebKey{*jwk}
	}
	for _, jwk := range set.Keys {
		keys = append(keys, jwk.Public().Key)
	}
	return keys, nil
}

// parseJWK never repeats what it read: a key file's content stays out of errors.
func parseJWK(data []byte) (*jose.JSONWebKey, error) {
	if len(data) > MaxSize {
		return nil, unusable("it is larger than %d bytes", MaxSize)
	}
	var jwk jose.JSONWebKey
	err := json.Unmarshal(data, &jwk)
	if _, symmetric := jwk.Key.([]byte); err != nil || !symmetric && !jwk.Valid() { // Valid knows asymmetric keys alone
		return nil, unusable("it is not a valid JWK")
	}
	if len(jwk.KeyID) > maxKeyID {
		return nil, unusable("its kid is longer than %d bytes", maxKeyID)
	}
	if jwk.KeyID == "" {
		id, err := keyID(&jwk)
		if err != nil {
			return nil, unusable("it has no kid, which names it in envelopes")
		}
		jwk.KeyID = id
	}
	if strings.ContainsFunc(jwk.KeyID, func(r rune) bool { return r <= ' ' || r > '~' }) { // envelopes take no others
		return nil, unusable("its kid has characters other than printable ASCII without spaces")
	}
	return &jwk, nil
}

// keyID is the RFC 7638 thumbprint (SHA-256) in base64url. A symmetric key has none: it would tell about the key.
func keyID(jwk *jose.JSONWebKey) (string, error) {
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

func unusable(format string, args ...any) error {
	return fault.New(fault.Usage, "`sealfetch keygen` makes keys that fit", "the key file cannot be used: "+format, args...)
}

// Types of keys that Generate makes.
const (
	TypeKEK     = "kek"     // oct, A256KW: one file for publisher and loader
	TypeKEKEC   = "kek-ec"  // P-256, ECDH-ES+A256KW: the publisher needs the public half alone
	TypeSigning = "signing" // Ed25519
)

// Generate makes a key pair of a type as JWKs. Public is nil for a symmetric key.
func Generate(kind string) (private, public []byte, id string, err error) {
	jwk := jose.JSONWebKey{Use: "enc"}
	switch kind {
	case TypeKEK:
		key := make([]byte, symmetricLen)
		rand.Read(key)
		defer clear(key)
		jwk.Key, jwk.Algorithm, jwk.KeyID = key, string(jose.A256KW), "kek-"+rand.Text()[:16]
	case TypeKEKEC:
		jwk.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		jwk.Algorithm = string(jose.ECDH_ES_A256KW)
	case TypeSigning:
		_, jwk.Key, err = ed25519.GenerateKey(rand.Reader)
		jwk.Algorithm, jwk.Use = string(jose.EdDSA), "sig"
	default:
		err = fault.New(fault.Usage, "the types are kek, kek-ec and signing", "the key type %q is unknown", kind)
	}
	if err != nil {
		return nil, nil, "", err
	}
	return marshal(jwk)
}

func marshal(jwk jose.JSONWebKey) (private, public []byte, id string, err error) {
	if jwk.KeyID == "" {
		if jwk.KeyID, err = keyID(&jwk); err != nil {
			return nil, nil, "", err
		}
	}
	if private, err = json.MarshalIndent(jwk, "", "  "); err != nil {
		return nil, nil, "", errors.New("encoding a generated key")
	}
	if _, symmetric := jwk.Key.([]byte); !symmetric {
		if public, err = json.MarshalIndent(jwk.Public(), "", "  "); err != nil {
			return nil, nil, "", errors.New("encoding a generated public key")
		}
	}
	return private, public, jwk.KeyID, nil
}
