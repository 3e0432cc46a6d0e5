// Package model is the sealed model on disk: envelope, manifest, planning, signatures (SPEC.md). This file is the
// announced shape; the bodies follow.
package model

import (
	"crypto"
	"iter"
	"time"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/secret"
)

const (
	Format        = "sealfetch/v1"
	Suite         = "cobblestone-256"
	EnvelopeName  = "envelope.json"
	ManifestName  = "manifest.enc"
	SignatureName = "release.dsse.json"

	MaxEnvelopeSize  = 64 << 10 // bytes of envelope.json
	MaxManifestSize  = 16 << 20 // bytes of manifest plaintext
	MaxSignatureSize = 64 << 10
	MaxFiles         = 100_000
	MaxPathSize      = 1024
	MaxVersion       = 1<<53 - 1
)

// ID is an mdk_id; its text is unpadded base64url.
type ID [32]byte

func ParseID(s string) (ID, error)             { panic("announced") } // fault.Usage
func (id ID) String() string                   { panic("announced") }
func (id ID) MarshalText() ([]byte, error)     { panic("announced") }
func (id *ID) UnmarshalText(text []byte) error { panic("announced") }

// Header is the first 56 bytes of a sealed object; its text is unpadded base64url.
type Header [decrypt.HeaderSize]byte

type Envelope struct {
	Format    string      `json:"format"`
	Suite     string      `json:"suite"`
	Model     string      `json:"model"`
	Version   uint64      `json:"version"`
	MDKID     ID          `json:"mdk_id"`
	Manifest  ManifestRef `json:"manifest"`
	ModelSize int64       `json:"model_size"` // plaintext bytes
	Wraps     []Wrap      `json:"wraps"`
}

// ManifestRef says how large manifest.enc is: bytes of the object, sealed.
type ManifestRef struct {
	Size int64 `json:"size"`
}

type Wrap struct {
	Type       string `json:"type"`
	Key        string `json:"key,omitempty"`
	Ciphertext string `json:"ciphertext,omitempty"`
	Resource   string `json:"resource,omitempty"`
	KID        string `json:"kid,omitempty"`
	JWE        string `json:"jwe,omitempty"`
}

func ParseEnvelope(data []byte) (*Envelope, error)        { panic("announced") }
func (e *Envelope) Marshal() ([]byte, error)              { panic("announced") } // checks first
func (e *Envelope) Unlock(mdk *secret.Key) (*Keys, error) { panic("announced") } // fault.KeyUnusable

type Manifest struct {
	Format  string    `json:"format"`
	Model   string    `json:"model"`
	Version uint64    `json:"version"`
	Created time.Time `json:"created"`
	Objects []Object  `json:"objects"`
	Files   []File    `json:"files"`
}

type Object struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // plaintext
	Header Header `json:"header"`
}

type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Object int    `json:"object"`
	Offset int64  `json:"offset"` // in the object's plaintext
	Mode   string `json:"mode"`
	SHA256 string `json:"sha256,omitempty"` // lower-case hex
}

func (f File) Executable() bool { panic("announced") }

// Keys of one published version, derived from its MDK. Wipe them.
type Keys struct{}

func DeriveKeys(mdk *secret.Key, model string, version uint64) (*Keys, error) { panic("announced") } // for sealing
func (k *Keys) ID() ID                                                        { panic("announced") }
func (k *Keys) Wipe()                                                         { panic("announced") }

// OpenManifest opens, parses and checks the manifest, also against the envelope.
func (k *Keys) OpenManifest(sealed []byte, e *Envelope) (*Manifest, error) { panic("announced") }
func (k *Keys) SealManifest(m *Manifest) ([]byte, error)                   { panic("announced") } // checks first
func (k *Keys) OpenObject(o Object) (*decrypt.Opener, error)               { panic("announced") }

// SealObject starts sealing one object and sets its Header.
func (k *Keys) SealObject(o *Object) (*decrypt.Sealer, error) { panic("announced") }

// Size is the plaintext bytes of all files.
func (m *Manifest) Size() int64 { panic("announced") }

// RequireDigests refuses a manifest in which a file has no sha256 (what a trusted signature calls for).
func (m *Manifest) RequireDigests() error { panic("announced") }

// Pins: zero values demand nothing.
type Pins struct {
	Version, MinVersion uint64
	MDKID               []byte
}

func (p Pins) Check(e *Envelope) error      { panic("announced") } // fault.Format
func (p Pins) Tighten(q Pins) (Pins, error) { panic("announced") } // fault.Usage where both cannot be met

// Selection is include and exclude globs, compiled. A nil Selection matches everything.
type Selection struct{}

func NewSelection(include, exclude []string) (*Selection, error) { panic("announced") } // fault.Usage
func (s *Selection) Match(path string) bool                      { panic("announced") }

// Select returns the indexes of the matching files; none is fault.Format.
func (m *Manifest) Select(s *Selection) ([]int, error) { panic("announced") }

// Source is a file to be sealed.
type Source struct {
	Path       string
	Size       int64
	Executable bool
}

// NewManifest lays sources out in objects (headers and digests still empty): PlanPacking.
func NewManifest(model string, version uint64, created time.Time, sources []Source) (*Manifest, error) {
	panic("announced")
}

// Contents returns, for each object, the indexes of its files in the order of their bytes.
func (m *Manifest) Contents() [][]int { panic("announced") }

// Plan is what to read for some files and where it goes. It is immutable and safe for concurrent use.
type Plan struct{}

// Part is one ranged read: whole chunks of one object. Offset and Size are of the sealed object.
type Part struct {
	Object       int
	FirstChunk   int64
	Chunks       int64
	Offset, Size int64
}

// Piece is plaintext with its place in a file.
type Piece struct {
	File   int
	Offset int64
	Data   []byte
}

// Plan plans the load of files (indexes); parts are at most partSize bytes, and at least one chunk.
func (m *Manifest) Plan(files []int, partSize int64) (*Plan, error) { panic("announced") }
func (p *Plan) Files() []int                                        { panic("announced") }
func (p *Plan) Size() int64                                         { panic("announced") } // plaintext bytes of the files
func (p *Plan) SealedSize() int64                                   { panic("announced") } // bytes that the parts read
func (p *Plan) PartCount() int64                                    { panic("announced") }
func (p *Plan) Parts() iter.Seq[Part]                               { panic("announced") } // lazy: sizes are hostile

// Pieces cuts plaintext, which begins at offset of the object's plaintext, into the pieces that the plan wants.
func (p *Plan) Pieces(object int, offset int64, plaintext []byte) iter.Seq[Piece] { panic("announced") }

// Statement is what a publisher signs.
type Statement struct {
	Format         string `json:"format"`
	Suite          string `json:"suite"`
	Model          string `json:"model"`
	Version        uint64 `json:"version"`
	MDKID          ID     `json:"mdk_id"`
	ManifestSHA256 string `json:"manifest_sha256"` // lower-case hex
}

func (e *Envelope) Statement(manifestEnc []byte) Statement   { panic("announced") }
func Sign(signer crypto.Signer, s Statement) ([]byte, error) { panic("announced") }
func VerifySignature(dsse []byte, trusted []crypto.PublicKey, want Statement) error {
	panic("announced")
} // fault.Format
