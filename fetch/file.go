package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// fileSource reads a model from a directory.
type fileSource struct {
	uri  URI
	root *os.Root
}

func openFiles(u URI) (*fileSource, error) {
	root, err := os.OpenRoot(u.Path)
	if err != nil {
		return nil, fileError(u, "", err)
	}
	return &fileSource{u, root}, nil
}

func (s *fileSource) String() string { return s.uri.String() }

func (s *fileSource) Close() error { return s.root.Close() }

// Get opens a range of a file. The pin is made of size and modification time.
func (s *fileSource) Get(_ context.Context, r Range) (*Body, error) {
	// Without O_NONBLOCK the opening of a FIFO would wait for a writer, past every timeout.
	f, err := s.root.OpenFile(r.Name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(s.uri, r.Name, err)
	}
	body, err := s.body(f, r)
	if err != nil {
		f.Close()
	}
	return body, err
}

func (s *fileSource) body(f *os.File, r Range) (*Body, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fileError(s.uri, r.Name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fileError(s.uri, r.Name, errors.New("not a regular file"))
	}
	size := info.Size()
	pin := filePin(info)
	if r.Pin != (Pin{}) && r.Pin != pin {
		return nil, changed(r.Name, s)
	}
	if r.whole() {
		r.Len = size
	}
	section := io.NewSectionReader(f, r.Off, r.Len)
	return &Body{ReadCloser: readCloser{section, f}, Off: r.Off, Len: r.Len, Size: size, Pin: pin}, nil
}

func filePin(info fs.FileInfo) Pin {
	return Pin{ETag: fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())}
}

type readCloser struct {
	io.Reader
	io.Closer
}

func fileError(u URI, name string, err error) error {
	hint := "check the path"
	if errors.Is(err, fs.ErrPermission) {
		hint = "make it readable for the user that sealfetch runs as"
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	where := u.String()
	if name != "" {
		where = name + " at " + where
	}
	return fault.New(fault.Access, hint, "%s: %w", where, err)
}
