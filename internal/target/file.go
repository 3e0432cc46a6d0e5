package target

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is a file being written. WriteAt and WriteVec are safe for concurrent use.
type File struct {
	staging *Staging
	name    string
	size    int64
	file    *os.File
	conn    syscall.RawConn
	closed  atomic.Bool
}

// WriteAt writes b at an offset; writing beyond the size the file was created with is an error.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	if err := f.checkRange(int64(len(b)), off); err != nil {
		return 0, err
	}
	n, err := f.file.WriteAt(b, off)
	return n, f.failed(err)
}

// ReadAt reads back what was written, as io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (int, error) { return f.file.ReadAt(b, off) }

// WriteVec writes the buffers one after the other from an offset on, with as few system calls as the kernel allows:
// one for up to 1,024 buffers (pwritev(2)). It does not change bufs. The count is of bytes, over all buffers.
func (f *File) WriteVec(bufs [][]byte, off int64) (int, error) {
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	if err := f.checkRange(total, off); err != nil {
		return 0, err
	}
	done := 0
	var failure error
	// Control, not Write: it holds the file open, but does not make writers wait for one another.
	err := f.conn.Control(func(fd uintptr) { done, failure = writeAll(int(fd), bufs, off, unix.Pwritev) })
	return done, f.failed(errors.Join(err, failure))
}

// maxBuffers is IOV_MAX of Linux.
const maxBuffers = 1024

// writeAll repeats write until it has taken all buffers: it takes at most maxBuffers at once, about 2 GiB, and what
// room there is.
func writeAll(fd int, bufs [][]byte, off int64, write func(int, [][]byte, int64) (int, error)) (int, error) {
	done := 0
	for {
		bufs = skip(bufs, 0)
		if len(bufs) == 0 {
			return done, nil
		}
		n, err := write(fd, bufs[:min(len(bufs), maxBuffers)], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n <= 0:
			return done, unix.EIO // as package os: a file that takes nothing and says nothing
		}
		done += n
		bufs = skip(bufs, n)
	}
}

// skip returns what is left of the buffers after n bytes and any empty buffers, in a slice of its own if one is cut.
func skip(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n == 0 {
		return bufs
	}
	return append([][]byte{bufs[0][n:]}, bufs[1:]...)
}

// checkRange keeps a file at the size that the room was checked for, whatever its writer believes.
func (f *File) checkRange(length, off int64) error {
	if off < 0 || off > f.size || length > f.size-off {
		return fmt.Errorf("writing %q: %d bytes at %d are beyond its %d bytes", f.name, length, off, f.size)
	}
	return nil
}

func (f *File) failed(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("writing %q: %w", f.name, os.ErrClosed) // a defect of the caller, not of the destination
	}
	return f.staging.target.fail(fmt.Sprintf("writing %q", f.name), err)
}

// Close closes the file. It may be called more than once.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	f.staging.writing.Add(-1)
	return f.failed(f.file.Close())
}
