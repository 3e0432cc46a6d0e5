package validate_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/attest/validate"
	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/fault"
)

func pcr(b byte) []byte { return bytes.Repeat([]byte{b}, 48) }

// claims are of a machine with PCR n full of n.
func claims(source verify.Source) *verify.Claims {
	c := &verify.Claims{Document: verify.Document{
		Source: source, ModuleID: "i-1-tpm0", PCRs: map[int][]byte{}, PublicKey: []byte("key"), Nonce: []byte("nonce"),
	}}
	for i := range 24 {
		c.PCRs[i] = pcr(byte(i) + 1)
	}
	return c
}

// policy is what those claims meet.
func policy() validate.Expectations {
	return validate.Expectations{
		Source:    verify.NitroTPM,
		PCRs:      map[int][][]byte{4: {pcr(99), pcr(5)}, 12: {pcr(13)}},
		ModuleIDs: []string{"i-0", "i-1-tpm0"},
		PublicKey: []byte("key"),
	}
}

// Short names for the table.
type (
	claimed  = verify.Claims
	expected = validate.Expectations
)

func TestClaims(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*claimed, *expected)
		kind   fault.Kind
		want   []string
	}{
		"as expected": {func(*claimed, *expected) {}, 0, nil},
		"wrong PCR": {func(c *claimed, _ *expected) { c.PCRs[4] = pcr(1) }, fault.Refused,
			[]string{"PCR4 is 0101"}},
		"all wrong": {func(c *claimed, _ *expected) {
			c.PCRs, c.ModuleID, c.PublicKey, c.Source = nil, "i-2", nil, verify.Enclave
		}, fault.Refused, []string{"of nitro-enclave", `"i-2" is not listed`, "PCR4", "PCR12", "public key"}},
		"missing PCR": {func(c *claimed, _ *expected) { delete(c.PCRs, 12) }, fault.Refused,
			[]string{"PCR12 is"}},
		"no nonce": {func(c *claimed, e *expected) {
			c.Nonce, e.Nonce = nil, []byte("nonce")
		}, fault.Refused, []string{"nonce is not the expected one"}},
		"debug enclave": {func(c *claimed, e *expected) {
			c.Source, e.Source = verify.Enclave, verify.Enclave
			c.PCRs[0], c.PCRs[1], c.PCRs[2] = pcr(0), pcr(0), pcr(0)
		}, fault.Refused, []string{"debug mode"}},
		"no source": {func(_ *claimed, e *expected) { e.Source = "" }, fault.Usage,
			[]string{"decides nothing"}},
		"no PCRs": {func(_ *claimed, e *expected) { e.PCRs = nil }, fault.Usage,
			[]string{"decides nothing"}},
		"empty list": {func(_ *claimed, e *expected) { e.PCRs[7] = nil }, fault.Usage,
			[]string{"no value for PCR7"}},
		"short value": {func(_ *claimed, e *expected) { e.PCRs[7] = [][]byte{{1}} }, fault.Usage,
			[]string{"PCR7 should have 48"}},
	} {
		c, want := claims(verify.NitroTPM), policy()
		test.change(c, &want)
		err := validate.Claims(c, want)
		if test.want == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !fault.Is(err, test.kind) || fault.Hint(err) == "" {
			t.Errorf("%s: error of kind %v: %v; want kind %v and a hint", name, fault.Of(err), err, test.kind)
			continue
		}
		for _, words := range test.want {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v; want %q", name, err, words)
			}
		}
	}
}
