package testcloud

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/sealfetch/sealfetch/internal/testcloud/sigv4"
)

// Bounds of the aws-chunked framing.
const (
	maxChunk    = 1 << 30 // bytes; unsigned clients send the whole part as one chunk
	maxSigned   = 16 << 20
	maxTrailers = 16
)

var errFraming = errors.New("aws-chunked framing")

// chunkedReader decodes the aws-chunked content encoding ("Transferring payload in multiple chunks" in the S3 API
// reference) and collects the trailing headers, which are complete once Read has returned io.EOF.
type chunkedReader struct {
	src      *bufio.Reader
	chain    *sigv4.Chain // nil where the chunks are not signed
	trailers map[string]string

	pending io.Reader // of the present chunk
	left    int64     // bytes of the present chunk still in src, where it is not signed
	err     error
}

func newChunkedReader(r io.Reader, chain *sigv4.Chain) *chunkedReader {
	return &chunkedReader{src: bufio.NewReader(r), chain: chain, trailers: map[string]string{}}
}

// Read returns decoded bytes; of a signed chunk only after its signature is verified.
func (c *chunkedReader) Read(p []byte) (int, error) {
	for c.err == nil {
		if c.pending != nil {
			n, err := c.pending.Read(p)
			c.left -= int64(n)
			if n > 0 || len(p) == 0 {
				return n, nil
			}
			c.pending = nil
			if err != io.EOF || c.left > 0 {
				c.err = io.ErrUnexpectedEOF
			} else {
				c.err = c.expectCRLF()
			}
			continue
		}
		c.err = c.nextChunk()
	}
	return 0, c.err
}

func (c *chunkedReader) nextChunk() error {
	line, err := c.line()
	if err != nil {
		return err
	}
	digits, extension, _ := strings.Cut(line, ";")
	size, err := strconv.ParseInt(digits, 16, 64)
	if err != nil || size < 0 || size > maxChunk {
		return errFraming
	}
	signature, signed := strings.CutPrefix(extension, "chunk-signature=")
	if signed != (c.chain != nil) {
		return errFraming
	}
	if c.chain != nil {
		return c.signedChunk(size, signature)
	}
	if size == 0 {
		return c.readTrailers()
	}
	c.pending, c.left = io.LimitReader(c.src, size), size
	return nil
}

func (c *chunkedReader) signedChunk(size int64, signature string) error {
	if size > maxSigned {
		return errFraming
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(c.src, data); err != nil {
		return io.ErrUnexpectedEOF
	}
	if err := c.chain.Chunk(data, signature); err != nil {
		return err
	}
	if size == 0 {
		return c.readTrailers()
	}
	c.pending, c.left = bytes.NewReader(data), size
	return nil
}

// readTrailers reads up to the empty line that ends the stream. A signed stream's trailers end with their signature.
func (c *chunkedReader) readTrailers() error {
	var signedLines bytes.Buffer
	for range maxTrailers {
		line, err := c.line()
		if err != nil {
			return err
		}
		if line == "" {
			if c.chain != nil && signedLines.Len() > 0 {
				return sigv4.ErrMismatch
			}
			return io.EOF
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return errFraming
		}
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if name == "x-amz-trailer-signature" && c.chain != nil {
			if err := c.chain.Trailer(signedLines.Bytes(), value); err != nil {
				return err
			}
			signedLines.Reset()
			continue
		}
		signedLines.WriteString(name + ":" + value + "\n")
		c.trailers[name] = value
	}
	return errFraming
}

func (c *chunkedReader) expectCRLF() error {
	if line, err := c.line(); err != nil || line != "" {
		return errFraming
	}
	return nil
}

// line reads up to the line feed; a line longer than the reader's buffer is not one.
func (c *chunkedReader) line() (string, error) {
	line, err := c.src.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", errFraming
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}
