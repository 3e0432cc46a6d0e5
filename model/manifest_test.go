package model_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

const mib = 1 << 20

// layout writes a manifest as one line per object: its size and the paths of its files.
func layout(m *model.Manifest) []string {
	var lines []string
	for i, files := range m.Contents() {
		line := fmt.Sprintf("%s %d:", m.Objects[i].Name, m.Objects[i].Size)
		for _, f := range files {
			line += " " + m.Files[f].Path
		}
		lines = append(lines, line)
	}
	return lines
}

func TestPacking(t *testing.T) {
	src := func(path string, size int64) model.Source { return model.Source{Path: path, Size: size} }
	for _, c := range []struct {
		name    string
		sources []model.Source
		want    []string
	}{
		{"one", []model.Source{src("a", 1)}, []string{"data/00000 1: a"}},
		{"empty", []model.Source{src("b", 0), src("a", 0)}, []string{"data/00000 0: a b"}},
		{"threshold", []model.Source{src("a", 4*mib), src("b", 4*mib-1), src("c", 1)},
			[]string{"data/00000 4194304: a", "data/00001 4194304: b c"}},
		{"large between small", []model.Source{src("c", 3), src("b", 5*mib), src("a", 1)},
			[]string{"data/00000 4: a c", "data/00001 5242880: b"}},
		{"full pack", []model.Source{src("a", 4*mib-1), src("b", 4*mib-1), src("c", 2), src("d", 1), src("e", 0)},
			[]string{"data/00000 8388608: a b c", "data/00001 1: d e"}},
		{"a pack is not reopened", []model.Source{src("a", 4*mib-1), src("b", 4*mib-1), src("c", 4*mib-1), src("d", 1)},
			[]string{"data/00000 8388606: a b", "data/00001 4194304: c d"}},
		{"empty file besides large ones", []model.Source{src("a", 9*mib), src("b", 0)},
			[]string{"data/00000 9437184: a", "data/00001 0: b"}},
		{"path order", []model.Source{src("a-b", 1), src("a/b", 1), src("B", 1), src("a/a/z", 1), src("é", 1)},
			[]string{"data/00000 5: B a/a/z a/b a-b é"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := model.NewManifest("acme/m", 1, vectorTime, c.sources)
			if err != nil {
				t.Fatal(err)
			}
			if got := layout(m); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			reversed := slices.Clone(c.sources)
			slices.Reverse(reversed)
			again, err := model.NewManifest("acme/m", 1, vectorTime, reversed)
			if err != nil || !reflect.DeepEqual(again, m) {
				t.Errorf("another order of sources gives another layout: %q, %v", layout(again), err)
			}
		})
	}
}

