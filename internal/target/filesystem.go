package target

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const volumeHint = "declare a volume in memory in spec.predictor.volumes: {name: kserve-provision-location, " +
	"emptyDir: {medium: Memory, sizeLimit: <size of the model>}}; or accept plaintext on a disk with --allow-disk"

// checkFilesystem refuses everything but tmpfs. ramfs is memory too, but knows no limit: a model larger than expected
// would take the machine down instead of failing, and no sizeLimit reaches it.
func (t *Target) checkFilesystem() error {
	var st unix.Statfs_t
	if err := ignoreEINTR(func() error { return unix.Fstatfs(t.fd(), &st) }); err != nil {
		return t.fail("asking for the filesystem of "+t.path, err)
	}
	t.magic = magic(st)
	switch {
	case t.magic == unix.TMPFS_MAGIC || t.opts.AllowDisk:
		return nil
	case t.magic == unix.RAMFS_MAGIC:
		return fault.New(fault.Destination, volumeHint, "%s is on ramfs, which has no size limit; it must be a tmpfs", t.path)
	default:
		return fault.New(fault.Destination, volumeHint, "%s is on %s, not in memory; it must be a tmpfs",
			t.path, filesystemName(t.magic))
	}
}

// inMemory reports whether files of the destination are charged to the memory of whoever writes them.
func (t *Target) inMemory() bool { return t.magic == unix.TMPFS_MAGIC || t.magic == unix.RAMFS_MAGIC }

// magic drops the sign that 32-bit magic numbers get where statfs has a signed 32-bit field.
func magic(st unix.Statfs_t) int64 { return int64(st.Type) & 0xffffffff }

// filesystemName is what people call the filesystem with a magic number of statfs(2).
func filesystemName(magic int64) string {
	names := map[int64]string{
		unix.TMPFS_MAGIC:           "tmpfs",
		unix.RAMFS_MAGIC:           "ramfs",
		unix.EXT4_SUPER_MAGIC:      "ext4", // ext2 and ext3 have the same number
		unix.XFS_SUPER_MAGIC:       "xfs",
		unix.BTRFS_SUPER_MAGIC:     "btrfs",
		unix.F2FS_SUPER_MAGIC:      "f2fs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay",
		unix.SQUASHFS_MAGIC:        "squashfs",
		unix.EROFS_SUPER_MAGIC_V1:  "erofs",
		unix.FUSE_SUPER_MAGIC:      "fuse or virtiofs",
		unix.V9FS_MAGIC:            "9p",
		unix.NFS_SUPER_MAGIC:       "nfs",
		unix.SMB2_SUPER_MAGIC:      "smb",
		unix.CIFS_SUPER_MAGIC:      "cifs",
		unix.CEPH_SUPER_MAGIC:      "ceph",
		unix.HUGETLBFS_MAGIC:       "hugetlbfs",
		unix.ECRYPTFS_SUPER_MAGIC:  "ecryptfs",
		unix.MSDOS_SUPER_MAGIC:     "vfat",
		unix.PROC_SUPER_MAGIC:      "proc",
		unix.SYSFS_MAGIC:           "sysfs",
		unix.CGROUP2_SUPER_MAGIC:   "cgroup2",
		0x2fc12fc1:                 "zfs",
		0x0bd00bd0:                 "lustre",
	}
	if name, ok := names[magic]; ok {
		return name
	}
	return fmt.Sprintf("a filesystem of type %#x", magic)
}
