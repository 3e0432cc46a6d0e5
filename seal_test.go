package sealfetch_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
)

// published is a directory that was sealed into another one, and what opens it.
type published struct {
	dir    string
	broker *keybroker.Local
	signer ed25519.PublicKey
	sealed *sealfetch.Sealed
}

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contents reads a tree back.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(data)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func localKey(t *testing.T) *keybroker.Local {
	t.Helper()
	private, _, _, err := keyfile.Generate(keyfile.TypeKEK)
	if err != nil {
		t.Fatal(err)
	}
	kek, err := keyfile.ParseKEK(private)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kek.Wipe)
	return keybroker.NewLocal(kek)
}

// sealJob is a job that publishes files into a new directory.
func sealJob(t *testing.T, src string, store fetch.Store, broker *keybroker.Local) sealfetch.SealJob {
	t.Helper()
	return sealfetch.SealJob{Dir: src, Model: "acme/model", Version: 1, Wrappers: []keybroker.Wrapper{broker}, Store: store,
		Created: time.Now(), Limits: fetch.PublishLimits{Connections: 3, PartSize: 5 << 20}}
}

func openStore(t *testing.T, dir string) fetch.Store {
	t.Helper()
	uri, err := fetch.ParseDestination(dir)
	if err != nil {
		t.Fatal(err)
	}
	store, err := fetch.Opener{}.Store(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// publish seals files, signed or not.
func publish(t *testing.T, files map[string]string, signed bool) published {
	t.Helper()
	p := published{dir: filepath.Join(t.TempDir(), "pub"), broker: localKey(t)}
	job := sealJob(t, tree(t, files), openStore(t, p.dir), p.broker)
	if signed {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		job.Signer, p.signer = private, public
	}
	var err error
	if p.sealed, err = sealfetch.Seal(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p published) uri(t *testing.T, query string) fetch.URI {
	t.Helper()
	uri, err := fetch.ParseURI("sealed+file://" + p.dir + query)
	if err != nil {
		t.Fatal(err)
	}
	return uri
}

func (p published) reader() sealfetch.Reader {
	r := sealfetch.Reader{Open: fetch.Opener{}.Source, Brokers: []keybroker.Broker{p.broker},
		Limits: fetch.Limits{Connections: 3, Retry: fetch.Retry{Attempts: 2, Base: time.Millisecond, Cap: time.Millisecond, Stall: time.Minute}}}
	if p.signer != nil {
		r.Policy.Signers = []crypto.PublicKey{p.signer}
	}
	return r
}

func (p published) load(t *testing.T, query, dest string) ([]sealfetch.Loaded, error) {
	t.Helper()
	return sealfetch.Load(t.Context(), sealfetch.Job{Pairs: []sealfetch.Pair{{URI: p.uri(t, query), Dir: dest}},
		Reader: p.reader(), Destination: target.Options{AllowDisk: true}})
}

// TestPathOrders seals names whose order differs between plain strings and paths: a manifest lists a/b before a.b. Same
// sizes would hide a mix-up from everything but the comparison.
func TestPathOrders(t *testing.T) {
	files := map[string]string{"a/b": "1", "a.b": "2", "a-b/c": "3", "ab": "4", "A": "5", "a/-": "longer", "a.txt": ""}
	for _, signed := range []bool{false, true} {
		p := publish(t, files, signed)
		dest := filepath.Join(t.TempDir(), "out")
		if _, err := p.load(t, "", dest); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, dest); fmt.Sprint(got) != fmt.Sprint(files) {
			t.Errorf("signed %v: loaded %v, sealed %v", signed, got, files)
		}
	}
}

// TestSizesAround seals files whose sizes lie around every border of chunk, window, pack and part.
func TestSizesAround(t *testing.T) {
	const chunk = 16 << 10
	files := map[string]string{}
	for _, around := range []int{0, chunk, 16 * chunk, 4 << 20, 8 << 20} {
		for size := max(around-1, 0); size <= around+1; size++ {
			data := bytes.Repeat(fmt.Appendf(nil, "%d.", size), size/2+1)[:size]
			files[fmt.Sprintf("d%d/f%d", size%3, size)] = string(data)
		}
	}
	p := publish(t, files, true)
	dest := filepath.Join(t.TempDir(), "out")
	loaded, err := p.load(t, "", dest)
	if err != nil {
		t.Fatal(err)
	}
	got := contents(t, dest)
	for name, want := range files {
		if got[name] != want {
			t.Errorf("%s: %d bytes that are not the %d sealed", name, len(got[name]), len(want))
		}
	}
	if len(got) != len(files) || loaded[0].Files != len(files) {
		t.Errorf("%d files of %d, reported %d", len(got), len(files), loaded[0].Files)
	}
	progress := new(sealfetch.Progress)
	if _, err := sealfetch.Verify(t.Context(), p.uri(t, ""), p.reader(), progress); err != nil {
		t.Error(err)
	}
	if n := progress.FilesDone.Load(); n != int64(len(files)) {
		t.Errorf("verify counts %d files of %d", n, len(files))
	}
}

// failingStore wraps a store: the nth step that would store something fails.
type failingStore struct {
	fetch.Store
	left atomic.Int64
}

var errInjected = errors.New("injected")

func (s *failingStore) step() error {
	if s.left.Add(-1) == 0 {
		return errInjected
	}
	return nil
}

func (s *failingStore) Create(ctx context.Context, name string, data []byte) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.Create(ctx, name, data)
}

func (s *failingStore) Begin(ctx context.Context, name string, size int64) (fetch.Upload, error) {
	if err := s.step(); err != nil {
		return nil, err
	}
	up, err := s.Store.Begin(ctx, name, size)
	return failingUpload{up, s}, err
}

type failingUpload struct {
	fetch.Upload
	store *failingStore
}

func (u failingUpload) Part(ctx context.Context, i int, off int64, data []byte) (string, error) {
	if err := u.store.step(); err != nil {
		return "", err
	}
	return u.Upload.Part(ctx, i, off, data)
}

func (u failingUpload) Complete(ctx context.Context, tags []string) error {
	if err := u.store.step(); err != nil {
		return err
	}
	return u.Upload.Complete(ctx, tags)
}

// TestFailedPublishTakesEverythingBack lets every single step of a publication fail, one after the other.
func TestFailedPublishTakesEverythingBack(t *testing.T) {
	src := tree(t, map[string]string{"small": "1", "large": strings.Repeat("x", 11<<20), "own": strings.Repeat("y", 4<<20)})
	_, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	failures := 0
	for n := int64(1); ; n++ {
		dir := filepath.Join(t.TempDir(), "pub")
		store := &failingStore{Store: openStore(t, dir)}
		store.left.Store(n)
		job := sealJob(t, src, store, localKey(t))
		job.Signer = signer
		job.Warn = func(message string, _ ...any) { t.Errorf("failure %d: warned: %s", n, message) }
		_, err := sealfetch.Seal(t.Context(), job)
		if err == nil {
			break
		}
		failures++
		if !errors.Is(err, errInjected) {
			t.Errorf("failure %d: %v", n, err)
		}
		if left := contents(t, dir); len(left) != 0 {
			t.Errorf("failure %d left %v", n, slices.Sorted(maps.Keys(left)))
		}
	}
	if failures < 10 { // 3 objects, one of them of begin, three parts and completion; manifest, signature, envelope
		t.Errorf("only %d steps could fail", failures)
	}
}
