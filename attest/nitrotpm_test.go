package attest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

var binding = attest.Binding{PublicKey: []byte("a public key"), Nonce: []byte("a nonce"), UserData: []byte("user data")}

// newAuthority makes the one authority of this test binary: its keys take time.
var newAuthority = sync.OnceValues(func() (*nitrotpm.Authority, error) { return nitrotpm.NewAuthority(time.Now) })

func authority(t *testing.T) *nitrotpm.Authority {
	t.Helper()
	a, err := newAuthority()
	check(t, err)
	return a
}

// start serves a simulated NitroTPM and returns an attester of it.
func start(t *testing.T, opts nitrotpm.Options) (*nitrotpm.TPM, *attest.NitroTPM) {
	t.Helper()
	opts.Authority = authority(t)
	tpm, err := nitrotpm.New(opts)
	check(t, err)
	server, err := tpm.Serve("unix", filepath.Join(t.TempDir(), "tpm"))
	check(t, err)
	t.Cleanup(server.Close)
	attester, err := attest.NewNitroTPM(server.Device())
	check(t, err)
	return tpm, attester
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantClean checks that nothing of ours is left in the TPM.
func wantClean(t *testing.T, tpm *nitrotpm.TPM) {
	t.Helper()
	if left := tpm.Indices(); len(left) != 0 {
		t.Errorf("NV indices left behind: %#x", left)
	}
	if n := tpm.Loaded(); n != 0 {
		t.Errorf("%d objects and sessions left loaded", n)
	}
}

// wantFault checks kind, message and cure of an error.
func wantFault(t *testing.T, err error, message, hint string) {
	t.Helper()
	if !fault.Is(err, fault.Evidence) || !strings.Contains(err.Error(), message) {
		t.Fatalf("error of kind %v: %v; want fault.Evidence with %q", fault.Of(err), err, message)
	}
	if !strings.Contains(fault.Hint(err), hint) {
		t.Errorf("hint %q does not contain %q", fault.Hint(err), hint)
	}
}

func TestCollect(t *testing.T) {
	for name, opts := range map[string]nitrotpm.Options{
		"salted session":     {},
		"plain password":     {NoSessions: true},
		"NV in small pieces": {NVPiece: 64},
		"NV in large pieces": {NVPiece: 4000},
	} {
		t.Run(name, func(t *testing.T) {
			tpm, attester := start(t, opts)
			evidence, err := attester.Collect(t.Context(), binding)
			check(t, err)
			wantClean(t, tpm)
			if n := tpm.Sessions(); (n == 0) != opts.NoSessions {
				t.Errorf("%d sessions were used", n)
			}

			verifier, err := verify.New(time.Minute, authority(t).RootSHA256())
			check(t, err)
			claims, err := verifier.Verify(evidence.Blob, time.Now())
			check(t, err)
			if evidence.Type != attest.TypeNitroTPM || claims.Source != verify.NitroTPM {
				t.Errorf("type %q, source %q", evidence.Type, claims.Source)
			}
			if !bytes.Equal(claims.PublicKey, binding.PublicKey) || !bytes.Equal(claims.Nonce, binding.Nonce) ||
				!bytes.Equal(claims.UserData, binding.UserData) {
				t.Errorf("the document binds %q, %q, %q", claims.PublicKey, claims.Nonce, claims.UserData)
			}
			if !bytes.Equal(claims.PCRs[4], tpm.PCR(4)) || len(claims.PCRs) != 24 {
				t.Errorf("%d PCRs, PCR4 %x", len(claims.PCRs), claims.PCRs[4])
			}
		})
	}
}

func TestCollectBindsNothing(t *testing.T) {
	_, attester := start(t, nitrotpm.Options{})
	evidence, err := attester.Collect(t.Context(), attest.Binding{})
	check(t, err)
	document, err := verify.Parse(evidence.Blob)
	check(t, err)
	if document.PublicKey != nil || document.Nonce != nil || document.UserData != nil {
		t.Errorf("the document binds %q, %q, %q", document.PublicKey, document.Nonce, document.UserData)
	}
}

func TestCollectLargestBinding(t *testing.T) {
	full := bytes.Repeat([]byte{7}, attest.MaxField)
	tpm, attester := start(t, nitrotpm.Options{})
	evidence, err := attester.Collect(t.Context(), attest.Binding{PublicKey: full, Nonce: full, UserData: full})
	check(t, err)
	document, err := verify.Parse(evidence.Blob)
	check(t, err)
	if !bytes.Equal(document.PublicKey, full) || !bytes.Equal(document.UserData, full) ||
		!bytes.Equal(document.Nonce, full) {
		t.Error("the document does not carry the whole binding")
	}
	wantClean(t, tpm)
	_, err = attester.Collect(t.Context(), attest.Binding{Nonce: append(full, 0)})
	if !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("a nonce of 1025 bytes: %v", err)
	}
}

