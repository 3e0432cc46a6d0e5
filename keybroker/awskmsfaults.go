package keybroker

import (
	"errors"
	"fmt"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
)

const hintImpostor = "something between here and KMS answers in its place, or the endpoint is no KMS: check " +
	"--kms-endpoint and proxies, and do not retry"

// suspect is a reply that no KMS gives.
func suspect(requestID string, key keyARN, format string, args ...any) error {
	return fault.New(fault.Refused, hintImpostor,
		"kms on %s: %w%s", key, fmt.Errorf(format, args...), inRequest(requestID))
}

// unusable is a reply whose key cannot be used.
func unusable(requestID string, key keyARN, format string, args ...any) error {
	return fault.New(fault.KeyUnusable, "rewrap the model, or look for what answers in the place of KMS",
		"kms on %s: %w%s", key, fmt.Errorf(format, args...), inRequest(requestID))
}

func inRequest(id string) string {
	if id == "" {
		return ""
	}
	return " (request " + id + ")"
}

// wouldSucceed reports the error that a dry run answers in place of success.
func wouldSucceed(err error) bool {
	var dryRun *types.DryRunOperationException
	return errors.As(err, &dryRun)
}

// explain tells a refused release apart. KMS does not say whether it was the identity or a condition on the evidence
// that the key policy did not like, so both are named, with what the evidence showed.
func (to *recipient) explain(err error, action string, key keyARN) error {
	if to == nil {
		return explainKMS(err, action, key)
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return explainKMS(err, action, key)
	}
	switch code := api.ErrorCode(); {
	case strings.HasPrefix(code, "AccessDenied"):
		return fault.New(fault.Refused, hintDenied,
			"%s on %s: the key policy refuses this identity, or its conditions on the evidence are not met; "+
				"the document of %s shows %s%s", action, key, to.document.ModuleID, measured(to.document), said(err))
	case code == "ValidationException":
		return fault.New(fault.Refused, hintDocument,
			"%s on %s: KMS does not accept the attestation document of %s, made at %s%s",
			action, key, to.document.ModuleID, to.document.Timestamp.Format("2006-01-02T15:04:05Z"), said(err))
	default:
		return explainKMS(err, action, key)
	}
}

const (
	hintDenied = "compare these PCRs with the conditions kms:RecipientAttestation:NitroTPMPCR… of the key policy; if " +
		"they agree, allow kms:Decrypt to the role in the key policy and in its own policy"
	hintDocument = "KMS takes documents of the last five minutes that AWS signed: check the clocks, and that no TPM in " +
		"software stands in for the instance's own"
	hintSwapped = "check that nobody has put the wrap of another model or version into this envelope, then rewrap"
)

// measured spells out the PCRs that key policies are advised to bind.
func measured(d *verify.Document) string {
	indices := []int{4, 7, 12}
	if d.Source == verify.Enclave {
		indices = []int{0, 1, 2}
	}
	var words []string
	for _, i := range indices {
		words = append(words, fmt.Sprintf("PCR%d %x", i, d.PCRs[i]))
	}
	return strings.Join(words, ", ")
}

// explainKMS names the errors whose cause lies in the wrap or the key; the rest is told apart as for any other service.
func explainKMS(err error, action string, key keyARN) error {
	var (
		ciphertext *types.InvalidCiphertextException
		incorrect  *types.IncorrectKeyException
		usage      *types.InvalidKeyUsageException
		disabled   *types.DisabledException
		state      *types.KMSInvalidStateException
	)
	switch {
	case errors.As(err, &ciphertext):
		return fault.New(fault.KeyUnusable, hintSwapped,
			"%s on %s: the wrap was not made for this model and version, or is damaged%s", action, key, said(err))
	case errors.As(err, &incorrect):
		return fault.New(fault.KeyUnusable, "rewrap the model with the key that its envelope should name",
			"%s on %s: the wrap was made with another key%s", action, key, said(err))
	case errors.As(err, &usage):
		return fault.New(fault.Usage, "use a symmetric encryption key (SYMMETRIC_DEFAULT)",
			"%s on %s: the key is not for encryption%s", action, key, said(err))
	case errors.As(err, &disabled):
		return fault.New(fault.Refused, "have the owner enable the key",
			"%s on %s: the key is disabled%s", action, key, said(err))
	case errors.As(err, &state):
		return fault.New(fault.Refused, "have the owner cancel the deletion of the key, or import its material again",
			"%s on %s: the key cannot be used in its state%s", action, key, said(err))
	default:
		return identity.Diagnose(err, identity.Op{Action: action, Resource: key.String(), Region: key.region})
	}
}

// said quotes what AWS support asks for: code, message and request id, on one bounded line.
func said(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	words := api.ErrorCode()
	if message := api.ErrorMessage(); message != "" {
		words += fmt.Sprintf(": %.400q", message)
	}
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.ServiceRequestID() != "" {
		words += ", request " + response.ServiceRequestID()
	}
	return " (" + words + ")"
}
