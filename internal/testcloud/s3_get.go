package testcloud

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// span is the part of an object that an answer carries.
type span struct {
	off, n  int64
	partial bool
}

// getObject serves GetObject and HeadObject.
func (c *call) getObject() *Error {
	o, err := c.bucket.find(c.Key, c.VersionID)
	if err != nil {
		return c.hideMissing(err)
	}
	c.objectHeaders(o)
	if err := c.precondition(o); err != nil {
		return err
	}
	part, err := c.span(o)
	if err != nil {
		return err
	}
	c.checksumHeaders(o, part)
	return c.sendObject(o, part)
}

// hideMissing turns "no such key" into "access denied" for a caller who may not list the bucket, as S3 does.
func (c *call) hideMissing(err *Error) *Error {
	if err.Status != http.StatusNotFound {
		return err
	}
	if d := c.decide("s3:ListBucket", ""); !d.Allowed {
		return c.accessDenied("s3:ListBucket", "", d)
	}
	return err
}

func (c *call) objectHeaders(o *object) {
	h := c.w.Header()
	h.Set("Content-Type", "binary/octet-stream")
	maps.Copy(h, o.header)
	h.Set("Etag", o.etag)
	h.Set("Last-Modified", o.modified.Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	if o.version != "null" {
		h.Set("X-Amz-Version-Id", o.version)
	}
}

// precondition evaluates the conditional headers in the order of RFC 9110, section 13.2.2.
func (c *call) precondition(o *object) *Error {
	failed := func(condition string) *Error {
		return &Error{
			Status: 412, Code: "PreconditionFailed",
			Message: "At least one of the pre-conditions you specified did not hold",
			Detail:  map[string]string{"Condition": condition},
		}
	}
	match, since := c.r.Header.Get("If-Match"), c.r.Header.Get("If-Unmodified-Since")
	if match != "" && !etagListed(match, o.etag) {
		return failed("If-Match")
	}
	if t, err := http.ParseTime(since); match == "" && err == nil && o.modified.After(t) {
		return failed("If-Unmodified-Since")
	}
	none := c.r.Header.Get("If-None-Match")
	if none != "" && etagListed(none, o.etag) {
		return &Error{Status: 304, Code: "NotModified"}
	}
	if t, err := http.ParseTime(c.r.Header.Get("If-Modified-Since")); none == "" && err == nil && !o.modified.After(t) {
		return &Error{Status: 304, Code: "NotModified"}
	}
	return nil
}

// etagListed looks for an ETag, quotes or not, in a list of them or *.
func etagListed(list, etag string) bool {
	for candidate := range strings.SplitSeq(list, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.Trim(candidate, `"`) == strings.Trim(etag, `"`) {
			return true
		}
	}
	return false
}

// span finds out which bytes to send, from partNumber or Range.
func (c *call) span(o *object) (span, *Error) {
	size := o.content.Size()
	if c.PartNumber > 0 {
		return c.partSpan(o)
	}
	if c.Range == "" || c.fault.IgnoreRange {
		return span{0, size, false}, nil
	}
	off, n, ok := parseRange(c.Range, size)
	switch {
	case !ok: // S3 takes no notice of a Range it cannot read, or of several ranges
		return span{0, size, false}, nil
	case n == 0:
		return span{}, &Error{
			Status: 416, Code: "InvalidRange", Message: "The requested range is not satisfiable",
			Detail: map[string]string{"RangeRequested": c.Range, "ActualObjectSize": strconv.FormatInt(size, 10)},
			Header: http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}},
		}
	}
	return span{off, n, true}, nil
}

func (c *call) partSpan(o *object) (span, *Error) {
	sizes := o.partSizes
	if sizes == nil {
		sizes = []int64{o.content.Size()}
	}
	if c.PartNumber > len(sizes) {
		return span{}, refuse(416, "InvalidPartNumber", "The requested partnumber is not satisfiable")
	}
	if o.partSizes != nil {
		c.w.Header().Set("X-Amz-Mp-Parts-Count", strconv.Itoa(len(sizes)))
	}
	s := span{n: sizes[c.PartNumber-1], partial: true}
	for _, size := range sizes[:c.PartNumber-1] {
		s.off += size
	}
	return s, nil
}

