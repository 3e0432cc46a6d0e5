package fetch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// The end of a stream is shared out: a connection that finds no part left takes the second half of the one that would
// last longest, and as a last resort all of one that has stopped moving. Halves are cut at windows that nobody has
// asked the body for yet, and a window that is taken back is never given to the sink by its first reader, so that the
// sink sees every byte once.
const (
	// worthSharing is how long a part must be going to last before its second half is asked for on another connection:
	// the first one is given up with what is on its way.
	worthSharing = 200 * time.Millisecond
	// leastJudged is the age at which a reading's pace says something.
	leastJudged = 50 * time.Millisecond
	// leastPatience, or patienceFactor times what a window usually takes, is how long the last windows of a stream may
	// be awaited before another connection asks for them, too; at most mostHedges times, so that a store that is down
	// uses up its attempts.
	leastPatience  = time.Second
	patienceFactor = 8
	mostHedges     = 2
	// idlePoll is how often a connection with nothing to do looks again.
	idlePoll = 50 * time.Millisecond
)

// errTaken is the cause of a context whose reading another connection has taken over.
var errTaken = errors.New("another connection has taken over")

// board hands out the parts of a plan.
type board struct {
	window int64
	shared bool         // parts may be cut and taken over
	left   atomic.Int64 // bytes that no sink has taken
	done   chan struct{}

	waited  atomic.Int64 // nanoseconds that windows took to arrive
	sunk    atomic.Int64 // nanoseconds that the sink took for them
	windows atomic.Int64

	mu      sync.Mutex
	waiting []Part
	active  []*reading
	running int // connections
	wanted  int // connections; those beyond it end with their part
}

func newBoard(plan Plan) *board {
	b := &board{window: int64(plan.Window), shared: !plan.Ordered, waiting: plan.Parts, done: make(chan struct{})}
	var left int64
	for _, p := range plan.Parts {
		left += p.Len
	}
	b.left.Store(left)
	return b
}

// take returns something to read. It returns nil when there is nothing left that this connection could do, or when
// fewer connections are wanted.
func (b *board) take(ctx context.Context) *reading {
	for {
		r, wait := b.tryTake(time.Now())
		if r != nil || !wait {
			return r
		}
		select {
		case <-ctx.Done():
			b.leave()
			return nil
		case <-b.done:
			b.leave()
			return nil
		case <-time.After(idlePoll):
		}
	}
}

func (b *board) tryTake(now time.Time) (r *reading, wait bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.running > b.wanted, len(b.waiting) == 0 && !b.shared:
		b.running--
		return nil, false
	case len(b.waiting) > 0:
		p := b.waiting[0]
		b.waiting = b.waiting[1:]
		r = &reading{board: b, object: p.Object, off: p.Off, end: p.Off + p.Len}
	default:
		if r = b.half(now); r == nil {
			r = b.hedge(now)
		}
	}
	if r != nil {
		b.active = append(b.active, r)
	}
	return r, true
}

// leave is for a connection that ends while it waits.
func (b *board) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
}

// half cuts the part that will last longest.
func (b *board) half(now time.Time) *reading {
	var longest *reading
	lasts := worthSharing
	for _, r := range b.active {
		if d := r.lasts(now); d > lasts {
			longest, lasts = r, d
		}
	}
	if longest == nil {
		return nil
	}
	return longest.cut()
}

// hedge takes over the part whose next window is the most overdue.
func (b *board) hedge(now time.Time) *reading {
	var latest *reading
	patience := leastPatience
	if n := b.windows.Load(); n > 0 {
		patience = max(patience, patienceFactor*time.Duration(b.waited.Load()/n))
	}
	for _, r := range b.active {
		if d := r.overdue(now); d > patience {
			latest, patience = r, d
		}
	}
	if latest == nil {
		return nil
	}
	return latest.takeOver()
}

