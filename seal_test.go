package sealfetch_test

import (
	"context"
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

// TestNamesThatSortInTwoWays seals files whose order by bytes is not their order by path elements: each must come back
// with its own content.
func TestNamesThatSortInTwoWays(t *testing.T) {
	files := map[string]string{"a-b/x": "first by bytes", "a/y": "first by elements, longer", "a.txt": "", "a/-": "1", "ab": "22"}
	src, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(src, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	local, uri := localKey(t), publish(t, src)
	reader := sealfetch.Reader{Brokers: []keybroker.Broker{local}, Open: fetch.Opener{}.Source,
		Limits: fetch.Limits{Connections: 2, Retry: fetch.Retry{Attempts: 1, Base: time.Millisecond, Cap: time.Millisecond, Stall: time.Minute}}}
	if _, err := sealfetch.Load(t.Context(), sealfetch.Job{Pairs: []sealfetch.Pair{{URI: uri(local), Dir: out}}, Reader: reader,
		Destination: target.Options{AllowDisk: true}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
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

// publish seals src into a directory and returns its URI.
func publish(t *testing.T, src string) func(keybroker.Wrapper) fetch.URI {
	return func(wrapper keybroker.Wrapper) fetch.URI {
		t.Helper()
		dest := fetch.URI{Scheme: "file", Path: t.TempDir()}
		store, err := fetch.Opener{}.Store(context.Background(), dest)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if _, err := sealfetch.Seal(t.Context(), sealfetch.SealJob{Dir: src, Model: "acme/x", Version: 1, Store: store,
			Wrappers: []keybroker.Wrapper{wrapper}, Created: time.Now(), Limits: fetch.PublishLimits{Connections: 2, PartSize: 5 << 20}}); err != nil {
			t.Fatal(err)
		}
		return dest
	}
}
