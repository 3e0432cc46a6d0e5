package attest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// What to change, for each way in which no evidence can be had. Device nodes and pods come first, since that is where
// most of it goes wrong.
const (
	hintMissing = "give the container the device through a device plugin (its resource in the container's limits), " +
		"on an instance whose AMI is registered with TPM support v2.0 and boots by UEFI"
	hintPermission = "the node belongs to a group that the pod is not in: add its gid to supplementalGroups in its " +
		"securityContext, or set device_ownership_from_security_context in containerd"
	hintCgroup = "the device cgroup of the container does not list the device: request it through a device plugin, a " +
		"hostPath volume is not enough"
	hintBusy    = "the raw device serves one process at a time: stop the other one, or use /dev/tpmrm0"
	hintNode    = "name the TPM's device node, unix:PATH or tcp:HOST:PORT"
	hintHang    = "the TPM or what emulates it is stuck: restart the instance, or look at the emulator"
	hintManager = "name the raw device: /dev/tpm0"
	hintForeign = "this TPM is no NitroTPM, so AWS signs nothing for it: run on an EC2 instance with NitroTPM, or " +
		"choose another attester"
	hintSpace = "remove NV indices that nobody needs (tpm2_getcap handles-nv-index, tpm2_nvundefine)"
	hintOwner = "the owner hierarchy has an auth value of its own, which this program does not know: clear it " +
		"(tpm2_changeauth)"
	hintStartup = "nobody has started this TPM: run swtpm with --flags not-need-init,startup-clear"
	hintSocket  = "start the TPM that should listen there, or name another one"
	hintTPM     = "look at the TPM with tpm2_getcap and tpm2_selftest"
)

// explain gives an error of the way to the TPM its kind and its cure. A context that the caller cancelled stays what it
// is: nothing is wrong with the evidence.
func explain(err error, device string) error {
	var own *fault.Error
	switch {
	case err == nil || errors.As(err, &own):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("asking the TPM at %s: %w", device, err)
	default:
		return fault.New(fault.Evidence, hintFor(err, device), "asking the TPM at %s: %w", device, err)
	}
}

// hintFor picks the cure by cause. The order matters only where an error joins two causes: the nearer one comes first.
func hintFor(err error, device string) string {
	var hang *hangError
	if errors.As(err, &hang) {
		return hintHang
	}
	if isMissing(err) && isSocket(device) {
		return hintSocket
	}
	for _, cure := range []struct {
		cause error
		hint  string
	}{
		{unix.ECONNREFUSED, hintSocket},
		{os.ErrNotExist, hintMissing}, {unix.ENXIO, hintMissing}, {unix.ENODEV, hintMissing},
		{unix.EACCES, hintPermission}, {unix.EPERM, hintCgroup}, {unix.EBUSY, hintBusy}, {errNoDevice, hintNode},
		{errManager, hintManager}, {errUnknownCommand, hintForeign}, {errTooLarge, hintForeign},
		{errNoSpace, hintSpace}, {errWindowFull, hintSpace},
		{tpm2.TPMRCInitialize, hintStartup},
		{tpm2.TPMRCBadAuth, hintOwner}, {tpm2.TPMRCAuthFail, hintOwner}, {tpm2.TPMRCHierarchy, hintOwner},
		{context.DeadlineExceeded, hintHang}, {unix.ETIME, hintHang}, // ETIME is the driver's own patience
	} {
		if errors.Is(err, cure.cause) {
			return cure.hint
		}
	}
	return hintTPM
}

// isMissing reports that a device is not there.
func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}
