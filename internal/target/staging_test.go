package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestModesWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o027, 0o077, 0o777} {
		for _, c := range []struct {
			opts             Options
			file, exec, dirs fs.FileMode
		}{
			{Options{}, 0o644, 0o755, 0o755},
			{Options{FileMode: 0o600, DirMode: 0o700}, 0o600, 0o700, 0o700},
			{Options{FileMode: 0o440, DirMode: 0o750}, 0o440, 0o550, 0o750},
			{Options{FileMode: 0o666, DirMode: 0o777}, 0o666, 0o777, 0o777},
		} {
			t.Run(fmt.Sprintf("umask %03o, %03o", umask, c.file), func(t *testing.T) {
				defer syscall.Umask(syscall.Umask(umask))
				base := tmpfsDir(t)
				if err := os.Chmod(base, 0o700); err != nil {
					t.Fatal(err)
				}
				c.opts.AllowDisk = true
				dir := base + "/made"
				s, err := open(t, dir, c.opts).Stage()
				if err != nil {
					t.Fatal(err)
				}
				wantMode(t, filepath.Join(dir, s.name), 0o700)
				for name, exec := range map[string]bool{"plain": false, "run": true, "d/e/plain": false} {
					f, err := s.Create(name, 1, exec)
					if err != nil {
						t.Fatal(err)
					}
					f.Close()
				}
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
				wantMode(t, dir, c.dirs)
				wantMode(t, dir+"/plain", c.file)
				wantMode(t, dir+"/run", c.exec)
				wantMode(t, dir+"/d", c.dirs)
				wantMode(t, dir+"/d/e", c.dirs)
				wantMode(t, dir+"/d/e/plain", c.file)
			})
		}
	}
}

// TestSetgidIsInherited: Kubernetes' fsGroup makes a volume's directory set-group-ID, so that what is made in it
// belongs to the group that the predictor is in.
func TestSetgidIsInherited(t *testing.T) {
	for _, umask := range []int{0o022, 0o077, 0o777} {
		dir := tmpfsDir(t)
		group := os.Getgid()
		if os.Getuid() == 0 {
			group = 12345
		}
		if err := errors.Join(os.Chown(dir, -1, group), os.Chmod(dir, 0o777|fs.ModeSetgid)); err != nil {
			t.Fatal(err)
		}
		old := syscall.Umask(umask)
		s := stageIn(t, dir)
		put(t, s, "d/e/f", "x")
		syscall.Umask(old)
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		wantMode(t, dir+"/d", 0o755|fs.ModeSetgid)
		wantMode(t, dir+"/d/e", 0o755|fs.ModeSetgid)
		wantMode(t, dir+"/d/e/f", 0o644)
		info, err := os.Stat(dir + "/d/e/f")
		if err != nil {
			t.Fatal(err)
		}
		if got := int(info.Sys().(*syscall.Stat_t).Gid); got != group {
			t.Errorf("with umask %03o the group is %d, want %d", umask, got, group)
		}
	}
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if got := info.Mode() &^ fs.ModeDir; got != want {
		t.Errorf("%s has mode %v, want %v", filepath.Base(path), got, want)
	}
}

func TestPathsThatLeadAstray(t *testing.T) {
	base := t.TempDir()
	s := stageIn(t, base+"/d")
	put(t, s, "file", "x")
	put(t, s, "dir/file", "x")
	before := tree(t, base)
	for _, name := range []string{
		"", ".", "..", "/", "/abs", "../x", "a/../../x", "a/..", "a/./b", "./a", "a//b", "a/", "x\x00y", "\xff",
		".sealfetch-0123456789abcdef/x", ".sealfetch-", ".sealfetch-replaced-0",
		"file", "dir", "dir/file", "file/below", "file/below/deeper",
	} {
		_, err := s.Create(name, 1, false)
		wantFault(t, err, fault.Format, "publish the model again")
	}
	_, err := s.Create("negative", -1, false)
	wantFault(t, err, fault.Format)
	_, err = s.Create(strings.Repeat("n", 256), 1, false)
	wantFault(t, err, fault.Destination, "file name too long", "shorter")
	wantTree(t, base, before)
}

func TestLinksInStagingAreNotFollowed(t *testing.T) {
	base := t.TempDir()
	s := stageIn(t, base+"/d")
	outside := base + "/outside"
	writeFile(t, outside+"/file", "kept")
	staging := filepath.Join(s.target.path, s.name)
	put(t, s, "inside/file", "x")
	mustSymlink(t, outside, staging+"/link")
	mustSymlink(t, "inside", staging+"/near")
	mustSymlink(t, outside+"/new", staging+"/dangling")
	if err := unix.Mkfifo(staging+"/pipe", 0o600); err != nil { // which would be waited for
		t.Fatal(err)
	}
	for _, name := range []string{
		"pipe/x", "pipe", "link/new", "link/file", "near/new", "link", "dangling", "dangling/x",
	} {
		_, err := s.Create(name, 1, false)
		wantFault(t, err, fault.Format)
	}
	wantTree(t, outside, map[string]string{"file": "644 kept"})
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, outside, map[string]string{"file": "644 kept"})
}

