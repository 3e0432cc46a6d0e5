package testcloud

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// content is the bytes of an object.
type content interface {
	io.ReaderAt
	Size() int64
	// WriteRange writes n bytes from off to w, by sendfile where it can.
	WriteRange(w io.Writer, off, n int64) (int64, error)
}

type bytesContent []byte

func (c bytesContent) Size() int64 { return int64(len(c)) }

func (c bytesContent) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(c).ReadAt(p, off)
}

func (c bytesContent) WriteRange(w io.Writer, off, n int64) (int64, error) {
	written, err := w.Write(c[off : off+n])
	return int64(written), err
}

// fileContent opens its file anew for each range: concurrent requests share no offset.
type fileContent struct {
	path string
	size int64
}

func (c fileContent) Size() int64 { return c.size }

func (c fileContent) ReadAt(p []byte, off int64) (int, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

func (c fileContent) WriteRange(w io.Writer, off, n int64) (int64, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	return io.CopyN(w, f, n)
}

type lazyContent struct {
	io.ReaderAt
	size int64
}

func (c lazyContent) Size() int64 { return c.size }

func (c lazyContent) WriteRange(w io.Writer, off, n int64) (int64, error) {
	return io.CopyBuffer(onlyWriter{w}, io.NewSectionReader(c.ReaderAt, off, n), make([]byte, min(n, 1<<20)+1))
}

// onlyWriter hides ReadFrom, which would ignore the buffer.
type onlyWriter struct{ io.Writer }

// joined is a multipart object: its parts one after the other.
type joined []content

func (c joined) Size() int64 {
	var n int64
	for _, part := range c {
		n += part.Size()
	}
	return n
}

func (c joined) ReadAt(p []byte, off int64) (int, error) {
	read := 0
	for _, part := range c {
		size := part.Size()
		if off >= size {
			off -= size
			continue
		}
		n, err := part.ReadAt(p[read:read+int(min(int64(len(p)-read), size-off))], off)
		read += n
		if off = 0; err != nil && err != io.EOF || read == len(p) {
			return read, err
		}
	}
	return read, io.EOF
}

func (c joined) WriteRange(w io.Writer, off, n int64) (int64, error) {
	var total int64
	for _, part := range c {
		size := part.Size()
		if off >= size {
			off -= size
			continue
		}
		take := min(n-total, size-off)
		written, err := part.WriteRange(w, off, take)
		total += written
		if off = 0; err != nil || total == n {
			return total, err
		}
	}
	if total < n {
		return total, fmt.Errorf("content ends %d bytes early", n-total)
	}
	return total, nil
}
