package decrypt

import (
	"crypto/cipher"

	"github.com/sealfetch/sealfetch/internal/secret"
)

// NewSealerWithSalt makes a Sealer whose salt is chosen, to reproduce published vectors. A chosen salt is no use
// outside tests: one that repeats breaks the key.
func NewSealerWithSalt(key *secret.Key, context, salt []byte, size int64) (*Sealer, []byte, error) {
	msg, err := newMessage(key, context, salt, size)
	if err != nil {
		return nil, nil, err
	}
	gcm, err := cipher.NewGCM(msg.block)
	return &Sealer{msg, gcm}, append(salt[:len(salt):len(salt)], msg.commitment[:]...), err
}
