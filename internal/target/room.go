package target

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Need is what a model takes at its destination.
type Need struct {
	Bytes int64 // plaintext bytes over all files
	Files int   // files, plus the directories they need where those are known
}

// Claim is one model's need at one destination.
type Claim struct {
	Target *Target
	Need   Need
}

const (
	// headroom is what the process itself may take of its memory limit: buffers, stacks, sockets.
	headroom = 64 << 20
	// inodeMemory and pageMemory are what the kernel keeps, and charges, for each file and for each page of a tmpfs:
	// about 950 bytes of inode and directory entry, and a node of 584 bytes in the page tree for 64 pages.
	inodeMemory = 1 << 10
	pageMemory  = 10
)

// Room checks that one model fits: CheckRoom for a single claim.
func (t *Target) Room(n Need) error { return CheckRoom(Claim{t, n}) }

// CheckRoom checks that all claims together fit: into the free space and the inodes of their mounts, of which several
// destinations may share one, and, for mounts in memory, into the memory limit of this process' cgroups. It is called
// before anything is staged. Every bound that is not met is in the one error, of kind fault.Destination, with the
// setting that would meet it.
func CheckRoom(claims ...Claim) error {
	return machine{os.DirFS("/")}.checkRoom(claims)
}

func (m machine) checkRoom(claims []Claim) error {
	mounts, err := byMount(claims)
	if err != nil {
		return err
	}
	var found shortages
	memory := int64(0)
	for _, d := range mounts {
		found.checkMount(d)
		if d.target.inMemory() {
			memory = addBytes(memory, d.memory())
		}
	}
	if memory > 0 {
		found.checkMemory(memory, m.memoryLimits())
	}
	return found.err()
}

// demand is what several claims need of one mount.
type demand struct {
	target *Target // one of those on the mount
	space  space
	pages  int64
	inodes int64
	old    int // entries that the destinations hold already
}

// byMount adds claims up by the device their destination is on, in the order of the claims.
func byMount(claims []Claim) ([]*demand, error) {
	var mounts []*demand
	devices := map[uint64]*demand{}
	for _, c := range claims {
		t := c.Target
		if c.Need.Bytes < 0 || c.Need.Files < 0 {
			return nil, fault.New(fault.Format, "publish the model again", "a model of %d bytes in %d files",
				c.Need.Bytes, c.Need.Files)
		}
		var st unix.Stat_t
		if err := unix.Fstat(t.fd(), &st); err != nil {
			return nil, t.fail("looking at "+t.path, err)
		}
		d := devices[st.Dev]
		if d == nil {
			s, err := t.space()
			if err != nil {
				return nil, t.fail("asking for the space of "+t.path, err)
			}
			d = &demand{target: t, space: s}
			devices[st.Dev] = d
			mounts = append(mounts, d)
		}
		d.add(c)
	}
	return mounts, nil
}

// add counts whole pages: each file's last one is full as far as the mount is concerned.
func (d *demand) add(c Claim) {
	files := int64(c.Need.Files)
	d.pages = addBytes(d.pages, addBytes(c.Need.Bytes/d.space.pageSize, files))
	d.inodes = addBytes(d.inodes, files+1) // the staging directory
	_ = c.Target.entries(func(e fs.DirEntry) bool {
		if !isStagingName(e.Name()) {
			d.old++
		}
		return d.old < maxEntries
	})
}

func (d *demand) bytes() int64 { return mulBytes(d.pages, d.space.pageSize) }

// memory is what the demand adds to the cgroup of a process that writes it into a tmpfs.
func (d *demand) memory() int64 {
	return addBytes(d.bytes(), addBytes(mulBytes(d.pages, pageMemory), mulBytes(d.inodes, inodeMemory)))
}

// space is what a mount has, as of statfs(2). A total of 0 is no bound: tmpfs says so of size=0 and nr_inodes=0, and
// filesystems with inodes on demand do of those.
type space struct {
	pageSize           int64
	total, free, used  int64 // bytes
	inodes, freeInodes int64
}

