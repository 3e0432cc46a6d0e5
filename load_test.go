package sealfetch_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
	"github.com/sealfetch/sealfetch/model"
)

// watched is a broker that remembers what it was asked, and what became of what it released.
type watched struct {
	keybroker.Broker
	fail error

	mu       sync.Mutex
	requests []keybroker.Request
	released []*secret.Key
}

func (w *watched) Release(ctx context.Context, r keybroker.Request) (*keybroker.Release, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, r)
	if w.fail != nil {
		return nil, w.fail
	}
	released, err := w.Broker.Release(ctx, r)
	if err == nil {
		w.released = append(w.released, released.MDK)
	}
	return released, err
}

// closing counts sources that are open.
type closing struct {
	fetch.Source
	open *int
}

func (c closing) Close() error {
	*c.open--
	return c.Source.Close()
}

// TestKeysAreWipedAndSourcesClosed, whatever comes of the load.
func TestKeysAreWipedAndSourcesClosed(t *testing.T) {
	p := publish(t, map[string]string{"a": "1"}, true)
	for name, query := range map[string]string{"success": "", "nothing selected": "?include=none", "pin not met": "?version=2"} {
		broker, open := &watched{Broker: p.broker}, 0
		reader := p.reader()
		reader.Brokers = []keybroker.Broker{broker}
		reader.Open = func(ctx context.Context, u fetch.URI) (fetch.Source, error) {
			source, err := fetch.Opener{}.Source(ctx, u)
			open++
			return closing{source, &open}, err
		}
		dir := t.TempDir()
		job := sealfetch.Job{Reader: reader, Destination: target.Options{AllowDisk: true}, Pairs: []sealfetch.Pair{
			{URI: p.uri(t, ""), Dir: filepath.Join(dir, "1")}, {URI: p.uri(t, query), Dir: filepath.Join(dir, "2")},
		}}
		_, err := sealfetch.Load(t.Context(), job)
		if (err == nil) != (query == "") {
			t.Errorf("%s: %v", name, err)
		}
		_, _ = sealfetch.Verify(t.Context(), p.uri(t, query), reader, nil)
		_, _ = sealfetch.Inspect(t.Context(), p.uri(t, query), reader)
		if open != 0 {
			t.Errorf("%s: %d sources are open", name, open)
		}
		for _, mdk := range broker.released {
			if mdk.Bytes() != nil {
				t.Errorf("%s: a model data key is still in memory", name)
			}
		}
		if query == "" && len(broker.released) != 4 {
			t.Errorf("%s: %d keys released", name, len(broker.released))
		}
	}
}

