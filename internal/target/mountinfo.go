package target

import (
	"bytes"
	"slices"
	"strings"
)

// mount is one line of /proc/PID/mountinfo.
type mount struct {
	device  string   // major:minor
	root    string   // the directory of the filesystem that is mounted
	point   string   // where, as this process sees it
	fsType  string   // such as tmpfs, cgroup, cgroup2
	options []string // of the filesystem, not of the mount: for cgroup version 1 they name the controllers
}

// parseMountinfo parses proc_pid_mountinfo(5). Lines that are not of that form are left out.
func parseMountinfo(text []byte) []mount {
	var mounts []mount
	for line := range bytes.Lines(text) {
		if m, ok := parseMount(string(line)); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// parseMount parses a line such as
//
//	35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
//
// of which the fields before the dash are six or more, and those after it three.
func parseMount(line string) (mount, bool) {
	fields := strings.Fields(line)
	dash := slices.Index(fields, "-")
	if dash < 6 || len(fields) < dash+4 {
		return mount{}, false
	}
	m := mount{
		device:  fields[2],
		root:    unescape(fields[3]),
		point:   unescape(fields[4]),
		fsType:  fields[dash+1],
		options: strings.Split(fields[dash+3], ","),
	}
	return m, strings.HasPrefix(m.root, "/") && strings.HasPrefix(m.point, "/")
}

// unescape undoes the octal escapes of space, tab, newline and backslash in a path of mountinfo: \040 and the like.
func unescape(path string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(path, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if c, ok := octal(after); ok {
			b.WriteByte(c)
			path = after[3:]
		} else {
			b.WriteByte('\\')
			path = after
		}
	}
}

func octal(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n := 0
	for _, d := range []byte(s[:3]) {
		if d < '0' || d > '7' {
			return 0, false
		}
		n = n<<3 | int(d-'0')
	}
	return byte(n), n <= 0xff
}
