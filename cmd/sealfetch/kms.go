package main

import (
	"context"
	"path"

	"github.com/aws/aws-sdk-go-v2/aws/retry"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/keybroker"
)

// attestSettings say what evidence a key broker is sent.
type attestSettings struct {
	attester string
	tpm      string
}

func (s *settings) attestFlags() {
	a, f := &s.reading.attestation, s.flags
	f.StringVar(&a.attester, "attester", "", "`ATTESTER` that vouches for this machine to KMS: nitrotpm, nsm (Nitro Enclaves), auto (the "+
		"first that is here, never none), or none: credentials alone release keys")
	f.StringVar(&a.tpm, "tpm", "", "`TPM`: a device, unix:PATH or tcp:HOST:PORT; default /dev/tpmrm0, then /dev/tpm0")
}

// attester makes the one that is named; nil stands for none. Not to choose is an error where evidence matters.
func (s *settings) attester(ctx context.Context) (attest.Attester, error) {
	a := s.reading.attestation
	switch a.attester {
	case "none":
		return nil, nil
	case attest.TypeNSM:
		return attest.NewNSM(), nil
	case attest.TypeNitroTPM:
		return newNitroTPM(a.tpm)
	case "auto":
		return firstAttester(ctx, a.tpm)
	case "":
		return nil, fault.New(fault.Usage, "set --attester nitrotpm or auto; --attester none releases keys to whoever holds the credentials",
			"it is not decided whether KMS is to be sent evidence of this machine")
	}
	return nil, fault.New(fault.Usage, "none, auto, nitrotpm and nsm are known", "--attester %q is unknown", a.attester)
}

func newNitroTPM(device string) (attest.Attester, error) {
	tpm, err := attest.NewNitroTPM(device)
	if err != nil {
		return nil, err
	}
	return tpm, nil
}

// firstAttester probes what is here. Nothing here is an error, never a reason to go without.
func firstAttester(ctx context.Context, device string) (attest.Attester, error) {
	tpm, err := newNitroTPM(device)
	if err != nil {
		return nil, err
	}
	missing := tpm.Probe(ctx)
	if missing == nil {
		return tpm, nil
	}
	if nsm := attest.NewNSM(); nsm.Probe(ctx) == nil {
		return nsm, nil
	}
	return nil, missing
}

func (s *settings) kmsConfig(ctx context.Context) (c keybroker.KMSConfig, err error) {
	credentials, err := s.credentials(ctx)
	if err != nil {
		return c, err
	}
	if credentials.Anonymous() {
		return c, fault.New(fault.Usage, "drop anonymous access, and allow the role s3:GetObject on the bucket, public "+
			"or not", "KMS takes no anonymous requests")
	}
	client, err := s.httpClient(nil)
	if err != nil {
		return c, err
	}
	t := s.store
	retryer := retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 5 })
	return keybroker.KMSConfig{Credentials: credentials, HTTPClient: client, Endpoint: t.identity.kmsEndpoint, UseFIPS: t.fips,
		UseDualStack: t.dualStack, AppID: appID, Retryer: credentials.Retryer(retryer)}, nil
}

func (s *settings) kmsWrapper(ctx context.Context, arn string) (keybroker.Wrapper, error) {
	config, err := s.kmsConfig(ctx)
	if err != nil {
		return nil, err
	}
	wrapper, err := keybroker.NewKMSWrapper(config, arn)
	if err != nil {
		return nil, err
	}
	return wrapper, nil
}

// kmsBroker makes the broker of the KMS keys that match one of the patterns.
func (s *settings) kmsBroker(ctx context.Context, patterns []string) (keybroker.Broker, error) {
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, unknownKey("--trust-key", pattern, "correct the pattern")
		}
	}
	attester, err := s.attester(ctx)
	if err != nil {
		return nil, err
	}
	evidence := keybroker.WithoutEvidenceUnsafe()
	if attester != nil {
		evidence = keybroker.RequireEvidence(audited{attester, s.audit})
	}
	config, err := s.kmsConfig(ctx)
	if err != nil {
		return nil, err
	}
	kms, err := keybroker.NewKMS(config, evidence)
	if err != nil {
		return nil, err
	}
	return trustedKMS{kms, patterns}, nil
}

// trustedKMS is KMS for the keys that the operator listed, and for no other.
type trustedKMS struct {
	*keybroker.KMS
	patterns []string
}

// Holds reports whether the wrap's key is listed.
func (t trustedKMS) Holds(w keybroker.Wrap) bool {
	if !t.KMS.Holds(w) {
		return false
	}
	for _, pattern := range t.patterns {
		if ok, err := path.Match(pattern, w.Key); ok && err == nil {
			return true
		}
	}
	return false
}

// audited writes evidence.produced for whatever its attester collects.
type audited struct {
	attest.Attester
	log *audit.Log
}

// Collect collects.
func (a audited) Collect(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	evidence, err := a.Attester.Collect(ctx, b)
	if err == nil {
		a.log.EvidenceProduced(ctx, audit.EvidenceProduced{Attester: a.Type(), Bytes: len(evidence.Blob)})
	}
	return evidence, err
}