func (t *Target) space() (space, error) {
	var st unix.Statfs_t
	if err := ignoreEINTR(func() error { return unix.Fstatfs(t.fd(), &st) }); err != nil {
		return space{}, err
	}
	unit := int64(st.Frsize)
	return space{
		pageSize:   int64(os.Getpagesize()),
		total:      mulBytes(clamp(st.Blocks), unit),
		free:       mulBytes(clamp(st.Bavail), unit),
		used:       mulBytes(clamp(st.Blocks-min(st.Bfree, st.Blocks)), unit),
		inodes:     clamp(st.Files),
		freeInodes: clamp(st.Ffree),
	}, nil
}

func (s space) String() string {
	return fmt.Sprintf("%s free of %s, %d inodes free of %d", mebiFloor(s.free), mebi(s.total), s.freeInodes, s.inodes)
}

// shortages are the bounds that are not met, each with its cure.
type shortages struct{ causes, cures []string }

func (f *shortages) add(cause, cure string) {
	f.causes = append(f.causes, cause)
	f.cures = append(f.cures, cure)
}

func (f *shortages) err() error {
	if len(f.causes) == 0 {
		return nil
	}
	return fault.New(fault.Destination, strings.Join(f.cures, "; "), "%s", strings.Join(f.causes, "; "))
}

func (f *shortages) checkMount(d *demand) {
	s, where := d.space, fmt.Sprintf("%s at %s", filesystemName(d.target.magic), d.target.path)
	if need := d.bytes(); s.total > 0 && need > s.free {
		f.add(fmt.Sprintf("%s has %s free of %s, and %s are needed%s",
			where, mebiFloor(s.free), mebi(s.total), mebi(need), d.oldFiles()), d.spaceCure(need))
	}
	if s.inodes > 0 && d.inodes > s.freeInodes {
		f.add(fmt.Sprintf("%s has %d inodes free of %d, and %d are needed%s",
			where, s.freeInodes, s.inodes, d.inodes, d.oldFiles()), "mount it with more inodes (nr_inodes)")
	}
}

// oldFiles speaks of what a restarted container finds: its own model, which stays until the new one is complete.
func (d *demand) oldFiles() string {
	if d.old == 0 {
		return ""
	}
	return fmt.Sprintf(" beside the old files: %d entries of an earlier run or of others are there", d.old)
}

func (d *demand) spaceCure(need int64) string {
	if !d.target.inMemory() {
		return "free " + mebi(need-d.space.free) + " there"
	}
	cure := "set sizeLimit of the volume in memory to at least " + mebi(addBytes(d.space.used, need))
	if d.old > 0 {
		cure += ", or delete the pod so that a new one starts with an empty volume"
	}
	return cure
}

// checkMemory compares with the innermost limit that is too low. Those above it follow from it where the cluster
// derives a pod's limit from its containers'.
func (f *shortages) checkMemory(need int64, limits []memoryLimit) {
	for _, l := range limits {
		total := addBytes(l.used, addBytes(need, headroom))
		if total <= l.limit {
			continue
		}
		f.add(fmt.Sprintf("the memory limit of %s is %s, %s are in use, and %s are needed with %s of headroom, "+
			"because files in memory count against it", l.dir, mebiFloor(l.limit), mebi(l.used), mebi(need), mebi(headroom)),
			"set resources.limits.memory of the container in the ClusterStorageContainer to at least "+mebi(total))
		return
	}
}

// mebi rounds up to Kubernetes' unit, mebiFloor rounds down.
func mebi(n int64) string { return mebiFloor(addBytes(n, 1<<20-1)) }

func mebiFloor(n int64) string { return fmt.Sprintf("%dMi", n>>20) }

// addBytes and mulBytes stop at the largest number: sizes come from a manifest that lies perhaps. Both take no negative
// numbers.
func addBytes(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func mulBytes(a, b int64) int64 {
	if b != 0 && a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return a * b
}

func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
