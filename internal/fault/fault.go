// Package fault gives every error of the program a kind and a cure.
//
// A kind is what a caller branches on and what the command line turns into an exit code; a hint is one sentence that
// says what to change. Packages wrap their errors where the cause is known; whatever carries no kind is an internal
// error. The first kind on the way in wins: an outer wrapper adds words, never a different kind.
package fault

import (
	"errors"
	"fmt"
)

// Kind classes a failure by who can mend it.
type Kind uint8

// The kinds, in the order of the exit codes they become.
const (
	Internal     Kind = iota // a defect of this program or a broken machine
	Usage                    // the command line or the configuration
	Identity                 // credentials refused: web identity, role chain
	Access                   // an object is missing, changed, or access to it is denied
	Format                   // envelope or manifest invalid; a pin, version or signature not met
	Evidence                 // no attestation evidence could be collected
	Refused                  // the key broker refused to release the key
	KeyUnusable              // the released key is wrong or unusable
	NotAuthentic             // ciphertext is not what the publisher sealed
	Destination              // the destination is unfit: not tmpfs, no space, memory limit
	Transient                // passing trouble, retries exhausted
)

// Error is a failure with its kind and, where one is known, its cure.
type Error struct {
	Kind Kind
	Err  error  // the cause, in words that name object, file and chunk
	Hint string // the cure, one sentence; may be empty
}

// Error returns the cause alone; the hint is for whoever prints the error last.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind. The format is that of fmt.Errorf, %w included.
func New(kind Kind, hint, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
}

// Of returns the kind of err: that of the innermost Error in its chain, or Internal where there is none.
func Of(err error) Kind {
	kind := Internal
	for e := (*Error)(nil); errors.As(err, &e); err = e.Err {
		kind = e.Kind
	}
	return kind
}

// Is reports whether err carries a kind and it is the given one.
func Is(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && Of(err) == kind
}

// Hint returns the innermost cure in err's chain: the one nearest the cause. It may be empty.
func Hint(err error) string {
	hint := ""
	for e := (*Error)(nil); errors.As(err, &e); err = e.Err {
		if e.Hint != "" {
			hint = e.Hint
		}
	}
	return hint
}
