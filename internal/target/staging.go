package target

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const (
	// maxDirs bounds the directories of a model. A manifest has no more files, but deep paths could make of each file
	// hundreds of directories, which take inodes and kernel memory that no size in the manifest speaks of.
	maxDirs = 100_000
	// maxOpenDirs bounds the directory handles kept from one Create to the next. Files come in the order of their
	// paths, so that few directories are in use at a time.
	maxOpenDirs = 64
)

type stage uint8

const (
	staged stage = iota
	committed
	discarded
)

// Staging is an uncommitted model inside its destination. Its methods are safe for concurrent use.
type Staging struct {
	target  *Target
	name    string      // of the staging directory in the destination
	masked  fs.FileMode // permission bits that new files and directories do not get by asking for them
	setgid  fs.FileMode // fs.ModeSetgid if new directories inherit it
	writing atomic.Int64

	mu      sync.Mutex // guards what follows
	stage   stage
	root    *os.File            // the staging directory
	dirs    map[string]*os.File // handles of directories in it, by path
	made    int                 // directories in it, ever
	entries map[string]struct{} // its top level
	moved   []move              // those in their place already
}

// Stage makes an empty staging directory that no other user can enter.
func (t *Target) Stage() (*Staging, error) {
	s := &Staging{target: t, dirs: map[string]*os.File{}, entries: map[string]struct{}{}}
	var random [stagingDigits / 2]byte
	rand.Read(random[:]) // never fails, as of Go 1.24
	s.name = stagingPrefix + hex.EncodeToString(random[:])
	if err := t.root.Mkdir(s.name, 0o700); err != nil {
		return nil, t.fail("making a staging directory in "+t.path, err)
	}
	if err := s.open(); err != nil {
		_ = s.Discard()
		return nil, t.fail("opening a staging directory in "+t.path, err)
	}
	return s, nil
}

func (s *Staging) open() error {
	root := s.target.root
	info, err := root.Lstat(s.name)
	if err != nil {
		return err
	}
	s.setgid = info.Mode() & fs.ModeSetgid
	if info.Mode().Perm() != 0o700 {
		if err := root.Chmod(s.name, 0o700|s.setgid); err != nil {
			return err
		}
	}
	if s.root, err = openDir(s.target.dir, s.name); err != nil {
		return err
	}
	s.masked, err = maskedBits(s.root)
	return err
}

// maskedBits finds out which permission bits the umask, or a default ACL in its place, takes from new files. Asking
// once with a file of all bits spares each file an fchmod(2), and the process a change of its umask.
func maskedBits(dir *os.File) (fs.FileMode, error) {
	const name = "mode"
	f, err := createFile(dir, name, fs.ModePerm)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fs.ModePerm &^ info.Mode(), unix.Unlinkat(int(dir.Fd()), name, 0)
}

// Create makes a file of size bytes, all zero yet, and the directories it is in. The path is slash-separated and
// relative, in the sense of fs.ValidPath; it must not exist, and its first element must not begin with ".sealfetch-".
// An error is of kind fault.Format for a path that a model cannot have, else fault.Destination.
func (s *Staging) Create(name string, size int64, exec bool) (*File, error) {
	if err := checkPath(name); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, fault.New(fault.Format, "publish the model again", "file %q has a size of %d", name, size)
	}
	file, err := s.create(name, s.fileMode(exec))
	if err != nil {
		return nil, s.createFailed(name, err)
	}
	f := &File{staging: s, name: name, size: size, file: file}
	if f.conn, err = file.SyscallConn(); err == nil && size > 0 {
		err = file.Truncate(size)
	}
	if err != nil {
		_ = f.Close()
		return nil, s.createFailed(name, err)
	}
	return f, nil
}

func checkPath(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) || strings.HasPrefix(name, stagingPrefix) {
		return fault.New(fault.Format, "publish the model again without this file", "a model cannot have the path %q", name)
	}
	return nil
}

func (s *Staging) fileMode(exec bool) fs.FileMode {
	mode := s.target.opts.FileMode
	if exec {
		mode |= (mode & 0o444) >> 2
	}
	return mode
}

var errEnded = errors.New("staging has ended")

