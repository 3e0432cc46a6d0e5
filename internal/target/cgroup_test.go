package target

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// fake makes a machine of files, given by their paths from the root.
func fake(files map[string]string) machine {
	tree := fstest.MapFS{}
	for name, content := range files {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return machine{tree}
}

const (
	rootMount = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
	v2Mount   = "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
	v1Mounts  = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	v1Unlimited = "9223372036854771712\n"
)

func TestMemoryLimits(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []memoryLimit
	}{
		"no proc at all": {},
		"no cgroup is mounted": {
			files: map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": rootMount},
		},
		"version 2, host": {
			files: map[string]string{
				"proc/self/cgroup":    "0::/user.slice/session.scope\n",
				"proc/self/mountinfo": rootMount + v2Mount,
				"sys/fs/cgroup/user.slice/session.scope/memory.max":     "max\n",
				"sys/fs/cgroup/user.slice/session.scope/memory.current": "4096\n",
				"sys/fs/cgroup/user.slice/memory.max":                   "1000000\n",
				"sys/fs/cgroup/user.slice/memory.current":               "6000\n",
				"sys/fs/cgroup/memory.current":                          "9000\n", // the root has no memory.max
			},
			want: []memoryLimit{{"/sys/fs/cgroup/user.slice", 1000000, 6000}},
		},
		"version 2, container with a cgroup namespace": {
			files: map[string]string{
				"proc/self/cgroup":              "0::/\n",
				"proc/self/mountinfo":           rootMount + v2Mount,
				"sys/fs/cgroup/memory.max":      "1073741824\n",
				"sys/fs/cgroup/memory.high":     "5000\n", // slows down, but does not kill
				"sys/fs/cgroup/memory.current":  "50000000\n",
				"sys/fs/cgroup/memory.swap.max": "0\n",
				"sys/fs/cgroup/memory.stat": "anon 10000000\nfile 39000000\nshmem 9000000\n" +
					"inactive_file 20000000\nactive_file 10000000\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup", 1073741824, 20000000}},
		},
		"version 2, nested, each level limited, the innermost first": {
			files: map[string]string{
				"proc/self/cgroup":                       "0::/pod/ctr\n",
				"proc/self/mountinfo":                    rootMount + v2Mount,
				"sys/fs/cgroup/pod/ctr/memory.max":       "300\n",
				"sys/fs/cgroup/pod/ctr/memory.current":   "30\n",
				"sys/fs/cgroup/pod/memory.max":           "400\n",
				"sys/fs/cgroup/pod/memory.current":       "60\n",
				"sys/fs/cgroup/pod/memory.stat":          "active_file 10\n",
				"sys/fs/cgroup/memory.max":               "500\n",
				"sys/fs/cgroup/memory.current":           "70\n",
				"sys/fs/cgroup/pod/other/memory.max":     "1\n",
				"sys/fs/cgroup/pod/other/memory.current": "1\n",
			},
			want: []memoryLimit{
				{"/sys/fs/cgroup/pod/ctr", 300, 30}, {"/sys/fs/cgroup/pod", 400, 50}, {"/sys/fs/cgroup", 500, 70},
			},
		},
		"version 2, the mount shows a part of the host's tree": {
			files: map[string]string{
				"proc/self/cgroup":                 "0::/kubepods/pod1/ctr/init\n",
				"proc/self/mountinfo":              "31 23 0:28 /kubepods/pod1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
				"sys/fs/cgroup/ctr/memory.max":     "300\n",
				"sys/fs/cgroup/ctr/memory.current": "30\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup/ctr", 300, 30}},
		},
		"version 2, moved out of its namespace": {
			files: map[string]string{
				"proc/self/cgroup":             "0::/../elsewhere\n",
				"proc/self/mountinfo":          v2Mount,
				"sys/fs/cgroup/memory.max":     "300\n",
				"sys/fs/cgroup/memory.current": "30\n",
				"sys/fs/elsewhere/memory.max":  "1\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup", 300, 30}},
		},
		"version 2, a mount of the parent namespace": {
			files: map[string]string{
				"proc/self/cgroup":             "0::/\n",
				"proc/self/mountinfo":          "31 23 0:28 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
				"sys/fs/cgroup/memory.max":     "300\n",
				"sys/fs/cgroup/memory.current": "30\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup", 300, 30}},
		},
		"version 2, the cgroup was removed": {
			files: map[string]string{
				"proc/self/cgroup":                 "0::/pod/ctr (deleted)\n",
				"proc/self/mountinfo":              v2Mount,
				"sys/fs/cgroup/pod/memory.max":     "300\n",
				"sys/fs/cgroup/pod/memory.current": "30\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup/pod", 300, 30}},
		},
		"version 1, container": {
			files: map[string]string{
				"proc/self/cgroup": "4:memory:/kubepods/pod1/ctr\n2:cpu,cpuacct:/kubepods/pod1/ctr\n" +
					"1:name=systemd:/x\n",
				"proc/self/mountinfo":                        strings.ReplaceAll(v1Mounts, "0:32 / ", "0:32 /kubepods/pod1/ctr "),
				"sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000\n",
				"sys/fs/cgroup/memory/memory.usage_in_bytes": "600000\n",
				"sys/fs/cgroup/memory/memory.stat": "cache 500000\nshmem 200000\ninactive_file 1\nactive_file 1\n" +
					"hierarchical_memory_limit 1000000\ntotal_shmem 200000\n" +
					"total_inactive_file 100000\ntotal_active_file 200000\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup/memory", 1000000, 300000}},
		},
		"version 1, unlimited": {
			files: map[string]string{
				"proc/self/cgroup":                           "4:memory:/\n",
				"proc/self/mountinfo":                        v1Mounts,
				"sys/fs/cgroup/memory/memory.limit_in_bytes": v1Unlimited,
				"sys/fs/cgroup/memory/memory.usage_in_bytes": "600000\n",
				"sys/fs/cgroup/memory/memory.stat":           "hierarchical_memory_limit " + v1Unlimited,
			},
		},
		"version 1, limited above what can be seen": {
			files: map[string]string{
				"proc/self/cgroup":                           "4:memory:/\n",
				"proc/self/mountinfo":                        v1Mounts,
				"sys/fs/cgroup/memory/memory.limit_in_bytes": v1Unlimited,
				"sys/fs/cgroup/memory/memory.usage_in_bytes": "600000\n",
				"sys/fs/cgroup/memory/memory.stat":           "hierarchical_memory_limit 700000\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup/memory", 700000, 600000}},
		},
		"hybrid, memory in version 1": {
			files: map[string]string{
				"proc/self/cgroup": "4:memory:/api/x\n0::/init.scope\n",
				"proc/self/mountinfo": v1Mounts +
					"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
				"sys/fs/cgroup/unified/init.scope/cgroup.procs":    "1\n",
				"sys/fs/cgroup/memory/api/x/memory.limit_in_bytes": "1000\n",
				"sys/fs/cgroup/memory/api/x/memory.usage_in_bytes": "10\n",
				"sys/fs/cgroup/memory/api/memory.limit_in_bytes":   v1Unlimited,
				"sys/fs/cgroup/memory/api/memory.usage_in_bytes":   "20\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup/memory/api/x", 1000, 10}},
		},
		"hybrid, memory in version 2": {
			files: map[string]string{
				"proc/self/cgroup": "1:name=systemd:/x\n0::/x\n",
				"proc/self/mountinfo": "33 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
					"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
				"sys/fs/cgroup/unified/x/memory.max":     "1000\n",
				"sys/fs/cgroup/unified/x/memory.current": "10\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup/unified/x", 1000, 10}},
		},
		"the last of two mounts in a place, with a space in it": {
			files: map[string]string{
				"proc/self/cgroup": "0::/a b\n",
				"proc/self/mountinfo": "30 1 0:27 /a\\040b /c\\040g rw - cgroup2 cgroup rw\n" +
					"31 1 0:28 / /c\\040g rw - cgroup2 cgroup rw\n",
				"c g/a b/memory.max":     "1000\n",
				"c g/a b/memory.current": "10\n",
			},
			want: []memoryLimit{{"/c g/a b", 1000, 10}},
		},
		"more cache than usage, for they are not read at once": {
			files: map[string]string{
				"proc/self/cgroup":             "0::/\n",
				"proc/self/mountinfo":          v2Mount,
				"sys/fs/cgroup/memory.max":     "1000\n",
				"sys/fs/cgroup/memory.current": "10\n",
				"sys/fs/cgroup/memory.stat":    "inactive_file 9\nactive_file 9223372036854775807\n",
			},
			want: []memoryLimit{{"/sys/fs/cgroup", 1000, 0}},
		},
		"nonsense": {
			files: map[string]string{
				"proc/self/cgroup":             "0::/\n",
				"proc/self/mountinfo":          v2Mount,
				"sys/fs/cgroup/memory.max":     "-1\n",
				"sys/fs/cgroup/memory.current": "10\n",
			},
		},
		"a limit without usage": {
			files: map[string]string{
				"proc/self/cgroup":         "0::/\n",
				"proc/self/mountinfo":      v2Mount,
				"sys/fs/cgroup/memory.max": "1000\n",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fake(c.files).memoryLimits(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct{ root, group, want string }{
		{"/", "/", "."},
		{"/", "/a/b", "a/b"},
		{"/a", "/a", "."},
		{"/a", "/a/b", "b"},
		{"/a", "/ab", "."},
		{"/a/b", "/a", "."},
		{"/", "/../x", "."},
		{"/../x", "/../x/y", "y"},
		{"/..", "/", "."},
		{"/", "/a/../../b", "."},
	} {
		if got := within(c.root, c.group); got != c.want {
			t.Errorf("%s within %s is %q, want %q", c.group, c.root, got, c.want)
		}
	}
}

func TestParseCgroups(t *testing.T) {
	got := parseCgroups([]byte("12:cpu,cpuacct:/a:b\n4:memory:/m\n1:name=systemd:/s\n0::/u\n" +
		"\nnonsense\n5:pids:relative\n3:x\n"))
	want := map[string]string{"cpu": "/a:b", "cpuacct": "/a:b", "memory": "/m", "name=systemd": "/s", "": "/u"}
	if !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKernelFilesAreBounded(t *testing.T) {
	m := fake(map[string]string{"big": strings.Repeat("x", maxKernelFile+1)})
	if n := len(m.read("big")); n != maxKernelFile {
		t.Errorf("read %d bytes", n)
	}
	if m.read("absent") != nil || m.read("/absolute") != nil {
		t.Error("read what is not there")
	}
}

func FuzzParseCgroups(f *testing.F) {
	f.Add([]byte("4:memory:/kubepods/pod1/ctr\n0::/\n"))
	f.Add([]byte("0::/a:b (deleted)"))
	f.Add([]byte("::\n:,:/\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for controller, group := range parseCgroups(text) {
			if strings.ContainsAny(controller, ":,\n") || group[0] != '/' {
				t.Errorf("%q in %q", controller, group)
			}
			for _, root := range []string{"/", "/a", group} {
				if rest := within(root, group); !fs.ValidPath(rest) {
					t.Errorf("%q within %q is %q", group, root, rest)
				}
			}
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("cache 9203712\ntotal_inactive_file 140365824\nactive_file 9223372036854775807\n"))
	f.Add([]byte("inactive_file -1\nactive_file 99999999999999999999\nx\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		stat := parseStat(text)
		for key, n := range stat {
			if n < 0 || strings.Contains(key, "\n") {
				t.Errorf("%q is %d", key, n)
			}
		}
		if n := reclaimable(stat); n < 0 {
			t.Errorf("%d bytes are reclaimable", n)
		}
		if n := parseBytes(text); n < 0 {
			t.Errorf("%d bytes", n)
		}
	})
}

// TestRealMemoryLimit lives in a cgroup of its own and fills it with page cache, which is no reason to refuse a model,
// and with files in memory, which are one.
func TestRealMemoryLimit(t *testing.T) {
	const limit = 200 << 20
	cgroup := os.Getenv("TARGET_TEST_CGROUP")
	if cgroup == "" {
		cgroup = makeCgroup(t, limit)
		t.Setenv("TARGET_TEST_CGROUP", cgroup)
	}
	if !asChild(t, nil) {
		return
	}
	if err := os.WriteFile(cgroup+"/cgroup.procs", []byte("0"), 0); err != nil {
		t.Skipf("this process cannot be put into a cgroup: %v", err)
	}
	limits := machine{os.DirFS("/")}.memoryLimits()
	if len(limits) == 0 || limits[0].limit != limit || limits[0].dir != cgroup {
		t.Fatalf("limits %v, want one of %d in %s first", limits, limit, cgroup)
	}
	dir, disk := tmpfsDir(t), diskDir(t)
	d := open(t, dir, Options{})
	need := Need{Bytes: 60 << 20, Files: 1}
	fill(t, disk+"/cache", 120)
	if err := d.Room(need); err != nil {
		t.Errorf("page cache in the way: %v", err)
	}
	wantFault(t, d.Room(Need{Bytes: 150 << 20, Files: 1}), fault.Destination,
		"the memory limit of "+cgroup+" is 200Mi", "resources.limits.memory", "at least 2")
	fill(t, dir+"/shmem", 90)
	wantFault(t, d.Room(need), fault.Destination, "the memory limit of "+cgroup)
	if err := open(t, disk, onDisk).Room(need); err != nil {
		t.Errorf("a disk is charged like memory: %v", err)
	}
}

// fill writes a file piece by piece, since the test's own memory counts as well.
func fill(t *testing.T, name string, mebibytes int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	piece := make([]byte, 1<<20)
	for range mebibytes {
		if _, err := f.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
}

// makeCgroup makes a memory cgroup of either version, or skips.
func makeCgroup(t *testing.T, limit int) string {
	t.Helper()
	name := fmt.Sprintf("target-test-%d", os.Getpid())
	for _, limitFile := range []string{
		"/sys/fs/cgroup/memory/" + name + "/memory.limit_in_bytes", "/sys/fs/cgroup/" + name + "/memory.max",
	} {
		dir := filepath.Dir(limitFile)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { os.Remove(dir) })
		if f, err := os.OpenFile(limitFile, os.O_WRONLY, 0); err == nil {
			_, err = fmt.Fprint(f, limit)
			f.Close()
			if err == nil {
				return dir
			}
		}
	}
	t.Skip("no memory cgroup can be made here: that needs root and a cgroup tree of one's own")
	return ""
}
