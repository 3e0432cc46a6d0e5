package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// The exit codes are public: KServe copies them into an InferenceService's status.
const (
	exitOK           = 0
	exitInternal     = 1
	exitUsage        = 2
	exitIdentity     = 10
	exitAccess       = 11
	exitFormat       = 12
	exitEvidence     = 13
	exitRefused      = 14
	exitKeyUnusable  = 15
	exitNotAuthentic = 16
	exitDestination  = 17
	exitTransient    = 20
	exitSignal       = 128 // plus the signal's number
)

var exitCodes = map[fault.Kind]int{
	fault.Internal:     exitInternal,
	fault.Usage:        exitUsage,
	fault.Identity:     exitIdentity,
	fault.Access:       exitAccess,
	fault.Format:       exitFormat,
	fault.Evidence:     exitEvidence,
	fault.Refused:      exitRefused,
	fault.KeyUnusable:  exitKeyUnusable,
	fault.NotAuthentic: exitNotAuthentic,
	fault.Destination:  exitDestination,
	fault.Transient:    exitTransient,
}

// outcome maps an error to its exit code and its cure: the one place where that is decided.
func outcome(err error) (code int, hint string) {
	var s signalled
	switch {
	case err == nil:
		return exitOK, ""
	case errors.As(err, &s):
		return exitSignal + int(s.Signal), "nothing was left behind; start it again"
	}
	code, hint = exitCodes[fault.Of(err)], fault.Hint(err)
	if hint == "" && code == exitInternal {
		hint = "this is a defect of sealfetch or of the machine: report it with the log"
	}
	return code, hint
}

// finish prints the cause and the hint as the last lines and returns the exit code. After a signal, whatever it broke
// off is no cause of its own.
func (p *program) finish(ctx context.Context, err error) int {
	if s := (signalled{}); err != nil && errors.As(context.Cause(ctx), &s) {
		err = s
	}
	code, hint := outcome(err)
	if code == exitOK {
		return code
	}
	cause := "sealfetch: " + oneLine(err.Error()) + "\n"
	if hint != "" {
		hint = "hint: " + oneLine(hint) + "\n"
	}
	fmt.Fprint(p.stderr, cause+hint)
	p.writeTermination(cause, hint)
	return code
}

// maxTermination keeps the message within what is shown of it in a pod's status.
const maxTermination = 1024

// writeTermination writes the last lines where the kubelet looks for them. That fails silently: the log has them, too.
func (p *program) writeTermination(cause, hint string) {
	if p.termination == "" {
		return
	}
	hint = cut(hint, maxTermination/2)
	message := cut(cause, maxTermination-len(hint)) + hint
	f, err := os.OpenFile(p.termination, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(message)
}

// cut shortens a line to at most n bytes, its end included.
func cut(line string, n int) string {
	const end = "…\n"
	if len(line) <= n {
		return line
	}
	return strings.ToValidUTF8(line[:n-len(end)], "") + end
}

// oneLine makes text of hostile origin safe for a terminal and a log tail.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