// TestManyDirectories comes back to directories whose handles were given up.
func TestManyDirectories(t *testing.T) {
	dir := workDir(t)
	s := stageIn(t, dir)
	before := openFiles(t)
	want := map[string]string{}
	for round := range 2 {
		for i := range 3 * maxOpenDirs {
			name := fmt.Sprintf("d%d/e/f%d", i, round)
			put(t, s, name, "x")
			want[name], want[fmt.Sprintf("d%d/", i)], want[fmt.Sprintf("d%d/e/", i)] = "644 x", "", ""
			if i%50 == 49 && openFiles(t)-before > maxOpenDirs+3 {
				t.Fatalf("%d open files after %d directories, %d before", openFiles(t), i, before)
			}
		}
	}
	if s.made != 6*maxOpenDirs {
		t.Errorf("%d directories counted", s.made)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d files are open, %d were", n, before)
	}
	wantTree(t, dir, want)
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestDirectoriesAreBounded(t *testing.T) {
	s := stageIn(t, t.TempDir())
	s.made = maxDirs - 2
	put(t, s, "a/b/f", "x")
	put(t, s, "f", "x")
	s.closeDirs()
	put(t, s, "a/b/g", "x") // in a directory that counts already
	_, err := s.Create("c/f", 1, false)
	wantFault(t, err, fault.Format, "at most 100000 directories")
}

func TestDeepPath(t *testing.T) {
	dir := workDir(t)
	s := stageIn(t, dir)
	deep := strings.Repeat("d/", 511) + "f"
	put(t, s, deep, "x")
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, deep)); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	base := t.TempDir()
	s := stageIn(t, base+"/made/d")
	put(t, s, "a/b", "x")
	f, err := s.Create("open", 10, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Discard(); err != nil {
			t.Fatal(err)
		}
	}
	wantTree(t, base, map[string]string{})
	if _, err := f.WriteAt([]byte("late"), 0); err != nil {
		t.Errorf("late write: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Create("later", 1, false); !errors.Is(err, errEnded) {
		t.Errorf("create after discard: %v", err)
	}
	if err := s.Commit(); !errors.Is(err, errEnded) {
		t.Errorf("commit after discard: %v", err)
	}
	wantTree(t, base, map[string]string{})
	if err := (*Staging)(nil).Discard(); err != nil {
		t.Error(err)
	}
}

func TestDiscardKeepsWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir+"/old/file", "x")
	s := stageIn(t, dir)
	put(t, s, "old/file", "new")
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, map[string]string{"old/": "", "old/file": "644 x"})
}

// TestDiscardWhileWriting is what a signal does.
func TestDiscardWhileWriting(t *testing.T) {
	base := t.TempDir()
	s := stageIn(t, base+"/d")
	var writers sync.WaitGroup
	started := make(chan struct{}, 8)
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				f, err := s.Create(fmt.Sprintf("d%d/%d", w, i), 4, false)
				if i == 3 {
					started <- struct{}{}
				}
				if err != nil {
					if !errors.Is(err, errEnded) {
						t.Error(err)
					}
					return
				}
				if _, err := f.WriteVec([][]byte{[]byte("ab"), []byte("cd")}, 0); err != nil {
					t.Error(err)
				}
				f.Close()
			}
		})
	}
	for range 8 {
		<-started
	}
	if err := s.Discard(); err != nil {
		t.Error(err)
	}
	wantTree(t, base, map[string]string{})
	writers.Wait()
	wantTree(t, base, map[string]string{})
}

func TestStageSaysWhyNot(t *testing.T) {
	dir := t.TempDir() + "/gone"
	d := open(t, dir, onDisk)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	_, err := d.Stage()
	wantFault(t, err, fault.Destination, dir)
}

func TestSpaceRunsOut(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	dir := mountTmpfs(t, "size=256k,nr_inodes=20")
	d := open(t, dir, Options{})
	s, err := d.Stage()
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Create("big", 1<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(make([]byte, 1<<20), 0)
	wantFault(t, err, fault.Destination, `writing "big"`, unix.ENOSPC.Error(), "0Mi free of 1Mi", dir, "sizeLimit")
	_, err = f.WriteVec([][]byte{make([]byte, 1<<19), make([]byte, 1<<19)}, 0)
	wantFault(t, err, fault.Destination, `writing "big"`, unix.ENOSPC.Error(), "sizeLimit")
	f.Close()
	for i := 0; err != nil && i < 20; i++ {
		var f *File
		if f, err = s.Create(fmt.Sprintf("d/%d", i), 0, false); err != nil {
			wantFault(t, err, fault.Destination, `creating "d/`, unix.ENOSPC.Error(), "0 inodes free of 20")
			if err := s.Discard(); err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, map[string]string{})
			return
		}
		f.Close()
		err = errors.New("more")
	}
	t.Error("20 inodes were enough for 21 files")
}
