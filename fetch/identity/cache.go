package identity

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// maxWindow is how long before its end a value is renewed; short-lived values are renewed in their last quarter.
	maxWindow = 5 * time.Minute
	// renewalPause keeps a failing renewal from being tried again at every request while the old value is still good.
	renewalPause = 10 * time.Second
	// invalidateAge is how old a value must be to be dropped: when many requests are refused at once, the first drops
	// the value and the others must not drop the one that replaced it.
	invalidateAge = 5 * time.Second
)

// cache keeps one expiring value and renews it before it ends. Within the renewal window one caller renews and all
// others go on with the old value, so that no request waits or fails as long as a renewal succeeds within the window.
//
// The SDK's own cache has a window of one size, and blocks or fails every caller in it.
type cache[T any] struct {
	fetch func(context.Context) (T, time.Time, error) // a zero time: the value does not end
	now   func() time.Time
	warn  func(error) // called when a renewal fails and the old value is still good

	turn  chan struct{} // holds one token while somebody fetches
	entry atomic.Pointer[entry[T]]
}

type entry[T any] struct {
	value   T
	fetched time.Time
	renewAt time.Time // zero: never
	ends    time.Time // zero: never
}

func newCache[T any](now func() time.Time, fetch func(context.Context) (T, time.Time, error),
	warn func(error)) *cache[T] {
	return &cache[T]{fetch: fetch, now: now, warn: warn, turn: make(chan struct{}, 1)}
}

// get returns the value, fetched or renewed where it must be.
func (c *cache[T]) get(ctx context.Context) (T, error) {
	e, now := c.entry.Load(), c.now()
	if e.fresh(now) {
		return e.value, nil
	}
	if e.good(now) {
		select {
		case c.turn <- struct{}{}:
		default:
			return e.value, nil
		}
	} else {
		select {
		case c.turn <- struct{}{}:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
	defer func() { <-c.turn }()
	return c.renew(ctx)
}

// renew is called by the holder of the turn.
func (c *cache[T]) renew(ctx context.Context) (T, error) {
	old := c.entry.Load()
	if old.fresh(c.now()) { // somebody renewed while this caller waited for the turn
		return old.value, nil
	}
	value, ends, err := c.fetch(ctx)
	now := c.now()
	switch {
	case err == nil:
		c.entry.Store(&entry[T]{value: value, fetched: now, renewAt: renewAt(now, ends), ends: ends})
		return value, nil
	case old.good(now) && ctx.Err() == nil:
		c.warn(err)
		later := *old
		later.renewAt = now.Add(renewalPause)
		c.entry.CompareAndSwap(old, &later)
		return old.value, nil
	case old.good(now):
		return old.value, nil
	default:
		var none T
		return none, err
	}
}

// invalidate drops the value, unless it is so new that it cannot be the one a service refused.
func (c *cache[T]) invalidate() {
	if e := c.entry.Load(); e != nil && c.now().Sub(e.fetched) >= invalidateAge {
		c.entry.CompareAndSwap(e, nil)
	}
}

func (e *entry[T]) good(now time.Time) bool {
	return e != nil && (e.ends.IsZero() || now.Before(e.ends))
}

func (e *entry[T]) fresh(now time.Time) bool {
	return e.good(now) && (e.renewAt.IsZero() || now.Before(e.renewAt))
}

// renewAt picks the moment of renewal in the first half of the window before the end: at random, so that a thousand
// pods started together do not call STS together.
func renewAt(now, ends time.Time) time.Time {
	if ends.IsZero() {
		return time.Time{}
	}
	window := min(maxWindow, ends.Sub(now)/4)
	if window <= 0 {
		return ends
	}
	return ends.Add(-window/2 - rand.N(window/2+1))
}
