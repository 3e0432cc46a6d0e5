package testcloud

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

// Fault is what goes wrong with one request. The zero Fault is none; several fields may be set.
type Fault struct {
	// Error is answered in place of the operation, which does not happen. See SlowDown and InternalError.
	Error *Error
	// Latency passes before anything else happens.
	Latency time.Duration
	// Bandwidth paces the answer's body, in bytes per second. Zero means unpaced.
	Bandwidth int64
	// Break ends the answer's body early; the headers promise all of it. Of an upload it ends the request's body.
	Break *Break
	// LoseAnswer does what was asked and resets the connection in place of the answer.
	LoseAnswer bool
	// LengthDelta is added to the Content-Length header. Below zero the body is cut to fit; above zero the connection
	// closes with bytes owing.
	LengthDelta int64
	// IgnoreRange answers 200 and the whole object.
	IgnoreRange bool
	// ContentRange replaces the header of that name.
	ContentRange string
	// FlipByte, where not nil, is an offset in the object whose lowest bit arrives inverted.
	FlipByte *int64
	// Replace, where not nil, overwrites the object before the request is looked at.
	Replace []byte
	// Redirect answers 307 to this URL.
	Redirect string
}

// Break ends a body after a number of bytes.
type Break struct {
	After int64 // bytes that still pass; the client may see fewer after a Reset
	How   BreakKind
}

// BreakKind is a way to end a body early.
type BreakKind int

// The ways.
const (
	Close BreakKind = iota // the connection ends in good order, short of its Content-Length
	Reset                  // the connection ends with a TCP reset
	Stall                  // nothing more comes until the client goes away
)

// SlowDown is S3's throttling answer.
func SlowDown() *Error {
	return refuse(503, "SlowDown", "Please reduce your request rate.")
}

// InternalError is S3's answer to its own failure.
func InternalError() *Error {
	return refuse(500, "InternalError", "We encountered an internal error. Please try again.")
}

// Rule injects a fault into the requests it matches.
type Rule struct {
	Service string // "s3" or "sts"; empty means S3
	Op      string // such as "GetObject"; empty matches every operation
	Key     string // glob of the S3 key; * matches any run of characters, slashes too; empty matches every key
	Skip    int    // matches that pass unharmed first
	Times   int    // matches that are harmed after those; zero means all
	Fault   Fault  // of STS's faults only Error, Latency and LoseAnswer take effect
}

// Injection counts what a rule did.
type Injection struct {
	rule Rule

	mu      sync.Mutex
	matched int
	hits    int
}

// Hits is how many requests got the fault.
func (i *Injection) Hits() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hits
}

func (i *Injection) apply(r *Request) bool {
	if i.rule.Op != "" && i.rule.Op != r.Op || i.rule.Key != "" && !iam.Match(i.rule.Key, r.Key) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.matched++
	if i.matched <= i.rule.Skip || i.rule.Times > 0 && i.hits >= i.rule.Times {
		return false
	}
	i.hits++
	return true
}

// Inject adds a rule. Of several rules that would harm a request the oldest does.
func (c *Cloud) Inject(rule Rule) *Injection {
	i := &Injection{rule: rule}
	faults := &c.s3.faults
	if rule.Service == "sts" {
		faults = &c.sts.faults
	}
	faults.mu.Lock()
	defer faults.mu.Unlock()
	faults.rules = append(faults.rules, i)
	return i
}

// OnS3Request asks hook for a fault at every S3 request that no rule harms. The hook runs on the request's goroutine
// and may use the cloud. Nil removes it.
func (c *Cloud) OnS3Request(hook func(*Request) Fault) {
	c.s3.faults.mu.Lock()
	defer c.s3.faults.mu.Unlock()
	c.s3.faults.hook = hook
}

// ClearFaults removes all rules and the hook.
func (c *Cloud) ClearFaults() {
	for _, f := range []*faults{&c.s3.faults, &c.sts.faults} {
		f.mu.Lock()
		f.rules, f.hook = nil, nil
		f.mu.Unlock()
	}
}

// faults are the rules and the hook of one service.
type faults struct {
	mu    sync.Mutex
	rules []*Injection
	hook  func(*Request) Fault
}

func (f *faults) of(r *Request) Fault {
	f.mu.Lock()
	rules, hook := f.rules, f.hook
	f.mu.Unlock()
	for _, i := range rules {
		if i.apply(r) {
			return i.rule.Fault
		}
	}
	if hook != nil {
		return hook(r)
	}
	return Fault{}
}

// delay waits and reports whether the client is still there.
func delay(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reset ends a connection with a TCP reset: what the client has not read yet may be lost. It does not return.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		raw = t.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	raw.Close()
	panic(http.ErrAbortHandler)
}
