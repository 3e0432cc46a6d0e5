package fetch

import (
	"context"
	"runtime"
	"time"
)

// What a network gives is found out by asking: the number of connections doubles while that brings more.
const (
	// growEvery is the time over which throughput is measured.
	growEvery = 250 * time.Millisecond
	// growSettle is how long new connections may take to answer before the measurement begins without them: some round
	// trips of a very distant store.
	growSettle = 2 * time.Second
	settlePoll = 25 * time.Millisecond
	// growRest is how long the number stays after more connections have not helped.
	growRest = 5 * time.Second
	// worthGrowing is the throughput, over that of half as many connections, that justifies them.
	worthGrowing = 1.1
	// mostBusy is the share of the processors' time that the sink may take. Beyond it the data is waiting for this
	// machine, not this machine for the data, and more connections would only push each other out of its caches.
	mostBusy = 0.5
)

// connect starts connections and adapts their number until the stream ends. Fewer are kept where more did not help.
func (s *stream) connect(ctx context.Context, limits Limits) {
	n := max(1, limits.Connections)
	if limits.Start > 0 {
		n = min(limits.Start, n)
	}
	s.start(ctx, n)
	for good, best := n, int64(0); n < limits.Connections; {
		got, busy, running := s.measure(ctx, n)
		switch {
		case !running:
			return
		case got == 0: // the first bytes are still to come
		case busy <= mostBusy && float64(got) > worthGrowing*float64(best):
			good, best = n, got
			n = min(2*n, limits.Connections)
			s.start(ctx, n)
		default:
			if float64(got) <= worthGrowing*float64(best) {
				n = good
				s.start(ctx, n)
			}
			good, best = n, 0
			if !s.pass(ctx, growRest) {
				return
			}
		}
	}
}

// start brings the number of connections to n.
func (s *stream) start(ctx context.Context, n int) {
	for range s.board.want(n) {
		c := &connection{stream: s}
		s.group.Go(func() error { return c.run(ctx) })
	}
}

// measure returns what n connections receive in a while, once they all do and no others, which share of the processors'
// time the sink takes, and whether the stream is still running.
func (s *stream) measure(ctx context.Context, n int) (got int64, busy float64, running bool) {
	for waited := time.Duration(0); ; waited += settlePoll {
		flowing := s.flowing.Load()
		if flowing == int64(n) || flowing < int64(n) && waited >= growSettle {
			break // more than n are on their way out: they end with their parts
		}
		if !s.pass(ctx, settlePoll) {
			return 0, 0, false
		}
	}
	received, sunk, begun := s.received.Load(), s.board.sunk.Load(), time.Now()
	running = s.pass(ctx, growEvery)
	spent := float64(time.Since(begun)) * float64(min(n, runtime.GOMAXPROCS(0)))
	return s.received.Load() - received, float64(s.board.sunk.Load()-sunk) / spent, running
}

// pass waits, and reports whether the stream is still running.
func (s *stream) pass(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-s.board.done:
		return false
	case <-timer.C:
		return true
	}
}
