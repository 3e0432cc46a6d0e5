package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// memoryStore keeps objects in memory and counts. The nth step that would store something fails.
type memoryStore struct {
	mu      sync.Mutex
	objects map[string][]byte
	pending map[string]*memoryUpload
	created int // objects stored whole
	fail    int // countdown; 0 = never
	removed []string
}

var errInjected = errors.New("injected")

func newMemoryStore(fail int) *memoryStore {
	return &memoryStore{objects: map[string][]byte{}, pending: map[string]*memoryUpload{}, fail: fail}
}

// step is called with mu held.
func (s *memoryStore) step() error {
	if s.fail--; s.fail == 0 {
		return errInjected
	}
	return nil
}

func (s *memoryStore) Exists(_ context.Context, name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.objects[name]
	return ok, nil
}

func (s *memoryStore) Create(_ context.Context, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step(); err != nil {
		return err
	}
	s.created++
	s.objects[name] = bytes.Clone(data)
	return nil
}

func (s *memoryStore) Begin(_ context.Context, name string, size int64) (Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step(); err != nil {
		return nil, err
	}
	if s.pending[name] != nil {
		return nil, fmt.Errorf("%s is begun twice", name)
	}
	u := &memoryUpload{store: s, name: name, data: make([]byte, size), seen: make([]bool, size)}
	s.pending[name] = u
	return u, nil
}

func (s *memoryStore) Replace(context.Context, string, []byte, Pin) error {
	return errors.ErrUnsupported
}

func (s *memoryStore) Remove(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	s.removed = append(s.removed, name)
	return nil
}

func (s *memoryStore) Close() error   { return nil }
func (s *memoryStore) String() string { return "memory" }

type memoryUpload struct {
	store *memoryStore
	name  string
	data  []byte
	seen  []bool
	parts int
}

func (u *memoryUpload) Part(_ context.Context, i int, off int64, data []byte) (string, error) {
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	if err := u.store.step(); err != nil {
		return "", err
	}
	for j := range data {
		if u.seen[off+int64(j)] {
			return "", fmt.Errorf("%s: byte %d comes twice", u.name, off+int64(j))
		}
		u.seen[off+int64(j)] = true
	}
	copy(u.data[off:], data)
	u.parts++
	return fmt.Sprintf("%s#%d", u.name, i), nil
}

func (u *memoryUpload) Complete(_ context.Context, tags []string) error {
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	if err := u.store.step(); err != nil {
		return err
	}
	for i, tag := range tags {
		if tag != fmt.Sprintf("%s#%d", u.name, i) {
			return fmt.Errorf("%s: part %d has the tag %q", u.name, i, tag)
		}
	}
	if slices.Contains(u.seen, false) || len(tags) != u.parts {
		return fmt.Errorf("%s: completed with %d parts of %d", u.name, len(tags), u.parts)
	}
	delete(u.store.pending, u.name)
	u.store.objects[u.name] = u.data
	return nil
}

func (u *memoryUpload) Abort(context.Context) error {
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	delete(u.store.pending, u.name)
	return nil
}

// Sizes of the objects in these tests: a head and chunks, as in the format, but small.
const (
	testHead = 7
	testStep = 20
)

// someObjects are objects around all borders, with their contents.
func someObjects() (objects []NewObject, contents [][]byte) {
	for i, size := range []int64{testHead, testHead + 1, testHead + testStep - 1, testHead + testStep, testHead + 3*testStep, testHead + 3*testStep + 1, 1000} {
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(rand.Uint32())
		}
		objects = append(objects, NewObject{Name: fmt.Sprintf("data/%05d", i), Size: size, Head: testHead, Step: testStep})
		contents = append(contents, data)
	}
	return objects, contents
}

// fillFrom serves contents, and checks that parts begin and end on the borders of chunks and come once.
func fillFrom(t *testing.T, contents [][]byte) Filler {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(_ context.Context, i int, off int64, p []byte) error {
		end := off + int64(len(p))
		if off != 0 && (off-testHead)%testStep != 0 || end != int64(len(contents[i])) && (end-testHead)%testStep != 0 {
			t.Errorf("object %d: the part %d-%d cuts a chunk", i, off, end)
		}
		mu.Lock()
		defer mu.Unlock()
		if key := fmt.Sprint(i, off); seen[key] {
			t.Errorf("object %d: the part at %d is sealed twice", i, off)
		} else {
			seen[key] = true
		}
		copy(p, contents[i][off:])
		return nil
	}
}

