package attest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	commandTime = 30 * time.Second // for one command; creating an RSA key is the slowest
	graceTime   = 3 * time.Second  // for the command under way when the caller gives up
	cleanTime   = 5 * time.Second  // for each command that cleans up
	retryStep   = 10 * time.Millisecond
	retryCount  = 10 // times that a TPM may ask for the same command again, each after twice the time
)

// link is a channel as go-tpm wants it.
//
// It holds a context, against the habit, because transport.TPM's Send has no parameter for one; a link lives no longer
// than the call that made it. A context that ends does not tear a command in two: the command under way gets graceTime
// to come back, so that the TPM can be cleaned up over the same channel, and no other is sent.
type link struct {
	ctx     context.Context
	channel channel
	limit   time.Duration // for one command
}

// hangError says which command the TPM did not answer.
type hangError struct {
	command uint32
	limit   time.Duration
}

func (e *hangError) Error() string {
	return fmt.Sprintf("the TPM did not answer command %#x (%s) in time", e.command, commandName(e.command))
}

// Send implements transport.TPM.
func (l *link) Send(command []byte) ([]byte, error) {
	if len(command) < headerSize {
		return nil, fmt.Errorf("a TPM command of %d bytes", len(command))
	}
	pause := retryStep
	for attempt := 0; ; attempt++ {
		response, err := l.sendOnce(command)
		if err != nil || attempt == retryCount || !wantsRetry(response) {
			return response, err
		}
		if err := sleep(l.ctx, pause); err != nil {
			return nil, err
		}
		pause *= 2
	}
}

func (l *link) sendOnce(command []byte) ([]byte, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.ctx))
	defer cancel()
	limit := time.AfterFunc(l.limit, cancel)
	defer limit.Stop()
	defer context.AfterFunc(l.ctx, func() { limit.Reset(min(graceTime, l.limit)) })()

	response, err := l.channel.exchange(ctx, command)
	if err != nil && ctx.Err() != nil {
		return nil, &hangError{binary.BigEndian.Uint32(command[6:10]), l.limit}
	}
	return response, err
}

// clean does work that must be done also after the caller has given up.
func (l *link) clean(work func(*link) error) error {
	limit := min(cleanTime, l.limit)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), limit)
	defer cancel()
	return work(&link{ctx, l.channel, limit})
}

// wantsRetry reports the warnings after which the TPM has not touched the command and wants it again.
// Source: TPM 2.0 Library Part 2, section 6.6.3, format-zero warnings.
func wantsRetry(response []byte) bool {
	if len(response) < headerSize {
		return false
	}
	switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:10])) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	default:
		return false
	}
}

// commandName says in the specification's words what a command was for.
func commandName(code uint32) string {
	switch tpm2.TPMCC(code) {
	case tpm2.TPMCCGetCapability:
		return "TPM2_GetCapability"
	case tpm2.TPMCCCreatePrimary:
		return "TPM2_CreatePrimary"
	case tpm2.TPMCCStartAuthSession:
		return "TPM2_StartAuthSession"
	case tpm2.TPMCCFlushContext:
		return "TPM2_FlushContext"
	case tpm2.TPMCCNVReadPublic:
		return "TPM2_NV_ReadPublic"
	case tpm2.TPMCCNVDefineSpace:
		return "TPM2_NV_DefineSpace"
	case tpm2.TPMCCNVUndefineSpace:
		return "TPM2_NV_UndefineSpace"
	case tpm2.TPMCCNVWrite:
		return "TPM2_NV_Write"
	case tpm2.TPMCCNVRead:
		return "TPM2_NV_Read"
	case commandNSM:
		return "the Nitro attestation request"
	default:
		return "unnamed"
	}
}

// property reads one fixed property of the TPM.
func (l *link) property(tag tpm2.TPMPT) (uint32, error) {
	reply, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tag), PropertyCount: 1,
	}.Execute(l)
	if err != nil {
		return 0, fmt.Errorf("reading property %#x: %w", uint32(tag), err)
	}
	list, err := reply.CapabilityData.Data.TPMProperties()
	if err != nil {
		return 0, fmt.Errorf("reading property %#x: %w", uint32(tag), err)
	}
	if len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != tag {
		return 0, fmt.Errorf("the TPM has no property %#x", uint32(tag))
	}
	return list.TPMProperty[0].Value, nil
}

// handles lists at most count handles from first on.
func (l *link) handles(first tpm2.TPMHandle, count uint32) ([]tpm2.TPMHandle, error) {
	reply, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: count,
	}.Execute(l)
	if err != nil {
		return nil, fmt.Errorf("listing handles: %w", err)
	}
	list, err := reply.CapabilityData.Data.Handles()
	if err != nil {
		return nil, fmt.Errorf("listing handles: %w", err)
	}
	return list.Handle, nil
}

// answered reports whether err is the TPM's own refusal, as opposed to trouble on the way to it.
func answered(err error) bool {
	var rc tpm2.TPMRC
	return errors.As(err, &rc)
}
