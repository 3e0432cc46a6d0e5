package model

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/strictjson"
)

// Envelope is what can be read without a key: which model this is, how large, and the ways in to its key. Nothing
// vouches for it until a released key reproduces MDKID.
type Envelope struct {
	Format    string      `json:"format"`
	Suite     string      `json:"suite"`
	Model     string      `json:"model"`
	Version   uint64      `json:"version"`
	MDKID     ID          `json:"mdk_id"`
	Manifest  ManifestRef `json:"manifest"`
	ModelSize int64       `json:"model_size"` // bytes of plaintext in all objects
	Wraps     []Wrap      `json:"wraps"`
}

// ManifestRef says how large the manifest is.
type ManifestRef struct {
	Size int64 `json:"size"` // bytes of manifest.enc, as sealed
}

// Types of wraps.
const (
	WrapKMS = "aws-kms" // has Key and Ciphertext
	WrapKBS = "kbs"     // has Resource
	WrapJWE = "jwe"     // has KID and JWE
)

// Wrap is one way in to the model data key. Each type has exactly its own fields. Whether a wrap may be used is
// decided by the operator's configuration alone.
type Wrap struct {
	Type       string `json:"type"`
	Key        string `json:"key,omitempty"`        // ARN of the KMS key
	Ciphertext string `json:"ciphertext,omitempty"` // canonical unpadded base64url
	Resource   string `json:"resource,omitempty"`   // kbs:///repository/type/tag
	KID        string `json:"kid,omitempty"`        // names the key-encryption key
	JWE        string `json:"jwe,omitempty"`        // compact serialization
}

// ParseEnvelope reads envelope.json. Errors do not name the object it came from; the caller knows it.
func ParseEnvelope(data []byte) (*Envelope, error) {
	if len(data) > MaxEnvelopeSize {
		return nil, envelopeFault(fmt.Errorf("more than %d bytes", MaxEnvelopeSize))
	}
	var e Envelope
	if err := strictjson.Unmarshal(data, &e); err != nil {
		return nil, envelopeFault(foreignFormat(data, err))
	}
	if err := e.check(); err != nil {
		return nil, envelopeFault(err)
	}
	return &e, nil
}

func envelopeFault(err error) error {
	return fault.New(fault.Format, hintPublisher, "%w", err)
}

// foreignFormat turns the error of strict parsing into a better one where the document is of another format: the
// fields of a later version are no news about this one.
func foreignFormat(data []byte, err error) error {
	var head struct {
		Format string `json:"format"`
	}
	_ = json.Unmarshal(data, &head) // best effort: err stands
	if head.Format != "" && head.Format != Format {
		return fmt.Errorf("format %s is not %q, the only one known here", quote(head.Format), Format)
	}
	return err
}

// Marshal checks the envelope as ParseEnvelope would, and returns envelope.json. A fault is the caller's: fault.Usage.
func (e *Envelope) Marshal() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fault.New(fault.Usage, "", "no envelope can say this: %w", err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encoding %s: %w", EnvelopeName, err)
	}
	if b.Len() > MaxEnvelopeSize {
		return nil, fault.New(fault.Usage, "use fewer wraps", "%s has more than %d bytes", EnvelopeName, MaxEnvelopeSize)
	}
	return b.Bytes(), nil
}

func (e *Envelope) check() error {
	if e.Format != Format {
		return fmt.Errorf("format %s is not %q, the only one known here", quote(e.Format), Format)
	}
	if e.Suite != Suite {
		return fmt.Errorf("suite %s is not %q, the only one known here", quote(e.Suite), Suite)
	}
	if err := checkName(e.Model, e.Version); err != nil {
		return err
	}
	size, err := decrypt.PlainSize(e.Manifest.Size)
	if err != nil || size < 1 || size > MaxManifestSize {
		return fmt.Errorf("manifest.size %d: no manifest has that size", e.Manifest.Size)
	}
	if e.ModelSize < 0 || e.ModelSize > MaxModelSize {
		return fmt.Errorf("model_size %d is not between 0 and 2^53-1", e.ModelSize)
	}
	if n := len(e.Wraps); n < 1 || n > MaxWraps {
		return fmt.Errorf("%d wraps, not 1 to %d", n, MaxWraps)
	}
	for i, w := range e.Wraps {
		if err := w.check(); err != nil {
			return fmt.Errorf("wraps[%d]: %w", i, err)
		}
	}
	return nil
}

func (w Wrap) check() error {
	for _, s := range []string{w.Type, w.Key, w.Ciphertext, w.Resource, w.KID, w.JWE} {
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("%s is not printable ASCII without spaces", quote(s))
		}
	}
	switch w.Type {
	case WrapKMS:
		return w.checkKMS()
	case WrapKBS:
		// The authority is empty: which broker is asked is the operator's to say, not the envelope's.
		if w != (Wrap{Type: WrapKBS, Resource: w.Resource}) || !strings.HasPrefix(w.Resource, "kbs:///") {
			return fmt.Errorf("a %s wrap has a resource, kbs:///repository/type/tag, and nothing else", w.Type)
		}
	case WrapJWE:
		if w != (Wrap{Type: WrapJWE, KID: w.KID, JWE: w.JWE}) || w.KID == "" || w.JWE == "" {
			return fmt.Errorf("a %s wrap has kid and jwe and nothing else", w.Type)
		}
	default:
		return fmt.Errorf("type %s is not known", quote(w.Type))
	}
	return nil
}

func (w Wrap) checkKMS() error {
	if w != (Wrap{Type: WrapKMS, Key: w.Key, Ciphertext: w.Ciphertext}) || w.Key == "" || w.Ciphertext == "" {
		return fmt.Errorf("a %s wrap has key and ciphertext and nothing else", w.Type)
	}
	b, err := strictBase64.DecodeString(w.Ciphertext)
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != w.Ciphertext {
		return fmt.Errorf("the ciphertext is not canonical unpadded base64url")
	}
	return nil
}
