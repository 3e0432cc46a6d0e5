package testcloud

import (
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
	return &Error{Status: 503, Code: "SlowDown", Message: "Please reduce your request rate."}
}

// InternalError is S3's answer to its own failure.
func InternalError() *Error {
	return &Error{Status: 500, Code: "InternalError", Message: "We encountered an internal error. Please try again."}
}

// Rule injects a fault into the S3 requests it matches.
type Rule struct {
	Op    string // such as "GetObject"; empty matches every operation
	Key   string // glob of the key; * matches any run of characters, slashes too; empty matches every key
	Skip  int    // matches that pass unharmed first
	Times int    // matches that are harmed after those; zero means all
	Fault Fault
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
	c.s3.faultMu.Lock()
	defer c.s3.faultMu.Unlock()
	c.s3.rules = append(c.s3.rules, i)
	return i
}

// OnS3Request asks hook for a fault at every request that no rule harms. The hook runs on the request's goroutine and
// may use the cloud. Nil removes it.
func (c *Cloud) OnS3Request(hook func(*Request) Fault) {
	c.s3.faultMu.Lock()
	defer c.s3.faultMu.Unlock()
	c.s3.hook = hook
}

// ClearFaults removes all rules and the hook.
func (c *Cloud) ClearFaults() {
	c.s3.faultMu.Lock()
	defer c.s3.faultMu.Unlock()
	c.s3.rules, c.s3.hook = nil, nil
}

func (s *s3Service) faultFor(r *Request) Fault {
	s.faultMu.Lock()
	rules, hook := s.rules, s.hook
	s.faultMu.Unlock()
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