func (s *Staging) createFailed(name string, err error) error {
	switch {
	case errors.Is(err, errEnded):
		return fmt.Errorf("creating %q: %w", name, err)
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, errTooManyDirs):
		return fault.New(fault.Format, "publish the model again", "creating %q: %w", name, err)
	default:
		return s.target.fail(fmt.Sprintf("creating %q", name), err)
	}
}

// create opens a new file. The lock is held for three system calls at most, but for the first file of a directory.
func (s *Staging) create(name string, mode fs.FileMode) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage != staged {
		return nil, errEnded
	}
	if len(s.dirs) > maxOpenDirs {
		s.closeDirs()
	}
	dir, err := s.dir(path.Dir(name))
	if err != nil {
		return nil, err
	}
	f, err := createFile(dir, path.Base(name), mode)
	if err != nil {
		return nil, err
	}
	if mode&s.masked != 0 {
		if err := f.Chmod(mode); err != nil {
			f.Close()
			return nil, err
		}
	}
	top, _, _ := strings.Cut(name, "/")
	s.entries[top] = struct{}{}
	s.writing.Add(1)
	return f, nil
}

// dir returns a handle of a directory, made if it is absent, as its parents are. Its depth is that of the path, half
// the path's length at most.
func (s *Staging) dir(name string) (*os.File, error) {
	if name == "." {
		return s.root, nil
	}
	if d, ok := s.dirs[name]; ok {
		return d, nil
	}
	parent, err := s.dir(path.Dir(name))
	if err != nil {
		return nil, err
	}
	d, err := s.makeDir(parent, path.Base(name))
	if err != nil {
		return nil, err
	}
	s.dirs[name] = d
	return d, nil
}

var errTooManyDirs = fmt.Errorf("a model has at most %d directories", maxDirs)

// makeDir makes a directory, or opens the one of that name; a file or a link of that name is an error.
func (s *Staging) makeDir(parent *os.File, name string) (*os.File, error) {
	mode := s.target.opts.DirMode
	err := ignoreEINTR(func() error { return unix.Mkdirat(int(parent.Fd()), name, uint32(mode)) })
	if err == nil {
		if s.made++; s.made > maxDirs {
			return nil, errTooManyDirs
		}
		if mode&s.masked != 0 {
			err = chmodDir(parent, name, mode|s.setgid)
		}
	}
	if err != nil && err != unix.EEXIST {
		return nil, err
	}
	return openDir(parent, name)
}

// chmodDir must come before the directory can be opened, since the umask may take the owner's bits too. It follows
// links, but the staging directory is closed to others.
func chmodDir(parent *os.File, name string, mode fs.FileMode) error {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	return unix.Fchmodat(int(parent.Fd()), name, bits, 0)
}

func (s *Staging) closeDirs() {
	for name, d := range s.dirs {
		_ = d.Close()
		delete(s.dirs, name)
	}
}

// openDir opens a directory by a name without slashes, and nothing but a directory.
func openDir(parent *os.File, name string) (*os.File, error) {
	return openAt(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// createFile makes a file by a name without slashes; it is an error if there is anything of that name.
func createFile(dir *os.File, name string, mode fs.FileMode) (*os.File, error) {
	return openAt(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, uint32(mode))
}

func openAt(dir *os.File, name string, flags int, mode uint32) (f *os.File, err error) {
	err = ignoreEINTR(func() error {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return f, err
}

// Discard removes everything staged, and the destination directory too where Open made it: then nothing more can be
// staged there. After Commit it does nothing, so that it may be deferred. It may be called on nil, more than once, and
// while files are being written: those writes go to files without a name.
func (s *Staging) Discard() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == committed {
		return nil
	}
	s.stage = discarded
	if err := s.remove(); err != nil {
		return s.target.fail(fmt.Sprintf("removing %s from %s", s.name, s.target.path), err)
	}
	s.target.removeMade()
	return nil
}

// remove removes the staging directory and what is in it.
func (s *Staging) remove() error {
	s.closeDirs()
	if s.root != nil {
		_ = s.root.Close()
		s.root = nil
	}
	return s.target.root.RemoveAll(s.name)
}
