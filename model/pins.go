package model

import (
	"bytes"
	"fmt"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Pins are what an operator demands of an envelope. Zero values demand nothing. Only pins and signatures stop an old
// version from being replayed: every version of the past is authentic.
type Pins struct {
	Version    uint64 // the only version allowed; 0 is any
	MinVersion uint64 // the lowest version allowed
	MDKID      []byte // the only key allowed, 32 bytes; nil is any
}

// Check holds an envelope against the pins.
func (p Pins) Check(e *Envelope) error {
	switch {
	case p.Version != 0 && e.Version != p.Version:
		return pinFault("version %d is demanded", e, p.Version)
	case e.Version < p.MinVersion:
		return pinFault("version %d or later is demanded", e, p.MinVersion)
	case p.MDKID != nil && !bytes.Equal(p.MDKID, e.MDKID[:]):
		return pinFault("mdk_id %s is demanded; this one is %v", e, idText(p.MDKID), e.MDKID)
	}
	return nil
}

func pinFault(format string, e *Envelope, args ...any) error {
	demand := fmt.Sprintf(format, args...)
	return fault.New(fault.Format, "if the publisher moved on, move the pin; if not, the store serves another version",
		"%s version %d is published, but %s", e.Model, e.Version, demand)
}

// Tighten returns pins that demand what p and q demand together. Demands that no version can meet are fault.Usage: q,
// which may come from a URI, never loosens p.
func (p Pins) Tighten(q Pins) (Pins, error) {
	both := Pins{Version: max(p.Version, q.Version), MinVersion: max(p.MinVersion, q.MinVersion), MDKID: p.MDKID}
	if p.MDKID == nil {
		both.MDKID = q.MDKID
	}
	switch {
	case p.Version != 0 && q.Version != 0 && p.Version != q.Version:
		return Pins{}, contradiction("versions %d and %d", p.Version, q.Version)
	case both.Version != 0 && both.Version < both.MinVersion:
		return Pins{}, contradiction("version %d and at least version %d", both.Version, both.MinVersion)
	case p.MDKID != nil && q.MDKID != nil && !bytes.Equal(p.MDKID, q.MDKID):
		return Pins{}, contradiction("mdk_id %s and %s", idText(p.MDKID), idText(q.MDKID))
	}
	return both, nil
}

func contradiction(format string, args ...any) error {
	return fault.New(fault.Usage, "a URI can only tighten what the configuration demands: change one of the two",
		"both demanded: %s", fmt.Sprintf(format, args...))
}

func idText(id []byte) string { return strictBase64.EncodeToString(id) }
