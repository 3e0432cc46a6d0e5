package model

import (
	"fmt"
	"iter"
	"slices"
	"sort"

	"github.com/sealfetch/sealfetch/decrypt"
)

// Plan says which ranges of which objects to read for some files, and where the plaintext goes. It follows from the
// manifest alone, never from what a server says. It is safe for concurrent use.
type Plan struct {
	manifest *Manifest
	files    []int
	contents [][]int // of each object: the planned files that have bytes, in order
	runs     []run
	perPart  int64 // chunks
}

// tailShare is the part of a part, one in so many, that is not worth a request of its own: above all the empty last
// chunk of an object whose size is a whole number of parts.
const tailShare = 4

// run is chunks of one object that are read in one go: first up to, not including, end.
type run struct {
	object     int
	first, end int64
}

// Part is one ranged read: whole chunks of one object.
type Part struct {
	Object       int // index into Manifest.Objects
	FirstChunk   int64
	Chunks       int64
	Offset, Size int64 // bytes of the sealed object
}

// Piece is plaintext and its place in a file.
type Piece struct {
	File   int   // index into Manifest.Files
	Offset int64 // bytes into the file
	Data   []byte
}

// Plan plans to read files, which are given by their indexes, in parts of at most partSize bytes or one chunk, except
// that a quarter more is read along where it is all that would be left for a request of its own. An object of which
// every file is wanted is read whole, its last chunk too where that is empty; of others only the chunks that hold wanted
// bytes are read.
func (m *Manifest) Plan(files []int, partSize int64) (*Plan, error) {
	wanted := make([]bool, len(m.Files))
	for _, i := range files {
		if i < 0 || i >= len(m.Files) || wanted[i] {
			return nil, fmt.Errorf("planning file %d of %d, or planning it twice", i, len(m.Files))
		}
		wanted[i] = true
	}
	p := &Plan{manifest: m, files: slices.Clone(files), perPart: max(1, partSize/decrypt.SealedChunkSize)}
	p.contents = m.Contents()
	for o, all := range p.contents {
		some := slices.DeleteFunc(slices.Clone(all), func(i int) bool { return !wanted[i] })
		filled := slices.DeleteFunc(slices.Clone(some), func(i int) bool { return m.Files[i].Size == 0 })
		if len(some) == len(all) {
			p.runs = append(p.runs, run{o, 0, decrypt.Chunks(m.Objects[o].Size)})
		} else {
			p.addRuns(o, filled)
		}
		p.contents[o] = filled
	}
	return p, nil
}

// addRuns adds the chunks that hold the bytes of files, which are some of one object's, in order and none empty.
func (p *Plan) addRuns(object int, files []int) {
	for n, i := range files {
		f := &p.manifest.Files[i]
		first, end := f.Offset/decrypt.ChunkSize, (f.Offset+f.Size-1)/decrypt.ChunkSize+1
		if last := len(p.runs) - 1; n > 0 && first <= p.runs[last].end {
			p.runs[last].end = end
			continue
		}
		p.runs = append(p.runs, run{object, first, end})
	}
}

// Files returns the indexes of the planned files, empty ones included.
func (p *Plan) Files() []int { return slices.Clone(p.files) }

// Size returns the bytes of all planned files.
func (p *Plan) Size() int64 {
	var size int64
	for _, i := range p.files {
		size += p.manifest.Files[i].Size
	}
	return size
}

// SealedSize returns the bytes that all parts read.
func (p *Plan) SealedSize() int64 {
	var size int64
	for _, r := range p.runs {
		size += p.part(r).Size
	}
	return size
}

// PartCount returns how many parts there are.
func (p *Plan) PartCount() int64 {
	var count int64
	for _, r := range p.runs {
		count++
		if rest := r.end - r.first - p.perPart - p.perPart/tailShare; rest > 0 {
			count += (rest + p.perPart - 1) / p.perPart
		}
	}
	return count
}

// Parts yields the parts in the order of objects and offsets. They are made as they are asked for: their number follows
// from sizes that a hostile manifest chooses.
func (p *Plan) Parts() iter.Seq[Part] {
	return func(yield func(Part) bool) {
		for _, r := range p.runs {
			for r.first < r.end {
				part := run{r.object, r.first, min(r.first+p.perPart, r.end)}
				if r.end-part.end <= p.perPart/tailShare {
					part.end = r.end
				}
				if !yield(p.part(part)) {
					return
				}
				r.first = part.end
			}
		}
	}
}

func (p *Plan) part(r run) Part {
	offset := decrypt.ChunkOffset(r.first)
	end := min(decrypt.ChunkOffset(r.end), decrypt.SealedSize(p.manifest.Objects[r.object].Size))
	return Part{r.object, r.first, r.end - r.first, offset, end - offset}
}

// Pieces cuts plaintext, which begins at offset of an object's plaintext, into what the planned files want of it. The
// pieces alias plaintext and come in its order; what belongs to other files is left out.
func (p *Plan) Pieces(object int, offset int64, plaintext []byte) iter.Seq[Piece] {
	return func(yield func(Piece) bool) {
		files, all := p.contents[object], p.manifest.Files
		end := offset + int64(len(plaintext))
		next := sort.Search(len(files), func(n int) bool { f := &all[files[n]]; return f.Offset+f.Size > offset })
		for _, i := range files[next:] {
			f := &all[i]
			from, to := max(f.Offset, offset), min(f.Offset+f.Size, end)
			if from >= to || !yield(Piece{i, from - f.Offset, plaintext[from-offset : to-offset]}) {
				return
			}
		}
	}
}
