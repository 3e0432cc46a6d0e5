package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// The tests of sharing run in bubbles, in which time stands still until all wait for it: they are exact and take none.

const testWindow = 10

var testRetry = Retry{Attempts: 3, Base: time.Millisecond, Cap: time.Second, Stall: 30 * time.Second}

// pacedSource sends objects of zeros as slowly as its pace says.
type pacedSource struct {
	// pace is called before each window of each request and may sleep, fail, or wait for the context.
	pace func(ctx context.Context, request int, off int64) error
	step int64 // bytes of one read at most; 0 = any

	requests atomic.Int64
	open     atomic.Int64 // bodies
	mu       sync.Mutex
	most     int64 // of open
}

func (s *pacedSource) Get(ctx context.Context, r Range) (*Body, error) {
	request := int(s.requests.Add(1))
	s.mu.Lock()
	s.most = max(s.most, s.open.Add(1))
	s.mu.Unlock()
	body := &pacedBody{source: s, ctx: ctx, request: request, off: r.Off, end: r.Off + r.Len}
	return &Body{ReadCloser: body, Off: r.Off, Len: r.Len, Size: -1}, nil
}

func (s *pacedSource) Close() error   { return nil }
func (s *pacedSource) String() string { return "paced" }

type pacedBody struct {
	source   *pacedSource
	ctx      context.Context
	request  int
	off, end int64
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.off >= b.end {
		return 0, io.EOF
	}
	if err := b.source.pace(b.ctx, b.request, b.off); err != nil {
		return 0, err
	}
	n := int(min(int64(len(p)), b.end-b.off))
	if b.source.step > 0 {
		n = int(min(int64(n), b.source.step))
	}
	b.off += int64(n)
	return n, nil
}

func (b *pacedBody) Close() error {
	b.source.open.Add(-1)
	return nil
}

// sleep waits as a network read does: until d has passed or the request is cancelled.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func forever(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// countingSink counts how often each byte of each object was seen.
type countingSink struct {
	mu    sync.Mutex
	seen  [][]int
	calls [][]int64 // offsets, in the order of arrival
}

func newCountingSink(sizes ...int64) *countingSink {
	s := &countingSink{calls: make([][]int64, len(sizes))}
	for _, size := range sizes {
		s.seen = append(s.seen, make([]int, size))
	}
	return s
}

func (s *countingSink) Window(_ context.Context, object int, off int64, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[object] = append(s.calls[object], off)
	for i := range p {
		s.seen[object][off+int64(i)]++
	}
	return nil
}

func (s *countingSink) checkOnce(t *testing.T) {
	t.Helper()
	for object, seen := range s.seen {
		for i, n := range seen {
			if n != 1 {
				t.Fatalf("byte %d of object %d was seen %d times", i, object, n)
			}
		}
	}
}

// planOf makes one part of each object.
func planOf(src Source, sizes ...int64) Plan {
	p := Plan{Window: testWindow}
	for i, size := range sizes {
		p.Objects = append(p.Objects, Object{Source: src, Name: fmt.Sprint(i), Size: size})
		p.Parts = append(p.Parts, Part{Object: i, Len: size})
	}
	return p
}

// streamed streams over at most so many connections; start = 0 begins with all of them.
func streamed(t *testing.T, plan Plan, sink Sink, start, most int) error {
	t.Helper()
	return Stream(t.Context(), plan, sink, Limits{Connections: most, Start: start, Retry: testRetry}, new(Progress))
}

func TestIdleConnectionsShareALongPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const windows, each = 1000, 10 * time.Millisecond
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, each) }}
		sink, begun := newCountingSink(windows*testWindow+3), time.Now()
		err := streamed(t, planOf(src, windows*testWindow+3), sink, 0, 8)
		if err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if took, alone := time.Since(begun), windows*each; took > alone/4 {
			t.Errorf("8 connections took %v where one would have taken %v", took, alone)
		}
		if src.open.Load() != 0 {
			t.Errorf("%d bodies are still open", src.open.Load())
		}
	})
}

func TestOnlyOneConnectionSharesWithNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, time.Second) }}
		sink := newCountingSink(200, 100)
		if err := streamed(t, planOf(src, 200, 100), sink, 0, 1); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.requests.Load() != 2 || src.most != 1 {
			t.Errorf("%d requests, %d at a time", src.requests.Load(), src.most)
		}
	})
}