func TestCollectOverTCP(t *testing.T) {
	tpm, err := nitrotpm.New(nitrotpm.Options{Authority: authority(t)})
	check(t, err)
	server, err := tpm.Serve("tcp", "127.0.0.1:0")
	check(t, err)
	defer server.Close()
	attester, err := attest.NewNitroTPM(server.Device())
	check(t, err)
	check(t, attester.Probe(t.Context()))
	_, err = attester.Collect(t.Context(), binding)
	check(t, err)
	wantClean(t, tpm)
}

func TestCollectAtOnce(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{NVSpace: 2 * 8192}) // room for two of the four
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := attester.Collect(t.Context(), binding); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	wantClean(t, tpm)
}

func TestBusyTPMIsAskedAgain(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{})
	tpm.RetryNext(4)
	_, err := attester.Collect(t.Context(), binding)
	check(t, err)
	wantClean(t, tpm)
}

func TestNotANitroTPM(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{NoVendorCommand: true})
	check(t, attester.Probe(t.Context()))
	_, err := attester.Collect(t.Context(), binding)
	wantFault(t, err, "does not know the Nitro attestation request", "no NitroTPM")
	wantClean(t, tpm)
}

func TestResourceManager(t *testing.T) {
	manager, attester := start(t, nitrotpm.Options{Manager: true})
	_, err := attester.Collect(t.Context(), binding)
	wantFault(t, err, "resource manager does not pass on", "/dev/tpm0")
	wantClean(t, manager)

	raw, other := start(t, nitrotpm.Options{})
	attester.SetDevices(append(attester.Devices(), other.Devices()...)...)
	_, err = attester.Collect(t.Context(), binding)
	check(t, err)
	wantClean(t, manager)
	wantClean(t, raw)
}

func TestMissingDeviceFallsThrough(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{})
	attester.SetDevices(append([]string{"/nonexistent/tpmrm0"}, attester.Devices()...)...)
	_, err := attester.Collect(t.Context(), binding)
	check(t, err)
	wantClean(t, tpm)
}

func TestHangs(t *testing.T) {
	for name, command := range map[string]tpm2.TPMCC{
		"at once":         tpm2.TPMCCGetCapability,
		"defining":        tpm2.TPMCCNVDefineSpace,
		"making a key":    tpm2.TPMCCCreatePrimary,
		"vendor command":  nitrotpm.CommandNSM,
		"reading":         tpm2.TPMCCNVRead,
		"while it cleans": tpm2.TPMCCNVUndefineSpace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpm, attester := start(t, nitrotpm.Options{})
			attester.SetCommandTime(300 * time.Millisecond)
			tpm.HangOn(uint32(command))
			_, err := attester.Collect(t.Context(), binding)
			wantFault(t, err, "did not answer", "stuck")
			if len(tpm.Indices()) != 0 && !strings.Contains(err.Error(), "stays behind until a later run removes it") {
				t.Errorf("an index is left behind and not spoken of: %v", err)
			}
		})
	}
}

// TestCancelled has the caller give up while a command is under way: the TPM must still be cleaned up.
func TestCancelled(t *testing.T) {
	for name, command := range map[string]tpm2.TPMCC{
		"defining": tpm2.TPMCCNVDefineSpace, "making a key": tpm2.TPMCCCreatePrimary,
		"starting a session": tpm2.TPMCCStartAuthSession, "writing": tpm2.TPMCCNVWrite,
		"vendor command": nitrotpm.CommandNSM, "reading": tpm2.TPMCCNVRead,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpm, attester := start(t, nitrotpm.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			tpm.HangOn(uint32(command))
			done := make(chan error, 1)
			go func() {
				_, err := attester.Collect(ctx, binding)
				done <- err
			}()
			for !hung(tpm, uint32(command)) {
				time.Sleep(time.Millisecond)
			}
			cancel()
			time.Sleep(10 * time.Millisecond)
			tpm.Release()
			if err := <-done; !errors.Is(err, context.Canceled) || fault.Of(err) != fault.Internal {
				t.Errorf("error of kind %v: %v; want context.Canceled without a kind", fault.Of(err), err)
			}
			wantClean(t, tpm)
		})
	}
}

func hung(tpm *nitrotpm.TPM, command uint32) bool {
	for _, seen := range tpm.Commands() {
		if seen == command {
			return true
		}
	}
	return false
}

func TestNVSpaceExhausted(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{NVSpace: 8000})
	_, err := attester.Collect(t.Context(), binding)
	wantFault(t, err, "no NV space left", "tpm2_nvundefine")
	wantClean(t, tpm)
}

