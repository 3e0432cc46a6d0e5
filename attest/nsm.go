package attest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// TypeNSM is the type of evidence that the security module of a Nitro Enclave makes.
const TypeNSM = "nsm"

const (
	nsmDevice = "/dev/nsm"

	// nsmIoctl is _IOWR(0x0A, 0, struct nsm_raw), whose two struct iovec are request and response.
	// Source: include/uapi/linux/nsm.h.
	nsmIoctl       = 0xC0200A00
	nsmRequestMax  = 0x1000
	nsmResponseMax = 0x3000

	nsmTime = 30 * time.Second
)

const (
	hintNSMMissing = "run inside a Nitro Enclave, whose kernel has the nsm driver; an ordinary instance has a NitroTPM " +
		"instead"
	hintNSM = "look at the enclave's console; the module answers nobody outside an enclave"
)

// NSM collects the attestation documents of a Nitro Enclave. It holds no device between calls and is safe for
// concurrent use.
type NSM struct {
	path string
}

// NewNSM returns the attester of the enclave that this program runs in.
func NewNSM() *NSM { return &NSM{nsmDevice} }

// Type implements Attester.
func (*NSM) Type() string { return TypeNSM }

// Probe opens the device.
func (n *NSM) Probe(context.Context) error {
	fd, err := n.open()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Collect implements Attester. It returns when ctx is done, whatever the module does.
func (n *NSM) Collect(ctx context.Context, b Binding) (Evidence, error) {
	if err := b.check(); err != nil {
		return Evidence{}, err
	}
	if err := ctx.Err(); err != nil {
		return Evidence{}, fmt.Errorf("asking %s: %w", n.path, err)
	}
	request, err := encodeRequest(b)
	if err != nil {
		return Evidence{}, fmt.Errorf("encoding the attestation request: %w", err)
	}
	fd, err := n.open()
	if err != nil {
		return Evidence{}, err
	}
	answer, err := exchangeNSM(ctx, fd, request)
	if errors.Is(err, context.Canceled) {
		return Evidence{}, fmt.Errorf("asking %s: %w", n.path, err)
	}
	var document []byte
	if err == nil {
		document, err = decodeAnswer(answer)
	}
	if err != nil {
		return Evidence{}, fault.New(fault.Evidence, hintNSM, "asking %s: %w", n.path, err)
	}
	return Evidence{Type: TypeNSM, Blob: document}, nil
}

func (n *NSM) open() (int, error) {
	fd, err := unix.Open(n.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		return fd, nil
	}
	hint := hintNSMMissing
	if errors.Is(err, unix.EACCES) {
		hint = hintPermission
	}
	err = &os.PathError{Op: "open", Path: n.path, Err: err}
	return -1, fault.New(fault.Evidence, hint, "opening the security module: %w", err)
}

// exchangeNSM asks the module in a goroutine, since nothing ends an ioctl but the driver. The goroutine owns fd and
// what the kernel writes to; one that is given up ends with the ioctl.
func exchangeNSM(ctx context.Context, fd int, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, nsmTime)
	defer cancel()
	type result struct {
		answer []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := nsmCall(fd, request)
		done <- result{answer, errors.Join(err, unix.Close(fd))}
	}()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the security module does not answer: %w", ctx.Err())
	}
}

// nsmCall is the ioctl itself.
func nsmCall(fd int, request []byte) ([]byte, error) {
	if len(request) > nsmRequestMax {
		return nil, fmt.Errorf("a request of %d bytes, more than %d", len(request), nsmRequestMax)
	}
	response := make([]byte, nsmResponseMax)
	// The kernel follows the two pointers inside raw, which the runtime does not see.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&request[0])
	pin.Pin(&response[0])
	raw := [2]unix.Iovec{{Base: &request[0]}, {Base: &response[0]}}
	raw[0].SetLen(len(request))
	raw[1].SetLen(len(response))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nsmIoctl, uintptr(unsafe.Pointer(&raw))); errno != 0 {
		return nil, fmt.Errorf("ioctl: %w", errno)
	}
	if uint64(raw[1].Len) > uint64(len(response)) {
		return nil, fmt.Errorf("an answer of %d bytes, more than %d", raw[1].Len, len(response))
	}
	return response[:raw[1].Len], nil
}
