package sealfetch

import (
	"context"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/keybroker"
	"github.com/sealfetch/sealfetch/model"
)

// Inspection is what can be said of a model. Without a key everything in it is the store's word, unless a trusted
// signature vouches for it.
type Inspection struct {
	Envelope *model.Envelope
	Signed   bool            // a trusted publisher's signature was demanded and verified
	Manifest *model.Manifest // nil without a key
}

// Inspect reads a model's envelope and, where a trusted key opens it, the manifest.
func Inspect(ctx context.Context, uri fetch.URI, reader Reader) (*Inspection, error) {
	m := &sealed{reader: reader, uri: uri}
	defer m.close()
	if err := m.fetchEnvelope(ctx); err != nil {
		return nil, err
	}
	inspection := &Inspection{Envelope: m.envelope, Signed: m.signed()}
	if !m.held() {
		return inspection, nil
	}
	if err := m.releaseKey(ctx); err != nil {
		return nil, err
	}
	if err := m.openManifest(ctx); err != nil {
		return nil, err
	}
	inspection.Manifest = m.manifest
	return inspection, nil
}

// held reports whether any trusted key may open the model.
func (m *sealed) held() bool {
	for _, w := range m.envelope.Wraps {
		for _, broker := range m.reader.Brokers {
			if broker.Holds(keybroker.Wrap(w)) {
				return true
			}
		}
	}
	return false
}
