// Package target is the destination of a model: a directory in memory, checked for room before any key is asked for,
// written through a staging directory, and committed by renames once every byte is authentic.
//
// The destination must be a tmpfs, because plaintext that reaches a disk outlives the machine that was attested. Every
// name in it is resolved one component at a time beneath an open directory, and never through a symbolic link: the
// volume may hold whatever an earlier container of the pod put there.
package target

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Options says what a destination may be and how files are made. The zero Options is the strict one.
type Options struct {
	AllowDisk bool        // accept filesystems other than tmpfs
	FileMode  fs.FileMode // permission bits of files; 0 means 0644. Executable files get x wherever they have r
	DirMode   fs.FileMode // permission bits of directories; 0 means 0755. The owner's rwx must be among them
}

// Target is an open, locked destination directory. Its methods are safe for concurrent use; Close comes last.
type Target struct {
	path   string
	opts   Options
	root   *os.Root
	dir    *os.File // the same directory, for the system calls that os.Root has no method for
	magic  int64    // of the filesystem, see statfs(2)
	made   []string // directories that Open made, outermost first
	rename renamer
	once   sync.Once
}

// Open makes dir if it is absent, checks that it is a tmpfs this user may write, locks it against other runs, and
// removes what killed runs left in it. Errors are of kind fault.Destination, or fault.Usage for impossible options.
func Open(dir string, o Options) (*Target, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	path, err := absolute(dir)
	if err != nil {
		return nil, err
	}
	t := &Target{path: path, opts: o, rename: renameat2}
	for _, step := range []func() error{
		t.makeDirs, t.open, t.checkFilesystem, t.checkWritable, t.lock, t.checkSame, t.removeStale,
	} {
		if err := step(); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.FileMode == 0 {
		o.FileMode = 0o644
	}
	if o.DirMode == 0 {
		o.DirMode = 0o755
	}
	if (o.FileMode|o.DirMode)&^fs.ModePerm != 0 || o.DirMode&0o700 != 0o700 {
		return o, fault.New(fault.Usage, "give permission bits only, such as 0644, and let the owner enter directories",
			"file mode %#o, directory mode %#o", uint32(o.FileMode), uint32(o.DirMode))
	}
	return o, nil
}

func absolute(dir string) (string, error) {
	if dir == "" {
		return "", fault.New(fault.Usage, "name the directory the model is to appear in", "the destination is empty")
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", fault.New(fault.Destination, "give an absolute path", "destination %s: %w", dir, err)
	}
	return path, nil
}

// Dir returns the absolute path of the destination, for messages.
func (t *Target) Dir() string { return t.path }

// makeDirs makes the destination and its parents where they are absent.
func (t *Target) makeDirs() error {
	var absent []string
	for p := t.path; ; p = filepath.Dir(p) {
		_, err := os.Lstat(p)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return t.fail("looking for "+p, err)
		}
		absent = append([]string{p}, absent...)
	}
	for _, p := range absent {
		if err := os.Mkdir(p, t.opts.DirMode); err != nil {
			return t.fail("making "+p, err)
		}
		t.made = append(t.made, p)
		if err := t.setMode(p); err != nil {
			return t.fail("making "+p, err)
		}
	}
	return nil
}

// setMode gives a new directory the permissions that the umask, or a default ACL in its place, took from it. A
// set-group-ID bit stays: it hands Kubernetes' fsGroup down through a volume.
func (t *Target) setMode(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil || info.Mode().Perm() == t.opts.DirMode {
		return err
	}
	return os.Chmod(dir, t.opts.DirMode|info.Mode()&fs.ModeSetgid)
}

// open opens the destination. A symbolic link is refused: whoever planted it would choose where the plaintext goes.
func (t *Target) open() error {
	seen, err := os.Lstat(t.path)
	if err != nil {
		return t.fail("looking for "+t.path, err)
	}
	if seen.Mode()&fs.ModeSymlink != 0 {
		return fault.New(fault.Destination, "name the directory that the link leads to", "%s is a symbolic link", t.path)
	}
	if !seen.IsDir() {
		return fault.New(fault.Destination, "name a directory", "%s is not a directory", t.path)
	}
	if t.root, err = os.OpenRoot(t.path); err != nil {
		return t.fail("opening "+t.path, err)
	}
	if t.dir, err = t.root.Open("."); err != nil {
		return t.fail("opening "+t.path, err)
	}
	return nil
}