// parseRange reads one byte range (RFC 9110, section 14.1.2) of an object. n is zero where it cannot be satisfied, and
// ok is false where it is not a single byte range.
func parseRange(header string, size int64) (off, n int64, ok bool) {
	text, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(text, "-")
	if !ok || !dash {
		return 0, 0, false
	}
	end := size - 1
	var errFirst, errLast error
	if first == "" {
		n, errLast = strconv.ParseInt(last, 10, 64)
		return max(size-n, 0), min(n, size), errLast == nil && n >= 0
	}
	if off, errFirst = strconv.ParseInt(first, 10, 64); last != "" {
		end, errLast = strconv.ParseInt(last, 10, 64)
	}
	if errFirst != nil || errLast != nil || off < 0 || last != "" && end < off {
		return 0, 0, false
	}
	return off, max(min(end, size-1)-off+1, 0), true
}

// checksumHeaders answers x-amz-checksum-mode for whole objects only: S3 keeps no checksum of a range.
func (c *call) checksumHeaders(o *object, part span) {
	if c.r.Header.Get("X-Amz-Checksum-Mode") != "ENABLED" || part.partial {
		return
	}
	for name, value := range o.checksums {
		c.w.Header().Set(name, value)
	}
}

// sendObject sends headers and body with whatever the fault does to them.
func (c *call) sendObject(o *object, part span) *Error {
	h, status := c.w.Header(), http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.off, part.off+part.n-1, o.content.Size()))
	}
	if c.fault.ContentRange != "" {
		h.Set("Content-Range", c.fault.ContentRange)
	}
	h.Set("Content-Length", strconv.FormatInt(max(part.n+c.fault.LengthDelta, 0), 10))
	if c.fault.LoseAnswer {
		reset(c.w)
	}
	c.Status = status
	c.w.WriteHeader(status)
	if c.r.Method == http.MethodHead {
		return nil
	}
	part.n += min(c.fault.LengthDelta, 0)
	if c.fault.Break != nil {
		c.sendBroken(o.content, part)
		return nil
	}
	if err := c.send(o.content, part); err != nil || c.fault.LengthDelta > 0 {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// sendBroken sends the bytes before the break, and breaks.
func (c *call) sendBroken(from content, part span) {
	part.n = min(part.n, c.fault.Break.After)
	if err := c.send(from, part); err != nil {
		panic(http.ErrAbortHandler)
	}
	http.NewResponseController(c.w).Flush()
	switch c.fault.Break.How {
	case Reset:
		reset(c.w)
	case Stall:
		c.stall()
	}
	panic(http.ErrAbortHandler)
}

// send writes a span of the content, paced and with a flipped bit where the fault says so.
func (c *call) send(from content, part span) error {
	step := part.n
	if c.fault.Bandwidth > 0 {
		step = max(c.fault.Bandwidth/100, 1) // a hundredth of a second's worth
	}
	start := time.Now()
	for sent := int64(0); sent < part.n; {
		n, err := c.write(from, part.off+sent, min(step, part.n-sent))
		sent += n
		c.BytesOut += n
		if err != nil {
			return err
		}
		if c.fault.Bandwidth > 0 && !c.pace(start, sent) {
			return c.r.Context().Err()
		}
	}
	return nil
}

// pace waits until sent bytes are due since start.
func (c *call) pace(start time.Time, sent int64) bool {
	due := time.Duration(float64(sent) / float64(c.fault.Bandwidth) * float64(time.Second))
	return delay(c.r.Context(), due-time.Since(start))
}

// write writes a range, straight from the content unless a byte of it is to be changed.
func (c *call) write(from content, off, n int64) (int64, error) {
	flip := c.fault.FlipByte
	if flip == nil || *flip < off || *flip >= off+n {
		return from.WriteRange(c.w, off, n)
	}
	written, err := from.WriteRange(c.w, off, *flip-off)
	if err != nil {
		return written, err
	}
	var b [1]byte
	if _, err := from.ReadAt(b[:], *flip); err != nil && err != io.EOF {
		return written, err
	}
	b[0] ^= 1
	if _, err := c.w.Write(b[:]); err != nil {
		return written, err
	}
	rest, err := from.WriteRange(c.w, *flip+1, off+n-*flip-1)
	return written + 1 + rest, err
}
