package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// pace makes the server as slow as a network: a time to the first byte, a round trip time with TCP's slow start, a cap
// for each connection, a cap for all of them. It stands in for netem, which the kernel may not have. Loss is modelled
// by the cap that it puts on one connection (see lossRate), not by lost packets.
type pace struct {
	firstByte time.Duration
	rtt       time.Duration
	connRate  float64 // bytes a second; 0 = any
	linkRate  float64

	mu   sync.Mutex
	free time.Time // when the link has sent what it was given
}

const (
	initialWindow = 10 * 1460 // bytes, RFC 6928
	paceStep      = 64 << 10  // bytes sent at a time on a shared link
	// round is the time in which a capped connection sends its share where no round trip time is set.
	defaultRound = 10 * time.Millisecond
)

func (p *pace) off() bool {
	return p.firstByte == 0 && p.rtt == 0 && p.connRate == 0 && p.linkRate == 0
}

// connPace is one connection's congestion window.
type connPace struct {
	used   bool
	window float64 // bytes that a round may send
	left   float64
	end    time.Time // of the round
}

type connKey struct{}

func (p *pace) connContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &connPace{})
}

func (p *pace) wrap(h http.Handler) http.Handler {
	if p.off() {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := r.Context().Value(connKey{}).(*connPace)
		if !conn.used { // the handshake that this server cannot delay
			time.Sleep(p.rtt)
			conn.used = true
		}
		time.Sleep(p.rtt + p.firstByte)
		h.ServeHTTP(&pacedWriter{w, p, conn}, r)
	})
}

// pacedWriter sends a body at the connection's pace, by sendfile(2) where the connection below can.
type pacedWriter struct {
	http.ResponseWriter
	pace *pace
	conn *connPace
}

// ReadFrom is io.ReaderFrom's, which http.ServeContent looks for.
func (w *pacedWriter) ReadFrom(src io.Reader) (total int64, err error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(w.ResponseWriter, src)
	}
	for limited.N > 0 {
		n := w.pace.wait(w.conn, limited.N)
		sent, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: limited.R, N: n})
		limited.N -= sent
		total += sent
		if err != nil || sent < n {
			return total, err
		}
	}
	return total, nil
}

// wait returns how many bytes may be sent, after the time at which they may.
func (p *pace) wait(c *connPace, want int64) int64 {
	round := p.rtt
	if round == 0 {
		round = defaultRound
	}
	most := p.connRate * round.Seconds()
	now := time.Now()
	switch {
	case c.window == 0 && p.rtt > 0:
		c.window = initialWindow
	case c.window == 0:
		c.window = most
	}
	if p.connRate > 0 || p.rtt > 0 {
		c.nextRound(now, round, most)
		want = min(want, int64(c.left))
		c.left -= float64(want)
	}
	if p.linkRate > 0 {
		want = p.share(c, want)
	}
	return want
}

// nextRound waits for the next round where this one's window is sent, and lets the window grow.
func (c *connPace) nextRound(now time.Time, round time.Duration, most float64) {
	if c.left >= 1 && now.Before(c.end) {
		return
	}
	if now.Before(c.end) {
		time.Sleep(c.end.Sub(now))
		c.window *= 2 // slow start; without a round trip time the window is at its most already
	}
	if most > 0 {
		c.window = min(c.window, most)
	}
	c.window = min(c.window, 256<<20)
	c.left = c.window
	if c.end = c.end.Add(round); c.end.Before(now) {
		c.end = now.Add(round)
	}
}

// share waits for the link.
func (p *pace) share(c *connPace, want int64) int64 {
	n := min(want, paceStep)
	c.left += float64(want - n)
	p.mu.Lock()
	// Timers are late by up to a millisecond: what a link would have sent meanwhile may be sent at once.
	if late := time.Now().Add(-2 * time.Millisecond); p.free.Before(late) {
		p.free = late
	}
	p.free = p.free.Add(time.Duration(float64(n) / p.linkRate * float64(time.Second)))
	due := p.free
	p.mu.Unlock()
	time.Sleep(time.Until(due))
	return n
}