// checkSame finds out whether what was opened is what is locked: a link may have taken its place before it was opened,
// or the run that made it may have ended and removed it before it was locked.
func (t *Target) checkSame() error {
	opened, err := t.dir.Stat()
	if err != nil {
		return t.fail("looking at "+t.path, err)
	}
	if named, err := os.Lstat(t.path); err != nil || !os.SameFile(named, opened) {
		return fault.New(fault.Destination, "start again, and let nothing else change the destination",
			"%s was replaced while it was opened", t.path)
	}
	return nil
}

// checkWritable asks before the first key is asked for, not after.
func (t *Target) checkWritable() error {
	if err := unix.Faccessat(t.fd(), ".", unix.W_OK|unix.X_OK, 0); err != nil {
		return t.fail(fmt.Sprintf("writing to %s as UID %d", t.path, os.Getuid()), err)
	}
	return nil
}

// lock takes flock(2) on the directory itself: nothing has to be written for it, and the kernel gives it up with the
// process, however that ends.
func (t *Target) lock() error {
	err := ignoreEINTR(func() error { return unix.Flock(t.fd(), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fault.New(fault.Destination, "wait for the other run to end, or choose another destination",
			"another run is writing to %s", t.path)
	}
	if err != nil {
		return fault.New(fault.Destination, "choose a destination on a tmpfs or a local disk",
			"locking %s, a directory on %s: %w", t.path, filesystemName(t.magic), err)
	}
	return nil
}

// stagingPrefix starts the name of a staging directory, followed by stagingDigits lower-case hexadecimal digits.
const (
	stagingPrefix = ".sealfetch-"
	stagingDigits = 16
)

func isStagingName(name string) bool {
	digits, ok := strings.CutPrefix(name, stagingPrefix)
	return ok && len(digits) == stagingDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// removeStale removes staging directories of runs that were killed. While the lock is held, there are no others.
func (t *Target) removeStale() error {
	var stale []string
	err := t.entries(func(e fs.DirEntry) bool {
		if e.IsDir() && isStagingName(e.Name()) {
			stale = append(stale, e.Name())
		}
		return true
	})
	if err != nil {
		return t.fail("reading "+t.path, err)
	}
	for _, name := range stale {
		if err := t.root.RemoveAll(name); err != nil {
			return t.fail(fmt.Sprintf("removing %s of an earlier run from %s", name, t.path), err)
		}
	}
	return nil
}

// entries calls yield for each entry of the destination, in the order of the directory, until it returns false.
func (t *Target) entries(yield func(fs.DirEntry) bool) error {
	d, err := t.root.Open(".") // of its own: a directory that was read once is at its end
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		batch, err := d.ReadDir(256)
		for _, e := range batch {
			if !yield(e) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Close gives up the lock, and removes the directories that Open made if they are empty. Targets are closed in the
// reverse order of their opening. It may be called on nil and more than once.
func (t *Target) Close() {
	if t == nil {
		return
	}
	t.once.Do(func() {
		t.removeMade()
		if t.dir != nil {
			_ = t.dir.Close()
		}
		if t.root != nil {
			_ = t.root.Close()
		}
	})
}

// removeMade takes back what makeDirs made. rmdir(2) removes neither files nor links nor anything that is not empty.
func (t *Target) removeMade() {
	for i := len(t.made) - 1; i >= 0; i-- {
		_ = unix.Rmdir(t.made[i])
	}
}

// fd is valid until Close.
func (t *Target) fd() int { return int(t.dir.Fd()) }

// ignoreEINTR repeats a system call that a signal interrupted, which network and FUSE filesystems let happen.
func ignoreEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
