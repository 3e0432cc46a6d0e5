// Package verify checks the cryptography of Nitro attestation documents: signature, certificate chain and times. It
// needs no network and no device.
//
// It says that a document is genuine, not that it is welcome: what the PCRs should be is the business of package
// attest/validate.
package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// awsRoot is the SHA-256 of the DER certificate "aws.nitro-enclaves", which signs for NitroTPM and Nitro Enclaves in
// all commercial regions. Source: https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip and its
// published fingerprint.
const awsRoot = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// maxFuture is how far a document's clock may be ahead of the verifier's.
const maxFuture = time.Minute

// AWSRoot is the fingerprint of the root that AWS signs attestation documents under.
func AWSRoot() [sha256.Size]byte {
	raw, err := hex.DecodeString(awsRoot)
	if err != nil {
		panic("verify: internal error: " + err.Error())
	}
	return [sha256.Size]byte(raw)
}

// Claims are the statements of a document whose signature, chain and times hold. Only Verify makes them.
type Claims struct {
	Document
	Chain []*x509.Certificate // leaf first, root last
}

// Verifier verifies documents under a set of roots. It is safe for concurrent use.
type Verifier struct {
	roots  map[[sha256.Size]byte]bool
	maxAge time.Duration
}

// New takes the SHA-256 fingerprints of the roots to trust, and the age at which a document is too old. It refuses to
// be made without either: there is no verifying under no root, or for ever.
func New(maxAge time.Duration, roots ...[sha256.Size]byte) (*Verifier, error) {
	if len(roots) == 0 {
		return nil, errors.New("verifying attestation documents needs at least one root")
	}
	if maxAge <= 0 {
		return nil, fmt.Errorf("verifying attestation documents needs an age limit, not %s", maxAge)
	}
	v := &Verifier{roots: map[[sha256.Size]byte]bool{}, maxAge: maxAge}
	for _, root := range roots {
		v.roots[root] = true
	}
	return v, nil
}

// Verify returns the claims of a genuine document, judged at the time now. Errors are of kind fault.Evidence.
func (v *Verifier) Verify(document []byte, now time.Time) (*Claims, error) {
	e, d, err := parse(document)
	if err != nil {
		return nil, fault.New(fault.Evidence, "the document is damaged or of another kind",
			"attestation document: %w", err)
	}
	chain, err := v.chain(d, now)
	if err != nil {
		return nil, fault.New(fault.Evidence, "only what AWS signed less than three hours ago can be verified",
			"the certificates of the attestation document: %w", err)
	}
	if err := e.verify(chain[0]); err != nil {
		return nil, fault.New(fault.Evidence, "the document was changed after it was signed, or is a forgery",
			"the signature of the attestation document: %w", err)
	}
	if err := v.checkAge(d.Timestamp, now); err != nil {
		return nil, fault.New(fault.Evidence, "collect a fresh document, and check the clocks",
			"attestation document: %w", err)
	}
	return &Claims{*d, chain}, nil
}

func (v *Verifier) checkAge(made, now time.Time) error {
	switch age := now.Sub(made); {
	case age > v.maxAge:
		return fmt.Errorf("made at %s, %s ago, more than %s",
			made.Format(time.RFC3339), age.Round(time.Second), v.maxAge)
	case age < -maxFuture:
		return fmt.Errorf("made at %s, which is %s ahead", made.Format(time.RFC3339), (-age).Round(time.Second))
	default:
		return nil
	}
}

// chain verifies the certificates up to a trusted root at the time now. The bundle has the root first; it is trusted
// for its fingerprint and not for where it stands.
func (v *Verifier) chain(d *Document, now time.Time) ([]*x509.Certificate, error) {
	if sum := sha256.Sum256(d.CABundle[0]); !v.roots[sum] {
		return nil, fmt.Errorf("the root has fingerprint %x, which is not trusted", sum)
	}
	certs := make([]*x509.Certificate, len(d.CABundle)) // the bundle without its root, then the leaf
	for i, der := range append(d.CABundle[1:len(d.CABundle):len(d.CABundle)], d.Certificate) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs[i] = cert
	}
	root, err := x509.ParseCertificate(d.CABundle[0])
	if err != nil {
		return nil, err
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	options.Roots.AddCert(root)
	for _, cert := range certs[:len(certs)-1] {
		options.Intermediates.AddCert(cert)
	}
	leaf := certs[len(certs)-1]
	if leaf.IsCA {
		return nil, errors.New("the signing certificate is one of an authority")
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// verify checks the ES384 signature over the Sig_structure of RFC 9052, section 4.4, with no external data.
func (e *envelope) verify(leaf *x509.Certificate) error {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return errors.New("the signing key is not on P-384")
	}
	signed, err := cbor.Marshal([]any{"Signature1", e.Protected, []byte{}, e.Payload})
	if err != nil {
		return err
	}
	digest := sha512.Sum384(signed)
	r := new(big.Int).SetBytes(e.Signature[:signatureSize/2])
	s := new(big.Int).SetBytes(e.Signature[signatureSize/2:])
	if !ecdsa.Verify(key, digest[:], r, s) {
		return errors.New("it does not fit the document")
	}
	return nil
}
