package keybroker

import (
	"context"
	"strconv"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/internal/strictjson"
)

// maxJWE bounds a wrap's JWE: 32 bytes under any permitted algorithm need far less.
const maxJWE = 8 << 10

// Local is a key encryption key that the operator holds in a file: Broker and Wrapper for wraps of type jwe.
type Local struct {
	kek *keyfile.KEK
}

// NewLocal makes a broker of a KEK, which it does not wipe.
func NewLocal(kek *keyfile.KEK) *Local { return &Local{kek} }

// Holds reports whether the wrap is under this KEK.
func (l *Local) Holds(w Wrap) bool { return w.Type == TypeJWE && w.KID == l.kek.ID }

// jweHeader is the protected header of a wrap. What is not listed is refused: crit, zip, jku and their like.
type jweHeader struct {
	Alg     string     `json:"alg"`
	Enc     string     `json:"enc"`
	KID     string     `json:"kid"`
	EPK     *senderKey `json:"epk,omitempty"`
	Model   string     `json:"model"`
	Version uint64     `json:"version"`
}

// Release opens the wrap. A KEK that does not open it, and a wrap made for another model or version, are errors of kind
// fault.KeyUnusable.
func (l *Local) Release(_ context.Context, r Request) (*Release, error) {
	if !l.kek.CanUnwrap() {
		return nil, fault.New(fault.Usage, "give the private key", "the key %s is only the public half", l.kek.ID)
	}
	object, err := parseCompact(r.Wrap.JWE)
	if err != nil {
		return nil, l.unusable("%w", err)
	}
	header, err := l.checkHeader(object.header, r)
	if err != nil {
		return nil, err
	}
	plain, err := object.open(l.kek, header.EPK)
	if err != nil {
		return nil, l.unusable("%w", errNotOpened)
	}
	if len(plain) != KeySize {
		clear(plain)
		return nil, l.unusable("does not hold %d bytes", KeySize)
	}
	mdk, err := secret.Take(plain)
	if err != nil {
		return nil, err
	}
	return &Release{MDK: mdk, KeyID: l.kek.ID, Assurance: AssuranceNone, Attester: "none"}, nil
}

// checkHeader reads the protected header before anything is decrypted: what it says is believed only as far as it must
// equal what is asked for, and opening the content authenticates it.
func (l *Local) checkHeader(raw []byte, r Request) (h jweHeader, err error) {
	if err := strictjson.Unmarshal(raw, &h); err != nil {
		return h, l.unusable("has a protected header that this format does not allow: %w", err)
	}
	switch {
	case h.Alg != l.kek.Algorithm || h.Enc != string(jose.A256GCM):
		return h, l.unusable("uses %s with %s, the key is for %s with A256GCM", quote(h.Alg), quote(h.Enc), l.kek.Algorithm)
	case (h.EPK != nil) != (h.Alg == string(jose.ECDH_ES_A256KW)):
		return h, l.unusable("lacks a sender's key (epk), or has one without need")
	case h.KID != l.kek.ID:
		return h, l.unusable("names the key %s", quote(h.KID))
	case h.Model != r.Model || h.Version != r.Version:
		return h, l.unusable("was made for %s version %d, the envelope says %q version %d", quote(h.Model), h.Version, r.Model, r.Version)
	}
	return h, nil
}

// quote shows text of an unauthenticated header within bounds.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}

func (l *Local) unusable(format string, args ...any) error {
	return fault.New(fault.KeyUnusable, "check that the key file is the one the model was sealed for (`sealfetch inspect`)",
		"the wrap under key %s "+format, append([]any{l.kek.ID}, args...)...)
}

// Preflight opens the wrap and forgets the key.
func (l *Local) Preflight(ctx context.Context, r Request) error {
	released, err := l.Release(ctx, r)
	if err != nil {
		return err
	}
	released.MDK.Wipe()
	return nil
}

// Wrap encrypts a data key under the KEK and binds model and version into the protected header.
func (l *Local) Wrap(_ context.Context, mdk *secret.Key, model string, version uint64) (Wrap, error) {
	options := (&jose.EncrypterOptions{}).WithHeader("model", model).WithHeader("version", version)
	recipient := jose.Recipient{Algorithm: jose.KeyAlgorithm(l.kek.Algorithm), Key: l.key(), KeyID: l.kek.ID}
	if l.kek.Public != nil {
		recipient.Key = l.kek.Public
	}
	encrypter, err := jose.NewEncrypter(jose.A256GCM, recipient, options)
	if err != nil {
		return Wrap{}, fault.New(fault.KeyUnusable, "", "key %s: %w", l.kek.ID, err)
	}
	object, err := encrypter.Encrypt(mdk.Bytes())
	if err != nil {
		return Wrap{}, fault.New(fault.KeyUnusable, "", "wrapping under key %s: %w", l.kek.ID, err)
	}
	compact, err := object.CompactSerialize()
	if err != nil {
		return Wrap{}, fault.New(fault.KeyUnusable, "", "wrapping under key %s: %w", l.kek.ID, err)
	}
	return Wrap{Type: TypeJWE, KID: l.kek.ID, JWE: compact}, nil
}

// key is the secret half, as go-jose takes it.
func (l *Local) key() any {
	if l.kek.Symmetric != nil {
		return l.kek.Symmetric.Bytes()
	}
	return l.kek.Private
}

var (
	_ Broker  = (*Local)(nil)
	_ Wrapper = (*Local)(nil)
)
