// Package validate holds the rules on attestation documents whose cryptography package attest/verify has checked.
//
// Every rule is an explicit expectation: what is not asked for is not checked, and an expectation that asks for nothing
// is refused.
package validate

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// Expectations say what claims must be. At least one PCR must be named.
type Expectations struct {
	// Source is the kind of machine. Required.
	Source verify.Source
	// PCRs lists for each index the values of 48 bytes that are welcome. Every index listed must be in the document;
	// the others are not checked. A list without a value is an error.
	PCRs map[int][][]byte
	// ModuleIDs lists the machines that are welcome. Nil means any.
	ModuleIDs []string
	// PublicKey, UserData and Nonce must be in the document exactly as given. Nil means not checked.
	PublicKey, UserData, Nonce []byte
}

// Claims returns an error of kind fault.Refused that lists everything about the claims that is not as expected.
// A debug enclave, whose PCRs 0 to 2 are zero, is never as expected: its memory can be read from outside.
func Claims(c *verify.Claims, want Expectations) error {
	if err := want.check(); err != nil {
		return err
	}
	var faults []error
	add := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	add(c.Source == want.Source, "a document of %s, not of %s", c.Source, want.Source)
	add(!isDebug(c), "an enclave in debug mode: PCRs 0 to 2 are zero")
	add(want.ModuleIDs == nil || slices.Contains(want.ModuleIDs, c.ModuleID), "module %q is not listed", c.ModuleID)
	for _, index := range slices.Sorted(maps.Keys(want.PCRs)) {
		add(oneOf(c.PCRs[index], want.PCRs[index]), "PCR%d is %x", index, c.PCRs[index])
	}
	for _, field := range []struct {
		name      string
		got, want []byte
	}{
		{"public key", c.PublicKey, want.PublicKey}, {"user data", c.UserData, want.UserData},
		{"nonce", c.Nonce, want.Nonce},
	} {
		add(field.want == nil || bytes.Equal(field.got, field.want), "the %s is not the expected one", field.name)
	}
	if len(faults) == 0 {
		return nil
	}
	return fault.New(fault.Refused, "compare with the values of `sealfetch evidence` on a machine that you trust",
		"the attestation document does not meet the policy: %w", join(faults))
}

// check refuses expectations that decide nothing.
func (want Expectations) check() error {
	if want.Source == "" || len(want.PCRs) == 0 {
		return fault.New(fault.Usage, "name the kind of machine and at least one PCR",
			"a policy for attestation documents that decides nothing")
	}
	for index, values := range want.PCRs {
		if len(values) == 0 {
			return fault.New(fault.Usage, "give it a value, or leave it out", "a policy with no value for PCR%d", index)
		}
		for _, value := range values {
			if len(value) != 48 {
				return fault.New(fault.Usage, "PCRs are of SHA-384",
					"PCR%d should have 48 bytes, not %d", index, len(value))
			}
		}
	}
	return nil
}

func isDebug(c *verify.Claims) bool {
	zero := make([]byte, 48)
	return c.Source == verify.Enclave &&
		bytes.Equal(c.PCRs[0], zero) && bytes.Equal(c.PCRs[1], zero) && bytes.Equal(c.PCRs[2], zero)
}

func oneOf(value []byte, values [][]byte) bool {
	return slices.ContainsFunc(values, func(v []byte) bool { return bytes.Equal(v, value) })
}

// join puts several errors on one line.
func join(errs []error) error {
	joined := errs[0]
	for _, err := range errs[1:] {
		joined = fmt.Errorf("%w; %w", joined, err)
	}
	return joined
}