// TestIndexOfAKilledRun kills a run in the middle of the vendor command and looks at what the next ones do with its
// index.
func TestIndexOfAKilledRun(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{NVSpace: 2 * 8192})
	foreign := define(t, tpm, attest.WindowFirst+5, nil)
	leaveBehind(t, tpm, attester)
	left := tpm.Indices()
	if len(left) != 2 {
		t.Fatalf("the killed run left %#x", left)
	}

	t.Run("young: it may be alive", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := attester.Collect(ctx, binding)
		wantFault(t, err, "no NV space left", "tpm2_nvundefine")
		if !strings.Contains(err.Error(), "1 other runs") {
			t.Errorf("no word of the other run: %v", err)
		}
		if len(tpm.Indices()) != 2 {
			t.Errorf("indices %#x, want %#x untouched", tpm.Indices(), left)
		}
	})
	t.Run("old: it is removed", func(t *testing.T) {
		attester.SetClock(func() time.Time { return time.Now().Add(attest.StaleAge + time.Minute) })
		_, err := attester.Collect(t.Context(), binding)
		check(t, err)
		if left := tpm.Indices(); len(left) != 1 || left[0] != uint32(foreign) {
			t.Errorf("indices %#x, want the foreign %#x alone", left, foreign)
		}
	})
}

// leaveBehind has a run lose its TPM in the middle of the vendor command, so that it can clean up no more than one that
// is killed there.
func leaveBehind(t *testing.T, tpm *nitrotpm.TPM, attester *attest.NitroTPM) {
	t.Helper()
	attester.SetCommandTime(200 * time.Millisecond)
	tpm.HangOn(nitrotpm.CommandNSM)
	_, err := attester.Collect(t.Context(), binding)
	wantFault(t, err, "stays behind until a later run removes it", "stuck")
	tpm.Release()
}

// local runs commands without a socket.
type local struct{ tpm *nitrotpm.TPM }

func (l local) Send(command []byte) ([]byte, error) { return l.tpm.Execute(command), nil }

func define(t *testing.T, tpm *nitrotpm.TPM, handle tpm2.TPMHandle, policy []byte) tpm2.TPMHandle {
	t.Helper()
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: handle, NameAlg: tpm2.TPMAlgSHA512, Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true},
			AuthPolicy: tpm2.TPM2BDigest{Buffer: policy}, DataSize: 8192,
		}),
	}.Execute(local{tpm})
	check(t, err)
	return handle
}

func TestWindowFull(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{NVSpace: 1 << 20})
	for i := range attest.WindowSize {
		define(t, tpm, attest.WindowFirst+tpm2.TPMHandle(i), nil)
	}
	_, err := attester.Collect(t.Context(), binding)
	wantFault(t, err, "NV indices from 0x1a5ea00 are taken", "tpm2_nvundefine")
	if len(tpm.Indices()) != attest.WindowSize {
		t.Error("an index of somebody else was removed")
	}
}

func TestOwnerHasAuth(t *testing.T) {
	tpm, attester := start(t, nitrotpm.Options{OwnerAuth: []byte("set")})
	_, err := attester.Collect(t.Context(), binding)
	wantFault(t, err, "defining NV index", "owner hierarchy")
	wantClean(t, tpm)
}

func TestNoWayToTheTPM(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	check(t, os.WriteFile(file, []byte("content"), 0o600))
	for name, test := range map[string]struct{ device, message, hint string }{
		"no device":      {filepath.Join(dir, "tpmrm0"), "no such file", "device plugin"},
		"a plain file":   {file, "not a character device", "device node"},
		"no socket":      {"unix:" + filepath.Join(dir, "socket"), "no such file", "should listen there"},
		"nobody listens": {"tcp:127.0.0.1:1", "refused", "should listen there"},
	} {
		t.Run(name, func(t *testing.T) {
			attester, err := attest.NewNitroTPM(test.device)
			check(t, err)
			_, err = attester.Collect(t.Context(), binding)
			wantFault(t, err, test.message, test.hint)
			wantFault(t, attester.Probe(t.Context()), test.device[strings.Index(test.device, ":")+1:], test.hint)
		})
	}
	if content, _ := os.ReadFile(file); string(content) != "content" {
		t.Errorf("a command was written into a plain file: %q", content)
	}
}

func TestNoPermission(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may open everything; TestHints covers the message")
	}
	node := filepath.Join(t.TempDir(), "tpmrm0")
	check(t, os.WriteFile(node, nil, 0o000))
	attester, err := attest.NewNitroTPM(node)
	check(t, err)
	_, err = attester.Collect(t.Context(), binding)
	wantFault(t, err, "permission denied", "supplementalGroups")
}

func TestDeviceNames(t *testing.T) {
	for device, good := range map[string]bool{
		"": true, "/dev/tpm0": true, "unix:/run/tpm": true, "tcp:localhost:2321": true, "tcp:[::1]:1": true,
		"unix:": false, "tcp:": false, "tcp:host": false, "tcp::1": false, "/dev/\x00": false,
	} {
		if _, err := attest.NewNitroTPM(device); (err == nil) != good || err != nil && !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v", device, err)
		}
	}
}
