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
	// Ordered keeps each part on one connection at a time, so that its windows come in order. Otherwise a connection
	// that has nothing left to do takes over from slower ones.
	Ordered bool
}

// Sink takes what arrives. Window is called from several goroutines at once, never twice for the same bytes, and in
// order within a part where the plan says so. It owns p until it returns and may scribble on it. An error ends the
// stream.
type Sink interface {
	Window(ctx context.Context, object int, off int64, p []byte) error
}

// Limits bound a stream: its memory is Connections x Plan.Window, whatever the models' size.
type Limits struct {
	Connections int // at most
	Start       int // to begin with; more are added while that brings more throughput. 0 = Connections
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
	s := &stream{plan: plan, sink: sink, retry: limits.Retry, progress: progress, board: newBoard(plan),
		pins: make([]pinned, len(plan.Objects))}
	if s.board.left.Load() == 0 {
		return nil
	}
	s.group, ctx = errgroup.WithContext(ctx)
	s.group.Go(func() error {
		s.connect(ctx, limits)
		return nil
	})
	return s.group.Wait()
}

type stream struct {
	plan     Plan
	sink     Sink
	retry    Retry
	progress *Progress
	board    *board
	pins     []pinned // one for each object
	group    *errgroup.Group

	received atomic.Int64 // bytes, windows that are not full yet among them
	flowing  atomic.Int64 // connections that have had a byte
}

// connection is one of the stream's flows. Everything it reads passes through one buffer.
type connection struct {
	*stream
	buf      []byte
	answered bool
}

// run reads parts until there is nothing left to do.
func (c *connection) run(ctx context.Context) error {
	defer func() {
		if c.answered {
			c.flowing.Add(-1)
		}
	}()
	for {
		r := c.board.take(ctx)
		if r == nil {
			return context.Cause(ctx)
		}
		if c.buf == nil {
			c.buf = make([]byte, c.plan.Window)
		}
		err := c.part(ctx, r)
		c.board.finished(r)
		if err != nil {
			return err
		}
	}
}

// part reads what it is given, or what is left of it while others take from its end, however many requests that takes.
// A new request starts at the first byte the sink has not taken; every window taken earns the full number of attempts
// again.
func (c *connection) part(ctx context.Context, r *reading) error {
	for attempt := 1; ; attempt++ {
		from := r.position()
		err := c.request(ctx, r)
		if r.isTaken() {
			return nil
		}
		if err == nil || !fault.Is(err, fault.Transient) || ctx.Err() != nil {
			return err
		}
		if r.position() > from {
			attempt = 0 // this one brought something
		}
		if attempt >= c.retry.Attempts {
			return exhausted(err, attempt)
		}
		c.progress.Retries.Add(1)
		if err := c.retry.pause(ctx, max(attempt, 1)); err != nil {
			return err
		}
	}
}

// request asks for a part once and gives the sink what it can.
func (c *connection) request(ctx context.Context, r *reading) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.retry.Stall, func() { cancel(errStalled) })
	defer watch.Stop()

	p := r.begin(cancel)
	defer r.pause()
	body, err := c.open(ctx, p)
	if err != nil {
		return stalled(ctx, err)
	}
	defer body.Close()
	for {
		off, n := r.claim(c.plan.Window)
		if n == 0 {
			return nil
		}
		watch.Reset(c.retry.Stall)
		if err := c.fill(body, c.buf[:n]); err != nil {
			return stalled(ctx, c.broken(ctx, p.Object, off, err))
		}
		watch.Stop()
		if !r.arrived() {
			return errTaken
		}
		if err := c.sink.Window(ctx, p.Object, off, c.buf[:n]); err != nil {
			return err
		}
		r.delivered()
		c.progress.Bytes.Add(int64(n))
		c.board.delivered(int64(n))
	}
}

// fill reads a window, and counts what arrives as it arrives: on slow connections a window may take a while.
func (c *connection) fill(body io.Reader, window []byte) error {
	for len(window) > 0 {
		n, err := body.Read(window)
		c.received.Add(int64(n))
		if !c.answered && n > 0 {
			c.answered = true
			c.flowing.Add(1)
		}
		if window = window[n:]; err != nil && len(window) > 0 {
			return err
		}
	}
	return nil
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
		return fault.New(fault.NotAuthentic,
			"the object was cut, extended or replaced after publishing: restore it or publish a new version",
			"%s at %s is %d bytes long, its manifest says %d", o.Name, o.Source, body.Size, o.Size)
	}
	if body.Off != p.Off || body.Len >= 0 && body.Len != p.Len {
		return fault.New(fault.Access,
			"the store or a proxy before it ignores the Range header: use one that answers ranges (RFC 9110, section 14)",
			"%s at %s: asked for %d bytes at %d, got %d at %d", o.Name, o.Source, p.Len, p.Off, body.Len, body.Off)
	}
	if !s.pins[p.Object].set(body.Pin) {
		return changed(o.Name, o.Source)
	}
	return nil
}

func (s *stream) broken(ctx context.Context, object int, off int64, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	o := s.plan.Objects[object]
	return readError(ctx, err, "reading %s at %s from byte %d", o.Name, o.Source, off)
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
