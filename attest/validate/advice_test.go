package validate_test

import (
	"slices"
	"testing"

	"github.com/sealfetch/sealfetch/attest/validate"
	"github.com/sealfetch/sealfetch/attest/verify"
)

func TestAdvice(t *testing.T) {
	for source, best := range map[verify.Source][]int{verify.NitroTPM: {4, 12}, verify.Enclave: {0, 1, 2}} {
		advice := validate.AdviceFor(source)
		if !slices.Equal(advice[0].PCRs, best) {
			t.Errorf("%s: the first advice is PCRs %v", source, advice[0].PCRs)
		}
		for _, a := range advice {
			if a.Why == "" {
				t.Errorf("%s: PCRs %v without a reason", source, a.PCRs)
			}
			if a.Bind && source == verify.NitroTPM && slices.Contains(a.PCRs, 4) != slices.Contains(a.PCRs, 12) {
				t.Errorf("PCRs %v: 4 and 12 go together", a.PCRs)
			}
			if a.Bind && source == verify.NitroTPM && (slices.Contains(a.PCRs, 0) || slices.Contains(a.PCRs, 1)) {
				t.Errorf("PCRs %v: 0 and 1 are constants", a.PCRs)
			}
		}
	}
}
