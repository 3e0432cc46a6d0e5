package sealfetch

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
	"github.com/sealfetch/sealfetch/model"
)

// sealed is one sealed model on its way in. Each step fills what the next one needs.
type sealed struct {
	reader Reader
	uri    fetch.URI
	dir    string

	source      fetch.Source
	envelope    *model.Envelope
	pin         fetch.Pin
	manifestEnc []byte // fetched before the key where a signature covers it

	target  *target.Target
	staging *target.Staging

	keys     *model.Keys
	manifest *model.Manifest
	plan     *model.Plan
}

// fetchEnvelope opens the source, reads the envelope and holds it against the operator's policy.
func (m *sealed) fetchEnvelope(ctx context.Context) (err error) {
	if m.source, err = m.reader.Open(ctx, m.uri); err != nil {
		return err
	}
	raw, pin, err := m.read(ctx, model.EnvelopeName, model.MaxEnvelopeSize)
	if err != nil {
		return err
	}
	if m.envelope, err = model.ParseEnvelope(raw); err != nil {
		return m.in(model.EnvelopeName, err)
	}
	m.pin = pin
	if err := m.reader.Policy.check(m.envelope, m.uri.Demand); err != nil {
		return m.in(model.EnvelopeName, err)
	}
	return m.checkSignature(ctx)
}

// checkSignature fetches and verifies the publisher's signature where the operator demands one.
func (m *sealed) checkSignature(ctx context.Context) error {
	if len(m.reader.Policy.Signers) == 0 {
		return nil
	}
	signature, _, err := m.read(ctx, model.SignatureName, model.MaxSignatureSize)
	if fault.Is(err, fault.Access) {
		return fault.New(fault.Format, "publish the model with --sign, or drop --trust-signer",
			"a trusted publisher's signature is demanded: %w", errors.New(err.Error()))
	}
	if err != nil {
		return err
	}
	if err := m.fetchManifest(ctx); err != nil {
		return err
	}
	statement := m.envelope.Statement(m.manifestEnc)
	return m.in(model.SignatureName, model.VerifySignature(signature, m.reader.Policy.Signers, statement))
}

func (m *sealed) fetchManifest(ctx context.Context) (err error) {
	if m.manifestEnc != nil {
		return nil
	}
	m.manifestEnc, _, err = m.read(ctx, model.ManifestName, decrypt.SealedSize(model.MaxManifestSize))
	return err
}

// releaseKey has the model's keys derived from its MDK, which is wiped at once.
func (m *sealed) releaseKey(ctx context.Context) error {
	mdk, err := m.obtainMDK(ctx)
	mdk.Wipe()
	return err
}

// obtainMDK asks the trusted brokers for the key, in the order of the envelope's wraps, until one releases it. The
// caller wipes it.
func (m *sealed) obtainMDK(ctx context.Context) (*secret.Key, error) {
	var failures []error
	for _, w := range m.envelope.Wraps {
		for _, broker := range m.reader.Brokers {
			wrap := keybroker.Wrap(w)
			if !broker.Holds(wrap) {
				continue
			}
			mdk, err := m.release(ctx, broker, wrap)
			if err == nil || ctx.Err() != nil {
				return mdk, err
			}
			failures = append(failures, err)
		}
	}
	if len(failures) == 0 {
		return nil, m.in(model.EnvelopeName, m.noTrustedKey())
	}
	for _, other := range failures[1:] {
		m.reader.warn("another wrap failed, too", "uri", m.uri.String(), "cause", other.Error())
	}
	return nil, failures[0]
}

// release asks one broker and checks that its answer is the envelope's key.
func (m *sealed) release(ctx context.Context, broker keybroker.Broker, wrap keybroker.Wrap) (*secret.Key, error) {
	e := m.envelope
	released, err := broker.Release(ctx, keybroker.Request{Wrap: wrap, Model: e.Model, Version: e.Version})
	if err != nil {
		return nil, fmt.Errorf("the key of %s: %w", m.uri, err)
	}
	keys, err := e.Unlock(released.MDK)
	if err != nil {
		released.MDK.Wipe()
		return nil, fmt.Errorf("the key of %s from %s: %w", m.uri, wrap.Name(), err)
	}
	m.keys = keys
	m.reader.Audit.KeyReleased(ctx, audit.KeyReleased{Model: e.Model, Version: e.Version, MDKID: e.MDKID.String(),
		WrapType: wrap.Type, KeyID: released.KeyID, RequestID: released.RequestID, Assurance: released.Assurance,
		Attester: released.Attester, ModuleID: released.ModuleID})
	return released.MDK, nil
}

func (m *sealed) noTrustedKey() error {
	var names []string
	for _, w := range m.envelope.Wraps {
		names = append(names, keybroker.Wrap(w).Name())
	}
	return fault.New(fault.Format, "list the key with --trust-key if its owner is whom you expect",
		"none of the model's keys is trusted: %q", names)
}

// openManifest decrypts the manifest, chooses the files and plans the ranges.
func (m *sealed) openManifest(ctx context.Context) (err error) {
	if err := m.fetchManifest(ctx); err != nil {
		return err
	}
	if m.manifest, err = m.keys.OpenManifest(m.manifestEnc, m.envelope); err != nil {
		return m.in(model.ManifestName, err)
	}
	m.manifestEnc = nil
	if m.signed() {
		if err := m.manifest.RequireDigests(); err != nil {
			return m.in(model.ManifestName, err)
		}
	}
	selection, err := model.NewSelection(m.uri.Demand.Include, m.uri.Demand.Exclude)
	if err != nil {
		return err
	}
	files, err := m.manifest.Select(selection)
	if err != nil {
		return m.in(model.ManifestName, err)
	}
	m.plan, err = m.manifest.Plan(files, partSize(m.manifest.Size()))
	return m.in(model.ManifestName, err)
}

// signed reports whether file digests are to be checked: whoever holds the MDK could forge chunks, but not a signature.
func (m *sealed) signed() bool { return len(m.reader.Policy.Signers) > 0 }

func (m *sealed) wantsAll() bool { return len(m.uri.Demand.Include)+len(m.uri.Demand.Exclude) == 0 }

func (m *sealed) read(ctx context.Context, name string, limit int64) ([]byte, fetch.Pin, error) {
	return fetch.ReadAll(ctx, m.source, name, limit, m.reader.Limits.Retry)
}

// in says which object of which model an error is about.
func (m *sealed) in(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s at %s: %w", name, m.uri, err)
}

func (m *sealed) loaded() Loaded {
	l := Loaded{Pair: Pair{URI: m.uri, Dir: m.dir}}
	if e := m.envelope; e != nil {
		l.Model, l.Version, l.MDKID = e.Model, e.Version, e.MDKID.String()
	}
	if m.plan != nil {
		l.Files, l.Bytes = len(m.plan.Files()), m.plan.Size()
	}
	return l
}

func (m *sealed) close() {
	m.keys.Wipe()
	if m.source != nil {
		_ = m.source.Close()
	}
}

func (r Reader) warn(message string, args ...any) {
	if r.Warn != nil {
		r.Warn(message, args...)
	}
}
