package sealfetch

import (
	"crypto"
	"path"
	"strings"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

// Policy is what the operator demands of a model before its key is asked for. The trusted keys are the Reader's brokers.
type Policy struct {
	Pins    model.Pins         // version, lowest version, mdk_id; the URI may only tighten them
	Models  []string           // patterns of model names (path.Match; a trailing /** matches any rest); none = any name
	Signers []crypto.PublicKey // one of them must have signed; none = no signature is demanded
}

// check holds an envelope against the policy and the URI's own demands.
func (p Policy) check(e *model.Envelope, d fetch.Demand) error {
	pins, err := p.Pins.Tighten(model.Pins{Version: d.Version, MinVersion: d.MinVersion, MDKID: d.MDKID})
	if err != nil {
		return err
	}
	if err := pins.Check(e); err != nil {
		return err
	}
	if len(p.Models) > 0 && !p.allows(e.Model) {
		return fault.New(fault.Format, "add its name to --trust-model if it is the model you want",
			"it is for the model %q, which is not among the trusted ones %q", e.Model, p.Models)
	}
	return nil
}

func (p Policy) allows(name string) bool {
	for _, pattern := range p.Models {
		if prefix, any := strings.CutSuffix(pattern, "/**"); any && strings.HasPrefix(name, prefix+"/") {
			return true
		}
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}
