package model

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

// Keys are what one model data key (MDK) opens and seals: one published version of one model. They are safe for
// concurrent use as long as Wipe comes last.
type Keys struct {
	id       ID
	model    string
	version  uint64
	manifest *secret.Key
	data     *secret.Key
}

// DeriveKeys derives the keys of a version that is to be sealed. The MDK is 32 random bytes, new for each version; it
// stays the caller's.
func DeriveKeys(mdk *secret.Key, model string, version uint64) (*Keys, error) {
	if err := checkName(model, version); err != nil {
		return nil, fault.New(fault.Usage, "", "%w", err)
	}
	k := &Keys{model: model, version: version}
	id, err := decrypt.DeriveKey(mdk, purpose("id", model, version))
	if err != nil {
		return nil, err
	}
	copy(k.id[:], id.Bytes())
	id.Wipe()
	if k.manifest, err = decrypt.DeriveKey(mdk, purpose("manifest", model, version)); err != nil {
		return nil, err
	}
	if k.data, err = decrypt.DeriveKey(mdk, purpose("data", model, version)); err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// Unlock derives the keys of a published version. An MDK that does not reproduce the envelope's mdk_id is the wrong
// one: fault.KeyUnusable.
func (e *Envelope) Unlock(mdk *secret.Key) (*Keys, error) {
	k, err := DeriveKeys(mdk, e.Model, e.Version)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(k.id[:], e.MDKID[:]) != 1 {
		defer k.Wipe()
		return nil, fault.New(fault.KeyUnusable,
			"the broker holds another version's key, or the envelope was changed: compare its mdk_id with what seal printed",
			"the released key has id %v; the key of %s version %d has id %v", k.id, e.Model, e.Version, e.MDKID)
	}
	return k, nil
}

// ID returns the mdk_id, which is public.
func (k *Keys) ID() ID { return k.id }

// Wipe forgets the keys. It may be called on nil and more than once.
func (k *Keys) Wipe() {
	if k != nil {
		k.manifest.Wipe()
		k.data.Wipe()
	}
}

// OpenManifest opens manifest.enc, parses it, and holds it against the envelope that the keys were unlocked with. What
// was not sealed under the key is fault.NotAuthentic.
func (k *Keys) OpenManifest(sealed []byte, e *Envelope) (*Manifest, error) {
	if size := int64(len(sealed)); size != e.Manifest.Size {
		return nil, fault.New(fault.NotAuthentic, hintPublisher, "the object has %d bytes; the envelope says %d", size,
			e.Manifest.Size)
	}
	plaintext, err := decrypt.OpenAll(k.manifest, k.manifestContext(), sealed)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(plaintext)
	if err != nil {
		return nil, err
	}
	if m.Model != e.Model || m.Version != e.Version {
		return nil, manifestFault(fmt.Errorf("it is of %s version %d; the envelope is of %s version %d", m.Model, m.Version,
			e.Model, e.Version))
	}
	if size := m.Size(); size != e.ModelSize {
		return nil, manifestFault(fmt.Errorf("the model has %d bytes; the envelope says %d", size, e.ModelSize))
	}
	return m, nil
}

// SealManifest checks a manifest and returns manifest.enc. A fault of the manifest is fault.Usage.
func (k *Keys) SealManifest(m *Manifest) ([]byte, error) {
	plaintext, err := m.marshal()
	if err != nil {
		return nil, err
	}
	if m.Model != k.model || m.Version != k.version {
		return nil, fmt.Errorf("sealing the manifest of %s version %d with the keys of %s version %d", m.Model, m.Version,
			k.model, k.version)
	}
	return decrypt.SealAll(k.manifest, k.manifestContext(), plaintext)
}

// NewEnvelope describes a sealed version: its manifest, the bytes of its manifest.enc, and the wraps of its MDK.
func (k *Keys) NewEnvelope(m *Manifest, sealedManifest []byte, wraps []Wrap) *Envelope {
	return &Envelope{
		Format: Format, Suite: Suite, Model: k.model, Version: k.version, MDKID: k.id,
		Manifest: ManifestRef{int64(len(sealedManifest))}, ModelSize: m.Size(), Wraps: wraps,
	}
}

// OpenObject returns what opens the chunks of a data object. The header is the manifest's, so the object's own first
// bytes need not be read; a header that is not of this object is fault.NotAuthentic.
func (k *Keys) OpenObject(o Object) (*decrypt.Opener, error) {
	opener, err := decrypt.NewOpener(k.data, k.dataContext(o.Name), o.Header[:], o.Size)
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", o.Name, err)
	}
	return opener, nil
}

// SealObject returns what seals the chunks of a data object and sets the object's header, which goes in front of them.
func (k *Keys) SealObject(o *Object) (*decrypt.Sealer, error) {
	sealer, header, err := decrypt.NewSealer(k.data, k.dataContext(o.Name), o.Size)
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", o.Name, err)
	}
	o.Header = header
	return sealer, nil
}

func (k *Keys) manifestContext() []byte {
	return appendName([]byte(Format+"/manifest\x00"), k.model, k.version)
}

func (k *Keys) dataContext(object string) []byte {
	return appendString(appendName([]byte(Format+"/data\x00"), k.model, k.version), object)
}

// purpose is the HKDF info of a key that the MDK gives (K-2).
func purpose(name, model string, version uint64) []byte {
	return appendName(appendString([]byte(Format+"\x00"+name+"\x00"), Suite), model, version)
}

func appendName(b []byte, model string, version uint64) []byte {
	return binary.BigEndian.AppendUint64(appendString(b, model), version)
}

// appendString appends a string behind its length in two bytes. All strings here are bounded far below 2^16.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