// TestNoKeyIsAskedForInVain: what can be refused without a key is refused without one.
func TestNoKeyIsAskedForInVain(t *testing.T) {
	signed, unsigned := publish(t, map[string]string{"a": "1"}, true), publish(t, map[string]string{"a": "1"}, false)
	stranger, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		p      published
		change func(*sealfetch.Reader, *target.Options)
		kind   sealfetch.Kind
	}{
		"version":    {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Policy.Pins.Version = 2 }, sealfetch.Format},
		"lowest":     {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Policy.Pins.MinVersion = 2 }, sealfetch.Format},
		"key id":     {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Policy.Pins.MDKID = make([]byte, 32) }, sealfetch.Format},
		"name":       {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Policy.Models = []string{"other/*"} }, sealfetch.Format},
		"signer":     {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Policy.Signers = []crypto.PublicKey{stranger} }, sealfetch.Format},
		"unsigned":   {unsigned, func(r *sealfetch.Reader, _ *target.Options) { r.Policy.Signers = []crypto.PublicKey{stranger} }, sealfetch.Format},
		"disk":       {signed, func(_ *sealfetch.Reader, o *target.Options) { o.AllowDisk = false }, sealfetch.Destination},
		"no brokers": {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Brokers = nil }, sealfetch.Format},
		"other key":  {signed, func(r *sealfetch.Reader, _ *target.Options) { r.Brokers[0].(*watched).Broker = localKey(t) }, sealfetch.Format},
	} {
		broker := &watched{Broker: c.p.broker}
		job := sealfetch.Job{Reader: c.p.reader(), Destination: target.Options{AllowDisk: true}}
		job.Reader.Brokers = []keybroker.Broker{broker}
		job.Pairs = []sealfetch.Pair{{URI: c.p.uri(t, ""), Dir: filepath.Join(t.TempDir(), "out")}}
		c.change(&job.Reader, &job.Destination)
		_, err := sealfetch.Load(t.Context(), job)
		if sealfetch.KindOf(err) != c.kind || sealfetch.Hint(err) == "" {
			t.Errorf("%s: kind %v, hint %q: %v", name, sealfetch.KindOf(err), sealfetch.Hint(err), err)
		}
		if len(broker.requests) > 0 {
			t.Errorf("%s: a key was asked for: %+v", name, broker.requests)
		}
		if left := contents(t, job.Pairs[0].Dir); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// TestSeveralWaysIn: the first wrap whose broker releases wins; the others' trouble is told.
func TestSeveralWaysIn(t *testing.T) {
	first, second := localKey(t), localKey(t)
	dir := filepath.Join(t.TempDir(), "pub")
	job := sealJob(t, tree(t, map[string]string{"a": "1"}), openStore(t, dir), first)
	job.Wrappers = append(job.Wrappers, second)
	if _, err := sealfetch.Seal(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	p := published{dir: dir}
	refused := fault.New(fault.Refused, "ask the administrator", "policy says no")
	busy := fault.New(fault.Transient, "", "busy")
	for name, c := range map[string]struct {
		first, second error
		want          error
		asked         []int
		warnings      int
	}{
		"both":        {nil, nil, nil, []int{1, 0}, 0},
		"only second": {refused, nil, nil, []int{1, 1}, 0},
		"none":        {refused, busy, refused, []int{1, 1}, 1},
	} {
		a, b := &watched{Broker: first, fail: c.first}, &watched{Broker: second, fail: c.second}
		var warnings []string
		reader := p.reader()
		reader.Brokers = []keybroker.Broker{b, a} // the envelope's order counts
		reader.Warn = func(message string, args ...any) { warnings = append(warnings, message) }
		_, err := sealfetch.Verify(t.Context(), p.uri(t, ""), reader, nil)
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if got := []int{len(a.requests), len(b.requests)}; !slices.Equal(got, c.asked) {
			t.Errorf("%s: asked %v, want %v", name, got, c.asked)
		}
		if len(warnings) != c.warnings {
			t.Errorf("%s: warnings %q", name, warnings)
		}
		if r := a.requests[0]; r.Model != "acme/model" || r.Version != 1 || r.Wrap.Type != keybroker.TypeJWE {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestWrongKeyReleased: a broker that releases something else is found out before any data is read.
func TestWrongKeyReleased(t *testing.T) {
	p := publish(t, map[string]string{"a": "1"}, false)
	other, err := secret.Random(keybroker.KeySize)
	if err != nil {
		t.Fatal(err)
	}
	reader := p.reader()
	reader.Brokers = []keybroker.Broker{wrongBroker{p.broker, other}}
	var names []string
	open := reader.Open
	reader.Open = func(ctx context.Context, u fetch.URI) (fetch.Source, error) {
		source, err := open(ctx, u)
		return noting{source, &names}, err
	}
	_, err = sealfetch.Verify(t.Context(), p.uri(t, ""), reader, nil)
	if sealfetch.KindOf(err) != sealfetch.KeyUnusable {
		t.Errorf("%v", err)
	}
	if !slices.Equal(names, []string{model.EnvelopeName}) {
		t.Errorf("read %q", names)
	}
	if other.Bytes() != nil {
		t.Error("the key is still in memory")
	}
}

type wrongBroker struct {
	keybroker.Broker
	mdk *secret.Key
}

func (w wrongBroker) Release(context.Context, keybroker.Request) (*keybroker.Release, error) {
	return &keybroker.Release{MDK: w.mdk}, nil
}

// noting notes the objects that are read.
type noting struct {
	fetch.Source
	names *[]string
}

func (n noting) Get(ctx context.Context, r fetch.Range) (*fetch.Body, error) {
	*n.names = append(*n.names, r.Name)
	return n.Source.Get(ctx, r)
}

// TestAuditTrail: what an auditor reads of a load, for each of its models.
func TestAuditTrail(t *testing.T) {
	p, q := publish(t, map[string]string{"a": "123", "b/c": "4"}, false), publish(t, map[string]string{"d": ""}, false)
	var log bytes.Buffer
	reader := p.reader()
	reader.Brokers = append(reader.Brokers, q.broker)
	reader.Audit = audit.New(slog.New(slog.NewJSONHandler(&log, nil)))
	dir := t.TempDir()
	job := sealfetch.Job{Reader: reader, Destination: target.Options{AllowDisk: true}, Pairs: []sealfetch.Pair{
		{URI: p.uri(t, ""), Dir: filepath.Join(dir, "1")}, {URI: q.uri(t, ""), Dir: filepath.Join(dir, "2")}}}
	if _, err := sealfetch.Load(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	var events []string
	for line := range strings.Lines(log.String()) {
		var record struct {
			Event string
			Files int
			Bytes int
			MDKID string `json:"mdk_id"`
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		events = append(events, record.Event)
		want := p.sealed
		if len(events)%2 == 0 {
			want = q.sealed
		}
		if record.MDKID != want.Envelope.MDKID.String() {
			t.Errorf("%s of %s, want %s", record.Event, record.MDKID, want.Envelope.MDKID)
		}
		if record.Event == "model.ready" && (record.Files != want.Files || int64(record.Bytes) != want.Envelope.ModelSize) {
			t.Errorf("%+v", record)
		}
	}
	if want := []string{"key.released", "key.released", "model.ready", "model.ready"}; !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// TestCause: whoever ends the context is named, not what broke because of it.
func TestCause(t *testing.T) {
	p := publish(t, map[string]string{"a": strings.Repeat("x", 1<<20)}, false)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	reader := p.reader()
	reader.Brokers = []keybroker.Broker{&cancelling{p.broker, func() { cancel(stop) }}}
	dest := filepath.Join(t.TempDir(), "out")
	_, err := sealfetch.Load(ctx, sealfetch.Job{Reader: reader, Destination: target.Options{AllowDisk: true},
		Pairs: []sealfetch.Pair{{URI: p.uri(t, ""), Dir: dest}}})
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if left := contents(t, dest); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// cancelling ends the context with its release.
type cancelling struct {
	keybroker.Broker
	cancel func()
}

func (c *cancelling) Release(ctx context.Context, r keybroker.Request) (*keybroker.Release, error) {
	defer c.cancel()
	return c.Broker.Release(ctx, r)
}

// TestProgressIsComplete: what is counted adds up, for loads of some files, too.
func TestProgressIsComplete(t *testing.T) {
	p := publish(t, map[string]string{"a.json": "123", "b.bin": strings.Repeat("y", 100_000), "empty": "", "large": strings.Repeat("x", 5<<20)}, true)
	for query, files := range map[string]int64{"": 4, "?include=*.json": 1, "?exclude=large&exclude=empty": 2} {
		progress := new(sealfetch.Progress)
		job := sealfetch.Job{Reader: p.reader(), Destination: target.Options{AllowDisk: true}, Progress: progress,
			Pairs: []sealfetch.Pair{{URI: p.uri(t, query), Dir: filepath.Join(t.TempDir(), "out")}}}
		loaded, err := sealfetch.Load(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if progress.Bytes.Load() != progress.BytesTotal.Load() || progress.BytesTotal.Load() == 0 {
			t.Errorf("%s: %d of %d bytes", query, progress.Bytes.Load(), progress.BytesTotal.Load())
		}
		if done, total := progress.FilesDone.Load(), progress.FilesTotal.Load(); done != files || total != files || loaded[0].Files != int(files) {
			t.Errorf("%s: %d of %d files, %d reported, want %d", query, done, total, loaded[0].Files, files)
		}
	}
}

// TestInspect tells what it could not check.
func TestInspect(t *testing.T) {
	p := publish(t, map[string]string{"a": "1"}, true)
	reader := p.reader()
	found, err := sealfetch.Inspect(t.Context(), p.uri(t, ""), reader)
	if err != nil || !found.Signed || found.Manifest == nil || len(found.Manifest.Files) != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	reader.Brokers, reader.Policy.Signers = nil, nil
	found, err = sealfetch.Inspect(t.Context(), p.uri(t, ""), reader)
	if err != nil || found.Signed || found.Manifest != nil || found.Envelope.Model != "acme/model" {
		t.Errorf("%+v, %v", found, err)
	}
}
