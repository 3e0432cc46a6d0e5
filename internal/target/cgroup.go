package target

import (
	"bytes"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// machine is what the kernel says of the process in files; tests put trees of their own in its place.
type machine struct {
	files fs.FS // the root directory, with proc and sys in it
}

// memoryLimit is the limit of one memory cgroup that this process is charged in.
type memoryLimit struct {
	dir   string // as this process sees it, for messages
	limit int64  // bytes
	used  int64  // bytes that reclaim cannot give back
}

// hierarchy is one of the kernel's two cgroup interfaces.
type hierarchy struct {
	fsType, controller string // how its mount and its line in /proc/PID/cgroup are told
	limit, usage       string // files of a cgroup directory
}

// memoryLimits returns the limits that bear on this process, the innermost first. It is empty where there are none, and
// where none can be seen: a limit that only the kernel knows is no reason to refuse a model.
//
// The limit of version 2 is memory.max, not memory.high: above the latter the kernel slows the process down and
// reclaims, but kills nothing, and the kubelet sets it below memory.max on its own. A model that fits slowly is not
// refused. Where both interfaces are mounted (hybrid mode), the memory controller is in one of them only, and the
// other one has none of the files.
func (m machine) memoryLimits() []memoryLimit {
	groups := parseCgroups(m.read("proc/self/cgroup"))
	mounts := parseMountinfo(m.read("proc/self/mountinfo"))
	var limits []memoryLimit
	for _, h := range []hierarchy{
		{"cgroup2", "", "memory.max", "memory.current"},
		{"cgroup", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
	} {
		group, ok := groups[h.controller]
		if !ok {
			continue
		}
		// Of several mounts in one place the last one is on top; in different places they show the same.
		for _, mnt := range slices.Backward(mounts) {
			if mnt.fsType == h.fsType && (h.controller == "" || slices.Contains(mnt.options, h.controller)) {
				limits = append(limits, m.walk(h, mnt.point, within(mnt.root, group))...)
				break
			}
		}
	}
	return limits
}

// within returns the path of a cgroup below the root of a cgroup mount, "." for the root itself.
//
// In a container with a cgroup namespace both are "/". Without one, the cgroup is named as on the host, and the mount
// shows that very cgroup, or the host's root. Where they do not meet, as for a process that was moved out of its
// namespace ("/../x"), the mount's root is the best that can be seen.
func within(root, group string) string {
	rest, ok := strings.CutPrefix(group+"/", strings.TrimSuffix(root, "/")+"/")
	rest = strings.TrimSuffix(rest, "/")
	if !ok || !fs.ValidPath(rest) { // of which the empty path and those with ".." are none
		return "."
	}
	return rest
}

// walk reads the limits of a cgroup and of its ancestors up to the mount's root.
func (m machine) walk(h hierarchy, point, group string) []memoryLimit {
	var limits []memoryLimit
	for ; ; group = path.Dir(group) {
		if l, ok := m.memoryLimit(h, path.Join(point, group)); ok {
			limits = append(limits, l)
		}
		if group == "." {
			return limits
		}
	}
}

// memoryLimit reads the limit of one cgroup; there is none in the root, and none that is "max".
func (m machine) memoryLimit(h hierarchy, dir string) (memoryLimit, bool) {
	rel := strings.TrimPrefix(dir, "/")
	stat := parseStat(m.read(path.Join(rel, "memory.stat")))
	limit := parseBytes(m.read(path.Join(rel, h.limit)))
	// Version 1 says what the tightest limit above is, even where those above cannot be seen.
	if above, ok := stat["hierarchical_memory_limit"]; ok {
		limit = min(limit, above)
	}
	if limit >= unlimited {
		return memoryLimit{}, false
	}
	usage := parseBytes(m.read(path.Join(rel, h.usage)))
	if usage >= unlimited {
		return memoryLimit{}, false // without its usage a limit says little, and the cgroup is on its way out
	}
	return memoryLimit{dir, limit, usage - min(usage, reclaimable(stat))}, true
}

// reclaimable is the page cache, in bytes, that the kernel drops before it runs into a limit. It must not be taken for
// used: an image that was just unpacked fills the cache up to the limit.
//
// Pages of tmpfs are not among it. The kernel counts them as file or cache, and as shmem, but keeps them on the lists
// of anonymous memory, because they can only go to swap. So the sizes of the two file lists need no shmem taken off,
// as the counter "file" would. Mapped and locked pages are on a third list.
//
// Version 1 has each value twice, for the cgroup alone and, as usage_in_bytes counts, with its descendants.
func reclaimable(stat map[string]int64) int64 {
	sum := int64(0)
	for _, key := range []string{"inactive_file", "active_file"} {
		if total, ok := stat["total_"+key]; ok {
			sum = addBytes(sum, total)
		} else {
			sum = addBytes(sum, stat[key])
		}
	}
	return sum
}

// parseCgroups parses /proc/PID/cgroup (cgroups(7)): lines of hierarchy-ID:controllers:path. The result is by
// controller; that of version 2 is "".
func parseCgroups(text []byte) map[string]string {
	groups := map[string]string{}
	for line := range bytes.Lines(text) {
		// A path may have colons in it, and ends in " (deleted)" if it was removed: the limit of its parent still holds.
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) < 3 || !strings.HasPrefix(fields[2], "/") {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			groups[controller] = fields[2]
		}
	}
	return groups
}

// parseStat parses memory.stat: lines of a key and a number. Others are left out.
func parseStat(text []byte) map[string]int64 {
	stat := map[string]int64{}
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
			stat[key] = n
		}
	}
	return stat
}

// unlimited is more memory than there is. Version 1 says "no limit" with the largest multiple of the page size.
const unlimited = math.MaxInt64 / 2

// parseBytes parses a file of one number of bytes; "max", and whatever is no number, is unlimited.
func parseBytes(text []byte) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n < 0 {
		return unlimited
	}
	return n
}

// maxKernelFile bounds what is read of a file of /proc or of a cgroup: thousands of mounts.
const maxKernelFile = 4 << 20

// read returns a file's content, or nothing if there is none.
func (m machine) read(name string) []byte {
	f, err := m.files.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKernelFile))
	if err != nil {
		return nil
	}
	return text
}
