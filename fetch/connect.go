package fetch

import (
	"context"
	"time"
)

// What a network gives is found out by asking: the number of connections doubles while that brings more.
const (
	// growEvery is the time over which throughput is measured, long enough for new connections to show.
	growEvery = 250 * time.Millisecond
	// growRest is how long the number stays after more connections have not helped.
	growRest = 5 * time.Second
	// worthGrowing is the throughput, over that of half as many connections, that justifies them.
	worthGrowing = 1.1
)

// connect starts connections and adapts their number until the stream ends. Fewer are kept where more did not help.
func (s *stream) connect(ctx context.Context, limits Limits) {
	n := max(1, limits.Connections)
	if limits.Start > 0 {
		n = min(limits.Start, n)
	}
	s.start(ctx, n)
	for good, best := n, int64(0); n < limits.Connections; {
		got, running := s.measure(ctx, growEvery)
		switch {
		case !running:
			return
		case got == 0: // the first bytes are still to come
		case float64(got) > worthGrowing*float64(best):
			good, best = n, got
			n = min(2*n, limits.Connections)
			s.start(ctx, n)
		default:
			n, best = good, 0
			s.start(ctx, n)
			if _, running := s.measure(ctx, growRest); !running {
				return
			}
		}
	}
}

// start brings the number of connections to n.
func (s *stream) start(ctx context.Context, n int) {
	for range s.board.want(n) {
		s.group.Go(func() error { return s.connection(ctx) })
	}
}

// measure returns what the sink took within d, and whether the stream is still running.
func (s *stream) measure(ctx context.Context, d time.Duration) (got int64, running bool) {
	before := s.board.left.Load()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return 0, false
	case <-s.board.done:
		return 0, false
	case <-timer.C:
		return before - s.board.left.Load(), true
	}
}
