package identity

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// lease is a value that knows its own end, so that a test can see whether it was given one that had ended.
type lease struct {
	number int
	ends   time.Time
}

func leases(c *clock, life time.Duration, fetched *atomic.Int32, fail *atomic.Bool) func(context.Context) (lease,
	time.Time, error) {
	return func(context.Context) (lease, time.Time, error) {
		if fail != nil && fail.Load() {
			return lease{}, time.Time{}, errors.New("issuer is down")
		}
		l := lease{number: int(fetched.Add(1)), ends: c.Now().Add(life)}
		return l, l.ends, nil
	}
}

// TestTenMinutesOfShortLeases: whoever asks each second for ten minutes never holds a value that has ended, and the
// issuer is not asked much more often than values end.
func TestTenMinutesOfShortLeases(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, time.Minute, time.Hour} {
		c, fetched := newClock(), atomic.Int32{}
		cache := newCache(c.Now, leases(c, life, &fetched, nil), func(error) {})
		for range 600 {
			l, err := cache.get(t.Context())
			if err != nil || !c.Now().Before(l.ends) {
				t.Fatalf("life %s: got a value that ended at %s at %s, error %v", life, l.ends, c.Now(), err)
			}
			c.Advance(time.Second)
		}
		if most := int32(600*time.Second/(life*3/4)) + 1; fetched.Load() > most {
			t.Errorf("life %s: asked %d times in ten minutes, at most %d expected", life, fetched.Load(), most)
		}
	}
}

func TestRenewalWindow(t *testing.T) {
	c := newClock()
	for _, tt := range []struct{ life, earliest, latest time.Duration }{
		{time.Hour, 55 * time.Minute, 57*time.Minute + 30*time.Second},
		{time.Minute, 45 * time.Second, 52*time.Second + 500*time.Millisecond},
		{15 * time.Minute, 11*time.Minute + 15*time.Second, 13*time.Minute + 7500*time.Millisecond},
	} {
		seen := map[time.Time]bool{}
		for range 50 {
			at := renewAt(c.Now(), c.Now().Add(tt.life))
			if after := at.Sub(c.Now()); after < tt.earliest || after > tt.latest {
				t.Fatalf("life %s: renewed after %s, want %s to %s", tt.life, after, tt.earliest, tt.latest)
			}
			seen[at] = true
		}
		if len(seen) < 2 {
			t.Errorf("life %s: always renewed at the same moment", tt.life)
		}
	}
	if !renewAt(c.Now(), time.Time{}).IsZero() {
		t.Error("a value that does not end is to be renewed")
	}
}

func TestFailedRenewalKeepsGoodValue(t *testing.T) {
	c, fetched, fail, warned := newClock(), atomic.Int32{}, atomic.Bool{}, 0
	cache := newCache(c.Now, leases(c, time.Hour, &fetched, &fail), func(error) { warned++ })
	if _, err := cache.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	fail.Store(true)
	c.Advance(59 * time.Minute)
	for range 5 {
		if l, err := cache.get(t.Context()); err != nil || l.number != 1 {
			t.Fatalf("value %d, error %v; want the old value", l.number, err)
		}
	}
	if warned != 1 {
		t.Errorf("%d warnings for one failed renewal", warned)
	}
	c.Advance(time.Minute)
	if _, err := cache.get(t.Context()); err == nil {
		t.Error("a value that has ended was handed out")
	}
	fail.Store(false)
	if l, err := cache.get(t.Context()); err != nil || l.number != 2 {
		t.Errorf("value %d, error %v after recovery", l.number, err)
	}
}

// TestOneRenews: while one caller renews, the others go on with the old value instead of waiting.
func TestOneRenews(t *testing.T) {
	c := newClock()
	renewing, release := make(chan struct{}), make(chan struct{})
	calls := atomic.Int32{}
	cache := newCache(c.Now, func(context.Context) (int, time.Time, error) {
		n := calls.Add(1)
		if n == 2 {
			close(renewing)
			<-release
		}
		return int(n), c.Now().Add(time.Hour), nil
	}, func(error) {})
	if _, err := cache.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Advance(59 * time.Minute)
	renewed := make(chan int)
	go func() {
		v, _ := cache.get(context.Background())
		renewed <- v
	}()
	<-renewing
	if v, err := cache.get(t.Context()); v != 1 || err != nil {
		t.Errorf("value %d, error %v while another caller renews; want the old value", v, err)
	}
	close(release)
	if v := <-renewed; v != 2 {
		t.Errorf("the renewing caller got value %d", v)
	}
}

func TestFirstFetchIsSharedAndCancellable(t *testing.T) {
	c, calls := newClock(), atomic.Int32{}
	fetching, release := make(chan struct{}), make(chan struct{})
	cache := newCache(c.Now, func(context.Context) (int, time.Time, error) {
		if calls.Add(1) == 1 {
			close(fetching)
		}
		<-release
		return 7, c.Now().Add(time.Hour), nil
	}, func(error) {})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if v, err := cache.get(context.Background()); v != 7 || err != nil {
				t.Errorf("value %d, error %v", v, err)
			}
		})
	}
	<-fetching
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.get(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled caller waits: %v", err)
	}
	close(release)
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("fetched %d times for eight callers at once", calls.Load())
	}
}

func TestInvalidateOncePerBurst(t *testing.T) {
	c, fetched := newClock(), atomic.Int32{}
	cache := newCache(c.Now, leases(c, time.Hour, &fetched, nil), func(error) {})
	get := func() int { l, _ := cache.get(t.Context()); return l.number }
	get()
	c.Advance(time.Minute)
	for range 10 { // ten parts are refused one after the other, each then asks anew
		cache.invalidate()
		get()
	}
	if got := get(); got != 2 {
		t.Errorf("a burst of refusals led to value %d, want 2", got)
	}
	c.Advance(invalidateAge)
	cache.invalidate()
	if got := get(); got != 3 {
		t.Errorf("value %d after a later refusal, want 3", got)
	}
}
