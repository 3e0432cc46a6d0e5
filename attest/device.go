package attest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const (
	headerSize  = 10   // bytes of a TPM command or response header: tag, size, code
	maxResponse = 4096 // bytes; what the kernel's driver holds (TPM_BUFSIZE)

	pollStep = 50 * time.Millisecond // how late a cancelled wait may notice
	dialTime = 5 * time.Second
	busyTime = 10 * time.Second // how long another process may hold /dev/tpm0
)

// channel carries commands to one TPM and responses back, one at a time.
type channel interface {
	// exchange sends a command and returns the whole response. Once ctx is done it returns an error, whatever the TPM
	// does, and the channel is of no more use.
	exchange(ctx context.Context, command []byte) ([]byte, error)
	// close never waits for the TPM.
	close()
}

// errSpent answers every use of a channel that was abandoned in the middle of a command.
var errSpent = errors.New("the TPM has not answered an earlier command")

// checkDevice refuses what openChannel could never open, by its form alone.
func checkDevice(device string) error {
	rest, isTCP := strings.CutPrefix(device, "tcp:")
	if isTCP {
		if host, port, err := net.SplitHostPort(rest); err != nil || host == "" || port == "" {
			return badDevice(device)
		}
		return nil
	}
	if rest, isUnix := strings.CutPrefix(device, "unix:"); isUnix {
		device = rest
	}
	if device == "" || strings.ContainsRune(device, 0) {
		return badDevice(device)
	}
	return nil
}

func badDevice(device string) error {
	return fault.New(fault.Usage, "name a device (/dev/tpmrm0), unix:PATH or tcp:HOST:PORT", "%q is no TPM", device)
}

// isSocket reports that a device is reached through a socket.
func isSocket(device string) bool {
	return strings.HasPrefix(device, "tcp:") || strings.HasPrefix(device, "unix:")
}

// openChannel opens a device node, or the socket of a TPM in software. A device node that somebody else holds is waited
// for, since /dev/tpm0 serves one process at a time.
func openChannel(ctx context.Context, device string) (channel, error) {
	if address, ok := strings.CutPrefix(device, "tcp:"); ok {
		return dial(ctx, "tcp", address)
	}
	if path, ok := strings.CutPrefix(device, "unix:"); ok {
		return dial(ctx, "unix", path)
	}
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	for {
		ch, err := openNode(device)
		if !errors.Is(err, unix.EBUSY) || sleep(ctx, pollStep) != nil {
			return ch, err
		}
	}
}

// sleep waits for d, or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// node is an open TPM character device.
//
// It is opened O_NONBLOCK, which makes the driver (tpm-dev-common, Linux 4.20 and later) take a write and work on it
// apart, so that a TPM that hangs leaves this process in poll and not in the kernel. A read with no response ready
// gives zero bytes instead of EAGAIN, hence no use of the runtime's poller.
type node struct {
	fd    int
	spent bool
}

func openNode(path string) (channel, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFCHR {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.Join(errNoDevice, err)}
	}
	return &node{fd: fd}, nil
}

// errNoDevice keeps commands from being written into a file that is no device at all.
var errNoDevice = errors.New("not a character device")

func (n *node) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if n.spent {
		return nil, errSpent
	}
	if written, err := again(func() (int, error) { return unix.Write(n.fd, command) }); err != nil {
		return nil, fmt.Errorf("writing a command: %w", err)
	} else if written != len(command) {
		return nil, fmt.Errorf("writing a command: %d bytes of %d taken", written, len(command))
	}
	if err := n.wait(ctx); err != nil {
		n.spent = true
		return nil, err
	}
	response := make([]byte, maxResponse)
	size, err := again(func() (int, error) { return unix.Read(n.fd, response) })
	if err != nil {
		return nil, fmt.Errorf("reading a response: %w", err)
	}
	return wholeResponse(response[:size])
}

// wait returns once a response can be read.
func (n *node) wait(ctx context.Context) error {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}}
		ready, err := again(func() (int, error) { return unix.Poll(fds, int(pollStep/time.Millisecond)) })
		if err != nil {
			return fmt.Errorf("waiting for a response: %w", err)
		}
		if ready > 0 {
			return nil
		}
	}
	return ctx.Err()
}

// close gives the descriptor back. The driver's release waits for a command that is still running, so then it is left
// to a goroutine that ends with the command.
func (n *node) close() {
	if n.spent {
		go unix.Close(n.fd)
		return
	}
	_ = unix.Close(n.fd)
}

// again repeats a system call that a signal cut short.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// wholeResponse checks a response's length against its header.
func wholeResponse(response []byte) ([]byte, error) {
	if len(response) < headerSize {
		return nil, fmt.Errorf("the TPM answered %d bytes, less than a header", len(response))
	}
	if size := binary.BigEndian.Uint32(response[2:6]); uint64(size) != uint64(len(response)) {
		return nil, fmt.Errorf("the TPM answered %d bytes and says %d", len(response), size)
	}
	return response, nil
}

// socket is a TPM in software: commands and responses follow each other on a stream, framed by their own headers.
type socket struct {
	conn  net.Conn
	spent bool
}

func dial(ctx context.Context, network, address string) (channel, error) {
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &socket{conn: conn}, nil
}

func (s *socket) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if s.spent {
		return nil, errSpent
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = s.conn.SetDeadline(time.Unix(1, 0))
		close(cut)
	})
	response, err := s.roundTrip(command)
	if !stop() {
		<-cut
		_ = s.conn.SetDeadline(time.Time{})
	}
	if err == nil {
		return response, nil
	}
	s.spent = true // whatever comes next on the stream is no header
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, err
}

func (s *socket) roundTrip(command []byte) ([]byte, error) {
	if _, err := s.conn.Write(command); err != nil {
		return nil, fmt.Errorf("writing a command: %w", err)
	}
	var header [headerSize]byte
	if _, err := io.ReadFull(s.conn, header[:]); err != nil {
		return nil, fmt.Errorf("reading a response: %w", err)
	}
	size := binary.BigEndian.Uint32(header[2:6])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("the TPM announces a response of %d bytes", size)
	}
	response := append(header[:], make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(s.conn, response[headerSize:]); err != nil {
		return nil, fmt.Errorf("reading a response: %w", err)
	}
	return response, nil
}

func (s *socket) close() { _ = s.conn.Close() }
