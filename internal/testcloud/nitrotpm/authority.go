package nitrotpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// leafLife is how long the certificate of an instance lives: about three hours, as the real one.
const leafLife = 3*time.Hour + 3*time.Second

// Authority is a certificate chain like the one that signs real attestation documents, under a root of its own that is
// labelled as insecure. It is safe for concurrent use.
type Authority struct {
	now    func() time.Time
	root   *x509.Certificate
	chain  [][]byte // DER, root first
	issuer *x509.Certificate
	key    *ecdsa.PrivateKey // of issuer

	// endorsementKey is that of every TPM under this authority: an RSA key takes time to make, and none of them keeps
	// anything from another.
	endorsementKey func() (*rsa.PrivateKey, error)
}

// NewAuthority makes a root, a regional and a zonal certificate, valid around the present of now.
func NewAuthority(now func() time.Time) (*Authority, error) {
	a := &Authority{now: now}
	a.endorsementKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	names := []string{"INSECURE TEST ROOT aws.nitro-enclaves", "INSECURE TEST region", "INSECURE TEST zone"}
	for i, name := range names {
		template := a.template(name, 30*24*time.Hour)
		template.IsCA = true
		template.MaxPathLen = 3 - i
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		if err := a.extend(template); err != nil {
			return nil, err
		}
	}
	a.root, _ = x509.ParseCertificate(a.chain[0])
	return a, nil
}

func (a *Authority) template(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"TEST"}, CommonName: name},
		NotBefore:             a.now().Add(-time.Minute).UTC(),
		NotAfter:              a.now().Add(life).UTC(),
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
		BasicConstraintsValid: true,
	}
}

// extend adds a CA certificate to the end of the chain, itself signed by the end so far.
func (a *Authority) extend(template *x509.Certificate) error {
	der, key, err := a.sign(template)
	if err != nil {
		return err
	}
	a.chain = append(a.chain, der)
	a.key = key
	a.issuer, err = x509.ParseCertificate(der)
	return err
}

func (a *Authority) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	parent, signer := a.issuer, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	return der, key, err
}

// RootSHA256 is the fingerprint of the root certificate, which a verifier pins.
func (a *Authority) RootSHA256() [32]byte { return sha256.Sum256(a.root.Raw) }

// CABundle is the chain as documents carry it: DER, root first, without the leaf.
func (a *Authority) CABundle() [][]byte { return slices.Clone(a.chain) }

// Signer is the key of one machine, with its certificate.
type Signer struct {
	authority   *Authority
	key         *ecdsa.PrivateKey
	Certificate []byte // DER
}

// Signer issues a certificate for a machine, valid from now for about three hours.
func (a *Authority) Signer(moduleID string) (*Signer, error) {
	template := a.template(moduleID, leafLife)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, key, err := a.sign(template)
	if err != nil {
		return nil, err
	}
	return &Signer{a, key, der}, nil
}

// Document is what a machine states.
type Document struct {
	ModuleID  string
	Timestamp time.Time
	PCRs      map[int][]byte
	PCRField  string // nitrotpm_pcrs or pcrs
	PublicKey []byte
	UserData  []byte
	Nonce     []byte
}

// Payload encodes a document as the real signer does: a map of indefinite length, in this order.
func (s *Signer) Payload(d Document) []byte {
	out := bytes.NewBuffer([]byte{0xbf})
	for _, field := range []struct {
		name  string
		value any
	}{
		{"module_id", d.ModuleID}, {"digest", "SHA384"}, {"timestamp", uint64(d.Timestamp.UnixMilli())},
		{d.PCRField, pcrMap(d.PCRs)}, {"certificate", s.Certificate}, {"cabundle", s.authority.chain},
		{"public_key", orNil(d.PublicKey)}, {"user_data", orNil(d.UserData)}, {"nonce", orNil(d.Nonce)},
	} {
		out.Write(encode(field.name))
		out.Write(encode(field.value))
	}
	return append(out.Bytes(), 0xff)
}

// pcrMap is encoded by hand: Go's maps have no order.
func pcrMap(pcrs map[int][]byte) cbor.RawMessage {
	out := []byte{0xb8, byte(len(pcrs))}
	for _, index := range slices.Sorted(maps.Keys(pcrs)) {
		out = append(out, encode(uint64(index))...)
		out = append(out, encode(pcrs[index])...)
	}
	return out
}

func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func encode(v any) []byte {
	b, err := cbor.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("nitrotpm: encoding %T: %v", v, err)) // of our own values: a mistake in this package
	}
	return b
}

// Protected is the protected header of every real document: algorithm ES384.
func Protected() []byte { return encode(map[int]int{1: -35}) }

// Sign makes an untagged COSE_Sign1 of a document.
func (s *Signer) Sign(d Document) ([]byte, error) { return s.Envelope(Protected(), s.Payload(d)) }

// Envelope makes an untagged COSE_Sign1 of any payload under any protected header, with a true ES384 signature.
// Source: RFC 9052, sections 4.2 and 4.4.
func (s *Signer) Envelope(protected, payload []byte) ([]byte, error) {
	digest := sha512.Sum384(encode([]any{"Signature1", protected, []byte{}, payload}))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 96)
	r.FillBytes(signature[:48])
	v.FillBytes(signature[48:])
	return encode([]any{protected, map[int]int{}, payload, signature}), nil
}
