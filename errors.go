package sealfetch

import "github.com/sealfetch/sealfetch/internal/fault"

// Kind classes an error by who can mend it. The command line turns each into an exit code.
type Kind = fault.Kind

// The kinds of errors that this package returns.
const (
	Internal     = fault.Internal     // a defect of this program or a broken machine
	Usage        = fault.Usage        // the command line or the configuration
	Identity     = fault.Identity     // credentials refused: web identity, role chain
	Access       = fault.Access       // an object is missing, changed, or access to it is denied
	Format       = fault.Format       // envelope or manifest invalid; a pin, version or signature not met
	Evidence     = fault.Evidence     // no attestation evidence could be collected
	Refused      = fault.Refused      // the key broker refused to release the key
	KeyUnusable  = fault.KeyUnusable  // the released key is wrong or unusable
	NotAuthentic = fault.NotAuthentic // ciphertext is not what the publisher sealed
	Destination  = fault.Destination  // the destination is unfit: not tmpfs, no space, memory limit
	Transient    = fault.Transient    // passing trouble, retries exhausted
)

// KindOf returns the kind of an error of this package, or Internal.
func KindOf(err error) Kind { return fault.Of(err) }

// Hint returns one sentence that says how to mend err, or nothing.
func Hint(err error) string { return fault.Hint(err) }
