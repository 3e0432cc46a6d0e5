package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// memorySource holds objects in memory and does to each request what misbehave says.
type memorySource struct {
	objects map[string][]byte
	// misbehave is asked for each request, counted from 0 for each object; nil misbehaves never.
	misbehave func(request int, r Range) misbehaviour

	mu       sync.Mutex
	requests map[string][]Range
}

// misbehaviour is what goes wrong with one request. The zero value is nothing.
type misbehaviour struct {
	err   error // in place of an answer
	after int64 // with cut: bytes that come before the body ends with it; io.EOF for an orderly end
	cut   error
	stall bool        // in place of cut: silence until the request is given up
	bend  func(*Body) // lies
}

func (s *memorySource) Get(ctx context.Context, r Range) (*Body, error) {
	s.mu.Lock()
	if s.requests == nil {
		s.requests = map[string][]Range{}
	}
	n := len(s.requests[r.Name])
	s.requests[r.Name] = append(s.requests[r.Name], r)
	s.mu.Unlock()
	var m misbehaviour
	if s.misbehave != nil {
		m = s.misbehave(n, r)
	}
	if m.err != nil {
		return nil, m.err
	}
	object := s.objects[r.Name]
	if r.Len < 0 {
		r.Len = int64(len(object))
	}
	b := &Body{Off: r.Off, Len: r.Len, Size: int64(len(object)), Pin: Pin{ETag: "1"}}
	b.ReadCloser = io.NopCloser(&faultyReader{ctx, bytes.NewReader(object[r.Off : r.Off+r.Len]), m})
	if m.bend != nil {
		m.bend(b)
	}
	return b, nil
}

func (s *memorySource) Close() error   { return nil }
func (s *memorySource) String() string { return "memory" }

// faultyReader comes to its end, or to that of its misbehaviour.
type faultyReader struct {
	ctx  context.Context
	rest *bytes.Reader
	misbehaviour
}

func (r *faultyReader) Read(p []byte) (int, error) {
	if !r.stall && r.cut == nil {
		return r.rest.Read(p)
	}
	if r.after == 0 && r.stall {
		return 0, forever(r.ctx)
	}
	if r.after == 0 {
		return 0, r.cut
	}
	n, err := r.rest.Read(p[:min(int64(len(p)), r.after)])
	r.after -= int64(n)
	return n, err
}

// exactSink holds what arrives against the objects, and counts.
type exactSink struct {
	*countingSink
	objects [][]byte
	fail    func(off int64) error
}

func (s *exactSink) Window(ctx context.Context, object int, off int64, p []byte) error {
	if s.fail != nil {
		if err := s.fail(off); err != nil {
			return err
		}
	}
	if !bytes.Equal(p, s.objects[object][off:off+int64(len(p))]) {
		return fmt.Errorf("object %d: other bytes at %d", object, off)
	}
	clear(p) // it is ours
	return s.countingSink.Window(ctx, object, off, p)
}

// setUp makes objects of the sizes given, a plan of parts of at most part bytes for them, and a sink.
func setUp(part int64, sizes ...int64) (*memorySource, Plan, *exactSink) {
	source := &memorySource{objects: map[string][]byte{}}
	sink := &exactSink{countingSink: newCountingSink(sizes...)}
	plan := Plan{Window: testWindow}
	for i, size := range sizes {
		name := fmt.Sprintf("data/%05d", i)
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(rand.Uint32())
		}
		source.objects[name] = data
		sink.objects = append(sink.objects, data)
		plan.Objects = append(plan.Objects, Object{source, name, size})
		for off := int64(0); off < size; off += part {
			plan.Parts = append(plan.Parts, Part{i, off, min(part, size-off)})
		}
	}
	return source, plan, sink
}

func wantKind(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("kind %v of %v", fault.Of(err), err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("no %q in %v", w, err)
		}
	}
}

var errNetwork = fault.New(fault.Transient, "", "network")