// TestStalledConnectionIsTakenOver has the first request stop in the middle and never go on.
func TestStalledConnectionIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, request int, off int64) error {
			if request == 1 && off >= 500 {
				return forever(ctx)
			}
			return sleep(ctx, time.Millisecond)
		}}
		sink, begun, progress := newCountingSink(1000, 100), time.Now(), new(Progress)
		limits := Limits{Connections: 2, Retry: testRetry}
		if err := Stream(t.Context(), planOf(src, 1000, 100), sink, limits, progress); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %v, as if the stall of %v had been awaited", took, testRetry.Stall)
		}
		if src.requests.Load() < 3 {
			t.Error("nobody asked again for what was stuck")
		}
		if progress.Bytes.Load() != 1100 {
			t.Errorf("%d bytes counted", progress.Bytes.Load())
		}
	})
}

// TestWindowAtTheSinkIsNotTakenOver has the sink itself be slow: that is no reason to ask again.
func TestWindowAtTheSinkIsNotTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(context.Context, int, int64) error { return nil }}
		sink := &slowSink{countingSink: newCountingSink(testWindow, testWindow), d: time.Minute}
		if err := streamed(t, planOf(src, testWindow, testWindow), sink, 0, 4); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.requests.Load() != 2 {
			t.Errorf("%d requests for two windows", src.requests.Load())
		}
	})
}

type slowSink struct {
	*countingSink
	d time.Duration
}

func (s *slowSink) Window(ctx context.Context, object int, off int64, p []byte) error {
	if err := sleep(ctx, s.d); err != nil {
		return err
	}
	return s.countingSink.Window(ctx, object, off, p)
}

// TestSilentStoreUsesUpAttempts has no request ever bring a byte: taking over must not go on for ever.
func TestSilentStoreUsesUpAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return forever(ctx) }}
		sink, begun := newCountingSink(1000), time.Now()
		err := streamed(t, planOf(src, 1000), sink, 0, 4)
		if !fault.Is(err, fault.Transient) || len(sink.calls[0]) != 0 {
			t.Errorf("error %v after %d windows", err, len(sink.calls[0]))
		}
		if took := time.Since(begun); took > 5*time.Minute {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestOrderedPartsStayWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, 100*time.Millisecond) }}
		sink, plan := newCountingSink(500, 300, 100), planOf(src, 500, 300, 100)
		plan.Ordered = true
		if err := streamed(t, plan, sink, 0, 4); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.requests.Load() != 3 {
			t.Errorf("%d requests for 3 parts", src.requests.Load())
		}
		for object, offsets := range sink.calls {
			for i, off := range offsets {
				if off != int64(i)*testWindow {
					t.Fatalf("window %d of object %d began at %d", i, object, off)
				}
			}
		}
	})
}

// TestSharingUnderFaults lets requests be slow, break and stall by chance, and expects every byte once all the same.
func TestSharingUnderFaults(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			random := rand.New(rand.NewPCG(seed, 1))
			src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error {
				mu.Lock()
				dice, d := random.IntN(1000), time.Duration(random.IntN(50))*time.Millisecond
				mu.Unlock()
				switch {
				case dice < 10:
					return errors.New("connection reset")
				case dice < 13:
					return forever(ctx)
				}
				return sleep(ctx, d)
			}}
			sizes := []int64{2345, 1000, 7, 5000}
			sink, plan := newCountingSink(sizes...), planOf(src, sizes...)
			limits := Limits{Connections: 16, Start: 2,
				Retry: Retry{Attempts: 20, Base: time.Millisecond, Cap: time.Second, Stall: 3 * time.Second}}
			if err := Stream(t.Context(), plan, sink, limits, new(Progress)); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			sink.checkOnce(t)
			if src.open.Load() != 0 {
				t.Errorf("%d bodies are still open", src.open.Load())
			}
		})
	}
}

// TestConnectionsGrowWhereEachIsSlow has every connection be equally slow, however many there are.
func TestConnectionsGrowWhereEachIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, 20*time.Millisecond) }}
		sizes := make([]int64, 200)
		for i := range sizes {
			sizes[i] = 100 * testWindow
		}
		sink := newCountingSink(sizes...)
		if err := streamed(t, planOf(src, sizes...), sink, 4, 24); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.most != 24 {
			t.Errorf("%d connections at most, not 24", src.most)
		}
	})
}

