package target

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestRoomOfAMount(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	dir := mountTmpfs(t, "size=10m,nr_inodes=100")
	d := open(t, dir, Options{})
	page := int64(os.Getpagesize())
	m := machine{os.DirFS("/nonexistent")}
	fits := func(bytes int64, files int) error { return m.checkRoom([]Claim{{d, Need{bytes, files}}}) }

	for _, c := range []struct {
		bytes int64
		files int
	}{{0, 0}, {1, 1}, {10<<20 - page, 1}, {10<<20 - 50*page, 50}, {0, 98}} {
		if err := fits(c.bytes, c.files); err != nil {
			t.Errorf("%d bytes in %d files: %v", c.bytes, c.files, err)
		}
	}
	err := fits(10<<20, 1) // its last page may be anywhere
	wantFault(t, err, fault.Destination, "tmpfs at "+dir+" has 10Mi free of 10Mi, and 11Mi are needed",
		"sizeLimit", "at least 11Mi")
	if strings.Contains(err.Error(), "old files") || strings.Contains(err.Error(), "inodes") {
		t.Errorf("of an empty mount: %v", err)
	}
	wantFault(t, fits(10<<20-20*page, 50), fault.Destination, "are needed") // 50 files of a byte too many for whole pages
	wantFault(t, fits(0, 99), fault.Destination, "99 inodes free of 100, and 100 are needed", "nr_inodes")
	wantFault(t, fits(1<<30, 1000), fault.Destination, "1028Mi are needed", "99 inodes", "sizeLimit", "nr_inodes") // both
	wantFault(t, fits(math.MaxInt64, math.MaxInt), fault.Destination, "are needed")

	s, err := d.Stage()
	if err != nil {
		t.Fatal(err)
	}
	if err := fits(11<<20, 1); strings.Contains(err.Error(), "old files") {
		t.Errorf("of its own staging directory: %v", err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/old/file", strings.Repeat("x", 6<<20))
	wantFault(t, fits(5<<20, 1), fault.Destination, "4Mi free of 10Mi", "old files: 1 entries", "at least 12Mi",
		"delete the pod")
}

func TestRoomIsSummedOverTargets(t *testing.T) {
	if !asChild(t, mountNamespace()) {
		return
	}
	dir := mountTmpfs(t, "size=10m")
	a, b := open(t, dir+"/a", Options{}), open(t, dir+"/b", Options{})
	elsewhere := open(t, tmpfsDir(t), Options{})
	need := Need{Bytes: 6 << 20, Files: 1}
	for _, claim := range []Claim{{a, need}, {b, need}, {elsewhere, need}} {
		if err := CheckRoom(claim); err != nil {
			t.Errorf("%s: %v", claim.Target.Dir(), err)
		}
	}
	unlimited := machine{os.DirFS("/nonexistent")}
	if err := unlimited.checkRoom([]Claim{{a, need}, {elsewhere, need}}); err != nil {
		t.Errorf("two mounts: %v", err)
	}
	wantFault(t, unlimited.checkRoom([]Claim{{a, need}, {b, need}}), fault.Destination, "10Mi free", "13Mi are needed")
	wantFault(t, unlimited.checkRoom([]Claim{{a, Need{math.MaxInt64, 1}}, {b, Need{math.MaxInt64, 1}}}), fault.Destination)

	// The memory limit is one, however many mounts there are.
	limited := limitedTo("100000000", "1000000")
	if err := limited.checkRoom([]Claim{{a, need}}); err != nil {
		t.Error(err)
	}
	many := []Claim{{a, need}, {elsewhere, Need{Bytes: 30 << 20, Files: 10}}}
	wantFault(t, limited.checkRoom(many), fault.Destination, "memory limit", "resources.limits.memory")
}

func limitedTo(limit, used string) machine {
	return fake(map[string]string{
		"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2Mount,
		"sys/fs/cgroup/memory.max": limit, "sys/fs/cgroup/memory.current": used,
	})
}

func TestRoomOfAMemoryLimit(t *testing.T) {
	d := open(t, tmpfsDir(t), Options{})
	const gib = 1 << 30
	for _, c := range []struct {
		name        string
		limit, used string
		bytes       int64
		files       int
		words       []string // none: it fits
	}{
		{name: "unlimited", limit: "max", used: "1", bytes: gib},
		{name: "KServe's default", limit: "1073741824", used: "20971520", bytes: gib, files: 3, words: []string{
			"the memory limit of /sys/fs/cgroup is 1024Mi, 20Mi are in use, and 1027Mi are needed with 64Mi of headroom",
			"set resources.limits.memory of the container in the ClusterStorageContainer to at least 1111Mi"}},
		{name: "as the cure said", limit: "1164967936", used: "20971520", bytes: gib, files: 3},
		{name: "headroom", limit: "1073741824", used: "0", bytes: gib - 63<<20, words: []string{"at least 1028Mi"}},
		{name: "inodes are memory too", limit: "1073741824", used: "0", bytes: 100 << 20, files: 400_000, words: []string{
			"memory limit"}},
		{name: "more in use than allowed", limit: "100", used: "1000000000", bytes: 1, words: []string{"is 0Mi"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := limitedTo(c.limit, c.used).checkRoom([]Claim{{d, Need{c.bytes, c.files}}})
			if len(c.words) == 0 && err != nil {
				t.Errorf("%v (%s)", err, fault.Hint(err))
			}
			if len(c.words) > 0 {
				wantFault(t, err, fault.Destination, c.words...)
			}
		})
	}
}

// TestMemoryAndMountAreSaidAtOnce, so that a user who mends one does not meet the other next.
func TestMemoryAndMountAreSaidAtOnce(t *testing.T) {
	d := open(t, tmpfsDir(t), Options{})
	err := limitedTo("1000000000", "0").checkRoom([]Claim{{d, Need{Bytes: 1 << 50, Files: 1}}})
	wantFault(t, err, fault.Destination, "tmpfs at "+d.Dir(), "memory limit", "sizeLimit", "resources.limits.memory")
}

// TestInnermostLimitIsSaid: the container's limit is the one to raise; the pod's follows from it.
func TestInnermostLimitIsSaid(t *testing.T) {
	d := open(t, tmpfsDir(t), Options{})
	m := fake(map[string]string{
		"proc/self/cgroup": "0::/pod/ctr\n", "proc/self/mountinfo": v2Mount,
		"sys/fs/cgroup/pod/ctr/memory.max": "1000", "sys/fs/cgroup/pod/ctr/memory.current": "10",
		"sys/fs/cgroup/pod/memory.max": "2000", "sys/fs/cgroup/pod/memory.current": "20",
	})
	err := m.checkRoom([]Claim{{d, Need{Bytes: 1 << 20, Files: 1}}})
	wantFault(t, err, fault.Destination, "limit of /sys/fs/cgroup/pod/ctr is")
	if strings.Contains(err.Error(), "/pod is") {
		t.Errorf("both limits are said: %v", err)
	}
}

func TestRoomOnADiskIsNotMemory(t *testing.T) {
	d := open(t, diskDir(t), onDisk)
	if err := limitedTo("1000", "1000").checkRoom([]Claim{{d, Need{Bytes: 1 << 20, Files: 1}}}); err != nil {
		t.Error(err)
	}
	wantFault(t, d.Room(Need{Bytes: 1 << 60, Files: 1}), fault.Destination, "are needed", "free ", " there")
}

func TestRoomRefusesNegativeNeeds(t *testing.T) {
	d := open(t, t.TempDir(), onDisk)
	wantFault(t, d.Room(Need{Bytes: -1}), fault.Format)
	wantFault(t, d.Room(Need{Files: -1}), fault.Format)
	if err := CheckRoom(); err != nil {
		t.Error(err)
	}
}

func TestSaturation(t *testing.T) {
	const most = math.MaxInt64
	for _, c := range []struct{ got, want int64 }{
		{addBytes(1, 2), 3}, {addBytes(most, 1), most}, {addBytes(most, most), most}, {addBytes(0, most), most},
		{mulBytes(3, 4), 12}, {mulBytes(most, 2), most}, {mulBytes(most, 0), 0}, {mulBytes(0, most), 0},
		{mulBytes(1<<40, 1<<40), most}, {clamp(1 << 63), most}, {clamp(5), 5},
	} {
		if c.got != c.want {
			t.Errorf("%d, want %d", c.got, c.want)
		}
	}
	if mebi(1) != "1Mi" || mebi(1<<20) != "1Mi" || mebi(1<<20+1) != "2Mi" || mebiFloor(1<<20-1) != "0Mi" {
		t.Error("rounding")
	}
}