// TestStreamThroughTrouble: whatever happens on the way, each byte arrives once and is the right one.
func TestStreamThroughTrouble(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			source, plan, sink := setUp(1+rng.Int64N(90), rng.Int64N(500), 1+rng.Int64N(200), 7, testWindow, 0)
			var mu sync.Mutex
			source.misbehave = func(int, Range) misbehaviour {
				mu.Lock()
				defer mu.Unlock()
				switch after := rng.Int64N(40); rng.IntN(8) {
				case 0:
					return misbehaviour{err: errNetwork}
				case 1:
					return misbehaviour{cut: io.EOF, after: after}
				case 2:
					return misbehaviour{cut: errors.New("reset"), after: after}
				case 3:
					return misbehaviour{stall: true, after: after}
				}
				return misbehaviour{}
			}
			progress := new(Progress)
			limits := Limits{Connections: 1 + rng.IntN(5), Start: rng.IntN(2), Retry: testRetry}
			limits.Retry.Attempts = 50
			if err := Stream(t.Context(), plan, sink, limits, progress); err != nil {
				t.Fatal(err)
			}
			sink.checkOnce(t)
			var total int64
			for _, o := range plan.Objects {
				total += o.Size
			}
			if got := progress.Bytes.Load(); got != total {
				t.Errorf("progress %d of %d", got, total)
			}
		})
	}
}

// TestResume looks at the requests: the one after a failure begins where the sink's bytes end, and has the pin.
func TestResume(t *testing.T) {
	for name, first := range map[string]misbehaviour{
		"cut": {cut: io.EOF, after: 34}, "reset": {cut: errors.New("reset"), after: 30}, "stall": {stall: true, after: 39},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, plan, sink := setUp(100, 100)
				source.misbehave = func(request int, _ Range) misbehaviour {
					if request == 0 {
						return first
					}
					return misbehaviour{}
				}
				progress := new(Progress)
				if err := Stream(t.Context(), plan, sink, Limits{Connections: 1, Retry: testRetry}, progress); err != nil {
					t.Fatal(err)
				}
				sink.checkOnce(t)
				want := []Range{{"data/00000", 0, 100, Pin{}}, {"data/00000", 30, 70, Pin{ETag: "1"}}}
				if got := source.requests["data/00000"]; !slices.Equal(got, want) {
					t.Errorf("requests %v, want %v", got, want)
				}
				if progress.Retries.Load() != 1 {
					t.Errorf("%d retries", progress.Retries.Load())
				}
			})
		})
	}
}

// TestOrder: where the plan asks for it, windows come in order within a part, on any number of connections.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, plan, sink := setUp(1000, 205, 115, 300)
		plan.Ordered = true
		source.misbehave = func(request int, r Range) misbehaviour {
			return misbehaviour{cut: io.EOF, after: 45} // again and again
		}
		if err := Stream(t.Context(), plan, sink, Limits{Connections: 8, Retry: testRetry}, new(Progress)); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		for i, offsets := range sink.calls {
			if !slices.IsSorted(offsets) {
				t.Errorf("object %d: windows at %v", i, offsets)
			}
			for _, off := range offsets {
				if off%testWindow != 0 {
					t.Errorf("object %d: a window at %d", i, off)
				}
			}
		}
	})
}

// TestRetriesEnd counts attempts and takes the time of their pauses.
func TestRetriesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, plan, sink := setUp(100, 100)
		retry := Retry{Attempts: 6, Base: 100 * time.Millisecond, Cap: 400 * time.Millisecond, Stall: time.Minute}
		source.misbehave = func(int, Range) misbehaviour { return misbehaviour{err: errNetwork} }
		begun := time.Now()
		err := Stream(t.Context(), plan, sink, Limits{Connections: 1, Retry: retry}, new(Progress))
		wantKind(t, err, fault.Transient, "network", "gave up after 6 attempts")
		if n := len(source.requests["data/00000"]); n != 6 {
			t.Errorf("%d requests", n)
		}
		if took, most := time.Since(begun), (100+200+400+400+400)*time.Millisecond; took > most || took == 0 {
			t.Errorf("paused for %v, at most %v in all", took, most)
		}
	})
}

