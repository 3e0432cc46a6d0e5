package attest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

var someCommand = []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8} // TPM2_GetRandom

// pair returns a node over one end of a socket pair, which polls, reads and writes as a device does, and the other end.
func pair(t *testing.T) (*node, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	peer := os.NewFile(uintptr(fds[1]), "peer")
	t.Cleanup(func() { _ = peer.Close() })
	return &node{fd: fds[0]}, peer
}

func TestNode(t *testing.T) {
	for name, test := range map[string]struct {
		answer []byte
		want   string
	}{
		"a response":   {[]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, ""},
		"too short":    {[]byte{0x80, 1, 0, 0, 0, 9}, "less than a header"},
		"wrong length": {[]byte{0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0}, "answered 10 bytes and says 11"},
	} {
		t.Run(name, func(t *testing.T) {
			n, peer := pair(t)
			defer n.close()
			go func() {
				command := make([]byte, 100)
				size, _ := peer.Read(command)
				if bytes.Equal(command[:size], someCommand) {
					_, _ = peer.Write(test.answer)
				}
			}()
			response, err := n.exchange(t.Context(), someCommand)
			if test.want == "" && (err != nil || !bytes.Equal(response, test.answer)) {
				t.Errorf("%x, %v", response, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestNodeHangs(t *testing.T) {
	n, _ := pair(t)
	defer n.close()
	l := &link{t.Context(), n, 20 * time.Millisecond}
	_, err := l.Send(someCommand)
	var hang *hangError
	if !errors.As(err, &hang) || hang.command != 0x17b {
		t.Errorf("error %v, want a hang on command 0x17b", err)
	}
	if _, err := l.Send(someCommand); !errors.Is(err, errSpent) {
		t.Errorf("the second command: %v, want errSpent", err)
	}
}

func TestNodeNeedsADevice(t *testing.T) {
	if _, err := openNode("/dev/null"); err != nil {
		t.Errorf("a character device: %v", err)
	}
	if _, err := openNode(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
}

func TestHints(t *testing.T) {
	for _, test := range []struct {
		err  error
		hint string
	}{
		{&os.PathError{Op: "open", Path: "/dev/tpmrm0", Err: unix.ENOENT}, "device plugin"},
		{&os.PathError{Op: "open", Path: "/dev/tpmrm0", Err: unix.ENODEV}, "device plugin"},
		{&os.PathError{Op: "open", Path: "/dev/tpmrm0", Err: unix.EACCES}, "supplementalGroups"},
		{&os.PathError{Op: "open", Path: "/dev/tpmrm0", Err: unix.EPERM}, "device cgroup"},
		{&os.PathError{Op: "open", Path: "/dev/tpm0", Err: unix.EBUSY}, "/dev/tpmrm0"},
		{errManager, "/dev/tpm0"},
		{errUnknownCommand, "no NitroTPM"},
		{fmt.Errorf("defining: %w", errWindowFull), "tpm2_nvundefine"},
		{tpm2.TPMRCInitialize, "startup-clear"},
		{tpm2.TPMRC(0x9a2), "owner hierarchy"}, // TPM_RC_BAD_AUTH, session 1
		{tpm2.TPMRCHierarchy | 0x100, "owner hierarchy"},
		{&hangError{command: commandNSM}, "stuck"},
		{context.DeadlineExceeded, "stuck"},
		{unix.ETIME, "stuck"},
		{io.ErrUnexpectedEOF, "tpm2_selftest"},
	} {
		err := explain(test.err, "/dev/tpmrm0")
		if !fault.Is(err, fault.Evidence) || !errors.Is(err, test.err) || !strings.Contains(err.Error(), "/dev/tpmrm0") {
			t.Errorf("%v became %v of kind %v", test.err, err, fault.Of(err))
		}
		if !strings.Contains(fault.Hint(err), test.hint) {
			t.Errorf("%v: hint %q does not contain %q", test.err, fault.Hint(err), test.hint)
		}
	}
	err := explain(context.Canceled, "/dev/tpm0")
	if fault.Of(err) != fault.Internal || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
}

func TestNSMFrame(t *testing.T) {
	// The form with an empty password, as seen sent by other implementations.
	auth := tpm2.Marshal(tpm2.TPMSAuthCommand{Handle: tpm2.TPMRSPW})
	got := fmt.Sprintf("%x", nsmFrame(0x01000000, auth))
	const want = "8002" + "0000001f" + "20000001" + "01000000" + "01000000" +
		"00000009" + "40000009" + "0000" + "00" + "0000"
	if got != want {
		t.Errorf("frame %s\nwant  %s", got, want)
	}
}

func TestEncodeRequest(t *testing.T) {
	got, err := encodeRequest(Binding{PublicKey: []byte{1, 2}, UserData: []byte{}})
	const want = "\xa1\x6bAttestation\xa3\x69user_data\xf6\x65nonce\xf6\x6apublic_key\x42\x01\x02"
	if err != nil || string(got) != want {
		t.Errorf("request %x, %v\nwant    %x", got, err, want)
	}
}

func TestDecodeAnswer(t *testing.T) {
	answer := "\xa1\x6bAttestation\xa1\x68document\x43abc"
	long := append([]byte("\xa1\x6bAttestation\xa1\x68document\x59\x40\x01"), make([]byte, 0x4001)...)
	for name, test := range map[string]struct{ raw, document, err string }{
		"document":         {answer, "abc", ""},
		"padded":           {answer + "\xff\xff\xff", "abc", ""},
		"cut":              {answer[:len(answer)-1], "", "unexpected EOF"},
		"an error":         {"\xa1\x65Error\x6fInvalidArgument", "", `refused the request: "InvalidArgument"`},
		"the request":      {"\xa1\x6bAttestation\xa1\x65nonce\xf6", "", "no attestation document"},
		"empty document":   {"\xa1\x6bAttestation\xa1\x68document\x40", "", "no attestation document"},
		"nothing":          {"\xff\xff", "", "reading the module's answer"},
		"two of one key":   {"\xa2" + answer[1:] + answer[1:], "", "duplicate map key"},
		"another case":     {strings.Replace(answer, "Att", "att", 1), "", "no attestation document"},
		"a huge document":  {string(long), "", "more than 16384"},
		"deeply nested":    {"\xa1\x6bAttestation" + strings.Repeat("\x81", 20) + "\xf6", "", "nested"},
		"a tagged answer":  {"\xc6" + answer, "", "tag"},
		"text as document": {"\xa1\x6bAttestation\xa1\x68document\x63abc", "", "cannot unmarshal"},
	} {
		document, err := decodeAnswer([]byte(test.raw))
		if string(document) != test.document || (err == nil) != (test.err == "") ||
			err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %q, %v; want %q, %q", name, document, err, test.document, test.err)
		}
	}
}

func TestMarks(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	if made, ok := madeAt(mark(now)); !ok || !made.Equal(now) {
		t.Errorf("made at %v, %v", made, ok)
	}
	for _, foreign := range [][]byte{nil, make([]byte, 64), mark(now)[:63], append(mark(now), 0)} {
		if _, ok := madeAt(foreign); ok {
			t.Errorf("%x was taken for ours", foreign)
		}
	}
}

// hostile is a TPM that answers truly but for one response.
type hostile struct {
	tpm  *nitrotpm.TPM
	step int
	at   int
	lie  []byte
}

func (h *hostile) exchange(_ context.Context, command []byte) ([]byte, error) {
	h.step++
	if h.step != h.at {
		return h.tpm.Execute(command), nil
	}
	lie := append([]byte{0x80, 2, 0, 0, 0, 0}, h.lie...)
	binary.BigEndian.PutUint32(lie[2:], uint32(len(lie)))
	return wholeResponse(lie)
}

func (*hostile) close() {}

// FuzzHostileTPM replaces one response of a TPM: whatever comes, there is an error or the true document.
func FuzzHostileTPM(f *testing.F) {
	authority, err := nitrotpm.NewAuthority(time.Now)
	if err != nil {
		f.Fatal(err)
	}
	for step := range byte(14) {
		f.Add(step, []byte{0, 0, 0, 0})
		f.Add(step, []byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		f.Add(step, []byte{0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 1, 0x2c, 0, 0, 0, 64})
		f.Add(step, []byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0xa5, 0xea, 0})
	}
	attester, err := NewNitroTPM("")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, at byte, lie []byte) {
		tpm, err := nitrotpm.New(nitrotpm.Options{Authority: authority})
		if err != nil {
			t.Fatal(err)
		}
		channel := &hostile{tpm: tpm, at: int(at), lie: lie[:min(len(lie), maxResponse-headerSize)]}
		document, err := attester.document(&link{t.Context(), channel, time.Second}, []byte("\xa1\x6bAttestation\xa0"))
		if (err == nil) != (len(document) > 0) {
			t.Errorf("a document of %d bytes with error %v", len(document), err)
		}
	})
}
