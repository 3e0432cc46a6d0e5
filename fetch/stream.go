package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Object is a stored object whose size is known beforehand, from an authentic manifest.
type Object struct {
	Source Source
	Name   string
	Size   int64 // bytes as stored
}

// Part is a range of an object that one connection reads in one go.
type Part struct {
	Object int // index into Plan.Objects
	Off    int64
	Len    int64
}

// Plan is all that is to be read, of all models of one call.
type Plan struct {
	Objects []Object
	Parts   []Part // in the order they are to be started
	Window  int    // bytes that the sink is given at a time, counted from a part's start
}

// Sink takes what arrives. Window is called from several goroutines at once, never twice for the same bytes, and in
// order within a part. It owns p until it returns and may scribble on it. An error ends the stream.
type Sink interface {
	Window(ctx context.Context, object int, off int64, p []byte) error
}

// Limits bound a stream: its memory is Connections x Plan.Window, whatever the models' size.
type Limits struct {
	Connections int
	Retry       Retry
}

// Progress counts what a stream has delivered. It may be read while the stream runs.
type Progress struct {
	Bytes   atomic.Int64 // stored bytes that the sink took
	Retries atomic.Int64 // ranges asked for again
}

// Stream reads every part of the plan and gives its bytes to the sink, over at most Limits.Connections connections.
// The first error that a retry cannot mend ends everything; when Stream returns, no call to the sink is under way.
func Stream(ctx context.Context, plan Plan, sink Sink, limits Limits, progress *Progress) error {
	s := &stream{plan: plan, sink: sink, retry: limits.Retry, progress: progress, pins: make([]pinned, len(plan.Objects))}
	g, ctx := errgroup.WithContext(ctx)
	for range min(limits.Connections, len(plan.Parts)) {
		g.Go(func() error { return s.connection(ctx) })
	}
	return g.Wait()
}

type stream struct {
	plan     Plan
	sink     Sink
	retry    Retry
	progress *Progress
	pins     []pinned // one for each object
	next     atomic.Int64
}

// connection reads parts until none is left, all through one buffer.
func (s *stream) connection(ctx context.Context) error {
	buf := make([]byte, s.plan.Window)
	for ctx.Err() == nil {
		i := int(s.next.Add(1)) - 1
		if i >= len(s.plan.Parts) {
			return nil
		}
		if err := s.part(ctx, s.plan.Parts[i], buf); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// part reads one part, however many requests that takes. A new request starts at the first byte the sink has not taken;
// every window taken earns the full number of attempts again.
func (s *stream) part(ctx context.Context, p Part, buf []byte) error {
	for attempt := 1; ; attempt++ {
		took, err := s.request(ctx, p, buf)
		p.Off, p.Len = p.Off+took, p.Len-took
		if err == nil || !fault.Is(err, fault.Transient) || ctx.Err() != nil {
			return err
		}
		if took > 0 {
			attempt = 1
		}
		if attempt >= s.retry.Attempts {
			return exhausted(err, attempt)
		}
		s.progress.Retries.Add(1)
		if err := s.retry.pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// request asks for a part once and returns how many bytes of it the sink took.
func (s *stream) request(ctx context.Context, p Part, buf []byte) (took int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.retry.Stall, func() { cancel(errStalled) })
	defer watch.Stop()

	body, err := s.open(ctx, p)
	if err != nil {
		return 0, stalled(ctx, err)
	}
	defer body.Close()
	for took < p.Len {
		window := buf[:min(int64(len(buf)), p.Len-took)]
		watch.Reset(s.retry.Stall)
		if _, err := io.ReadFull(body, window); err != nil {
			return took, stalled(ctx, s.broken(ctx, p, took, err))
		}
		watch.Stop()
		if err := s.sink.Window(ctx, p.Object, p.Off+took, window); err != nil {
			return took, err
		}
		took += int64(len(window))
		s.progress.Bytes.Add(int64(len(window)))
	}
	return took, nil
}

// open sends the request and holds the answer against the plan.
func (s *stream) open(ctx context.Context, p Part) (*Body, error) {
	o := s.plan.Objects[p.Object]
	body, err := o.Source.Get(ctx, Range{Name: o.Name, Off: p.Off, Len: p.Len, Pin: s.pins[p.Object].get()})
	if err != nil {
		return nil, err
	}
	if err := s.check(body, p, o); err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

func (s *stream) check(body *Body, p Part, o Object) error {
	if body.Size >= 0 && body.Size != o.Size {
		return fault.New(fault.NotAuthentic, "the object was cut, extended or replaced after publishing: restore it or publish a new version",
			"%s at %s is %d bytes long, its manifest says %d", o.Name, o.Source, body.Size, o.Size)
	}
	if body.Off != p.Off || body.Len >= 0 && body.Len != p.Len {
		return fault.New(fault.Access, "the store or a proxy before it ignores the Range header: use one that answers ranges (RFC 9110, section 14)",
			"%s at %s: asked for %d bytes at %d, got %d at %d", o.Name, o.Source, p.Len, p.Off, body.Len, body.Off)
	}
	if !s.pins[p.Object].set(body.Pin) {
		return changed(o.Name, o.Source)
	}
	return nil
}

func (s *stream) broken(ctx context.Context, p Part, took int64, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	o := s.plan.Objects[p.Object]
	return readError(ctx, err, "reading %s at %s from byte %d", o.Name, o.Source, p.Off+took)
}

func changed(name string, src fmt.Stringer) error {
	return fault.New(fault.Access, "somebody writes to a published model: publish new versions under a new prefix",
		"%s at %s changed while it was read", name, src)
}

// pinned is the state of an object that its first answer fixed for all later ones.
type pinned struct {
	mu  sync.Mutex
	pin Pin
}

func (p *pinned) get() Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pin
}

// set fixes the pin, or reports whether it is the one that was fixed.
func (p *pinned) set(pin Pin) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pin == (Pin{}) {
		p.pin = pin
	}
	return p.pin == pin
}