func TestSourcesThatCannotBeSealed(t *testing.T) {
	src := func(path string, size int64) model.Source { return model.Source{Path: path, Size: size} }
	for _, c := range []struct {
		name    string
		model   string
		sources []model.Source
		want    string
	}{
		{"nothing", "acme/m", nil, "0 files"},
		{"name", "acme m", []model.Source{src("a", 1)}, "model name"},
		{"path", "acme/m", []model.Source{src("../a", 1)}, `file "../a"`},
		{"clash", "acme/m", []model.Source{src("a", 1), src("a", 2)}, `"a" comes twice`},
		{"directory", "acme/m", []model.Source{src("a/b", 1), src("a-b", 1), src("a", 1)},
			`"a" is a directory of file "a/b"`},
		{"too large", "acme/m", []model.Source{src("a", decrypt.MaxPlainSize+1)}, "too large"},
		{"negative", "acme/m", []model.Source{src("a", -1)}, "negative"},
	} {
		m, err := model.NewManifest(c.model, 1, vectorTime, c.sources)
		if m != nil || !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// manyFiles is a manifest of n empty files, which can break any bound on numbers.
func manyFiles(n int, path func(i int) string) *model.Manifest {
	m := &model.Manifest{Format: model.Format, Model: "acme/m", Version: 1, Created: vectorTime,
		Objects: []model.Object{{Name: "data/00000"}}}
	m.Files = make([]model.File, n)
	for i := range m.Files {
		m.Files[i] = model.File{Path: path(i), Mode: "0644"}
	}
	return m
}

func TestManifestBounds(t *testing.T) {
	flat := func(i int) string { return fmt.Sprintf("%06d", i) }
	deep := func(i int) string { return fmt.Sprintf("%d/a/b/c/d/e/f/g/h/i/j", i) }
	for _, c := range []struct {
		name string
		m    *model.Manifest
		want string
	}{
		{"files", manyFiles(model.MaxFiles, flat), ""},
		{"one file too many", manyFiles(model.MaxFiles+1, flat), "100001 files"},
		{"directories", manyFiles(model.MaxDirectories/10, deep), ""},
		{"too many directories", manyFiles(model.MaxDirectories/10+1, deep), "more than 100000 directories"},
		{"too large", manyFiles(model.MaxFiles, func(i int) string { return fmt.Sprintf("%0150d", i) }),
			"more than 16777216 bytes"},
	} {
		plaintext, err := json.Marshal(c.m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = model.ParseManifest(plaintext)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.want != "" && (!fault.Is(err, fault.Format) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestManifestBomb has a million files in as few bytes as JSON takes, and other floods: each ends at its first element.
func TestManifestBomb(t *testing.T) {
	for _, bomb := range []string{
		`{"files":[` + strings.Repeat("{},", 1<<20),
		`{"files":` + strings.Repeat("[", 1<<20),
		`{"created":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		if n := testing.AllocsPerRun(1, func() {
			if _, err := model.ParseManifest([]byte(bomb)); !fault.Is(err, fault.Format) || len(err.Error()) > 400 {
				t.Errorf("%.20s: error of %d bytes", bomb, len(err.Error()))
			}
		}); n > 500 {
			t.Errorf("%.20s: %v allocations", bomb, n)
		}
	}
}

func TestRoomForDigests(t *testing.T) {
	short := manyFiles(1000, func(i int) string { return fmt.Sprintf("%06d", i) })
	if err := short.CheckRoomForDigests(); err != nil {
		t.Errorf("1000 files: %v", err)
	}
	long := manyFiles(model.MaxFiles, func(i int) string { return fmt.Sprintf("%040d", i) })
	if err := long.CheckRoomForDigests(); !fault.Is(err, fault.Usage) {
		t.Errorf("100000 files: %v", err)
	}
}

func TestRequireDigests(t *testing.T) {
	m := manyFiles(2, func(i int) string { return fmt.Sprint(i) })
	m.Files[0].SHA256 = strings.Repeat("0", 64)
	if err := m.RequireDigests(); !fault.Is(err, fault.Format) || !strings.Contains(err.Error(),
		`file "1" has no sha256`) {
		t.Errorf("%v", err)
	}
	m.Files[1].SHA256 = strings.Repeat("0", 64)
	if err := m.RequireDigests(); err != nil {
		t.Error(err)
	}
}

func TestExecutable(t *testing.T) {
	for mode, want := range map[string]bool{"0644": false, "0755": true, "0100": true, "0011": false, "7777": true,
		"0600": false, "": false} {
		if got := (model.File{Mode: mode}).Executable(); got != want {
			t.Errorf("%q: %v", mode, got)
		}
	}
}

// FuzzParseManifest expects of every manifest that passes what the rest of the program takes for granted.
func FuzzParseManifest(f *testing.F) {
	m, err := model.NewManifest("acme/m", 1, vectorTime, []model.Source{{Path: "a/b", Size: 3},
		{Path: "c", Size: 5 * mib, Executable: true}, {Path: "d"}})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(strings.Replace(string(seed), `"size":3`, `"size":4`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := model.ParseManifest(data)
		if err != nil {
			if m != nil || !fault.Is(err, fault.Format) {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		var sum int64
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Path) || file.Path != filepath.Clean(file.Path) {
				t.Fatalf("path %q", file.Path)
			}
			if sum += file.Size; file.Size < 0 || sum < 0 {
				t.Fatalf("sizes up to %d", sum)
			}
		}
		if sum != m.Size() {
			t.Fatalf("files have %d bytes, the model has %d", sum, m.Size())
		}
		all, err := m.Select(nil)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := m.Plan(all, 8*mib)
		if err != nil || plan.Size() != sum || plan.SealedSize() < sum {
			t.Fatalf("%v: %d and %d bytes planned", err, plan.Size(), plan.SealedSize())
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if twin, err := model.ParseManifest(again); len(again) <= model.MaxManifestSize && (err != nil ||
			!reflect.DeepEqual(twin.Files, m.Files)) {
			t.Fatalf("it does not come back: %v", err)
		}
	})
}

func BenchmarkParseManifest100k(b *testing.B) {
	sources := make([]model.Source, model.MaxFiles)
	for i := range sources {
		sources[i] = model.Source{Path: fmt.Sprintf("shards/%03d/weights-%06d.bin", i%1000, i), Size: int64(i)}
	}
	m, err := model.NewManifest("acme/many", 1, vectorTime, sources)
	if err != nil {
		b.Fatal(err)
	}
	plaintext, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(plaintext)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := model.ParseManifest(plaintext); err != nil {
			b.Fatal(err)
		}
	}
}
