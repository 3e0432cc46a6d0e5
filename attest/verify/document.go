package verify

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Limits of a document. Those of the fields are the signer's own, except that certificates may be twice as long.
const (
	MaxDocument = 16 << 10 // bytes
	maxField    = 1024     // bytes of public key, user data and nonce each
	maxCert     = 2048     // bytes
	maxBundle   = 8        // certificates
	maxPCRs     = 32
	maxModuleID = 256 // bytes
	pcrSize     = 48  // bytes of SHA-384
)

// Source says what kind of machine a document speaks of.
type Source string

// The sources, told apart by the name of the document's PCR map.
const (
	NitroTPM Source = "nitrotpm"      // an EC2 instance with a NitroTPM
	Enclave  Source = "nitro-enclave" // a Nitro Enclave
)

// Document is what an attestation document states. On its own it is a claim of whoever made the bytes.
type Document struct {
	Source      Source
	ModuleID    string    // the instance and its module
	Timestamp   time.Time // to the millisecond
	PCRs        map[int][]byte
	PublicKey   []byte // nil if the document binds none
	UserData    []byte // nil if none
	Nonce       []byte // nil if none
	Certificate []byte // DER, of the key that signed
	CABundle    [][]byte
}

// PCRIndices lists the PCRs of the document in order.
func (d *Document) PCRIndices() []int { return slices.Sorted(maps.Keys(d.PCRs)) }

// payload is the document as signed. Field names and types: AWS Nitro Enclaves, "Attestation document specification";
// nitrotpm_pcrs as seen in documents of NitroTPM.
type payload struct {
	ModuleID     string            `cbor:"module_id"`
	Digest       string            `cbor:"digest"`
	Timestamp    uint64            `cbor:"timestamp"`
	PCRs         map[uint64][]byte `cbor:"pcrs"`
	NitroTPMPCRs map[uint64][]byte `cbor:"nitrotpm_pcrs"`
	Certificate  []byte            `cbor:"certificate"`
	CABundle     [][]byte          `cbor:"cabundle"`
	PublicKey    []byte            `cbor:"public_key"`
	UserData     []byte            `cbor:"user_data"`
	Nonce        []byte            `cbor:"nonce"`
}

// envelope is a COSE_Sign1 structure, RFC 9052 section 4.2.
type envelope struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int64]cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

const (
	tagSign1      = 0xd2 // CBOR tag 18, which real documents go without
	headerAlg     = 1    // COSE header parameter
	algES384      = -35
	signatureSize = 96 // bytes: r and s of P-384
)

// strict reads what AWS writes, indefinite lengths included, and nothing ambiguous.
func strict() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		IndefLength:       cbor.IndefLengthAllowed,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       maxPCRs + 16,
	}.DecMode()
}

// Parse reads a document without verifying anything. What it returns is good for messages, and for no decision.
func Parse(document []byte) (*Document, error) {
	_, d, err := parse(document)
	return d, err
}

func parse(document []byte) (*envelope, *Document, error) {
	if len(document) > MaxDocument {
		return nil, nil, fmt.Errorf("a document of %d bytes, more than %d", len(document), MaxDocument)
	}
	mode, err := strict()
	if err != nil {
		return nil, nil, err
	}
	var e envelope
	if err := mode.Unmarshal(bytes.TrimPrefix(document, []byte{tagSign1}), &e); err != nil {
		return nil, nil, fmt.Errorf("reading COSE_Sign1: %w", err)
	}
	if err := e.check(mode); err != nil {
		return nil, nil, err
	}
	var p payload
	if err := mode.Unmarshal(e.Payload, &p); err != nil {
		return nil, nil, fmt.Errorf("reading the document: %w", err)
	}
	d, err := p.document()
	return &e, d, err
}

// check holds the headers to the one form that is signed: ES384 and nothing else, nothing unprotected.
func (e *envelope) check(mode cbor.DecMode) error {
	var header map[int64]int64
	if err := mode.Unmarshal(e.Protected, &header); err != nil {
		return fmt.Errorf("reading the protected header: %w", err)
	}
	if alg, ok := header[headerAlg]; !ok || len(header) != 1 || alg != algES384 {
		return fmt.Errorf("the protected header is %v, not that of ES384", header)
	}
	if len(e.Unprotected) != 0 {
		return fmt.Errorf("%d unprotected header parameters", len(e.Unprotected))
	}
	if len(e.Signature) != signatureSize {
		return fmt.Errorf("a signature of %d bytes, not %d", len(e.Signature), signatureSize)
	}
	return nil
}

func (p *payload) document() (*Document, error) {
	d := &Document{
		Source: NitroTPM, ModuleID: p.ModuleID, Timestamp: time.UnixMilli(int64(p.Timestamp)).UTC(),
		PublicKey: p.PublicKey, UserData: p.UserData, Nonce: p.Nonce, Certificate: p.Certificate, CABundle: p.CABundle,
	}
	pcrs := p.NitroTPMPCRs
	if p.PCRs != nil {
		d.Source, pcrs = Enclave, p.PCRs
	}
	switch {
	case p.Digest != "SHA384":
		return nil, fmt.Errorf("the digest is %.16q, not SHA384", p.Digest)
	case p.ModuleID == "" || len(p.ModuleID) > maxModuleID:
		return nil, fmt.Errorf("a module id of %d bytes", len(p.ModuleID))
	case p.Timestamp == 0 || p.Timestamp>>48 != 0:
		return nil, fmt.Errorf("the timestamp is %d", p.Timestamp)
	case p.PCRs != nil && p.NitroTPMPCRs != nil:
		return nil, fmt.Errorf("both pcrs and nitrotpm_pcrs")
	case len(p.CABundle) == 0 || len(p.CABundle) > maxBundle:
		return nil, fmt.Errorf("a bundle of %d certificates", len(p.CABundle))
	}
	for _, cert := range append(slices.Clone(p.CABundle), p.Certificate) {
		if len(cert) == 0 || len(cert) > maxCert {
			return nil, fmt.Errorf("a certificate of %d bytes", len(cert))
		}
	}
	if n := max(len(p.PublicKey), len(p.UserData), len(p.Nonce)); n > maxField {
		return nil, fmt.Errorf("a field of %d bytes, more than %d", n, maxField)
	}
	var err error
	d.PCRs, err = readPCRs(pcrs)
	return d, err
}

func readPCRs(values map[uint64][]byte) (map[int][]byte, error) {
	if len(values) == 0 || len(values) > maxPCRs {
		return nil, fmt.Errorf("%d PCRs", len(values))
	}
	pcrs := make(map[int][]byte, len(values))
	for index, value := range values {
		if index >= maxPCRs || len(value) != pcrSize {
			return nil, fmt.Errorf("PCR %d with %d bytes", index, len(value))
		}
		pcrs[int(index)] = value
	}
	return pcrs, nil
}