func TestPublish(t *testing.T) {
	for _, part := range []int64{1, testStep, testStep + 1, 3 * testStep, 1 << 20} {
		for _, connections := range []int{1, 3, 16} {
			objects, contents := someObjects()
			store := newMemoryStore(0)
			var done atomic.Int64
			err := Publish(t.Context(), store, objects, fillFrom(t, contents), PublishLimits{connections, part}, &done)
			if err != nil {
				t.Fatal(err)
			}
			var total int64
			for i, o := range objects {
				total += o.Size
				if !bytes.Equal(store.objects[o.Name], contents[i]) {
					t.Errorf("part %d: %s is not what was filled", part, o.Name)
				}
			}
			if done.Load() != total || len(store.objects) != len(objects) || len(store.pending) > 0 {
				t.Errorf("part %d: %d of %d bytes, %d objects, %d pending", part, done.Load(), total, len(store.objects), len(store.pending))
			}
			if part == 1<<20 && store.created != len(objects) {
				t.Errorf("%d objects of one part, %d stored whole", len(objects), store.created)
			}
		}
	}
}

// TestPublishPlan: no object needs more parts than S3 knows, and memory stays what the operator said while it can.
func TestPublishPlan(t *testing.T) {
	const chunk = 16<<10 + 16
	for _, c := range []struct{ size, part, most int64 }{
		{56 + 16, 16 << 20, 16<<20 + chunk + 56},
		{1 << 30, 16 << 20, 16<<20 + chunk + 56},
		{100 << 30, 16 << 20, 16<<20 + chunk + 56},
		{1 << 40, 16 << 20, 1<<40/9_990 + 2*chunk}, // over 10,000 parts of 16 MiB
		{5 << 40, 16 << 20, 5<<40/9_990 + 2*chunk},
	} {
		p := &publication{}
		p.plan(0, NewObject{Size: c.size, Head: 56, Step: chunk}, c.part)
		next, largest := int64(0), int64(0)
		for i, part := range p.parts {
			if part.off != next || part.index != i || part.size <= 0 {
				t.Fatalf("size %d: part %d is %+v, want it at %d", c.size, i, part, next)
			}
			next, largest = part.off+part.size, max(largest, part.size)
		}
		if next != c.size || len(p.parts) > maxParts || largest > c.most {
			t.Errorf("size %d: %d parts up to %d, the largest of %d", c.size, len(p.parts), next, largest)
		}
	}
}

// TestPublishTakesBack lets each step fail in turn, and the filler, and the context.
func TestPublishTakesBack(t *testing.T) {
	objects, contents := someObjects()
	failures := 0
	for n := 1; ; n++ {
		store := newMemoryStore(n)
		err := Publish(t.Context(), store, objects, fillFrom(t, contents), PublishLimits{2, 2 * testStep}, new(atomic.Int64))
		if err == nil {
			break
		}
		failures++
		if !errors.Is(err, errInjected) || len(store.objects)+len(store.pending) > 0 {
			t.Errorf("failure %d: %v, left %v and %d uploads", n, err, slices.Sorted(maps.Keys(store.objects)), len(store.pending))
		}
	}
	if failures < len(objects) {
		t.Errorf("%d failures", failures)
	}
	var calls atomic.Int64
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	for name, fill := range map[string]Filler{
		"filler": func(context.Context, int, int64, []byte) error {
			if calls.Add(1) == 5 {
				return errInjected
			}
			return nil
		},
		"context": func(context.Context, int, int64, []byte) error {
			cancel(stop)
			return nil
		},
	} {
		store := newMemoryStore(0)
		if err := Publish(ctx, store, objects, fill, PublishLimits{3, testStep}, new(atomic.Int64)); !errors.Is(err, errInjected) && !errors.Is(err, stop) {
			t.Errorf("%s: %v", name, err)
		}
		if len(store.objects)+len(store.pending) > 0 {
			t.Errorf("%s: left %v and %d uploads", name, slices.Sorted(maps.Keys(store.objects)), len(store.pending))
		}
	}
}

