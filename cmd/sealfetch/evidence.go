package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/attest/validate"
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
			"nonce": hex.EncodeToString(d.Nonce), "certificates": chainOf(d), "document": blob})
	}
	fmt.Fprintf(out, "source     %s\nmodule id  %s\ntimestamp  %s\n", d.Source, oneLine(d.ModuleID), d.Timestamp.UTC().Format(time.RFC3339))
	for _, i := range d.PCRIndices() {
		fmt.Fprintf(out, "PCR %-2d     %s\n", i, pcrs[strconv.Itoa(i)])
	}
	for _, c := range chainOf(d) {
		until := c.NotAfter.Format(time.RFC3339)
		fmt.Fprintf(out, "signed by  %s, until %s, sha256 %s\n", oneLine(c.Subject), until, c.SHA256)
	}
	fmt.Fprintln(out, "\nWhat a key policy should bind, the best choice first (`sealfetch policy --pcr N=HEX` writes it):")
	for _, a := range validate.AdviceFor(d.Source) {
		bind := "bind"
		if !a.Bind {
			bind = "not"
		}
		fmt.Fprintf(out, "  %-4s  PCR %s: %s\n", bind, strings.Trim(fmt.Sprint(a.PCRs), "[]"), a.Why)
	}
	return nil
}

// certificate is one link of a document's chain, as it is printed.
type certificate struct {
	Subject   string    `json:"subject"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"` // of the DER
}

// chainOf lists the certificates that a document brings, from the one that signed it up to the root. Whether they are
// good is not looked at.
func chainOf(d *verify.Document) []certificate {
	ders := append(slices.Clone(d.CABundle), d.Certificate)
	slices.Reverse(ders)
	chain := make([]certificate, len(ders))
	for i, der := range ders {
		sum := sha256.Sum256(der)
		chain[i] = certificate{Subject: "unreadable", SHA256: hex.EncodeToString(sum[:])}
		if parsed, err := x509.ParseCertificate(der); err == nil {
			chain[i].Subject = parsed.Subject.String()
			chain[i].NotBefore, chain[i].NotAfter = parsed.NotBefore, parsed.NotAfter
		}
	}
	return chain
}
