package testcloud

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// Request is one S3 request as the log keeps it. Fault hooks see it before it is answered, without Status, Code,
// BytesIn and BytesOut, and, since a fault may come before the signature is checked, without Account and Principal.
type Request struct {
	ID          string // x-amz-request-id
	Time        time.Time
	Op          string // such as "GetObject"
	Method      string
	Bucket, Key string
	VersionID   string
	Range       string // the Range header as sent
	PartNumber  int
	AccessKeyID string // verified; empty for anonymous and refused callers
	Account     string // of the caller
	Principal   string // the caller's ARN
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
func (c *Cloud) S3Requests(ops ...string) []Request {
	return slices.DeleteFunc(c.s3.log.settled(), func(r Request) bool {
		return len(ops) > 0 && !slices.Contains(ops, r.Op)
	})
}

// ForgetS3Requests empties the log.
func (c *Cloud) ForgetS3Requests() {
	c.s3.log.mu.Lock()
	defer c.s3.log.mu.Unlock()
	c.s3.log.entries = nil
}
