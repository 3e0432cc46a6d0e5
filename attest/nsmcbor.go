package attest

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// The Nitro Security Module answers CBOR with CBOR, in an enclave and in a NitroTPM alike: a request is a map of one
// entry, the kind of request, and so is the answer.
// Source: the public API of aws-nitro-enclaves-nsm-api, request and response enumerations.

// maxDocument is in bytes: real documents are about 5 KiB, and up to 3 KiB more with a full binding.
const maxDocument = 16 << 10

type nsmRequest struct {
	Attestation nsmBinding `cbor:"Attestation"`
}

// nsmBinding has its fields always present, null where empty, as the module's own library sends them.
type nsmBinding struct {
	UserData  []byte `cbor:"user_data"`
	Nonce     []byte `cbor:"nonce"`
	PublicKey []byte `cbor:"public_key"`
}

type nsmAnswer struct {
	Attestation *struct {
		Document []byte `cbor:"document"`
	} `cbor:"Attestation"`
	Error string `cbor:"Error"`
}

// errNoAnswer means that the bytes read are not an answer: the module did not run.
var errNoAnswer = errors.New("no attestation document in the module's answer")

func encodeRequest(b Binding) ([]byte, error) {
	request := nsmRequest{nsmBinding{orNil(b.UserData), orNil(b.Nonce), orNil(b.PublicKey)}}
	return cbor.Marshal(request)
}

// orNil turns an empty slice into nil, which CBOR encodes as null.
func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func answerMode() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
		TagsMd:            cbor.TagsForbidden,
	}.DecMode()
}

// decodeAnswer returns the document of the first CBOR value in b; what follows it is padding. The error is
// io.ErrUnexpectedEOF where the value goes on beyond b.
func decodeAnswer(b []byte) ([]byte, error) {
	mode, err := answerMode()
	if err != nil {
		return nil, err
	}
	var answer nsmAnswer
	if _, err := mode.UnmarshalFirst(b, &answer); err != nil {
		return nil, fmt.Errorf("reading the module's answer: %w", err)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("the module refused the request: %.64q", answer.Error)
	}
	if answer.Attestation == nil || len(answer.Attestation.Document) == 0 {
		return nil, errNoAnswer
	}
	if n := len(answer.Attestation.Document); n > maxDocument {
		return nil, fmt.Errorf("the attestation document is %d bytes, more than %d", n, maxDocument)
	}
	return answer.Attestation.Document, nil
}
