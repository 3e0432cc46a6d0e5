// Package decrypt opens and seals the chunks of Cobblestone-256 objects: bytes in, bytes out.
//
// The format is c2sp.org/chunked-encryption with AES-256-GCM and SHA-512, pinned at commit 6f65019 (2026-07-13);
// SPEC.md section 4 restates it. An object is a header (24 bytes of random salt, 32 bytes of key commitment) and
// chunks of 16 KiB of plaintext with a 16-byte tag each. The last chunk is always shorter than 16 KiB and may be
// empty, so that for every length of plaintext there is exactly one length of object, and a cut object is never a
// shorter valid one.
//
// Chunks are independent: an Opener or a Sealer may work on many of them at once, in any order.
package decrypt

import (
	"crypto/hkdf"
	"crypto/sha512"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

// Sizes in bytes.
const (
	KeySize         = 32                  // the input key
	ChunkSize       = 16 << 10            // plaintext of every chunk but the last
	TagSize         = 16                  // AES-GCM tag behind each chunk
	SealedChunkSize = ChunkSize + TagSize // every chunk but the last, sealed
	HeaderSize      = saltSize + commitmentSize

	saltSize       = 24
	commitmentSize = 32
	nonceSize      = 12
)

// MaxChunks bounds the chunks of one object; MaxPlainSize is the plaintext that they hold: 4 PiB less one byte.
const (
	MaxChunks    = 1 << 38
	MaxPlainSize = MaxChunks*ChunkSize - 1
)

// label binds derived keys to this construction and its AEAD (chunked-encryption, "Key derivation").
const label = "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"

// Chunks returns how many chunks hold plain bytes of plaintext, 0 <= plain <= MaxPlainSize.
func Chunks(plain int64) int64 { return plain/ChunkSize + 1 }

// ChunkOffset returns where chunk i begins in a sealed object.
func ChunkOffset(i int64) int64 { return HeaderSize + i*SealedChunkSize }

// SealedSize returns the size of an object that holds plain bytes of plaintext, 0 <= plain <= MaxPlainSize.
func SealedSize(plain int64) int64 { return HeaderSize + plain + TagSize*Chunks(plain) }

// PlainSize returns the plaintext size of an object of sealed bytes. Sizes that no plaintext has are the mark of a cut
// or extended object: fault.NotAuthentic.
func PlainSize(sealed int64) (int64, error) {
	body := sealed - HeaderSize
	last := body % SealedChunkSize
	if body < TagSize || last < TagSize || body/SealedChunkSize >= MaxChunks {
		return 0, fault.New(fault.NotAuthentic, hintDamaged, "no sealed object is %d bytes long: it was cut or extended",
			sealed)
	}
	return body/SealedChunkSize*ChunkSize + last - TagSize, nil
}

// DeriveKey derives a key of KeySize bytes: HKDF-Expand with SHA-512 (RFC 5869, section 2.3) of a uniformly random key.
// The caller wipes the result.
func DeriveKey(key *secret.Key, info []byte) (*secret.Key, error) {
	b, err := expand(key, info, KeySize)
	if err != nil {
		return nil, err
	}
	return secret.Take(b)
}

func expand(key *secret.Key, info []byte, size int) ([]byte, error) {
	if n := len(key.Bytes()); n != KeySize {
		return nil, fault.New(fault.KeyUnusable, "a model data key is 32 random bytes; register the key that sealing wrote",
			"the key is %d bytes long, not %d", n, KeySize)
	}
	b, err := hkdf.Expand(sha512.New, key.Bytes(), string(info), size)
	if err != nil {
		return nil, fault.New(fault.Internal, "", "deriving a key: %w", err)
	}
	return b, nil
}