// TestConnectionsGrowWhereWindowsAreSlow has a window take longer than the time over which throughput is measured, and
// answers take several round trips.
func TestConnectionsGrowWhereWindowsAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{step: 1}
		first := map[int]bool{}
		var mu sync.Mutex
		src.pace = func(ctx context.Context, request int, _ int64) error {
			mu.Lock()
			known := first[request]
			first[request] = true
			mu.Unlock()
			if !known {
				return sleep(ctx, time.Duration(500+request*37%200)*time.Millisecond)
			}
			return sleep(ctx, time.Duration(36+request%9)*time.Millisecond) // never all in step, as no network is
		}
		sizes := make([]int64, 300)
		for i := range sizes {
			sizes[i] = 50 * testWindow
		}
		sink := newCountingSink(sizes...)
		if err := streamed(t, planOf(src, sizes...), sink, 4, 64); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.most != 64 {
			t.Errorf("%d connections at most, not 64", src.most)
		}
	})
}

// TestConnectionsShrinkWhereTheLinkIsFull has all connections share one link.
func TestConnectionsShrinkWhereTheLinkIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var free time.Time
		src := &pacedSource{}
		var late int64 // connections, long after the attempt to have more
		begun := time.Now()
		src.pace = func(ctx context.Context, _ int, _ int64) error {
			mu.Lock()
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Millisecond)
			wait := time.Until(free)
			if age := time.Since(begun); age > 3*time.Second && age < 5*time.Second {
				late = max(late, src.open.Load())
			}
			mu.Unlock()
			return sleep(ctx, wait)
		}
		sizes := make([]int64, 500)
		for i := range sizes {
			sizes[i] = 20 * testWindow
		}
		sink := newCountingSink(sizes...)
		if err := streamed(t, planOf(src, sizes...), sink, 4, 64); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.most > 8 || late > 4 {
			t.Errorf("up to %d connections, %d of them kept, on a link that 4 fill", src.most, late)
		}
	})
}

// TestConnectionsStayWhereTheSinkIsSlow has the network be faster than the sink.
func TestConnectionsStayWhereTheSinkIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, time.Millisecond) }}
		sizes := make([]int64, 100)
		for i := range sizes {
			sizes[i] = 100 * testWindow
		}
		sink := &slowSink{countingSink: newCountingSink(sizes...), d: 3 * time.Millisecond}
		if err := streamed(t, planOf(src, sizes...), sink, 4, 64); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.most != 4 {
			t.Errorf("up to %d connections, where 4 keep the sink busy", src.most)
		}
	})
}

// TestConnectionsStayWhereOneProcessorIsBusy has each connection spend little of its time at the sink, but all together
// more than one processor has. It changes GOMAXPROCS, so it must not run beside others.
func TestConnectionsStayWhereOneProcessorIsBusy(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, 7*time.Millisecond) }}
		sizes := make([]int64, 100)
		for i := range sizes {
			sizes[i] = 100 * testWindow
		}
		sink := &slowSink{countingSink: newCountingSink(sizes...), d: 3 * time.Millisecond}
		if err := streamed(t, planOf(src, sizes...), sink, 4, 64); err != nil {
			t.Fatal(err)
		}
		sink.checkOnce(t)
		if src.most != 4 {
			t.Errorf("up to %d connections, where 4 keep one processor busy", src.most)
		}
	})
}

func TestStreamEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, time.Second) }}
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second+time.Millisecond, func() { cancel(stop) })
		sink := newCountingSink(1000)
		err := Stream(ctx, planOf(src, 1000), sink, Limits{Connections: 4, Retry: testRetry}, new(Progress))
		if !errors.Is(err, stop) {
			t.Errorf("error %v, not the context's cause", err)
		}
		if n := len(sink.calls[0]); n == 0 || n > 15 {
			t.Errorf("%d windows before the end", n)
		}
	})
}

// TestSinkErrorEndsTheStream has one window be refused while others are on their way.
func TestSinkErrorEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &pacedSource{pace: func(ctx context.Context, _ int, _ int64) error { return sleep(ctx, 10*time.Millisecond) }}
		refused := fault.New(fault.NotAuthentic, "", "refused")
		err := streamed(t, planOf(src, 1000, 1000), refusing{refused}, 0, 4)
		if !errors.Is(err, refused) {
			t.Errorf("error %v", err)
		}
		if n := src.requests.Load(); n > 4 { // one for each connection
			t.Errorf("%d requests: a refusal was tried again", n)
		}
	})
}

type refusing struct{ err error }

func (r refusing) Window(_ context.Context, _ int, off int64, _ []byte) error {
	if off >= 100 {
		return r.err
	}
	return nil
}
