package decrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

const (
	hintDamaged = "the object was damaged or replaced in the store: restore it, or publish the model again"
	hintContext = "the key is another one, or the object belongs to another model, version or name"
)

// message is what an input key, a salt and a context make of one object: its AES key schedule, nonces and commitment.
type message struct {
	block      cipher.Block
	base       [nonceSize]byte
	commitment [commitmentSize]byte
	size       int64     // plaintext
	scratches  sync.Pool // of *scratch
}

// scratch is what opening or sealing one chunk needs besides the chunk. It is pooled: both slices escape through
// cipher.AEAD and would be garbage after each chunk.
type scratch struct {
	nonce [nonceSize]byte
	joint []byte // nonce and ciphertext, where crypto/cipher wants them so
}

// scratch returns a scratch with the nonce of chunk i: the base nonce XOR the big-endian index. It goes back to the
// pool.
func (m *message) scratch(i int64) *scratch {
	s, ok := m.scratches.Get().(*scratch)
	if !ok {
		s = new(scratch)
	}
	s.nonce = m.base
	tail := s.nonce[nonceSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^uint64(i))
	return s
}

func newMessage(key *secret.Key, context, salt []byte, size int64) (*message, error) {
	if size < 0 || size > MaxPlainSize {
		return nil, fault.New(fault.Format, "", "no object holds %d bytes", size)
	}
	b, err := expand(key, slices.Concat([]byte(label), salt, context), KeySize+nonceSize+commitmentSize)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	m := &message{size: size}
	copy(m.base[:], b[KeySize:])
	copy(m.commitment[:], b[KeySize+nonceSize:])
	if m.block, err = aes.NewCipher(b[:KeySize]); err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	return m, nil
}

// chunkSize returns the plaintext size of chunk i, or an error where the object has no such chunk.
func (m *message) chunkSize(i int64) (int, error) {
	switch last := m.size / ChunkSize; {
	case i < 0 || i > last:
		return 0, fmt.Errorf("chunk %d: the object has chunks 0 to %d", i, last)
	case i < last:
		return ChunkSize, nil
	default:
		return int(m.size % ChunkSize), nil
	}
}

// Opener opens the chunks of one object. It is safe for concurrent use on different buffers.
type Opener struct {
	msg *message
	gcm cipher.AEAD
	// inFront is set where crypto/cipher takes the nonce only in front of the ciphertext: under GODEBUG=fips140=only,
	// whose rule against chosen nonces is about sealing, not opening.
	inFront bool
}

// NewOpener prepares to open an object of plainSize bytes of plaintext whose first HeaderSize bytes are header. A
// header that does not commit to the key and the context is fault.NotAuthentic.
func NewOpener(key *secret.Key, context, header []byte, plainSize int64) (*Opener, error) {
	if len(header) != HeaderSize {
		return nil, fault.New(fault.NotAuthentic, hintDamaged, "the header is %d bytes long, not %d", len(header), HeaderSize)
	}
	msg, err := newMessage(key, context, header[:saltSize], plainSize)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(msg.commitment[:], header[saltSize:]) != 1 {
		return nil, fault.New(fault.NotAuthentic, hintContext, "the header's commitment is to another key or context")
	}
	o := &Opener{msg: msg}
	if o.gcm, err = cipher.NewGCM(msg.block); err != nil {
		o.inFront = true
		o.gcm, err = cipher.NewGCMWithRandomNonce(msg.block)
	}
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	return o, nil
}

// Chunks returns how many chunks the object has.
func (o *Opener) Chunks() int64 { return Chunks(o.msg.size) }

// Open opens chunk i in place and returns its plaintext, which is the front of chunk. The buffer is the caller's alone
// until Open returns, and for a moment holds plaintext that is not authentic yet. On any error it is zeroed.
func (o *Opener) Open(i int64, chunk []byte) ([]byte, error) {
	want, err := o.msg.chunkSize(i)
	if err != nil {
		clear(chunk)
		return nil, err
	}
	if len(chunk) != want+TagSize {
		err := fault.New(fault.NotAuthentic, hintDamaged, "chunk %d is %d bytes long, not %d", i, len(chunk), want+TagSize)
		clear(chunk)
		return nil, err
	}
	plaintext, err := o.open(i, chunk)
	if err != nil {
		clear(chunk)
		return nil, fault.New(fault.NotAuthentic, hintDamaged, "chunk %d is not authentic", i)
	}
	return plaintext, nil
}

func (o *Opener) open(i int64, chunk []byte) ([]byte, error) {
	s := o.msg.scratch(i)
	defer o.msg.scratches.Put(s)
	if !o.inFront {
		return o.gcm.Open(chunk[:0], s.nonce[:], chunk, nil)
	}
	s.joint = append(append(s.joint[:0], s.nonce[:]...), chunk...)
	return o.gcm.Open(chunk[:0], nil, s.joint, nil)
}

// OpenAll opens a whole object, which it leaves as it is.
func OpenAll(key *secret.Key, context, object []byte) ([]byte, error) {
	size, err := PlainSize(int64(len(object)))
	if err != nil {
		return nil, err
	}
	o, err := NewOpener(key, context, object[:HeaderSize], size)
	if err != nil {
		return nil, err
	}
	plaintext := make([]byte, 0, size+TagSize)
	var i int64
	for chunk := range slices.Chunk(object[HeaderSize:], SealedChunkSize) {
		n := len(plaintext)
		opened, err := o.Open(i, append(plaintext, chunk...)[n:])
		if err != nil {
			clear(plaintext)
			return nil, err
		}
		plaintext = plaintext[:n+len(opened)]
		i++
	}
	return plaintext, nil
}
