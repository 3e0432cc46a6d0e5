package sealfetch

import (
	"context"
	"fmt"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/keybroker"
	"github.com/sealfetch/sealfetch/model"
)

// RewrapJob is one rotation: new ways in to the same model data key. Data, manifest and signature stay as they are.
type RewrapJob struct {
	URI      fetch.URI
	Reader   Reader // its brokers open the model once more
	Store    fetch.Store
	Wrappers []keybroker.Wrapper
	Keep     bool // keep the old wraps beside the new ones
}

// Rewrap gives a published model new wraps. The envelope is replaced only if it is still the one that was read.
func Rewrap(ctx context.Context, job RewrapJob) (*model.Envelope, error) {
	m := &sealed{reader: job.Reader, uri: job.URI}
	defer m.close()
	if err := m.fetchEnvelope(ctx); err != nil {
		return nil, err
	}
	mdk, err := m.obtainMDK(ctx)
	if err != nil {
		return nil, err
	}
	defer mdk.Wipe()
	renewed := *m.envelope
	if !job.Keep {
		renewed.Wraps = nil
	}
	for _, wrapper := range job.Wrappers {
		wrap, err := wrapper.Wrap(ctx, mdk, renewed.Model, renewed.Version)
		if err != nil {
			return nil, fmt.Errorf("wrapping the key of %s: %w", job.URI, err)
		}
		renewed.Wraps = append(renewed.Wraps, model.Wrap(wrap))
	}
	data, err := renewed.Marshal()
	if err != nil {
		return nil, err
	}
	return &renewed, job.Store.Replace(ctx, model.EnvelopeName, data, m.pin)
}
