package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestInnermostKindAndHintWin(t *testing.T) {
	inner := fault.New(fault.NotAuthentic, "publish again", "chunk %d", 3)
	outer := fault.New(fault.Access, "", "reading data/00000: %w", fmt.Errorf("part: %w", inner))
	if got := fault.Of(outer); got != fault.NotAuthentic {
		t.Errorf("kind = %v, want NotAuthentic", got)
	}
	if got := fault.Hint(outer); got != "publish again" {
		t.Errorf("hint = %q", got)
	}
	if got, want := outer.Error(), "reading data/00000: part: chunk 3"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}

func TestPlainErrorIsInternal(t *testing.T) {
	err := errors.New("plain")
	if fault.Of(err) != fault.Internal || fault.Hint(err) != "" || fault.Is(err, fault.Internal) {
		t.Errorf("a plain error: kind %v, hint %q", fault.Of(err), fault.Hint(err))
	}
}
