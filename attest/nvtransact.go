package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

var (
	// errUnknownCommand means a TPM that is no NitroTPM.
	errUnknownCommand = errors.New("the TPM does not know the Nitro attestation request (0x20000001)")
	// errManager means that the kernel's resource manager kept the command from a TPM that may well know it.
	errManager = errors.New("the resource manager does not pass on the Nitro attestation request (0x20000001)")
	// errSession means a response whose authorization does not fit the session.
	errSession = errors.New("the TPM's response does not authenticate under the session")
)

// rcManager is TPM_RC_COMMAND_CODE of the resource manager's layer.
// Source: TSS 2.0 Overview and Common Structures, response code layers; tpm2-space.c of Linux, tpm2_map_command.
const rcManager = tpm2.TPMRC(11<<16) | tpm2.TPMRCCommandCode

// transact puts a request into the index, has it answered and reads the document.
func transact(l *link, index *nvIndex, s tpm2.Session, request []byte, piece int) ([]byte, error) {
	if len(request) > int(index.public.DataSize) {
		return nil, fmt.Errorf("a request of %d bytes for an index of %d", len(request), index.public.DataSize)
	}
	for offset := 0; offset < len(request); offset += piece {
		if err := writePiece(l, index, s, request[offset:min(offset+piece, len(request))], offset); err != nil {
			return nil, err
		}
	}
	if err := answerRequest(l, index, s); err != nil {
		return nil, err
	}
	return readAnswer(l, index, s, piece)
}

func writePiece(l *link, index *nvIndex, s tpm2.Session, data []byte, offset int) error {
	handle, err := index.handle()
	if err != nil {
		return err
	}
	_, err = tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: handle.Handle, Name: handle.Name, Auth: s},
		NVIndex:    handle,
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data},
		Offset:     uint16(offset),
	}.Execute(l)
	if err != nil {
		return fmt.Errorf("writing the request into NV: %w", err)
	}
	index.public.Attributes.Written = true
	return nil
}

// readAnswer reads until the CBOR value is whole: the index is larger than most documents and padded with 0xFF.
func readAnswer(l *link, index *nvIndex, s tpm2.Session, piece int) ([]byte, error) {
	handle, err := index.handle()
	if err != nil {
		return nil, err
	}
	var answer []byte
	for len(answer) < int(index.public.DataSize) {
		reply, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: handle.Handle, Name: handle.Name, Auth: s},
			NVIndex:    handle,
			Size:       uint16(min(piece, int(index.public.DataSize)-len(answer))),
			Offset:     uint16(len(answer)),
		}.Execute(l)
		if err != nil {
			return nil, fmt.Errorf("reading the document from NV: %w", err)
		}
		if n := len(reply.Data.Buffer); n == 0 || n > piece {
			return nil, fmt.Errorf("reading the document from NV: a piece of %d bytes", n)
		}
		answer = append(answer, reply.Data.Buffer...)
		document, err := decodeAnswer(answer)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			return document, err
		}
	}
	return nil, fmt.Errorf("the module's answer does not end within %d bytes", index.public.DataSize)
}

// answerRequest sends the vendor command, which go-tpm has no type for.
func answerRequest(l *link, index *nvIndex, s tpm2.Session) error {
	name, err := index.name()
	if err != nil {
		return err
	}
	names := []tpm2.TPM2BName{name, name}
	if err := s.NewNonceCaller(); err != nil {
		return err
	}
	auth, err := s.Authorize(commandNSM, nil, nil, names, 0)
	if err != nil {
		return fmt.Errorf("authorizing the Nitro attestation request: %w", err)
	}
	response, err := l.Send(nsmFrame(index.public.NVIndex, tpm2.Marshal(*auth)))
	if err != nil {
		return err
	}
	return checkAnswered(response, s, names)
}

// nsmFrame is the vendor command: header, the index twice, and one authorization.
func nsmFrame(index tpm2.TPMHandle, auth []byte) []byte {
	size := headerSize + 4 + 4 + 4 + len(auth)
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, size), uint16(tpm2.TPMSTSessions))
	frame = binary.BigEndian.AppendUint32(frame, uint32(size))
	frame = binary.BigEndian.AppendUint32(frame, commandNSM)
	frame = binary.BigEndian.AppendUint32(frame, uint32(index))
	frame = binary.BigEndian.AppendUint32(frame, uint32(index))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(auth)))
	return append(frame, auth...)
}

// checkAnswered reads the response to the vendor command: a header, no parameters and one authorization, of which a
// password's says nothing and is not looked at.
func checkAnswered(response []byte, s tpm2.Session, names []tpm2.TPM2BName) error {
	if len(response) < headerSize {
		return io.ErrUnexpectedEOF
	}
	switch rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:10])); rc {
	case tpm2.TPMRCSuccess:
	case tpm2.TPMRCCommandCode:
		return errUnknownCommand
	case rcManager:
		return errManager
	default:
		return fmt.Errorf("asking for the attestation document: %w", rc)
	}
	if s.Handle() == tpm2.TPMRSPW {
		return nil
	}
	body := response[headerSize:]
	if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
		return fmt.Errorf("%w: it has parameters, or no authorization", errSession)
	}
	auth, err := tpm2.Unmarshal[tpm2.TPMSAuthResponse](body[4:])
	if err != nil {
		return fmt.Errorf("%w: %w", errSession, err)
	}
	if err := s.Validate(tpm2.TPMRCSuccess, commandNSM, nil, names, 0, auth); err != nil {
		return fmt.Errorf("%w: %w", errSession, err)
	}
	return nil
}