// directory opens a new directory as a store.
func directory(t *testing.T) (Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deep", "pub")
	store, err := Opener{}.Store(t.Context(), URI{Scheme: "file", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store, dir
}

// namesIn lists all files below a directory.
func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != dir {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestDirectoryStore(t *testing.T) {
	ctx := t.Context()
	store, dir := directory(t)
	if there, err := store.Exists(ctx, "envelope.json"); there || err != nil {
		t.Errorf("exists: %v, %v", there, err)
	}
	if err := store.Create(ctx, "envelope.json", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if there, err := store.Exists(ctx, "envelope.json"); !there || err != nil {
		t.Errorf("exists: %v, %v", there, err)
	}
	err := store.Create(ctx, "envelope.json", []byte("2"))
	wantKind(t, err, fault.Usage, "envelope.json is already there", "nothing is overwritten")
	if data, _ := os.ReadFile(filepath.Join(dir, "envelope.json")); string(data) != "1" {
		t.Errorf("overwritten: %q", data)
	}
	if names := namesIn(t, dir); !slices.Equal(names, []string{"envelope.json"}) {
		t.Errorf("left %q", names)
	}

	up, err := store.Begin(ctx, "data/00000", 10)
	if err != nil {
		t.Fatal(err)
	}
	if there, _ := store.Exists(ctx, "data/00000"); there {
		t.Error("visible before it is complete")
	}
	_, err = store.Begin(ctx, "data/00000", 10)
	wantKind(t, err, fault.Usage, "data/00000.unfinished is already there")
	for _, off := range []int64{5, 0} {
		if _, err := up.Part(ctx, 0, off, []byte("56789")); err != nil {
			t.Fatal(err)
		}
	}
	if err := up.Complete(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "data/00000")); string(data) != "5678956789" {
		t.Errorf("stored %q", data)
	}

	up, err = store.Begin(ctx, "more/1", 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Abort(ctx); err != nil {
		t.Error(err)
	}
	if err := store.Remove(ctx, "data/00000"); err != nil {
		t.Error(err)
	}
	wantKind(t, store.Remove(ctx, "data/00000"), fault.Access, "data/00000")
	if names := namesIn(t, dir); !slices.Equal(names, []string{"envelope.json"}) {
		t.Errorf("left %q", names)
	}
}

// TestDirectoryStoreRace: of several publishers one wins, and the others leave its object alone.
func TestDirectoryStoreRace(t *testing.T) {
	store, dir := directory(t)
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := store.Create(t.Context(), "envelope.json", fmt.Appendf(nil, "%d", i))
			if err == nil {
				won.Add(1)
			} else if !fault.Is(err, fault.Usage) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d publishers won", won.Load())
	}
	if names := namesIn(t, dir); !slices.Equal(names, []string{"envelope.json"}) {
		t.Errorf("left %q", names)
	}
}

// TestDirectoryStoreStaysInside: a link planted in the directory leads nowhere.
func TestDirectoryStoreStaysInside(t *testing.T) {
	store, dir := directory(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), "data/00000", []byte("x")); err == nil {
		t.Error("written through the link")
	}
	if names := namesIn(t, outside); len(names) > 0 {
		t.Errorf("outside: %q", names)
	}
}

// TestDirectorySource: ranges, pins and errors of a model in a directory.
func TestDirectorySource(t *testing.T) {
	_, dir := directory(t)
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	source, err := Opener{}.Source(t.Context(), URI{Scheme: "file", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	body, err := source.Get(t.Context(), Range{Name: "a", Off: 3, Len: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	p := make([]byte, 10)
	if n, _ := body.Read(p); string(p[:n]) != "3456" || body.Off != 3 || body.Len != 4 || body.Size != 10 {
		t.Errorf("%q, %+v", p[:n], body)
	}
	if again, err := source.Get(t.Context(), Range{Name: "a", Off: 0, Len: 1, Pin: body.Pin}); err != nil {
		t.Error(err)
	} else {
		again.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("0123456789x"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = source.Get(t.Context(), Range{Name: "a", Off: 0, Len: 1, Pin: body.Pin})
	wantKind(t, err, fault.Access, "a at sealed+file://", "changed while it was read")
	for _, name := range []string{"absent", "../" + filepath.Base(dir) + "/a", "/etc/hostname", "."} {
		_, err = source.Get(t.Context(), Range{Name: name, Len: -1})
		wantKind(t, err, fault.Access, name+" at sealed+file://")
	}
	_, err = Opener{}.Source(t.Context(), URI{Scheme: "file", Path: dir + "/absent"})
	wantKind(t, err, fault.Access, "no such file or directory")
}
