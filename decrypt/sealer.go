package decrypt

import (
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

// Sealer seals the chunks of one object. It is safe for concurrent use.
type Sealer struct {
	msg *message
	gcm cipher.AEAD
}

// NewSealer prepares to seal plainSize bytes of plaintext under a fresh random salt. The header goes in front of the
// chunks. Sealing chooses nonces, which GODEBUG=fips140=only forbids: there it is fault.Usage.
func NewSealer(key *secret.Key, context []byte, plainSize int64) (*Sealer, [HeaderSize]byte, error) {
	var header [HeaderSize]byte
	rand.Read(header[:saltSize]) // never fails, as of Go 1.24
	msg, err := newMessage(key, context, header[:saltSize], plainSize)
	if err != nil {
		return nil, header, err
	}
	copy(header[saltSize:], msg.commitment[:])
	gcm, err := cipher.NewGCM(msg.block)
	if err != nil {
		return nil, header, fault.New(fault.Usage, "seal without GODEBUG=fips140=only; fips140=on seals with the same module",
			"this mode opens but cannot seal: %w", err)
	}
	return &Sealer{msg, gcm}, header, nil
}

// Chunks returns how many chunks the object has.
func (s *Sealer) Chunks() int64 { return Chunks(s.msg.size) }

// Seal appends chunk i, sealed, to dst and returns the extended slice. The plaintext has exactly the size that the
// index has and does not overlap dst's spare room, unless it is dst's own next bytes (plaintext[:0] as dst seals in
// place where the capacity leaves room for the tag).
//
// The nonce follows from the index, so the same plaintext gives the same bytes again. Different plaintext under one
// index would give both away: who seals a chunk a second time must be sure that its source has not changed.
func (s *Sealer) Seal(i int64, dst, plaintext []byte) ([]byte, error) {
	want, err := s.msg.chunkSize(i)
	if err != nil {
		return nil, err
	}
	if len(plaintext) != want {
		return nil, fmt.Errorf("chunk %d: %d bytes to seal, not %d", i, len(plaintext), want)
	}
	tmp := s.msg.scratch(i)
	defer s.msg.scratches.Put(tmp)
	return s.gcm.Seal(dst, tmp.nonce[:], plaintext, nil), nil
}

// SealAll seals a whole object.
func SealAll(key *secret.Key, context, plaintext []byte) ([]byte, error) {
	s, header, err := NewSealer(key, context, int64(len(plaintext)))
	if err != nil {
		return nil, err
	}
	object := slices.Grow(header[:], int(SealedSize(int64(len(plaintext))))-HeaderSize)
	for i := range s.Chunks() {
		from := min(i*ChunkSize, int64(len(plaintext)))
		to := min(from+ChunkSize, int64(len(plaintext)))
		if object, err = s.Seal(i, object, plaintext[from:to]); err != nil {
			return nil, err
		}
	}
	return object, nil
}
