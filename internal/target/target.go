// Package target is the destination of a model: a directory in memory, checked for room before any key is asked for,
// written through a staging directory, and committed by renames once every byte is authentic.
//
// The destination must be a tmpfs, because plaintext that reaches a disk outlives the machine that was attested. Paths
// are resolved one component at a time beneath a directory handle and never through a symbolic link.
package target

import (
	"errors"
	"io/fs"
)

var errNotYet = errors.New("target: not written yet")

// Options says what a destination may be and how files are made. The zero Options is the strict one.
type Options struct {
	AllowDisk bool        // accept filesystems other than tmpfs
	FileMode  fs.FileMode // permission bits of files; 0 means 0644. Executable files get x wherever they have r
	DirMode   fs.FileMode // permission bits of directories; 0 means 0755. The owner's rwx must be among them
}

// Target is an open, locked destination directory. Its methods are safe for concurrent use; Close comes last.
type Target struct{}

// Need is what a model takes at its destination.
type Need struct {
	Bytes int64 // plaintext bytes over all files
	Files int   // files, plus the directories they need where those are known
}

// Claim is one model's need at one destination.
type Claim struct {
	Target *Target
	Need   Need
}

// Open makes dir if it is absent, checks it and locks it against other runs.
// All errors are of kind fault.Destination, or fault.Usage for impossible options.
func Open(dir string, o Options) (*Target, error) { return nil, errNotYet }

// Close gives up the lock, and removes the directories that Open made if they are empty. Targets are closed in the
// reverse order of their opening. It may be called on nil and more than once.
func (t *Target) Close() {}

// Dir returns the absolute path of the destination, for messages.
func (t *Target) Dir() string { return "" }

// Room checks that one model fits: CheckRoom for a single claim.
func (t *Target) Room(n Need) error { return CheckRoom(Claim{t, n}) }

// CheckRoom checks that all claims together fit into their mounts and into the memory limit of this process' cgroup.
// Every bound that is not met is in the one error, of kind fault.Destination, with the setting that would meet it.
func CheckRoom(claims ...Claim) error { return errNotYet }

// Staging is an uncommitted model inside its destination. Its methods are safe for concurrent use.
type Staging struct{}

// Stage makes an empty staging directory, readable by this user alone.
func (t *Target) Stage() (*Staging, error) { return nil, errNotYet }

// Create makes a file of size bytes, all zero yet, and the directories it is in. The path is slash-separated and
// relative; it must not exist. An error is of kind fault.Format for an impossible path, else fault.Destination.
func (s *Staging) Create(path string, size int64, exec bool) (*File, error) { return nil, errNotYet }

// Commit moves the model into the destination, replacing entries of the same names. Every File must be closed.
// After an error the destination is as it was before. Commit may be called once.
func (s *Staging) Commit() error { return errNotYet }

// Discard removes everything staged, and the destination directory too where Open made it. After Commit it does
// nothing, so that it may be deferred. It may be called on nil, more than once, and while files are being written.
func (s *Staging) Discard() error { return errNotYet }

// Foreign names entries of the destination that this model does not have, some of them where there are many.
func (s *Staging) Foreign() []string { return nil }

// File is a file being written. WriteAt and WriteVec are safe for concurrent use.
type File struct{}

// WriteAt writes b at an offset; writing beyond the size the file was created with is an error.
func (f *File) WriteAt(b []byte, off int64) (int, error) { return 0, errNotYet }

// WriteVec writes the buffers one after the other from an offset on, with as few system calls as the kernel allows.
func (f *File) WriteVec(bufs [][]byte, off int64) (int, error) { return 0, errNotYet }

// Close closes the file.
func (f *File) Close() error { return errNotYet }
