package attest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// These tests run against swtpm, an independent TPM in software, for everything that any TPM can do: NV, sessions,
// response codes. It lacks the vendor command and indices of 8 KiB.

const swtpmIndex = 1900 // bytes; swtpm's largest index is 2048

// swtpm starts one and returns an attester of it, and its process.
func swtpm(t *testing.T, flags string) (*NitroTPM, *os.Process) {
	t.Helper()
	path, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm is not installed (apt install swtpm)")
	}
	dir, err := os.MkdirTemp("", "swtpm") // a socket's path is short, that of t.TempDir may not be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"), "--flags", flags)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			n, err := NewNitroTPM("unix:" + socket)
			if err != nil {
				t.Fatal(err)
			}
			n.bufferSize = swtpmIndex
			return n, cmd.Process
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("swtpm does not listen: %s", log.String())
	return nil, nil
}

const running = "not-need-init,startup-clear"

// with runs work on the TPM of an attester.
func with(t *testing.T, n *NitroTPM, work func(*link) error) {
	t.Helper()
	if err := n.first(t.Context(), work); err != nil {
		t.Fatal(err)
	}
}

// noIndices fails if the TPM holds an index in our window.
func noIndices(t *testing.T, n *NitroTPM) {
	t.Helper()
	with(t, n, func(l *link) error {
		handles, err := l.handles(windowFirst, windowSize)
		if len(handles) != 0 && handles[0] < windowFirst+windowSize {
			t.Errorf("indices left behind: %#x", handles)
		}
		return err
	})
}

func TestSwtpmIsNoNitroTPM(t *testing.T) {
	n, _ := swtpm(t, running)
	if err := n.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := n.Collect(t.Context(), Binding{Nonce: []byte("nonce")})
	if !fault.Is(err, fault.Evidence) || !errors.Is(err, errUnknownCommand) || fault.Hint(err) != hintForeign {
		t.Errorf("error of kind %v: %v (hint: %s)", fault.Of(err), err, fault.Hint(err))
	}
	noIndices(t, n)
}

// TestSwtpmIndexTooSmall asks for the room that a real document needs.
func TestSwtpmIndexTooSmall(t *testing.T) {
	n, _ := swtpm(t, running)
	n.bufferSize = bufferSize
	_, err := n.Collect(t.Context(), Binding{})
	if !fault.Is(err, fault.Evidence) || !errors.Is(err, errTooLarge) || fault.Hint(err) != hintForeign {
		t.Errorf("error of kind %v: %v (hint: %s)", fault.Of(err), err, fault.Hint(err))
	}
}

// TestSwtpmNV sends a request of the largest size through the index and back, under either kind of authorization.
func TestSwtpmNV(t *testing.T) {
	n, _ := swtpm(t, running)
	data := make([]byte, swtpmIndex)
	rand.Read(data)
	document := append([]byte("\xa1\x6bAttestation\xa1\x68document\x59\x07\x40"), data[:0x740]...)
	with(t, n, func(l *link) error {
		index, err := n.reserve(l)
		if err != nil {
			return err
		}
		defer func() {
			if err := discard(l, index); err != nil {
				t.Error(err)
			}
		}()
		echo := func(s tpm2.Session) ([]byte, error) {
			for offset := 0; offset < len(document); offset += 500 {
				if err := writePiece(l, index, s, document[offset:min(offset+500, len(document))], offset); err != nil {
					return nil, err
				}
			}
			return readAnswer(l, index, s, 300)
		}
		for name, read := range map[string]func() ([]byte, error){
			"session":  func() ([]byte, error) { return withSession(l, index.auth, echo) },
			"password": func() ([]byte, error) { return echo(tpm2.PasswordAuth(index.auth)) },
		} {
			got, err := read()
			if err != nil || !bytes.Equal(got, data[:0x740]) {
				t.Errorf("%s: %d bytes read back, %v", name, len(got), err)
			}
		}
		if _, err := echo(tpm2.PasswordAuth([]byte("wrong"))); !errors.Is(err, tpm2.TPMRCAuthFail) {
			t.Errorf("a wrong password: %v", err)
		}
		return nil
	})
	noIndices(t, n)
}

func TestSwtpmSessionsAreFlushed(t *testing.T) {
	n, _ := swtpm(t, running)
	for i := range 8 { // more than a TPM can keep loaded
		if _, err := n.Collect(t.Context(), Binding{}); !errors.Is(err, errUnknownCommand) {
			t.Fatalf("run %d: %v", i, err)
		}
	}
	with(t, n, func(l *link) error {
		for _, first := range []tpm2.TPMHandle{0x80000000, 0x02000000} {
			left, err := l.handles(first, 8)
			if err != nil || len(left) != 0 && left[0]>>24 == first>>24 {
				t.Errorf("handles left: %#x, %v", left, err)
			}
		}
		return nil
	})
}

// TestSwtpmPlainForm takes the endorsement hierarchy away, so that no session can be salted.
func TestSwtpmPlainForm(t *testing.T) {
	n, _ := swtpm(t, running)
	with(t, n, func(l *link) error {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.TPMRHEndorsement, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("auth")},
		}.Execute(l)
		return err
	})
	_, err := n.Collect(t.Context(), Binding{})
	const both = "with a salted session: creating the endorsement key"
	if !errors.Is(err, errUnknownCommand) || !strings.Contains(err.Error(), both) {
		t.Errorf("error %v, want both forms tried", err)
	}
	noIndices(t, n)
}

func TestSwtpmStaleIndex(t *testing.T) {
	n, _ := swtpm(t, running)
	with(t, n, func(l *link) error {
		if _, err := defineAt(l, windowFirst+3, swtpmIndex, time.Now().Add(-staleAge-time.Minute)); err != nil {
			return err
		}
		if _, err := defineAt(l, windowFirst+4, 64, time.Now().Add(-time.Minute)); err != nil {
			return err
		}
		alive, err := sweep(l, time.Now())
		if alive != 1 || err != nil {
			t.Errorf("%d alive, %v", alive, err)
		}
		handles, err := l.handles(windowFirst, windowSize)
		if len(handles) == 0 || handles[0] != windowFirst+4 {
			t.Errorf("handles %#x", handles)
		}
		return err
	})
}

func TestSwtpmFull(t *testing.T) {
	n, _ := swtpm(t, running)
	with(t, n, func(l *link) error {
		for place := tpm2.TPMHandle(0x01800000); ; place++ {
			if _, err := defineAt(l, place, swtpmIndex, time.Now()); errors.Is(err, errNoSpace) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	_, err := n.Collect(t.Context(), Binding{})
	if !fault.Is(err, fault.Evidence) || !errors.Is(err, errNoSpace) || fault.Hint(err) != hintSpace {
		t.Errorf("error of kind %v: %v (hint: %s)", fault.Of(err), err, fault.Hint(err))
	}
}

func TestSwtpmNotStarted(t *testing.T) {
	n, _ := swtpm(t, "not-need-init")
	err := n.Probe(t.Context())
	if !fault.Is(err, fault.Evidence) || fault.Hint(err) != hintStartup {
		t.Errorf("error of kind %v: %v (hint: %s)", fault.Of(err), err, fault.Hint(err))
	}
}

func TestSwtpmHangs(t *testing.T) {
	n, process := swtpm(t, running)
	n.commandTime = 200 * time.Millisecond
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, err := n.Collect(t.Context(), Binding{})
	if !fault.Is(err, fault.Evidence) || fault.Hint(err) != hintHang {
		t.Errorf("error of kind %v: %v (hint: %s)", fault.Of(err), err, fault.Hint(err))
	}
}
