package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Retry says how often and how patiently a read is tried. It is the one place that decides on retries of reads.
type Retry struct {
	Attempts int           // attempts in a row that bring no byte; at least 1
	Base     time.Duration // the first pause is random in (0, Base]
	Cap      time.Duration // pauses double up to this
	Stall    time.Duration // how long one window, or the first byte, may take before the connection is given up
}

// errStalled is the cause of a context that the stall detector ended.
var errStalled = errors.New("no data within the stall timeout")

// do calls try until it succeeds, fails for good, or the attempts are used up. Each try has Retry.Stall to finish.
func (r Retry) do(ctx context.Context, try func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeoutCause(ctx, r.Stall, errStalled)
		err := stalled(limited, try(limited))
		cancel()
		if err == nil || !fault.Is(err, fault.Transient) || ctx.Err() != nil {
			return err
		}
		if attempt >= r.Attempts {
			return exhausted(err, attempt)
		}
		if err := r.pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// pause sleeps before attempt+1: full jitter over an exponential bound, so that many readers do not come back at once.
func (r Retry) pause(ctx context.Context, attempt int) error {
	bound := min(r.Cap, r.Base<<min(attempt-1, 20))
	timer := time.NewTimer(rand.N(bound) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func exhausted(err error, attempts int) error {
	return fmt.Errorf("%w (gave up after %d attempts)", err, attempts)
}

// stalled turns an error that the stall detector caused into the transient one it is.
func stalled(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return transient("%w: %w", errStalled, err)
	}
	return err
}

// readError wraps an error of a body's Read: the network's trouble is transient, the caller's cancellation is not.
func readError(ctx context.Context, err error, format string, args ...any) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errStalled) {
		return cause
	}
	return transient(format+": %w", append(args, err)...)
}

func transient(format string, args ...any) error {
	return fault.New(fault.Transient, "the store did not answer properly: check its health and the network, then start again",
		format, args...)
}
