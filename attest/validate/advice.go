package validate

import "github.com/sealfetch/sealfetch/attest/verify"

// Advice says of one set of PCRs whether a key policy should bind it, and why.
type Advice struct {
	PCRs []int
	Bind bool // all of PCRs together; false: binding them decides nothing
	Why  string
}

// AdviceFor lists what is known of the PCRs of a kind of machine, the best choice first. Any one entry that says Bind is
// a policy; entries may be combined. Sources: TCG PC Client Platform Firmware Profile and advisory GHSA-xrv8-2pf5-f3q7
// for NitroTPM, "Where to get an enclave's measurements" of the AWS Nitro Enclaves user guide.
func AdviceFor(source verify.Source) []Advice {
	if source == verify.Enclave {
		return []Advice{
			{[]int{0, 1, 2}, true, "the image, its kernel and its application: one build"},
			{[]int{8}, true, "the certificate that signed the image: every build of one publisher"},
			{[]int{3, 4}, false, "the parent's role and instance: they narrow a policy down, and measure no code"},
		}
	}
	return []Advice{
		{[]int{4, 12}, true, "the boot image and its kernel command line: one build. PCR 4 without 12 can be got around " +
			"with a command line from outside the image"},
		{[]int{7}, true, "the Secure Boot keys: every image that one publisher signs"},
		{[]int{0, 1}, false, "firmware of the instance and its configuration: constants of AWS"},
		{[]int{15, 16, 23}, false, "whatever the running system puts there: worth what the bound boot image is worth"},
	}
}