// finished drops a reading, whether it has succeeded, failed or been taken over.
func (b *board) finished(r *reading) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.active {
		if b.active[i] == r {
			last := len(b.active) - 1
			b.active[i] = b.active[last]
			b.active[last] = nil
			b.active = b.active[:last]
			return
		}
	}
}

func (b *board) delivered(n int64) {
	if b.left.Add(-n) == 0 {
		close(b.done)
	}
}

// want sets how many connections there should be and returns how many have to be started for that.
func (b *board) want(n int) (missing int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	missing = max(0, n-b.running)
	b.wanted = n
	b.running += missing
	return missing
}

// reading is a part, or a piece of one, that a connection works at. Its owner moves off forward; others may move end
// back to what the owner has not asked for, or take everything while the owner waits for the network.
type reading struct {
	board  *board
	object int
	hedges int

	mu      sync.Mutex
	off     int64 // first byte that the sink has not taken
	end     int64
	window  int64 // bytes from off on that are being read or are at the sink
	sinking bool
	taken   bool
	moving  bool // a request is under way, not a pause between two
	from    int64
	begun   time.Time // of the request, at from
	since   time.Time // when the owner began to wait for what it is waiting for: the network or the sink
	cancel  context.CancelCauseFunc
}

// begin notes that a request is made, and returns what to ask for.
func (r *reading) begin(cancel context.CancelCauseFunc) Part {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.moving, r.cancel, r.from, r.begun, r.since = true, cancel, r.off, now, now
	return Part{r.object, r.off, r.end - r.off}
}

// pause notes that no request is under way.
func (r *reading) pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moving, r.sinking, r.window, r.cancel = false, false, 0, nil
}

// claim returns the next window to read; n = 0 when there is none.
func (r *reading) claim(most int) (off int64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken {
		return r.off, 0
	}
	r.window = min(int64(most), r.end-r.off)
	r.since = time.Now()
	return r.off, int(r.window)
}

// arrived reports whether the window that was read is still the owner's to give to the sink.
func (r *reading) arrived() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken {
		return false
	}
	now := time.Now()
	r.board.waited.Add(int64(now.Sub(r.since)))
	r.board.windows.Add(1)
	r.sinking, r.since = true, now
	return true
}

// delivered notes that the sink has taken the window.
func (r *reading) delivered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.board.sunk.Add(int64(now.Sub(r.since)))
	r.off += r.window
	r.window, r.sinking, r.since = 0, false, now
}

func (r *reading) position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.off
}

func (r *reading) isTaken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// lasts estimates how long what nobody has asked the body for yet would last at the pace so far.
func (r *reading) lasts(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	free, got, age := r.end-r.off-r.window, r.off-r.from, now.Sub(r.begun)
	switch {
	case r.taken || !r.moving || age < leastJudged || free < 2*r.board.window:
		return 0
	case got == 0:
		return age * time.Duration(free/r.board.window)
	}
	return time.Duration(float64(age) * float64(free) / float64(got))
}

// cut gives the second half of that away.
func (r *reading) cut() *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := r.off + r.window
	windows := (r.end - start + r.board.window - 1) / r.board.window
	if r.taken || windows < 2 {
		return nil
	}
	middle := start + (windows+1)/2*r.board.window
	half := &reading{board: r.board, object: r.object, hedges: r.hedges, off: middle, end: r.end}
	r.end = middle
	return half
}

// overdue returns for how long the network has been silent.
func (r *reading) overdue(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken || !r.moving || r.sinking || r.hedges >= mostHedges {
		return 0
	}
	return now.Sub(r.since)
}

// takeOver takes everything, unless the window has come in the meantime.
func (r *reading) takeOver() *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken || !r.moving || r.sinking || r.off == r.end {
		return nil
	}
	r.taken = true
	r.cancel(errTaken)
	return &reading{board: r.board, object: r.object, hedges: r.hedges + 1, off: r.off, end: r.end}
}
