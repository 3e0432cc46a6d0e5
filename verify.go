package sealfetch

import (
	"context"
	"crypto/sha256"
	"hash"
	"math"
	"sync/atomic"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/model"
)

// Verify authenticates every byte of a model and writes nothing.
func Verify(ctx context.Context, uri fetch.URI, reader Reader, progress *Progress) (_ Loaded, err error) {
	if progress == nil {
		progress = new(Progress)
	}
	m := &sealed{reader: reader, uri: uri}
	defer m.close()
	if err := m.unlock(ctx); err != nil {
		return m.loaded(), err
	}
	v := newVerifier(m, progress)
	if m.signed() { // a digest needs a file's bytes in order: one part for each object
		if m.plan, err = m.manifest.Plan(m.plan.Files(), math.MaxInt64); err != nil {
			return m.loaded(), err
		}
	}
	if err := stream(ctx, []*sealed{m}, []sink{v}, m.signed(), reader.Limits, progress); err != nil {
		return m.loaded(), err
	}
	return m.loaded(), v.checkEmpty()
}

// unlock goes as far as the manifest.
func (m *sealed) unlock(ctx context.Context) error {
	if err := m.fetchEnvelope(ctx); err != nil {
		return err
	}
	if err := m.releaseKey(ctx); err != nil {
		return err
	}
	return m.openManifest(ctx)
}

// verifier is the sink that keeps nothing. Where digests are signed, it computes them.
type verifier struct {
	model    *sealed
	progress *Progress
	left     []atomic.Int64 // bytes of each file not yet seen
	sums     []hash.Hash    // running digest of each file; nil where none is needed
}

func newVerifier(m *sealed, progress *Progress) *verifier {
	v := &verifier{model: m, progress: progress, left: make([]atomic.Int64, len(m.manifest.Files)),
		sums: make([]hash.Hash, len(m.manifest.Files))}
	for i, f := range m.manifest.Files {
		v.left[i].Store(f.Size)
	}
	return v
}

func (v *verifier) accept(_ context.Context, object int, offset int64, chunks [][]byte) error {
	for _, chunk := range chunks {
		for piece := range v.model.plan.Pieces(object, offset, chunk) {
			if err := v.piece(piece); err != nil {
				return err
			}
		}
		offset += int64(len(chunk))
	}
	return nil
}

func (v *verifier) piece(p model.Piece) error {
	if v.model.signed() {
		if v.sums[p.File] == nil {
			v.sums[p.File] = sha256.New()
		}
		v.sums[p.File].Write(p.Data)
	}
	if v.left[p.File].Add(-int64(len(p.Data))) > 0 {
		return nil
	}
	v.progress.FilesDone.Add(1)
	return v.check(p.File)
}

func (v *verifier) check(file int) error {
	if !v.model.signed() {
		return nil
	}
	spec, sum := v.model.manifest.Files[file], v.sums[file]
	v.sums[file] = nil
	if sum == nil {
		sum = sha256.New()
	}
	return v.model.in(spec.Path, compareDigest(spec, sum.Sum(nil)))
}

// checkEmpty checks the files that have no bytes.
func (v *verifier) checkEmpty() error {
	for _, i := range v.model.plan.Files() {
		if v.model.manifest.Files[i].Size > 0 {
			continue
		}
		v.progress.FilesDone.Add(1)
		if err := v.check(i); err != nil {
			return err
		}
	}
	return nil
}
