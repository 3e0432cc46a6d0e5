package target

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestOpenTakesATmpfs(t *testing.T) {
	d := open(t, tmpfsDir(t), Options{})
	if !d.inMemory() {
		t.Error("a tmpfs is not in memory")
	}
}

func TestOpenRefusesADisk(t *testing.T) {
	dir := filepath.Join(diskDir(t), "a", "b")
	_, err := Open(dir, Options{})
	var st unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &st); err != nil {
		t.Fatal(err)
	}
	wantFault(t, err, fault.Destination, dir, filesystemName(magic(st)),
		"kserve-provision-location", "medium: Memory", "sizeLimit", "--allow-disk")
	if _, err := os.Lstat(filepath.Dir(dir)); err == nil {
		t.Error("the refused destination was left behind")
	}
	open(t, dir, onDisk)
}

func TestOpenRefusesRamfs(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	dir := mountTmpfs(t, "size=1m")
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Skipf("no ramfs can be mounted here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	_, err := Open(dir, Options{})
	wantFault(t, err, fault.Destination, "ramfs", "no size limit", "kserve-provision-location")
	open(t, dir, onDisk)
}

func TestFilesystemNames(t *testing.T) {
	for number, want := range map[int64]string{
		0x01021994: "tmpfs", 0xef53: "ext4", 0x794c7630: "overlay", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x6969: "nfs",
		0xff534d42: "cifs", 0x65735546: "fuse or virtiofs", 0x12345678: "a filesystem of type 0x12345678",
	} {
		if got := filesystemName(number); got != want {
			t.Errorf("%#x is %q, want %q", number, got, want)
		}
	}
}

func TestOpenRefusesWhatIsNoDirectory(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "x")
	mustSymlink(t, dir, filepath.Join(dir, "link"))
	mustSymlink(t, "nowhere", filepath.Join(dir, "dangling"))
	before := tree(t, dir)
	for name, word := range map[string]string{
		"file":          "not a directory",
		"file/below":    "not a directory",
		"link":          "symbolic link",
		"link/":         "symbolic link",
		"dangling":      "symbolic link",
		"n\x00ul":       "invalid argument",
		"dangling/more": "looking for",
	} {
		if name == "dangling/more" {
			word = "dangling" // mkdir(2) does not go through a dangling link
		}
		_, err := Open(dir+"/"+name, onDisk)
		wantFault(t, err, fault.Destination, word)
	}
	wantTree(t, dir, before)
}

func TestOpenRefusesImpossibleOptions(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []Options{
		{FileMode: fs.ModeSetuid | 0o644},
		{DirMode: fs.ModeDir | 0o755},
		{DirMode: 0o500},
	} {
		o.AllowDisk = true
		_, err := Open(dir, o)
		wantFault(t, err, fault.Usage)
	}
	_, err := Open("", onDisk)
	wantFault(t, err, fault.Usage)
}

func TestOpenRefusesAReadOnlyMount(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	dir := mountTmpfs(t, "size=1m")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, Options{})
	wantFault(t, err, fault.Destination, "read-only", "mount the volume read-write")
}

func TestOpenRefusesTheDirectoryOfAnother(t *testing.T) {
	if !asChild(t, nobody(t)) {
		return
	}
	for _, dir := range []string{"/", "/root/model", "/proc/1/model"} {
		_, err := Open(dir, onDisk)
		wantFault(t, err, fault.Destination, dir)
	}
	_, err := Open("/", onDisk)
	wantFault(t, err, fault.Destination, "as UID 65534", "permission denied", "fsGroup")
}

// TestAnyUser loads as a user who owns nothing, has no home, no capability, and a umask that hides everything.
func TestAnyUser(t *testing.T) {
	if !asChild(t, nobody(t)) {
		return
	}
	os.Clearenv()
	syscall.Umask(0o777)
	base, err := os.MkdirTemp("/dev/shm", "target-test-")
	if err != nil {
		t.Skipf("no directory in /dev/shm: %v", err)
	}
	defer os.RemoveAll(base)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "made", "deeper")
	d := open(t, dir, onDisk)
	if err := d.Room(Need{Bytes: 2, Files: 2}); err != nil {
		t.Fatal(err)
	}
	s, err := d.Stage()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "config.json", "c")
	put(t, s, "sub/dir/file", "f")
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, base, map[string]string{
		"made/": "", "made/deeper/": "", "made/deeper/config.json": "644 c",
		"made/deeper/sub/": "", "made/deeper/sub/dir/": "", "made/deeper/sub/dir/file": "644 f",
	})
	for _, p := range []string{base + "/made", dir, dir + "/sub", dir + "/sub/dir"} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v %v", p, info.Mode(), err)
		}
	}
}