// TestProgressRenewsAttempts: what comes forward may fail as often as it likes; what stands still may not.
func TestProgressRenewsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, plan, sink := setUp(100, 100)
		retry := testRetry
		retry.Attempts = 2
		source.misbehave = func(request int, _ Range) misbehaviour {
			if request%2 == 0 {
				return misbehaviour{err: errNetwork}
			}
			return misbehaviour{cut: io.EOF, after: testWindow}
		}
		if err := Stream(t.Context(), plan, sink, Limits{Connections: 1, Retry: retry}, new(Progress)); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if n := len(source.requests["data/00000"]); n != 20 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestStallEnds: silence is given up after the stall timeout, at each attempt.
func TestStallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, plan, sink := setUp(100, 100)
		source.misbehave = func(int, Range) misbehaviour { return misbehaviour{stall: true} }
		begun := time.Now()
		plan.Ordered = true // nobody takes over
		err := Stream(t.Context(), plan, sink, Limits{Connections: 1, Retry: testRetry}, new(Progress))
		wantKind(t, err, fault.Transient, "no data within the stall timeout", "gave up after 3 attempts")
		if took := time.Since(begun); took < 3*testRetry.Stall || took > 3*testRetry.Stall+time.Second {
			t.Errorf("given up after %v", took)
		}
	})
}

// TestAnswersAreHeldAgainstThePlan: one wrong answer ends everything, without another attempt.
func TestAnswersAreHeldAgainstThePlan(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(*Body)
		kind fault.Kind
		word string
	}{
		"larger":          {func(b *Body) { b.Size++ }, fault.NotAuthentic, "is 101 bytes long, its manifest says 100"},
		"smaller":         {func(b *Body) { b.Size-- }, fault.NotAuthentic, "is 99 bytes long"},
		"another offset":  {func(b *Body) { b.Off++ }, fault.Access, "asked for 50 bytes at 50, got 50 at 51"},
		"from the start":  {func(b *Body) { b.Off, b.Len = 0, 100 }, fault.Access, "asked for 50 bytes at 50, got 100 at 0"},
		"longer":          {func(b *Body) { b.Len++ }, fault.Access, "got 51"},
		"shorter":         {func(b *Body) { b.Len-- }, fault.Access, "got 49"},
		"another ETag":    {func(b *Body) { b.Pin.ETag = "2" }, fault.Access, "changed while it was read"},
		"another version": {func(b *Body) { b.Pin.VersionID = "2" }, fault.Access, "changed while it was read"},
		"no ETag":         {func(b *Body) { b.Pin = Pin{} }, fault.Access, "changed while it was read"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, plan, sink := setUp(50, 100)
				source.misbehave = func(_ int, r Range) misbehaviour {
					if r.Off == 0 {
						return misbehaviour{}
					}
					return misbehaviour{bend: c.bend}
				}
				err := Stream(t.Context(), plan, sink, Limits{Connections: 1, Retry: testRetry}, new(Progress))
				wantKind(t, err, c.kind, "data/00000 at memory", c.word)
				if n := len(source.requests["data/00000"]); n != 2 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// TestUnknownSizes: a server may keep length and size to itself; what counts is what comes.
func TestUnknownSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, plan, sink := setUp(30, 100)
		source.misbehave = func(int, Range) misbehaviour {
			return misbehaviour{bend: func(b *Body) { b.Size, b.Len, b.Pin = -1, -1, Pin{} }}
		}
		if err := Stream(t.Context(), plan, sink, Limits{Connections: 2, Retry: testRetry}, new(Progress)); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
	})
}

// TestSinkEndsTheStream: what is not authentic is not asked for again, and when Stream returns nobody is at the sink.
func TestSinkEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, plan, sink := setUp(50, 400)
		forged := fault.New(fault.NotAuthentic, "", "forged")
		var mu sync.Mutex
		returned, failed := false, 0
		sink.fail = func(off int64) error {
			mu.Lock()
			defer mu.Unlock()
			if returned {
				t.Error("the sink is called after Stream returned")
			}
			if off == 120 {
				failed++
				return forged
			}
			return nil
		}
		source.misbehave = func(_ int, r Range) misbehaviour {
			if r.Off > 150 {
				return misbehaviour{stall: true, after: 10}
			}
			return misbehaviour{}
		}
		err := Stream(t.Context(), plan, sink, Limits{Connections: 4, Retry: testRetry}, new(Progress))
		mu.Lock()
		returned = true
		mu.Unlock()
		if !errors.Is(err, forged) || failed != 1 {
			t.Errorf("%v, the sink failed %d times", err, failed)
		}
	})
}

