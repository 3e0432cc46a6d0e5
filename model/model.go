// Package model is the sealed model as it lies on disk: envelope, manifest, signature, and the planning of what to read
// and write. SPEC.md is its reference; the names in parentheses, as in (M-4), are that document's rules.
//
// The package takes bytes and plain structs and returns the same: it opens no file and no connection. What it parses
// comes from whoever can write the bucket. Envelope and signature are hostile until the key has answered for them; the
// manifest is authentic under its key, but where others may encrypt under the key broker's key too, it may be theirs.
// So everything is bounded, and the first fault ends the matter: errors are of kind fault.Format unless said otherwise.
package model

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// Format and Suite are the only ones that this package reads and writes.
const (
	Format = "sealfetch/v1"
	Suite  = "cobblestone-256"
)

// Objects under a model's prefix, besides the data objects that the manifest names.
const (
	EnvelopeName  = "envelope.json"
	ManifestName  = "manifest.enc"
	SignatureName = "release.dsse.json"
)

// Bounds on what is read (SPEC.md, "Limits"). Integers stay below 2^53, so that every JSON library reads them exactly.
const (
	MaxEnvelopeSize  = 64 << 10 // bytes of envelope.json
	MaxManifestSize  = 16 << 20 // bytes of the manifest's plaintext
	MaxSignatureSize = 64 << 10 // bytes of release.dsse.json
	MaxNameSize      = 256      // bytes of a model's name
	MaxVersion       = 1<<53 - 1
	MaxModelSize     = 1<<53 - 1 // bytes of plaintext in all objects
	MaxWraps         = 32
	MaxFiles         = 100_000
	MaxDirectories   = 100_000
	MaxPathSize      = 1024 // bytes of a path
	MaxElementSize   = 255  // bytes of an element of a path: NAME_MAX of Linux
)

// hintPublisher is the cure where what was published cannot be read as a model.
const hintPublisher = "compare with the publisher's copy: if it reads well, the store's was changed; if not, seal again"

// modelName is what a model may be called: elements of plain ASCII that begin with a letter, a digit or _ (E-4).
var modelName = regexp.MustCompile(`^\w[\w.+@:-]*(/\w[\w.+@:-]*)*$`)

func checkName(model string, version uint64) error {
	if len(model) > MaxNameSize || !modelName.MatchString(model) {
		return fmt.Errorf("model name %s is not of the form %s, or longer than %d bytes", quote(model), modelName,
			MaxNameSize)
	}
	if version < 1 || version > MaxVersion {
		return fmt.Errorf("version %d is not between 1 and 2^53-1", version)
	}
	return nil
}

// ID is an mdk_id: it names a model data key in public and commits to it. Its text is unpadded base64url.
type ID [32]byte

// ParseID reads the text of an ID, as it stands in configuration or in a URI: fault.Usage.
func ParseID(s string) (ID, error) {
	var id ID
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return ID{}, fault.New(fault.Usage, "copy mdk_id from what sealfetch seal printed", "mdk-id %s: %w", quote(s), err)
	}
	return id, nil
}

// String returns the text of the ID.
func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// MarshalText returns the text of the ID.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText sets the ID from its text.
func (id *ID) UnmarshalText(text []byte) error { return decodeText(id[:], text) }

// Header is the front of a sealed object: salt and key commitment. Its text is unpadded base64url.
type Header [decrypt.HeaderSize]byte

// MarshalText returns the text of the header.
func (h Header) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, h[:]), nil
}

// UnmarshalText sets the header from its text.
func (h *Header) UnmarshalText(text []byte) error { return decodeText(h[:], text) }

// strictBase64 wants the unused bits of the last digit to be zero. It still skips line breaks: compare lengths too.
var strictBase64 = base64.RawURLEncoding.Strict()

// decodeText fills dst from unpadded base64url of exactly its length.
func decodeText(dst, text []byte) error {
	if len(text) != strictBase64.EncodedLen(len(dst)) {
		return fmt.Errorf("not %d bytes in unpadded base64url", len(dst))
	}
	if n, err := strictBase64.Decode(dst, text); err != nil || n != len(dst) {
		return errors.New("not canonical base64url")
	}
	return nil
}

// quote makes hostile text fit for a message: quoted, and cut to a length that a log line bears.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