func TestOpenMakesAndCloseTakesBack(t *testing.T) {
	base := t.TempDir()
	d, err := Open(filepath.Join(base, "a", "b"), Options{AllowDisk: true, DirMode: 0o711})
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(base + "/a/b"); info.Mode().Perm() != 0o711 {
		t.Errorf("mode %v", info.Mode())
	}
	d.Close()
	d.Close()
	(*Target)(nil).Close()
	wantTree(t, base, map[string]string{})

	d = open(t, filepath.Join(base, "c"), onDisk)
	writeFile(t, base+"/c/kept", "x")
	d.Close()
	wantTree(t, base, map[string]string{"c/": "", "c/kept": "644 x"})

	open(t, base, onDisk).Close() // which it did not make
	if _, err := os.Stat(base); err != nil {
		t.Error(err)
	}
}

func TestRelativeDestination(t *testing.T) {
	base := t.TempDir()
	t.Chdir(base)
	d := open(t, "here/model/", onDisk)
	if want, _ := filepath.EvalSymlinks(base); d.Dir() != filepath.Join(want, "here/model") {
		t.Errorf("destination %s, want it in %s", d.Dir(), want)
	}
}

func TestTwoRunsRefuseEachOther(t *testing.T) {
	dir := t.TempDir()
	s := stageIn(t, dir)
	put(t, s, "a", "x")
	before := tree(t, dir)
	_, err := Open(dir, onDisk)
	wantFault(t, err, fault.Destination, "another run", dir)
	wantTree(t, dir, before) // above all the staging directory of the live run

	s.target.Close()
	open(t, dir, onDisk)
	wantTree(t, dir, map[string]string{})
}

func TestLockedDirectoryIsTheNamedOne(t *testing.T) {
	base := t.TempDir()
	d := &Target{path: base + "/d", opts: onDisk}
	if err := os.Mkdir(d.path, 0o755); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	if err := d.checkSame(); err != nil {
		t.Error(err)
	}
	if err := os.Rename(d.path, base+"/other"); err != nil {
		t.Fatal(err)
	}
	wantFault(t, d.checkSame(), fault.Destination, "replaced")
	mustSymlink(t, "other", d.path)
	wantFault(t, d.checkSame(), fault.Destination, "replaced")
}

func TestOnlyStaleStagingIsRemoved(t *testing.T) {
	base := t.TempDir()
	dir, outside := base+"/d", base+"/outside"
	writeFile(t, outside+"/file", "x")
	writeFile(t, dir+"/.sealfetch-0123456789abcdef/sub/partial", "plaintext")
	if err := os.Mkdir(dir+"/.sealfetch-00000000000000ff", 0o700); err != nil {
		t.Fatal(err)
	}
	mustSymlink(t, outside, dir+"/.sealfetch-0123456789abcdef/link")
	keep := map[string]string{}
	for _, name := range []string{
		".sealfetch-0123456789ABCDEF", ".sealfetch-0123456789abcde", ".sealfetch-0123456789abcdef0", ".sealfetch-",
		".sealfetch-0123456789abcdeg", "sealfetch-0123456789abcdef", "model", ".hidden",
	} {
		writeFile(t, dir+"/"+name+"/f", "x")
		keep[name+"/"], keep[name+"/f"] = "", "644 x"
	}
	writeFile(t, dir+"/.sealfetch-1111111111111111", "a file")
	keep[".sealfetch-1111111111111111"] = "644 a file"
	mustSymlink(t, outside, dir+"/.sealfetch-2222222222222222")
	keep[".sealfetch-2222222222222222"] = "-> " + outside

	open(t, dir, onDisk)
	wantTree(t, dir, keep)
	wantTree(t, outside, map[string]string{"file": "644 x"})
}

func TestManyEntriesAreAllRead(t *testing.T) {
	dir := workDir(t)
	for i := range 600 {
		writeFile(t, filepath.Join(dir, strings.Repeat("x", i%200+1)+string(rune('a'+i/200))), "")
	}
	n := 0
	if err := open(t, dir, onDisk).entries(func(fs.DirEntry) bool { n++; return true }); err != nil || n != 600 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func mustSymlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}
