package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// onDisk opens a target wherever the test's own directory is: most of the package does not care.
var onDisk = Options{AllowDisk: true}

func open(t *testing.T, dir string, o Options) *Target {
	t.Helper()
	d, err := Open(dir, o)
	if err != nil {
		t.Fatalf("%v (%s)", err, fault.Hint(err))
	}
	t.Cleanup(d.Close)
	return d
}

func stageIn(t *testing.T, dir string) *Staging {
	t.Helper()
	s, err := open(t, dir, onDisk).Stage()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put creates a whole file.
func put(t *testing.T, s *Staging, name, content string) {
	t.Helper()
	f, err := s.Create(name, int64(len(content)), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// wantFault checks an error's kind, that its text and its hint name things, and returns the text.
func wantFault(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Fatalf("error = %v, kind %d, want kind %d", err, fault.Of(err), kind)
	}
	if fault.Hint(err) == "" {
		t.Errorf("no cure for: %v", err)
	}
	for _, w := range words {
		if all := err.Error() + "\nhint: " + fault.Hint(err); !strings.Contains(all, w) {
			t.Errorf("no %q in: %s", w, all)
		}
	}
}

// tree is a directory's content: paths with mode and content, links with where they lead.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			found[rel+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			found[rel] = "-> " + to
		default:
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			found[rel] = fmt.Sprintf("%o %s", info.Mode().Perm(), content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func wantTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	for p, w := range want {
		if g, ok := got[p]; !ok || g != w {
			t.Errorf("%s is %q (there: %v), want %q", p, g, ok, w)
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s is there: %q", p, g)
		}
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// workDir returns a directory for tests of many files: in memory if possible.
func workDir(t *testing.T) string {
	t.Helper()
	if dir, err := os.MkdirTemp("/dev/shm", "target-test-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

// tmpfsDir returns a directory in /dev/shm, and skips where that is no tmpfs.
func tmpfsDir(t testing.TB) string {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err != nil || magic(st) != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is not a tmpfs here")
	}
	dir, err := os.MkdirTemp("/dev/shm", "target-test-")
	if err != nil {
		t.Skipf("/dev/shm is not writable here: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// diskDir returns a directory that is not on a tmpfs, and skips where there is none.
func diskDir(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "."} {
		var st unix.Statfs_t
		if err := unix.Statfs(parent, &st); err != nil || magic(st) == unix.TMPFS_MAGIC {
			continue
		}
		if dir, err := os.MkdirTemp(parent, "target-test-"); err == nil {
			t.Cleanup(func() { os.RemoveAll(dir) })
			return dir
		}
	}
	t.Skip("there is no directory on a disk here")
	return ""
}

const childVariable = "TARGET_TEST_CHILD"

// asChild runs the rest of the test that calls it in a process of its own, with attributes, and reports whether this
// is that process. It skips where the kernel does not let this user have such a process.
func asChild(t *testing.T, attr *syscall.SysProcAttr) bool {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true
	}
	// /proc/self/exe, because a user of less rights cannot reach the test's binary by its path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	cmd.SysProcAttr = attr
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		t.Skipf("no such process here: %v", err)
	}
	err := cmd.Wait()
	switch out := text.String(); {
	case err != nil:
		t.Fatalf("child: %v\n%s", err, out)
	case strings.Contains(out, "--- SKIP"):
		t.Skipf("child: %s", out)
	case !strings.Contains(out, "--- PASS: "+t.Name()):
		t.Fatalf("the child did not run the test:\n%s", out)
	}
	return false
}

// mountNamespace gives a child mounts of its own: as root at once, as another user through a user namespace.
func mountNamespace() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// nobody gives a child the rights of a user who owns nothing.
func nobody(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv(childVariable) == "" {
		t.Skip("needs root, to become another user")
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// mountTmpfs mounts a small tmpfs. It is for children of mountNamespace.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil && !errors.Is(err, unix.EINVAL) {
		t.Skipf("no private mounts here: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
