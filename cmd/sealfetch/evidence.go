package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// setupEvidence shows what this machine would prove to a key broker.
func setupEvidence(s *settings) runner {
	s.attestFlags()
	nonce := s.flags.String("nonce", "", "`HEX` of a challenge to put into the evidence")
	asJSON := s.flags.Bool("json", false, "print JSON, the document included")
	return func(ctx context.Context, args []string, out io.Writer) error {
		if len(args) != 0 {
			return s.wrongArgs(args)
		}
		challenge, err := hex.DecodeString(*nonce)
		if err != nil || len(challenge) > attest.MaxField {
			return fault.New(fault.Usage, "give up to 1024 bytes in hex", "--nonce is not usable")
		}
		if s.reading.attestation.attester == "" {
			s.reading.attestation.attester = "auto"
		}
		return s.evidence(ctx, challenge, *asJSON, out)
	}
}

func (s *settings) evidence(ctx context.Context, nonce []byte, asJSON bool, out io.Writer) error {
	attester, err := s.attester(ctx)
	if err != nil {
		return err
	}
	if attester == nil {
		return fault.New(fault.Usage, "name another: auto, nitrotpm or nsm", "the attester none has no evidence")
	}
	evidence, err := attester.Collect(ctx, attest.Binding{Nonce: nonce})
	if err != nil {
		return err
	}
	document, err := verify.Parse(evidence.Blob)
	if err != nil {
		return err
	}
	return printEvidence(out, document, evidence.Blob, asJSON)
}

// setupVerifyEvidence checks a document on any machine, offline, under AWS's own root and no other.
func setupVerifyEvidence(s *settings) runner {
	at := s.flags.String("at", "", "`TIME` (RFC 3339) to judge certificates and age by; default now")
	maxAge := s.flags.Duration("max-age", 5*time.Minute, "how old a document may be")
	asJSON := s.flags.Bool("json", false, "print JSON")
	return func(_ context.Context, args []string, out io.Writer) error {
		if len(args) != 1 {
			return s.wrongArgs(args)
		}
		now := time.Now()
		if *at != "" {
			var err error
			if now, err = time.Parse(time.RFC3339, *at); err != nil {
				return fault.New(fault.Usage, "the form is 2026-01-02T15:04:05Z", "--at %q is not a time", *at)
			}
		}
		blob, err := readEvidence(args[0])
		if err != nil {
			return err
		}
		verifier, err := verify.New(*maxAge, verify.AWSRoot())
		if err != nil {
			return err
		}
		claims, err := verifier.Verify(blob, now)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "genuine: signed under AWS's root %x\n", verify.AWSRoot())
		return printEvidence(out, &claims.Document, blob, *asJSON)
	}
}

// readEvidence reads a document: binary, base64, or the JSON of the evidence command.
func readEvidence(path string) ([]byte, error) {
	data, err := readFile("FILE", path, 4*verify.MaxDocument)
	if err != nil {
		return nil, err
	}
	var printed struct {
		Document []byte `json:"document"`
	}
	if json.Unmarshal(data, &printed) == nil && len(printed.Document) > 0 {
		return printed.Document, nil
	}
	if decoded, err := base64.StdEncoding.DecodeString(string(data)); err == nil {
		return decoded, nil
	}
	return data, nil
}

func printEvidence(out io.Writer, d *verify.Document, blob []byte, asJSON bool) error {
	pcrs := map[string]string{}
	for _, i := range d.PCRIndices() {
		pcrs[strconv.Itoa(i)] = hex.EncodeToString(d.PCRs[i])
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"source": d.Source, "module_id": d.ModuleID, "timestamp": d.Timestamp, "pcrs": pcrs,
			"nonce": hex.EncodeToString(d.Nonce), "document": blob})
	}
	fmt.Fprintf(out, "source     %s\nmodule id  %s\ntimestamp  %s\n", d.Source, oneLine(d.ModuleID), d.Timestamp.UTC().Format(time.RFC3339))
	for _, i := range d.PCRIndices() {
		fmt.Fprintf(out, "PCR %-2d     %s%s\n", i, pcrs[strconv.Itoa(i)], advice(d.Source, i))
	}
	_, err := fmt.Fprint(out, bindingAdvice(d.Source))
	return err
}

// advice says of a PCR whether a key policy should name it.
func advice(source verify.Source, pcr int) string {
	if source != verify.NitroTPM {
		return ""
	}
	return map[int]string{
		0:  "  constant: firmware of the instance type, says nothing of the image",
		1:  "  constant",
		4:  "  bind: the boot loader and kernel image",
		7:  "  bind in place of 4 and 12: the Secure Boot keys, where only your own are enrolled",
		12: "  bind with 4: the kernel command line, which otherwise comes from outside the image",
	}[pcr]
}

func bindingAdvice(source verify.Source) string {
	if source != verify.NitroTPM {
		return "A key policy binds kms:RecipientAttestation:ImageSha384, or PCR0 and PCR8.\n"
	}
	return "A key policy binds kms:RecipientAttestation:NitroTPMPCR4 and …PCR12, or …PCR7. PCR 4 alone can be got around with a\n" +
		"kernel command line from outside; 0 and 1 are the same everywhere. `sealfetch policy --pcr N=HEX` writes the policy.\n"
}
