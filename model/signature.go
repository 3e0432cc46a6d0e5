package model

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/strictjson"
)

// PayloadType says that a DSSE envelope holds a Statement.
const PayloadType = "application/vnd.sealfetch.release+json"

// MaxSignatures bounds the signatures of one envelope.
const MaxSignatures = 16

// Statement is what a publisher signs of a version: everything that decides what is loaded, except the ways in to the
// key, which rotate.
type Statement struct {
	Format         string `json:"format"`
	Suite          string `json:"suite"`
	Model          string `json:"model"`
	Version        uint64 `json:"version"`
	MDKID          ID     `json:"mdk_id"`
	ManifestSHA256 string `json:"manifest_sha256"` // of manifest.enc, lower-case hexadecimal
}

// Statement returns what a signature of this envelope and these bytes of manifest.enc says.
func (e *Envelope) Statement(sealedManifest []byte) Statement {
	digest := sha256.Sum256(sealedManifest)
	return Statement{e.Format, e.Suite, e.Model, e.Version, e.MDKID, hex.EncodeToString(digest[:])}
}

// dsse is the JSON of a DSSE envelope, github.com/secure-systems-lab/dsse version 1.0.2.
type dsse struct {
	Payload     string          `json:"payload"`
	PayloadType string          `json:"payloadType"`
	Signatures  []dsseSignature `json:"signatures"`
}

type dsseSignature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// Sign returns release.dsse.json: the statement, signed with an Ed25519 or an ECDSA P-256 key. Other keys are
// fault.Usage.
func Sign(signer crypto.Signer, s Statement) ([]byte, error) {
	keyID, err := keyID(signer.Public())
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the statement: %w", err)
	}
	message, hash := preAuthEncoding(PayloadType, payload), crypto.Hash(0)
	if _, ok := signer.Public().(*ecdsa.PublicKey); ok {
		digest := sha256.Sum256(message)
		message, hash = digest[:], crypto.SHA256
	}
	sig, err := signer.Sign(rand.Reader, message, hash)
	if err != nil {
		return nil, fmt.Errorf("signing the statement: %w", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return json.MarshalIndent(dsse{b64(payload), PayloadType, []dsseSignature{{keyID, b64(sig)}}}, "", "  ")
}

// VerifySignature verifies release.dsse.json: one signature by one trusted key suffices, and what it signs must be the
// wanted statement. Trusted keys are ed25519.PublicKey or *ecdsa.PublicKey on P-256; others, or none, are fault.Usage.
func VerifySignature(data []byte, trusted []crypto.PublicKey, want Statement) error {
	ids, err := keyIDs(trusted)
	if err != nil {
		return err
	}
	d, payload, err := parseDSSE(data)
	if err != nil {
		return signatureFault(hintPublisher, "%w", err)
	}
	if !d.verifiedBy(trusted, preAuthEncoding(PayloadType, payload)) {
		return signatureFault("trust the publisher's key, or have the publisher sign this version",
			"no signature is by a trusted key (%s)", strings.Join(ids, ", "))
	}
	var got Statement
	if err := strictjson.Unmarshal(payload, &got); err != nil {
		return signatureFault(hintPublisher, "payload: %w", err)
	}
	if got != want {
		return signatureFault("the signature is of another version or another publication: have this one signed",
			"signed is %+v, not what is published, %+v", got, want)
	}
	return nil
}

func signatureFault(hint, format string, args ...any) error {
	return fault.New(fault.Format, hint, format, args...)
}

// parseDSSE reads a DSSE envelope. DSSE has consumers ignore fields that they do not know, and takes either alphabet of
// base64. Laxity here decides nothing: what counts is in the payload, which is parsed strictly once it is verified.
func parseDSSE(data []byte) (*dsse, []byte, error) {
	if len(data) > MaxSignatureSize {
		return nil, nil, fmt.Errorf("more than %d bytes", MaxSignatureSize)
	}
	var d dsse
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, nil, err
	}
	if d.PayloadType != PayloadType {
		return nil, nil, fmt.Errorf("payload type %s is not %s", quote(d.PayloadType), PayloadType)
	}
	if n := len(d.Signatures); n < 1 || n > MaxSignatures {
		return nil, nil, fmt.Errorf("%d signatures, not 1 to %d", n, MaxSignatures)
	}
	payload, err := decodeBase64(d.Payload)
	if err != nil {
		return nil, nil, fmt.Errorf("payload: %w", err)
	}
	return &d, payload, nil
}

// decodeBase64 decodes either alphabet, padded.
func decodeBase64(s string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(s))
}

func (d *dsse) verifiedBy(trusted []crypto.PublicKey, message []byte) bool {
	for _, s := range d.Signatures {
		sig, err := decodeBase64(s.Sig)
		if err != nil {
			continue // not ours to judge: it may be of an algorithm that writes otherwise
		}
		for _, key := range trusted {
			if verifies(key, message, sig) {
				return true
			}
		}
	}
	return false
}

func verifies(key crypto.PublicKey, message, sig []byte) bool {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, sig)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, digest[:], sig)
	}
	return false
}

// preAuthEncoding is DSSE's PAE: what is signed, so that neither type nor payload can pass for part of the other.
func preAuthEncoding(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func keyIDs(keys []crypto.PublicKey) ([]string, error) {
	if len(keys) == 0 {
		return nil, fault.New(fault.Usage, "", "no key is trusted to sign")
	}
	ids := make([]string, len(keys))
	for i, key := range keys {
		var err error
		if ids[i], err = keyID(key); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// keyID names a key for people: the SHA-256 of its SubjectPublicKeyInfo. Nothing is decided by it.
func keyID(key crypto.PublicKey) (string, error) {
	if err := checkSigningKey(key); err != nil {
		return "", fault.New(fault.Usage, "make one with sealfetch keygen --type signing", "signing key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fault.New(fault.Usage, "", "signing key: %w", err)
	}
	digest := sha256.Sum256(der)
	return hex.EncodeToString(digest[:]), nil
}

func checkSigningKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case ed25519.PublicKey:
		if len(key) == ed25519.PublicKeySize {
			return nil
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("neither Ed25519 nor ECDSA P-256")
}
