package testcloud

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealfetch/sealfetch/internal/testcloud/sigv4"
)

// maxBody is S3's limit of one PUT, in bytes.
const maxBody = 5 << 30

// crc64NVME is the polynomial of CRC-64/NVME, reflected.
const crc64NVME = 0x9a6c9329ac4bc9b5

// checksumHeader is the common beginning of the headers and trailers that carry checksums.
const checksumHeader = "x-amz-checksum-"

// newChecksum returns the hash behind x-amz-checksum-NAME, or nil for a name not known here.
func newChecksum(name string) hash.Hash {
	switch strings.ToLower(name) {
	case "crc32":
		return crc32.NewIEEE()
	case "crc32c":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "crc64nvme":
		return crc64.New(crc64.MakeTable(crc64NVME))
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	}
	return nil
}

// received is an uploaded body that passed every check the client asked for.
type received struct {
	content   content
	md5       []byte            // nil under opaque ETags
	checksums map[string]string // header name -> base64
}

// etag is S3's for a plain upload.
func (b *received) etag() string {
	if b.md5 == nil {
		return `"` + randomETag() + `"`
	}
	return `"` + hex.EncodeToString(b.md5) + `"`
}

// receive reads the request's body and checks it against length, SHA-256, MD5 and checksum, in headers or trailers.
func (c *call) receive() (*received, *Error) {
	body, chunked, failure := c.bodyReader()
	if failure != nil {
		return nil, failure
	}
	sums, failure := c.bodyHashes()
	if failure != nil {
		return nil, failure
	}
	writers := make([]io.Writer, 0, len(sums))
	for _, h := range sums {
		writers = append(writers, h)
	}
	stored, err := c.spool(io.TeeReader(body, io.MultiWriter(writers...)))
	if err != nil {
		return nil, bodyError(err)
	}
	c.BytesIn = stored.Size()
	if chunked != nil {
		if want := c.r.Header.Get("X-Amz-Decoded-Content-Length"); want != fmt.Sprint(c.BytesIn) {
			return nil, refuse(400, "IncompleteBody", "decoded length is not as announced")
		}
	}
	return c.checkBody(stored, sums, chunked)
}

// bodyReader undoes aws-chunked. The reader it returns beside is nil where there is nothing to undo.
func (c *call) bodyReader() (io.Reader, *chunkedReader, *Error) {
	var body io.Reader = http.MaxBytesReader(c.w, c.r.Body, maxBody+(1<<20))
	if b := c.fault.Break; b != nil {
		body = &brokenReader{body, b.After, c}
	}
	switch kind := c.r.Header.Get("X-Amz-Content-Sha256"); {
	case !strings.HasPrefix(kind, "STREAMING-"):
		if c.r.ContentLength < 0 {
			return nil, nil, refuse(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
		}
		return body, nil, nil
	case kind == "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
		chunked := newChunkedReader(body, nil)
		return chunked, chunked, nil
	case kind == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" || kind == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER":
		if c.cred == nil {
			return nil, nil, refuse(403, "AccessDenied", "signed chunks without a signature")
		}
		chunked := newChunkedReader(body, c.sig.Chain(c.cred.SecretAccessKey))
		return chunked, chunked, nil
	}
	return nil, nil, refuse(400, "InvalidRequest", "x-amz-content-sha256 must be a known kind")
}

// brokenReader lets some bytes of an upload pass and then ends the connection.
type brokenReader struct {
	io.Reader
	left int64
	call *call
}

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.call.Status = http.StatusOK // the answer that never comes
		if b.call.fault.Break.How == Stall {
			b.call.stall()
		}
		reset(b.call.w)
	}
	n, err := b.Reader.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// bodyHashes returns the hashes to compute over the body, by the name of the header they answer to.
func (c *call) bodyHashes() (map[string]hash.Hash, *Error) {
	sums := map[string]hash.Hash{}
	if kind := c.r.Header.Get("X-Amz-Content-Sha256"); len(kind) == hex.EncodedLen(sha256.Size) {
		sums["x-amz-content-sha256"] = sha256.New()
	}
	if !c.s3.cloud.opts.OpaqueETags || c.r.Header.Get("Content-Md5") != "" {
		sums["content-md5"] = md5.New()
	}
	names := strings.Split(c.r.Header.Get("X-Amz-Trailer"), ",")
	for name := range c.r.Header {
		names = append(names, name)
	}
	for _, name := range names {
		name = strings.ToLower(strings.TrimSpace(name))
		algorithm, ok := strings.CutPrefix(name, checksumHeader)
		if !ok || algorithm == "type" || algorithm == "algorithm" {
			continue
		}
		h := newChecksum(algorithm)
		if h == nil {
			return nil, refuse(400, "InvalidRequest", "checksum algorithm not known: "+algorithm)
		}
		sums[name] = h
	}
	return sums, nil
}

// checkBody compares every hash with what the client sent.
func (c *call) checkBody(stored content, sums map[string]hash.Hash, chunked *chunkedReader) (*received, *Error) {
	body := &received{content: stored, checksums: map[string]string{}}
	for name, h := range sums {
		sum := h.Sum(nil)
		sent := c.r.Header.Get(name)
		if sent == "" && chunked != nil {
			sent = chunked.trailers[name]
		}
		switch {
		case name == "x-amz-content-sha256":
			if sent != hex.EncodeToString(sum) {
				return nil, refuse(400, "XAmzContentSHA256Mismatch",
					"The provided 'x-amz-content-sha256' header does not match what was computed.")
			}
			continue
		case name == "content-md5":
			body.md5 = sum
			if sent == "" {
				continue
			}
		}
		if sent != base64.StdEncoding.EncodeToString(sum) {
			return nil, refuse(400, "BadDigest", "The "+name+" you specified did not match what we received.")
		}
		if strings.HasPrefix(name, checksumHeader) {
			body.checksums[http.CanonicalHeaderKey(name)] = sent
			c.w.Header().Set(name, sent)
		}
	}
	if c.s3.cloud.opts.OpaqueETags {
		body.md5 = nil
	}
	return body, nil
}

func bodyError(err error) *Error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, sigv4.ErrMismatch):
		return signatureError(err)
	case errors.As(err, &tooLarge):
		return refuse(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
	case errors.Is(err, errFraming):
		return refuse(400, "InvalidRequest", "The body is not aws-chunked.")
	}
	return refuse(400, "IncompleteBody",
		"You did not provide the number of bytes specified by the Content-Length HTTP header")
}

// spool stores a body in memory, or in a file of DataDir.
func (c *call) spool(body io.Reader) (content, error) {
	dir := c.s3.cloud.opts.DataDir
	if dir == "" {
		var buf bytes.Buffer
		buf.Grow(int(min(max(c.r.ContentLength, 0), 64<<20)) + bytes.MinRead)
		_, err := buf.ReadFrom(body)
		return bytesContent(buf.Bytes()), err
	}
	f, err := os.Create(filepath.Join(dir, c.ID))
	if err != nil {
		return nil, err
	}
	n, err := io.CopyBuffer(onlyWriter{f}, body, make([]byte, 256<<10))
	return fileContent{f.Name(), n}, errors.Join(err, f.Close())
}
