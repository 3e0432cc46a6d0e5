package sealfetch_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
)

// benchmarks of the whole road over files, without a network: what is left is reading, AES-GCM and writing. The
// comparison with a network and with other programs is in bench/.

// benchModel makes a model of files of one size and returns its directory and a key.
func benchModel(b *testing.B, files, size int) (dir string, key *keybroker.Local) {
	b.Helper()
	dir = b.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d", i)), content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	private, _, _, err := keyfile.Generate(keyfile.TypeKEK)
	if err != nil {
		b.Fatal(err)
	}
	kek, err := keyfile.ParseKEK(private)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(kek.Wipe)
	return dir, keybroker.NewLocal(kek)
}

func benchSeal(b *testing.B, src string, key *keybroker.Local) fetch.URI {
	b.Helper()
	uri := fetch.URI{Scheme: "file", Path: b.TempDir()}
	store, err := fetch.Opener{}.Store(b.Context(), uri)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	_, err = sealfetch.Seal(b.Context(), sealfetch.SealJob{Dir: src, Model: "bench", Version: 1, Store: store, Created: time.Now(),
		Wrappers: []keybroker.Wrapper{key}, Limits: fetch.PublishLimits{Connections: 4, PartSize: 16 << 20}})
	if err != nil {
		b.Fatal(err)
	}
	return uri
}

func benchReader(key *keybroker.Local) sealfetch.Reader {
	return sealfetch.Reader{Open: fetch.Opener{}.Source, Brokers: []keybroker.Broker{key},
		Limits: fetch.Limits{Connections: 16, Retry: fetch.Retry{Attempts: 1, Stall: time.Minute}}}
}

func BenchmarkSeal(b *testing.B) {
	dir, key := benchModel(b, 4, 32<<20)
	b.SetBytes(4 * 32 << 20)
	for b.Loop() {
		benchSeal(b, dir, key)
	}
}

func BenchmarkVerify(b *testing.B) {
	dir, key := benchModel(b, 4, 32<<20)
	uri := benchSeal(b, dir, key)
	b.SetBytes(4 * 32 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sealfetch.Verify(b.Context(), uri, benchReader(key), new(sealfetch.Progress)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) { benchLoad(b, 4, 32<<20) }

// BenchmarkLoadSmallFiles is 2,000 files of 16 KiB.
func BenchmarkLoadSmallFiles(b *testing.B) { benchLoad(b, 2000, 16<<10) }

func benchLoad(b *testing.B, files, size int) {
	dir, key := benchModel(b, files, size)
	uri := benchSeal(b, dir, key)
	b.SetBytes(int64(files * size))
	b.ReportAllocs()
	for b.Loop() {
		dst := b.TempDir()
		_, err := sealfetch.Load(b.Context(), sealfetch.Job{Pairs: []sealfetch.Pair{{URI: uri, Dir: dst}}, Reader: benchReader(key),
			Destination: target.Options{AllowDisk: true}})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = os.RemoveAll(dst)
		b.StartTimer()
	}
}
