// Package keybroker asks whoever holds a model's key to release it, and wraps the key for them when a model is sealed.
//
// A wrap is one way in to a model's data key (MDK). It comes from an envelope, which is untrusted: which wraps may be
// used at all is decided by the operator's list of trusted keys before any broker here is asked. A released key is not
// yet the right key; the caller checks it against the envelope's mdk_id.
package keybroker

import (
	"context"

	"github.com/sealfetch/sealfetch/internal/secret"
)

// KeySize is the length of a model data key in bytes.
const KeySize = 32

// Wrap types, as SPEC.md names them.
const (
	TypeKMS = "aws-kms"
	TypeKBS = "kbs"
	TypeJWE = "jwe"
)

// Wrap is one way in to a model's data key, as it stands in the envelope. The fields are those of model.Wrap, in its
// order, so that one converts to the other.
type Wrap struct {
	Type       string
	Key        string // aws-kms: key ARN
	Ciphertext string // aws-kms: base64url
	Resource   string // kbs: kbs:///repository/type/tag
	KID        string // jwe: key id of the KEK
	JWE        string // jwe: compact serialization
}

// Name says which key a wrap stands for, for messages and audit records.
func (w Wrap) Name() string {
	switch w.Type {
	case TypeKMS:
		return w.Key
	case TypeKBS:
		return w.Resource
	default:
		return w.Type + ":" + w.KID
	}
}

// Request asks for the key of one published version of a model.
type Request struct {
	Wrap    Wrap
	Model   string
	Version uint64
}

// Release is a released key with what the audit record says of it.
type Release struct {
	MDK       *secret.Key // the caller wipes it
	KeyID     string      // the key that opened the wrap
	RequestID string      // the broker's id of the request; empty for local keys
	Assurance string      // AssuranceNone, AssuranceMeasuredBoot or AssuranceConfidential
	Attester  string      // the attester whose evidence was sent; "none" where none was
	ModuleID  string      // what the evidence calls the machine; empty without evidence
}

// What a release was conditioned on, for the audit record.
const (
	AssuranceNone         = "none"          // no evidence was sent
	AssuranceMeasuredBoot = "measured-boot" // a TPM's word for the boot chain
	AssuranceConfidential = "confidential"  // evidence of memory encrypted against the host
)

// Broker releases the keys of the wraps it is meant for. Implementations are safe for concurrent use.
type Broker interface {
	// Holds reports whether this broker is the one to ask for a wrap: its type, and the key where the broker is one key.
	Holds(Wrap) bool
	// Release returns the key, or an error of kind fault.Refused, fault.KeyUnusable, fault.Evidence, fault.Identity or
	// fault.Transient.
	Release(context.Context, Request) (*Release, error)
}

// Wrapper makes a wrap of a key for one published version of a model.
type Wrapper interface {
	Wrap(ctx context.Context, mdk *secret.Key, model string, version uint64) (Wrap, error)
}