// TestCancellation: the caller's cause comes out, at once, and no goroutine stays (synctest would tell).
func TestCancellation(t *testing.T) {
	for name, harm := range map[string]misbehaviour{
		"while waiting for data": {stall: true, after: 15}, "while pausing": {err: errNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, plan, sink := setUp(50, 400)
				source.misbehave = func(int, Range) misbehaviour { return harm }
				stop := errors.New("stop")
				ctx, cancel := context.WithCancelCause(t.Context())
				retry := Retry{Attempts: 100, Base: time.Hour, Cap: time.Hour, Stall: time.Hour}
				time.AfterFunc(time.Second, func() { cancel(stop) })
				begun := time.Now()
				err := Stream(ctx, plan, sink, Limits{Connections: 3, Retry: retry}, new(Progress))
				if !errors.Is(err, stop) {
					t.Errorf("%v", err)
				}
				if took := time.Since(begun); took != time.Second {
					t.Errorf("ended after %v", took)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, plan, sink := setUp(50, 400)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Stream(ctx, plan, sink, Limits{Connections: 3, Retry: testRetry}, new(Progress)); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before it began: %v", err)
		}
	})
}

// TestNothingToRead: no part, no request.
func TestNothingToRead(t *testing.T) {
	if err := Stream(t.Context(), Plan{Window: 1}, nil, Limits{Connections: 3, Retry: testRetry}, new(Progress)); err != nil {
		t.Error(err)
	}
}

// TestReadAll: limits, retries and pins of whole objects.
func TestReadAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &memorySource{objects: map[string][]byte{"a": []byte("0123456789"), "empty": nil}}
		read := func(name string, limit int64) (string, Pin, error) {
			data, pin, err := ReadAll(t.Context(), source, name, limit, testRetry)
			return string(data), pin, err
		}
		if data, pin, err := read("a", 10); data != "0123456789" || pin.ETag != "1" || err != nil {
			t.Errorf("%q, %v, %v", data, pin, err)
		}
		if data, _, err := read("empty", 10); data != "" || err != nil {
			t.Errorf("%q, %v", data, err)
		}
		data, pin, err := read("a", 9)
		wantKind(t, err, fault.Format, "a at memory is larger than the 9 bytes it may have")
		if data != "" || pin != (Pin{}) {
			t.Errorf("%q, %v", data, pin)
		}
		source.misbehave = func(request int, _ Range) misbehaviour {
			switch request {
			case 3:
				return misbehaviour{cut: io.ErrUnexpectedEOF, after: 5}
			case 4:
				return misbehaviour{stall: true, after: 2}
			}
			return misbehaviour{}
		}
		source.requests["a"] = make([]Range, 3)
		if data, _, err := read("a", 10); data != "0123456789" || err != nil {
			t.Errorf("after two failures: %q, %v", data, err)
		}
		source.misbehave = func(int, Range) misbehaviour { return misbehaviour{err: missing("a", source, "404")} }
		source.requests["a"] = nil
		_, _, err = read("a", 10)
		wantKind(t, err, fault.Access, "a is missing at memory")
		if n := len(source.requests["a"]); n != 1 {
			t.Errorf("%d requests for what is not there", n)
		}
		source.misbehave = func(int, Range) misbehaviour { return misbehaviour{stall: true} }
		begun := time.Now()
		_, _, err = read("a", 10)
		wantKind(t, err, fault.Transient, "stall timeout", "gave up after 3 attempts")
		if took := time.Since(begun); took < 3*testRetry.Stall {
			t.Errorf("gave up after %v", took)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("stop")
		time.AfterFunc(time.Second, func() { cancel(cause) })
		if _, _, err := ReadAll(ctx, source, "a", 10, testRetry); !errors.Is(err, cause) {
			t.Errorf("cancelled: %v", err)
		}
	})
}
