package target

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// fail says what the destination refused and which setting would let it through. Whatever a destination refuses is of
// kind fault.Destination: the user mends it in the same place, the pod's volume and its security context.
func (t *Target) fail(doing string, err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err // the path is in doing
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Destination, "raise the volume's sizeLimit", "%s: %w%s", doing, err, t.fillState())
	}
	return fault.New(fault.Destination, cure(err), "%s: %w", doing, err)
}

func cure(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "mount the volume read-write in this container"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "let this UID write there: set fsGroup in the pod's securityContext, or run as the directory's owner"
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EINVAL):
		return "name a directory whose parents are directories"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "raise the limit of open files (RLIMIT_NOFILE)"
	case errors.Is(err, unix.EFBIG):
		return "raise the limit of file sizes (RLIMIT_FSIZE), or choose a filesystem for larger files"
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
		return "let nothing be mounted inside the destination"
	case errors.Is(err, unix.ENAMETOOLONG):
		return "publish the model with shorter file names, or choose a shorter destination"
	default:
		return "start again with an empty volume; if that does not help, look at the kernel log"
	}
}

// fillState puts the mount's numbers behind an error of space, or nothing where they cannot be had.
func (t *Target) fillState() string {
	if t.dir == nil {
		return ""
	}
	s, err := t.space()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (%s at %s: %s)", filesystemName(t.magic), t.path, s)
}
