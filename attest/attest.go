// Package attest collects evidence of what booted on this machine, for a key broker to judge.
//
// Attesters here speak to devices and judge nothing: the cryptography of evidence is in attest/verify, the rules on it
// in attest/validate, and both are the broker's side. Evidence proves a machine, not a pod: whoever may open the same
// device on the same machine gets the same evidence.
package attest

import (
	"context"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// MaxField is the most bytes that a Nitro attestation document takes in each of its three free fields.
const MaxField = 1024

// Binding is what evidence is asked to carry, so that it can stand for nothing else. Each field is at most MaxField
// bytes; an empty one is left out of the evidence.
type Binding struct {
	PublicKey []byte // DER SubjectPublicKeyInfo of the key that the answer is to be encrypted to
	Nonce     []byte // the challenge of whoever will judge the evidence
	UserData  []byte // anything else that the signature should cover
}

// Evidence is one signed statement about a machine. It is public: it holds no secret, but it is for the broker alone.
type Evidence struct {
	Type string // the attester's type
	Blob []byte // as the attester's hardware produced it
}

// Attester makes evidence. Implementations are safe for concurrent use.
type Attester interface {
	// Type names the attester as configuration does.
	Type() string
	// Probe says why no evidence can be had here, as far as can be told without side effects; nil promises nothing.
	Probe(context.Context) error
	// Collect returns evidence that carries the binding, or an error of kind fault.Evidence.
	Collect(context.Context, Binding) (Evidence, error)
}

// check refuses a field that the hardware would refuse, by name.
func (b Binding) check() error {
	for _, field := range []struct {
		name  string
		value []byte
	}{{"public key", b.PublicKey}, {"nonce", b.Nonce}, {"user data", b.UserData}} {
		if len(field.value) > MaxField {
			return fault.New(fault.Usage, "shorten it, or bind its hash instead",
				"the %s to attest is %d bytes, more than %d", field.name, len(field.value), MaxField)
		}
	}
	return nil
}
