package target

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// MaySwap reports whether the kernel could write the model to a swap device: one is on, and the destination's tmpfs is
// not mounted with noswap, as the kubelet mounts volumes in memory. It is for a warning: whether the device is
// encrypted, or memory itself (zram), cannot be seen. It is false for disks, and where the kernel does not say.
func (t *Target) MaySwap() bool {
	var st unix.Stat_t
	if err := unix.Fstat(t.fd(), &st); err != nil || !t.inMemory() {
		return false
	}
	return machine{os.DirFS("/")}.maySwap(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
}

func (m machine) maySwap(device string) bool {
	swaps := bytes.Count(m.read("proc/swaps"), []byte("\n")) // one line is the heading
	if swaps <= 1 {
		return false
	}
	for _, mnt := range parseMountinfo(m.read("proc/self/mountinfo")) {
		if mnt.device == device && mnt.fsType == "tmpfs" && slices.Contains(mnt.options, "noswap") {
			return false
		}
	}
	return true
}
