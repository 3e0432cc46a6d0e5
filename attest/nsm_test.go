package attest_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// The answers of the module are tested in TestDecodeAnswer; without an enclave there is no more than the ways to fail.
func TestNSMWithoutAnEnclave(t *testing.T) {
	n := attest.NewNSM()
	n.SetPath(filepath.Join(t.TempDir(), "nsm"))
	wantFault(t, n.Probe(t.Context()), "no such file", "Nitro Enclave")
	_, err := n.Collect(t.Context(), binding)
	wantFault(t, err, "no such file", "Nitro Enclave")

	n.SetPath("/dev/null")
	_, err = n.Collect(t.Context(), binding)
	wantFault(t, err, "ioctl: inappropriate ioctl for device", "outside an enclave")

	_, err = n.Collect(t.Context(), attest.Binding{UserData: make([]byte, attest.MaxField+1)})
	if !fault.Is(err, fault.Usage) {
		t.Errorf("user data of 1025 bytes: %v", err)
	}
}

func TestNSMCancelled(t *testing.T) {
	n := attest.NewNSM()
	n.SetPath("/dev/null")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.Collect(ctx, binding)
	if !errors.Is(err, context.Canceled) || fault.Of(err) != fault.Internal {
		t.Errorf("a cancelled call: %v of kind %v", err, fault.Of(err))
	}
}
