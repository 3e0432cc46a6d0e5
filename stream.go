package sealfetch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/fetch"
)

const (
	// windowChunks are read, opened and written at a time: 256 KiB stay in a core's cache from one step to the next.
	windowChunks = 16
	// WindowSize is the buffer of one connection, in bytes.
	WindowSize = windowChunks * decrypt.SealedChunkSize
	// leastPart and mostPart bound what one ranged read brings: little enough that a small model keeps many connections
	// busy, much enough that the time to an answer's first byte does not count.
	leastPart = 32 * WindowSize
	mostPart  = 256 * WindowSize
	// usualParts are planned for a model where those bounds let them be, two for each of the first connections: near
	// the end, parts are shared out further (see fetch.Plan).
	usualParts = 32
	// manyParts bounds the plan of an enormous model: its parts grow instead.
	manyParts = 1 << 16
)

// partSize is how many bytes one ranged read brings, for a model of total bytes: whole windows.
func partSize(total int64) int64 {
	size := max(leastPart, min(total/usualParts, mostPart), total/manyParts)
	return (size + WindowSize - 1) / WindowSize * WindowSize
}

// Progress counts what a load has done. It may be read while the load runs.
type Progress struct {
	fetch.Progress
	BytesTotal atomic.Int64 // stored bytes to be read
	FilesDone  atomic.Int64
	FilesTotal atomic.Int64
}

// sink takes authentic plaintext.
type sink interface {
	// accept takes one window, chunk by chunk, which begins at offset of an object's plaintext. The chunks are the
	// caller's again after the call. It is called from several connections at once, in order within a part if that was
	// asked for.
	accept(ctx context.Context, object int, offset int64, chunks [][]byte) error
}

// stream reads the planned parts of all models over one budget of connections and gives what is authentic to the sinks,
// one for each model. Where they want each part in order, it stays on one connection.
func stream(ctx context.Context, models []*sealed, sinks []sink, ordered bool, limits fetch.Limits,
	progress *Progress) error {
	plan := fetch.Plan{Window: WindowSize, Ordered: ordered}
	var split splitter
	for i, m := range models {
		first := len(plan.Objects)
		for o, object := range m.manifest.Objects {
			plan.Objects = append(plan.Objects,
				fetch.Object{Source: m.source, Name: object.Name, Size: decrypt.SealedSize(object.Size)})
			split.objects = append(split.objects, &cipherObject{model: m, index: o, sink: sinks[i]})
		}
		for p := range m.plan.Parts() {
			plan.Parts = append(plan.Parts, fetch.Part{Object: first + p.Object, Off: p.Offset, Len: p.Size})
		}
		progress.BytesTotal.Add(m.plan.SealedSize())
		progress.FilesTotal.Add(int64(len(m.plan.Files())))
	}
	plan.Parts = inOrder(plan)
	return fetch.Stream(ctx, plan, &split, limits, &progress.Progress)
}

// together is how many large objects are read at a time. A file takes one writer at a time, so that connections had
// better not all work at one; each is open until its last byte.
const together = 8

// inOrder puts the parts into the order in which they are started: the largest objects first, so that what trails at
// the end is small, and some of them in turns.
func inOrder(plan fetch.Plan) []fetch.Part {
	ranked := make([]int, len(plan.Objects))
	for i := range ranked {
		ranked[i] = i
	}
	slices.SortStableFunc(ranked, func(a, b int) int { return cmp.Compare(plan.Objects[b].Size, plan.Objects[a].Size) })
	rank := make([]int, len(ranked))
	for i, object := range ranked {
		rank[object] = i
	}
	type turn struct {
		part       fetch.Part
		group, nth int
	}
	turns, seen := make([]turn, len(plan.Parts)), make([]int, len(plan.Objects))
	for i, p := range plan.Parts {
		turns[i] = turn{p, rank[p.Object] / together, seen[p.Object]}
		seen[p.Object]++
	}
	slices.SortStableFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.nth, b.nth),
			cmp.Compare(rank[a.part.Object], rank[b.part.Object]))
	})
	parts := make([]fetch.Part, len(turns))
	for i, t := range turns {
		parts[i] = t.part
	}
	return parts
}

// splitter cuts the windows of all objects into chunks and opens them: the sink of fetch, the source of our sinks.
type splitter struct {
	objects []*cipherObject
	chunks  sync.Pool // of *[windowChunks][]byte
}

// cipherObject is one object of one model. Its opener is made with its first window.
type cipherObject struct {
	model  *sealed
	index  int
	sink   sink
	once   sync.Once
	opener *decrypt.Opener
	err    error
}

func (o *cipherObject) open() (*decrypt.Opener, error) {
	o.once.Do(func() {
		object := o.model.manifest.Objects[o.index]
		opener, err := o.model.keys.OpenObject(object)
		o.opener, o.err = opener, o.model.in(object.Name, err)
	})
	return o.opener, o.err
}

// Window opens the chunks of a window in place and passes them on.
func (s *splitter) Window(ctx context.Context, object int, off int64, p []byte) error {
	o := s.objects[object]
	opener, err := o.open()
	if err != nil {
		return err
	}
	chunks, ok := s.chunks.Get().(*[windowChunks][]byte)
	if !ok {
		chunks = new([windowChunks][]byte)
	}
	defer s.chunks.Put(chunks)
	first, n := (off-decrypt.HeaderSize)/decrypt.SealedChunkSize, 0
	for ; len(p) > 0; n++ {
		size := min(len(p), decrypt.SealedChunkSize)
		if chunks[n], err = opener.Open(first+int64(n), p[:size]); err != nil {
			return o.model.notAuthentic(o.index, first+int64(n), err)
		}
		p = p[size:]
	}
	return o.sink.accept(ctx, o.index, first*decrypt.ChunkSize, chunks[:n])
}

// notAuthentic names the object and the first of the files that have bytes in the chunk.
func (m *sealed) notAuthentic(object int, chunk int64, err error) error {
	name := m.manifest.Objects[object].Name
	for piece := range m.plan.Pieces(object, chunk*decrypt.ChunkSize, make([]byte, decrypt.ChunkSize)) {
		return m.in(fmt.Sprintf("%s (file %q)", name, m.manifest.Files[piece.File].Path), err)
	}
	return m.in(name, err)
}
