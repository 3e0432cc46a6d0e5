package testcloud

import (
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Request is one request to S3 or STS as the log keeps it. Fault hooks see it before it is answered, without Status,
// Code, BytesIn and BytesOut, and, since a fault may come before the signature is checked, without Account and
// Principal.
type Request struct {
	ID          string // x-amz-request-id
	Time        time.Time
	Op          string // such as "GetObject"
	Method      string
	Bucket, Key string // of S3, like the three that follow
	VersionID   string
	Range       string // the Range header as sent
	PartNumber  int
	Params      url.Values // of STS, without WebIdentityToken
	AccessKeyID string     // verified; empty for anonymous and refused callers
	Account     string     // of the caller
	Principal   string     // the caller's ARN
	UserAgent   string
	Header      http.Header
	Status      int
	Code        string // of the error; empty on success
	BytesIn     int64  // body bytes taken, after decoding of aws-chunked
	BytesOut    int64  // body bytes written
}

// logPatience bounds how long a reader of the log waits for answers under way.
const logPatience = 2 * time.Second

// requestLog is safe for concurrent use.
type requestLog struct {
	mu      sync.Mutex
	open    int // requests begun and not yet logged
	entries []Request
}

func (l *requestLog) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
}

func (l *requestLog) add(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.entries = append(l.entries, r)
}

// settled returns the entries once every request begun is logged: a client has the last byte of an answer a moment
// before its handler ends. Requests that take longer than logPatience are left out.
func (l *requestLog) settled() []Request {
	for deadline := time.Now().Add(logPatience); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		open, entries := l.open, slices.Clone(l.entries)
		l.mu.Unlock()
		if open == 0 || time.Now().After(deadline) {
			return entries
		}
	}
}

// S3Requests returns the S3 requests answered or stalled so far, in the order in which they ended. Any of the ops given
// selects; none given selects all. It waits a moment for answers under way.
func (c *Cloud) S3Requests(ops ...string) []Request { return selected(c.s3.log.settled(), ops) }

// STSRequests is S3Requests for STS.
func (c *Cloud) STSRequests(ops ...string) []Request { return selected(c.sts.log.settled(), ops) }

func selected(all []Request, ops []string) []Request {
	return slices.DeleteFunc(all, func(r Request) bool { return len(ops) > 0 && !slices.Contains(ops, r.Op) })
}

// ForgetRequests empties both logs.
func (c *Cloud) ForgetRequests() {
	for _, l := range []*requestLog{&c.s3.log, &c.sts.log} {
		l.mu.Lock()
		l.entries = nil
		l.mu.Unlock()
	}
}
