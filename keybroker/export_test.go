package keybroker

import "crypto/rsa"

// SetKey gives a broker one key for all replies, since making one takes a good part of a second.
func (k *KMS) SetKey(key *rsa.PrivateKey) {
	k.newKey = func() (*rsa.PrivateKey, error) { return key, nil }
}
