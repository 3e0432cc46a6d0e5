package sealfetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"sync"
	"sync/atomic"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/model"
)

// writer is the sink that writes a model's files into its staging directory. A file is open from its first byte to its
// last one, so that the number of open files does not grow with the model's.
type writer struct {
	model    *sealed
	files    []outFile // indexed as the manifest's
	progress *Progress
	vectors  sync.Pool // of *[]([]byte)
}

// outFile is one file under way.
type outFile struct {
	once sync.Once
	out  *target.File
	err  error
	left atomic.Int64 // bytes not yet written
	// busy is held while the kernel writes. It lets one writer into a file at a time anyway, but waiting for it here
	// leaves the processor to another connection.
	busy sync.Mutex
}

func newWriter(m *sealed, progress *Progress) *writer {
	w := &writer{model: m, files: make([]outFile, len(m.manifest.Files)), progress: progress}
	for i, f := range m.manifest.Files {
		w.files[i].left.Store(f.Size)
	}
	return w
}

// createEmpty makes the files that no byte will ever arrive for.
func (w *writer) createEmpty() error {
	for _, i := range w.model.plan.Files() {
		if w.model.manifest.Files[i].Size > 0 {
			continue
		}
		if _, err := w.open(i); err != nil {
			return err
		}
		if err := w.finish(i); err != nil {
			return err
		}
	}
	return nil
}

// accept writes a window: for each file in it, the pieces between the tags with one system call.
func (w *writer) accept(_ context.Context, object int, offset int64, chunks [][]byte) error {
	pooled, ok := w.vectors.Get().(*[][]byte)
	if !ok {
		pooled = new([][]byte)
	}
	defer w.vectors.Put(pooled)
	run := run{file: -1, data: (*pooled)[:0]}
	for _, chunk := range chunks {
		for piece := range w.model.plan.Pieces(object, offset, chunk) {
			if piece.File != run.file {
				if err := w.write(run); err != nil {
					return err
				}
				run.file, run.offset, run.data = piece.File, piece.Offset, run.data[:0]
			}
			run.data = append(run.data, piece.Data)
		}
		offset += int64(len(chunk))
	}
	*pooled = run.data
	return w.write(run)
}

// run is consecutive bytes of one file.
type run struct {
	file   int // -1 = none yet
	offset int64
	data   [][]byte
}

func (w *writer) write(r run) error {
	if r.file < 0 {
		return nil
	}
	if _, err := w.open(r.file); err != nil {
		return err
	}
	n, err := w.files[r.file].writeVec(r.data, r.offset)
	if err != nil {
		return err
	}
	if w.files[r.file].left.Add(-int64(n)) > 0 {
		return nil
	}
	return w.finish(r.file)
}

func (f *outFile) writeVec(data [][]byte, offset int64) (int, error) {
	f.busy.Lock()
	defer f.busy.Unlock()
	return f.out.WriteVec(data, offset)
}

// open creates a file with the first of its bytes.
func (w *writer) open(i int) (*target.File, error) {
	f := &w.files[i]
	f.once.Do(func() {
		spec := w.model.manifest.Files[i]
		f.out, f.err = w.model.staging.Create(spec.Path, spec.Size, spec.Executable())
	})
	return f.out, f.err
}

// finish closes a file whose last byte is written.
func (w *writer) finish(i int) error {
	spec, out := w.model.manifest.Files[i], w.files[i].out
	if w.model.signed() {
		if err := checkDigest(spec, io.NewSectionReader(out, 0, spec.Size)); err != nil {
			return w.model.in(spec.Path, err)
		}
	}
	w.progress.FilesDone.Add(1)
	return out.Close()
}

// closeAll closes the files that an error left open.
func (w *writer) closeAll() {
	for i := range w.files {
		if f := &w.files[i]; f.out != nil && f.left.Load() > 0 {
			_ = f.out.Close()
		}
	}
}

// checkDigest holds a file's content against the digest that its publisher signed.
func checkDigest(spec model.File, content io.Reader) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return fault.New(fault.Destination, "", "reading it back: %w", err)
	}
	return compareDigest(spec, sum.Sum(nil))
}

func compareDigest(spec model.File, sum []byte) error {
	if hex.EncodeToString(sum) != spec.SHA256 {
		return fault.New(fault.NotAuthentic, "somebody who holds the model's key forged it: rotate the key and publish a new version",
			"the file's SHA-256 is not the one its publisher signed")
	}
	return nil
}
