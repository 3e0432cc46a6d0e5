package testcloud

import (
	"encoding/base64"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const maxListed = 1000

// listing is the answer of ListObjectsV2 and of ListObjects, whose fields differ in names only.
type listing struct {
	XMLName               xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ListBucketResult"`
	Name                  string
	Prefix                string
	Delimiter             string `xml:",omitempty"`
	StartAfter            string `xml:",omitempty"`
	Marker                string `xml:",omitempty"`
	ContinuationToken     string `xml:",omitempty"`
	NextContinuationToken string `xml:",omitempty"`
	NextMarker            string `xml:",omitempty"`
	KeyCount              int
	MaxKeys               int
	EncodingType          string `xml:",omitempty"`
	IsTruncated           bool
	Contents              []listed
	CommonPrefixes        []commonPrefix
}

type listed struct {
	Key          string
	LastModified string
	ETag         string
	Size         int64
	StorageClass string
}

type commonPrefix struct{ Prefix string }

// listObjects serves both versions of the operation.
func (c *call) listObjects() *Error {
	q := c.query
	page := listing{
		Name: c.Bucket, Prefix: q.Get("prefix"), Delimiter: q.Get("delimiter"), StartAfter: q.Get("start-after"),
		Marker: q.Get("marker"), ContinuationToken: q.Get("continuation-token"), MaxKeys: maxListed,
	}
	if text := q.Get("max-keys"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return refuse(400, "InvalidArgument", "Provided max-keys not an integer or out of range")
		}
		page.MaxKeys = min(n, maxListed)
	}
	after := max(page.StartAfter, page.Marker)
	if page.ContinuationToken != "" {
		token, err := base64.URLEncoding.DecodeString(page.ContinuationToken)
		if err != nil {
			return refuse(400, "InvalidArgument", "The continuation token provided is incorrect")
		}
		after = string(token)
	}
	last := page.fill(c.bucket, after)
	if page.IsTruncated && c.Op == "ListObjectsV2" {
		page.NextContinuationToken = base64.URLEncoding.EncodeToString([]byte(last))
	} else if page.IsTruncated {
		page.NextMarker = last
	}
	if q.Get("encoding-type") == "url" {
		page.encode()
	}
	c.replyXML(http.StatusOK, page)
	return nil
}

// fill adds the keys and common prefixes that sort behind after, and returns the last one it added.
func (l *listing) fill(b *Bucket, after string) (last string) {
	for _, key := range b.Keys() {
		entry, folded := l.fold(key)
		if !strings.HasPrefix(key, l.Prefix) || entry <= after || folded && entry == last {
			continue
		}
		if l.KeyCount == l.MaxKeys {
			l.IsTruncated = l.MaxKeys > 0
			return last
		}
		o := b.current(key)
		if o == nil {
			continue // deleted meanwhile
		}
		l.KeyCount, last = l.KeyCount+1, entry
		if folded {
			l.CommonPrefixes = append(l.CommonPrefixes, commonPrefix{entry})
			continue
		}
		l.Contents = append(l.Contents, listed{
			key, o.modified.Format(time.RFC3339), o.etag, o.content.Size(), "STANDARD",
		})
	}
	return last
}

// fold returns the common prefix that a key falls under, or the key itself.
func (l *listing) fold(key string) (entry string, folded bool) {
	rest, ok := strings.CutPrefix(key, l.Prefix)
	if !ok || l.Delimiter == "" {
		return key, false
	}
	if i := strings.Index(rest, l.Delimiter); i >= 0 {
		return l.Prefix + rest[:i+len(l.Delimiter)], true
	}
	return key, false
}

// encode applies encoding-type=url, which keeps keys that XML cannot hold apart.
func (l *listing) encode() {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "%2F", "/") }
	l.EncodingType = "url"
	for _, field := range []*string{&l.Prefix, &l.Delimiter, &l.StartAfter, &l.Marker, &l.NextMarker} {
		*field = escape(*field)
	}
	for i := range l.Contents {
		l.Contents[i].Key = escape(l.Contents[i].Key)
	}
	for i := range l.CommonPrefixes {
		l.CommonPrefixes[i].Prefix = escape(l.CommonPrefixes[i].Prefix)
	}
}
