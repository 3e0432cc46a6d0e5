package target

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteVec(t *testing.T) {
	many := make([][]byte, 3000) // more than one call takes
	for i := range many {
		many[i] = fmt.Appendf(nil, "<%d>", i)
	}
	for name, bufs := range map[string][][]byte{
		"none":          nil,
		"empty":         {nil, {}},
		"one":           {[]byte("one")},
		"empty between": {nil, []byte("a"), {}, []byte("bc"), nil},
		"many":          many,
		"many empty":    append(make([][]byte, 5000), []byte("end")),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := stageIn(t, dir)
			want := bytes.Join(bufs, nil)
			const off = 3
			f, err := s.Create("f", int64(len(want)+off), false)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if n, err := f.WriteVec(bufs, off); n != len(want) || err != nil {
				t.Errorf("wrote %d of %d: %v", n, len(want), err)
			}
			got, err := os.ReadFile(filepath.Join(dir, s.name, "f"))
			if err != nil || !bytes.Equal(got, append(make([]byte, off), want...)) {
				t.Errorf("the file has %d bytes, not those written: %v", len(got), err)
			}
		})
	}
}

// TestShortWrites gives writeAll a kernel that takes a few bytes at a time, and is interrupted.
func TestShortWrites(t *testing.T) {
	bufs := [][]byte{[]byte("abc"), nil, []byte("defgh"), []byte("i")}
	for take := 1; take < 10; take++ {
		got := make([]byte, 9)
		interrupted := false
		n, err := writeAll(0, bufs, 100, func(_ int, bufs [][]byte, off int64) (int, error) {
			if interrupted = !interrupted; interrupted {
				return -1, unix.EINTR
			}
			all := bytes.Join(bufs, nil)
			return copy(got[off-100:], all[:min(take, len(all))]), nil
		})
		if n != 9 || err != nil || string(got) != "abcdefghi" {
			t.Errorf("%d at a time: %d, %v, %q", take, n, err, got)
		}
		if string(bytes.Join(bufs, []byte("|"))) != "abc||defgh|i" {
			t.Fatalf("the caller's buffers were changed: %q", bufs)
		}
	}
}

func TestWriteAllGivesUp(t *testing.T) {
	calls := 0
	fails := func(_ int, _ [][]byte, _ int64) (int, error) {
		if calls++; calls == 2 {
			return -1, unix.ENOSPC
		}
		return 2, nil
	}
	if n, err := writeAll(0, [][]byte{[]byte("abc")}, 0, fails); n != 2 || err != unix.ENOSPC {
		t.Errorf("%d, %v", n, err)
	}
	nothing := func(int, [][]byte, int64) (int, error) { return 0, nil }
	if n, err := writeAll(0, [][]byte{[]byte("abc")}, 0, nothing); n != 0 || err == nil {
		t.Errorf("%d, %v: a file that takes nothing", n, err)
	}
}

func TestWritesStayInTheFile(t *testing.T) {
	dir := t.TempDir()
	s := stageIn(t, dir)
	f, err := s.Create("f", 10, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		length int
		off    int64
	}{{11, 0}, {1, 10}, {2, 9}, {0, 11}, {1, -1}, {1, 1<<63 - 1}, {5, 1<<63 - 3}} {
		b := make([]byte, c.length)
		if n, err := f.WriteAt(b, c.off); err == nil || n != 0 {
			t.Errorf("%d bytes at %d: %d, %v", c.length, c.off, n, err)
		}
		if n, err := f.WriteVec([][]byte{b[:c.length/2], b[c.length/2:]}, c.off); err == nil || n != 0 {
			t.Errorf("vector of %d bytes at %d: %d, %v", c.length, c.off, n, err)
		}
	}
	if _, err := f.WriteAt(make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
	if _, err := f.WriteAt(nil, 10); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, s.name, "f")); err != nil || info.Size() != 10 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("wrote to a closed file")
	}
	if _, err := f.WriteVec([][]byte{[]byte("x")}, 0); err == nil {
		t.Error("wrote a vector to a closed file")
	}
}

func TestManyWritersOfOneFile(t *testing.T) {
	dir := t.TempDir()
	s := stageIn(t, dir)
	const writers, piece = 16, 8 << 10
	f, err := s.Create("f", writers*piece, false)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			b := bytes.Repeat([]byte{byte('a' + w)}, piece)
			var err error
			if w%2 == 0 {
				_, err = f.WriteAt(b, int64(w*piece))
			} else {
				_, err = f.WriteVec([][]byte{b[:100], b[100:]}, int64(w*piece))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		if want := bytes.Repeat([]byte{byte('a' + w)}, piece); !bytes.Equal(got[w*piece:(w+1)*piece], want) {
			t.Errorf("the piece of writer %d is not what it wrote", w)
		}
	}
}

// The loader writes the plaintext of 16 chunks at a time. Opened in place they lie 16 bytes of tag apart; WriteVec
// writes them as they lie, WriteAt needs them moved together or 16 calls.
const (
	chunkSize = 16 << 10
	sealed    = chunkSize + 16
	chunks    = 16
)

func benchmarkWrite(b *testing.B, write func(f *File, buf []byte, off int64) error) {
	d, err := Open(tmpfsDir(b), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	s, err := d.Stage()
	if err != nil {
		b.Fatal(err)
	}
	const size = 64 << 20
	f, err := s.Create("f", size, false)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := bytes.Repeat([]byte{1}, chunks*sealed)
	b.SetBytes(chunks * chunkSize)
	off := int64(0)
	for b.Loop() {
		if err := write(f, buf, off); err != nil {
			b.Fatal(err)
		}
		off = (off + chunks*chunkSize) % size
	}
}

func BenchmarkWriteVec16Chunks(b *testing.B) {
	bufs := make([][]byte, chunks)
	benchmarkWrite(b, func(f *File, buf []byte, off int64) error {
		for i := range bufs {
			bufs[i] = buf[i*sealed:][:chunkSize]
		}
		_, err := f.WriteVec(bufs, off)
		return err
	})
}

func BenchmarkWriteAt16Calls(b *testing.B) {
	benchmarkWrite(b, func(f *File, buf []byte, off int64) error {
		for i := range chunks {
			if _, err := f.WriteAt(buf[i*sealed:][:chunkSize], off+int64(i)*chunkSize); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkWriteAtMovedTogether(b *testing.B) {
	benchmarkWrite(b, func(f *File, buf []byte, off int64) error {
		for i := 1; i < chunks; i++ {
			copy(buf[i*chunkSize:], buf[i*sealed:][:chunkSize])
		}
		_, err := f.WriteAt(buf[:chunks*chunkSize], off)
		return err
	})
}

// BenchmarkCreate2000Files makes, writes and commits 2,000 files of 1 KiB in 20 directories.
func BenchmarkCreate2000Files(b *testing.B) {
	dir := tmpfsDir(b)
	content := make([]byte, 1<<10)
	names := make([]string, 2000)
	for i := range names {
		names[i] = fmt.Sprintf("shard-%02d/part/file-%04d", i/100, i)
	}
	write := func(s *Staging, name string) error {
		f, err := s.Create(name, int64(len(content)), false)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt(content, 0)
		return err
	}
	for b.Loop() {
		d, err := Open(dir+"/d", Options{})
		if err != nil {
			b.Fatal(err)
		}
		s, err := d.Stage()
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range names {
			if err := write(s, name); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Commit(); err != nil {
			b.Fatal(err)
		}
		d.Close()
		b.StopTimer()
		if err := os.RemoveAll(dir + "/d"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

var _ io.WriterAt = (*File)(nil)
