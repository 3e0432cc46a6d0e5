package target

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo([]byte(`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:40 /../.. /m\040n\134t\011x rw shared:7 propagate_from:2 unbindable - tmpfs none rw,size=1k,noswap
too short
37 35 98:0 /mnt1 /mnt2 rw,noatime master:1 ext3 /dev/root rw
38 35 98:0 relative /mnt2 rw - ext3 /dev/root rw
39 35 98:0 /mnt1 /mnt2 rw - ext3
39 35 98:0 /mnt1 /mnt2 - ext3 /dev/root rw
`))
	want := []mount{
		{"98:0", "/mnt1", "/mnt2", "ext3", []string{"rw", "errors=continue"}},
		{"0:32", "/", "/sys/fs/cgroup/memory", "cgroup", []string{"rw", "memory"}},
		{"0:40", "/../..", "/m n\\t\tx", "tmpfs", []string{"rw", "size=1k", "noswap"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`/a`: "/a", `/a\040b`: "/a b", `\`: `\`, `\04`: `\04`, `\048`: `\048`, `\777`: `\777`, `\134040`: `\040`,
		`\\040`: `\ `, `/\043\012`: "/#\n",
	} {
		if got := unescape(in); got != want {
			t.Errorf("%s is %q, want %q", in, got, want)
		}
	}
}

func TestMaySwap(t *testing.T) {
	const (
		heading = "Filename\tType\tSize\tUsed\tPriority\n"
		device  = "/dev/dm-0 partition 1 0 -2\n"
		mounts  = "30 1 0:41 / /a rw - tmpfs tmpfs rw,size=1k\n31 1 0:42 / /b rw - tmpfs tmpfs rw,size=1k,noswap\n"
	)
	for _, c := range []struct {
		swaps, device string
		want          bool
	}{
		{"", "0:41", false},
		{heading, "0:41", false},
		{heading + device, "0:41", true},
		{heading + device, "0:42", false},
		{heading + device, "0:43", true},
	} {
		m := fake(map[string]string{"proc/swaps": c.swaps, "proc/self/mountinfo": mounts})
		if got := m.maySwap(c.device); got != c.want {
			t.Errorf("with %d bytes of swaps, %s may swap: %v", len(c.swaps), c.device, got)
		}
	}
	if fake(nil).maySwap("0:41") {
		t.Error("may swap where the kernel does not say so")
	}
}

func TestMaySwapOfAMount(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	d := open(t, mountTmpfs(t, "size=1m,noswap"), Options{})
	if d.MaySwap() {
		t.Error("a mount with noswap may swap")
	}
	if open(t, t.TempDir(), onDisk).MaySwap() && !d.inMemory() {
		t.Error("a disk may swap")
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"))
	f.Add([]byte("35 31 0:32 / /sys\\040fs rw - cgroup2 cgroup rw"))
	f.Add([]byte("- - - - - - - - - -\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, m := range parseMountinfo(text) {
			if !strings.HasPrefix(m.root, "/") || !strings.HasPrefix(m.point, "/") || m.fsType == "" || len(m.options) == 0 {
				t.Errorf("%q", m)
			}
		}
		// A whole walk with whatever the files say must end, and stay among the files.
		machine := fake(map[string]string{"proc/self/mountinfo": string(text), "proc/self/cgroup": "0::/a/b\n4:memory:/c\n"})
		if limits := machine.memoryLimits(); len(limits) != 0 {
			t.Errorf("limits of nothing: %v", limits)
		}
	})
}
