package target

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// renamers are a kernel and a filesystem with flags for renames, and the errors that others answer them with.
func renamers() map[string]renamer {
	all := map[string]renamer{"flags": renameat2}
	for _, errno := range []unix.Errno{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP} {
		all[errno.Error()] = func(oldDir int, oldName string, newDir int, newName string, flags uint) error {
			if flags != 0 {
				return errno
			}
			return renameat2(oldDir, oldName, newDir, newName, 0)
		}
	}
	return all
}

// occupied makes a destination that holds something in place of each entry that model stages, and something foreign.
func occupied(t *testing.T) (dir, outside string) {
	base := workDir(t)
	dir, outside = base+"/d", base+"/outside"
	writeFile(t, outside+"/secret", "kept")
	writeFile(t, dir+"/same", "old")
	writeFile(t, dir+"/onto-dir/a/b", "old")
	writeFile(t, dir+"/onto-file", "old")
	writeFile(t, dir+"/both/old", "old")
	writeFile(t, dir+"/foreign/x", "old")
	mustSymlink(t, outside, dir+"/link-dir")
	mustSymlink(t, outside+"/secret", dir+"/link-file")
	mustSymlink(t, "nowhere", dir+"/dangling")
	return dir, outside
}

func stageModel(t *testing.T, dir string) *Staging {
	s := stageIn(t, dir)
	for _, name := range []string{
		"brand-new/x", "same", "onto-dir", "onto-file/x", "both/new", "link-dir/secret", "link-file", "dangling", "zuletzt",
	} {
		put(t, s, name, "new")
	}
	return s
}

