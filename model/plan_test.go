package model_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/model"
)

// planManifest lays files of the given sizes out in objects of up to perObject files.
func planManifest(sizes []int64, perObject int) *model.Manifest {
	m := &model.Manifest{}
	for i, size := range sizes {
		if i%perObject == 0 {
			m.Objects = append(m.Objects, model.Object{Name: fmt.Sprintf("data/%05d", len(m.Objects))})
		}
		o := &m.Objects[len(m.Objects)-1]
		m.Files = append(m.Files, model.File{Path: fmt.Sprint(i), Size: size, Object: len(m.Objects) - 1, Offset: o.Size})
		o.Size += size
	}
	return m
}

func TestPlanParts(t *testing.T) {
	const c, s = decrypt.ChunkSize, decrypt.SealedChunkSize
	// Object 0: files 0 and 1, two chunks and one byte. Object 1: file 2, empty, and file 3, exactly three chunks.
	// Object 2: files 4 to 6, of which 5 lies across the border of chunks 0 and 1, and 6 is far behind.
	m := planManifest([]int64{c + 5, c - 4, 0, 3 * c, 5, c, 5 * c}, 2)
	m.Files[6].Object, m.Files[6].Offset = 2, m.Objects[2].Size
	m.Objects[2].Size += m.Files[6].Size
	m.Objects = m.Objects[:3]
	for _, test := range []struct {
		name     string
		files    []int
		partSize int64
		want     []model.Part
	}{
		{"whole object, one part", []int{0, 1}, 1 << 20, []model.Part{{0, 0, 3, 56, 2*s + 17}}},
		{"whole object, parts of two chunks", []int{1, 0}, 2 * s, []model.Part{{0, 0, 2, 56, 2 * s},
			{0, 2, 1, 56 + 2*s, 17}}},
		{"a part is never less than a chunk", []int{0, 1}, 1, []model.Part{{0, 0, 1, 56, s}, {0, 1, 1, 56 + s, s},
			{0, 2, 1, 56 + 2*s, 17}}},
		{"first file only", []int{0}, 1 << 20, []model.Part{{0, 0, 2, 56, 2 * s}}},
		{"second file only", []int{1}, 1 << 20, []model.Part{{0, 1, 2, 56 + s, s + 17}}},
		{"with the empty last chunk", []int{2, 3}, 1 << 20, []model.Part{{1, 0, 4, 56, 3*s + 16}}},
		{"without the empty last chunk", []int{3}, 1 << 20, []model.Part{{1, 0, 3, 56, 3 * s}}},
		{"an empty file needs no bytes", []int{2}, 1 << 20, nil},
		{"across two chunks", []int{5}, 1 << 20, []model.Part{{2, 0, 2, 56, 2 * s}}},
		{"neighbours are one run", []int{4, 5}, 1 << 20, []model.Part{{2, 0, 2, 56, 2 * s}}},
		{"a shared chunk is read once", []int{5, 6}, 1 << 20, []model.Part{{2, 0, 7, 56, 6*s + 21}}},
		{"apart", []int{4, 6}, 1 << 20, []model.Part{{2, 0, 7, 56, 6*s + 21}}},
		{"objects in order", []int{3, 0}, 1 << 20, []model.Part{{0, 0, 2, 56, 2 * s}, {1, 0, 3, 56, 3 * s}}},
	} {
		p, err := m.Plan(test.files, test.partSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Collect(p.Parts()); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestPlanGaps(t *testing.T) {
	const c, s = decrypt.ChunkSize, decrypt.SealedChunkSize
	m := planManifest([]int64{10, 4 * c, 10}, 3)
	p, err := m.Plan([]int{0, 2}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	want := []model.Part{{0, 0, 1, 56, s}, {0, 4, 1, 56 + 4*s, 36}}
	if got := slices.Collect(p.Parts()); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for part := range p.Parts() { // the walk may be left
		if part.FirstChunk != 0 {
			t.Error("not the first part")
		}
		break
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	m := planManifest([]int64{1, 2}, 2)
	for _, files := range [][]int{{-1}, {2}, {0, 0}} {
		if _, err := m.Plan(files, 1<<20); err == nil {
			t.Errorf("planned %v", files)
		}
	}
}

// TestPlanOfHugeModel must not make a list of what a hostile size asks for.
func TestPlanOfHugeModel(t *testing.T) {
	m := planManifest([]int64{decrypt.MaxPlainSize}, 1)
	p, err := m.Plan([]int{0}, 1)
	if err != nil {
		t.Fatal(err)
	}
	sealed := decrypt.SealedSize(decrypt.MaxPlainSize) - decrypt.HeaderSize
	if p.PartCount() != decrypt.MaxChunks || p.SealedSize() != sealed {
		t.Errorf("%d parts, %d bytes", p.PartCount(), p.SealedSize())
	}
	for range p.Parts() {
		break
	}
}

// TestSmallRestsAreReadAlong: an object that is a whole number of parts long ends in an empty chunk of 16 bytes.
func TestSmallRestsAreReadAlong(t *testing.T) {
	const s = decrypt.SealedChunkSize
	for _, test := range []struct {
		chunks int // of the object, the last one empty
		want   []int64
	}{{8, []int64{8}}, {9, []int64{9}}, {10, []int64{10}}, {11, []int64{8, 3}}, {17, []int64{8, 9}}, {18, []int64{8, 10}}, {19, []int64{8, 8, 3}}} {
		m := planManifest([]int64{int64(test.chunks-1) * decrypt.ChunkSize}, 1)
		p, err := m.Plan([]int{0}, 8*s)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for part := range p.Parts() {
			got = append(got, part.Chunks)
		}
		if !slices.Equal(got, test.want) || p.PartCount() != int64(len(got)) {
			t.Errorf("%d chunks: parts of %d, PartCount %d; want %d", test.chunks, got, p.PartCount(), test.want)
		}
	}
}

// checkPlan reads a plan over plaintext that is made up and expects every chosen file whole, byte for byte, in order,
// and nothing read twice or in vain.
func checkPlan(t *testing.T, m *model.Manifest, files []int, partSize int64) {
	t.Helper()
	p, err := m.Plan(files, partSize)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[int][]byte)
	var parts, sealed int64
	next := make(map[int]int64) // by object: the chunk behind the last part
	objects := make([][]byte, len(m.Objects))
	for i, o := range m.Objects {
		objects[i] = bytesOf(o.Name, int(o.Size))
	}
	for part := range p.Parts() {
		parts++
		sealed += part.Size
		if part.FirstChunk < next[part.Object] || part.Chunks < 1 || float64(part.Size) > max(1.25*float64(partSize), decrypt.SealedChunkSize) {
			t.Fatalf("part %+v behind chunk %d", part, next[part.Object])
		}
		next[part.Object] = part.FirstChunk + part.Chunks
		plaintext := objects[part.Object]
		for i := part.FirstChunk; i < part.FirstChunk+part.Chunks; i++ {
			chunk := plaintext[i*decrypt.ChunkSize : min((i+1)*decrypt.ChunkSize, int64(len(plaintext)))]
			for piece := range p.Pieces(part.Object, i*decrypt.ChunkSize, chunk) {
				if piece.Offset != int64(len(got[piece.File])) || len(piece.Data) == 0 {
					t.Fatalf("piece of %d bytes at %d of file %d, behind %d", len(piece.Data), piece.Offset, piece.File,
						len(got[piece.File]))
				}
				got[piece.File] = append(got[piece.File], piece.Data...)
			}
		}
	}
	if parts != p.PartCount() || sealed != p.SealedSize() {
		t.Fatalf("%d parts of %d bytes, announced as %d of %d", parts, sealed, p.PartCount(), p.SealedSize())
	}
	var size int64
	for _, i := range files {
		f := m.Files[i]
		size += f.Size
		if !bytes.Equal(got[i], objects[f.Object][f.Offset:f.Offset+f.Size]) {
			t.Fatalf("file %d came out as other bytes", i)
		}
		delete(got, i)
	}
	if len(got) != 0 || p.Size() != size || !slices.Equal(p.Files(), files) {
		t.Fatalf("files that were not chosen: %d; %d bytes", len(got), p.Size())
	}
}

func TestPlansAreExact(t *testing.T) {
	const c = decrypt.ChunkSize
	r := rand.New(rand.NewPCG(1, 2))
	edges := []int64{0, 0, 1, 2, 100, c - 1, c, c + 1, 2 * c, 2*c + 7, 5 * c}
	for range 200 {
		sizes := make([]int64, 1+r.IntN(12))
		for i := range sizes {
			sizes[i] = edges[r.IntN(len(edges))]
		}
		m := planManifest(sizes, 1+r.IntN(5))
		var files []int
		for i := range sizes {
			if r.IntN(3) > 0 {
				files = append(files, i)
			}
		}
		r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		checkPlan(t, m, files, int64(r.IntN(5*c)))
	}
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte{0, 1, 255, 64}, uint8(3), uint16(5), int64(20000))
	f.Fuzz(func(t *testing.T, raw []byte, perObject uint8, chosen uint16, partSize int64) {
		if len(raw) > 16 {
			raw = raw[:16]
		}
		sizes, files := make([]int64, len(raw)), []int(nil)
		for i, b := range raw {
			sizes[i] = int64(b) * 257 // up to four chunks
			if chosen&(1<<i) != 0 {
				files = append(files, i)
			}
		}
		checkPlan(t, planManifest(sizes, int(perObject)+1), files, partSize)
	})
}

func BenchmarkPieces(b *testing.B) {
	sizes := make([]int64, 2000)
	files := make([]int, len(sizes))
	for i := range sizes {
		sizes[i], files[i] = 4000, i
	}
	m := planManifest(sizes, len(sizes))
	p, err := m.Plan(files, 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	chunk := make([]byte, decrypt.ChunkSize)
	b.SetBytes(decrypt.ChunkSize)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for piece := range p.Pieces(0, 100*decrypt.ChunkSize, chunk) {
			n += len(piece.Data)
		}
	}
	if n == 0 {
		b.Fatal("no pieces")
	}
}