func TestCommitReplacesAndFollowsNothing(t *testing.T) {
	for name, rename := range renamers() {
		t.Run(name, func(t *testing.T) {
			dir, outside := occupied(t)
			s := stageModel(t, dir)
			s.target.rename = rename
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			wantTree(t, dir, map[string]string{
				"brand-new/": "", "brand-new/x": "644 new", "same": "644 new", "onto-dir": "644 new", "onto-file/": "",
				"onto-file/x": "644 new", "both/": "", "both/new": "644 new", "link-dir/": "", "link-dir/secret": "644 new",
				"link-file": "644 new", "dangling": "644 new", "zuletzt": "644 new", "foreign/": "", "foreign/x": "644 old",
			})
			wantTree(t, outside, map[string]string{"secret": "644 kept"})
			if got := s.Foreign(); !slices.Equal(got, []string{"foreign"}) {
				t.Errorf("foreign: %q", got)
			}
			if err := s.Discard(); err != nil { // as deferred
				t.Error(err)
			}
			s.target.Close()
			if _, err := os.Stat(dir + "/brand-new/x"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCommitRollsBack lets each of the renames fail in turn, whichever way the entries are moved.
func TestCommitRollsBack(t *testing.T) {
	for name, rename := range renamers() {
		t.Run(name, func(t *testing.T) {
			failures := 0
			for failing := 0; ; failing++ {
				dir, outside := occupied(t)
				before, beside := tree(t, dir), tree(t, outside)
				s := stageModel(t, dir)
				calls, failed := 0, false
				s.target.rename = func(oldDir int, oldName string, newDir int, newName string, flags uint) error {
					if calls++; calls == failing+1 {
						failed = true
						return unix.EIO
					}
					return rename(oldDir, oldName, newDir, newName, flags)
				}
				err := s.Commit()
				if !failed {
					if err != nil || failures < 9 {
						t.Errorf("%d failures, then %v", failures, err)
					}
					return
				}
				failures++
				wantFault(t, err, fault.Destination, "moving ", " into "+dir, unix.EIO.Error())
				staging := tree(t, filepath.Join(dir, s.name))
				maps.DeleteFunc(staging, func(p, _ string) bool { return p[len(p)-1] == '/' })
				if len(staging) != 9 {
					t.Errorf("the staged files are not as they were: %v", staging)
				}
				if err := s.Discard(); err != nil {
					t.Error(err)
				}
				wantTree(t, dir, before)
				wantTree(t, outside, beside)
			}
		})
	}
}

func TestRollbackSaysWhatItCouldNotUndo(t *testing.T) {
	s := stageIn(t, t.TempDir())
	put(t, s, "a", "x")
	put(t, s, "b", "x")
	s.target.rename = func(oldDir int, oldName string, newDir int, newName string, flags uint) error {
		if oldName == "b" || oldDir == s.target.fd() {
			return unix.EIO
		}
		return renameat2(oldDir, oldName, newDir, newName, flags)
	}
	wantFault(t, s.Commit(), fault.Destination, `moving "b" into`, `moving "a" out of`)
}

func TestCommitRefusesTheUnfinished(t *testing.T) {
	dir := t.TempDir()
	s := stageIn(t, dir)
	wantFault(t, s.Commit(), fault.Format, "no files")
	f, err := s.Create("a/b", 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err == nil {
		t.Error("committed a file that is being written")
	}
	if _, err := os.Lstat(dir + "/a"); err == nil {
		t.Error("the unfinished file is in place")
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Commit(); err != nil {
		t.Error(err)
	}
	if err := s.Commit(); err == nil {
		t.Error("committed twice")
	}
	if _, err := s.Create("late", 1, false); err == nil {
		t.Error("created a file after the commit")
	}
	wantTree(t, dir, map[string]string{"a/": "", "a/b": "644 \x00"})
}

// TestRestartedContainer loads the same model again and again into the volume that a first run left.
func TestRestartedContainer(t *testing.T) {
	dir := tmpfsDir(t)
	for round := range 3 {
		d, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.Stage()
		if err != nil {
			t.Fatal(err)
		}
		content := fmt.Sprint("round ", round)
		put(t, s, "config.json", content)
		put(t, s, "weights/1", content)
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		d.Close()
		wantTree(t, dir, map[string]string{"config.json": "644 " + content, "weights/": "", "weights/1": "644 " + content})
	}
}

// TestOldFilesOfAnotherUser cannot be replaced: the destination stays as it is, and the cure names the volume's group.
func TestOldFilesOfAnotherUser(t *testing.T) {
	base := "/dev/shm/target-test-of-root"
	if os.Getenv(childVariable) == "" && os.Getuid() == 0 {
		writeFile(t, base+"/old/file", "root's")
		defer os.RemoveAll(base)
		if err := os.Chmod(base, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if !asChild(t, nobody(t)) {
		return
	}
	s := stageIn(t, base)
	put(t, s, "a", "new")
	put(t, s, "old/file", "new")
	wantFault(t, s.Commit(), fault.Destination, `moving "old" into`, unix.EACCES.Error(), "fsGroup")
	if err := s.Discard(); err != nil {
		t.Error(err)
	}
	wantTree(t, base, map[string]string{"old/": "", "old/file": "644 root's"})
}

// TestMountInsideTheDestination: a mount cannot be moved, and the other entries are back in their places.
func TestMountInsideTheDestination(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	dir := mountTmpfs(t, "size=1m")
	writeFile(t, dir+"/old", "old")
	if err := os.Mkdir(dir+"/point", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir+"/point", "tmpfs", 0, "size=1m"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir+"/point", unix.MNT_DETACH)
	s, err := open(t, dir, Options{}).Stage()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "old", "new")
	put(t, s, "point/file", "new")
	wantFault(t, s.Commit(), fault.Destination, `moving "point" into`, unix.EBUSY.Error(), "nothing be mounted")
	if err := s.Discard(); err != nil {
		t.Error(err)
	}
	wantTree(t, dir, map[string]string{"old": "644 old", "point/": ""})
}

func TestForeignIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		writeFile(t, fmt.Sprintf("%s/%03d", dir, i), "")
	}
	s := stageIn(t, dir)
	put(t, s, "ours/file", "x")
	got := s.Foreign()
	if len(got) != maxForeign || !slices.IsSorted(got) {
		t.Errorf("%q", got)
	}
	if slices.Contains(got, "ours") || slices.ContainsFunc(got, isStagingName) {
		t.Errorf("its own entries are foreign: %q", got)
	}
}
