package attest

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// The request and the document travel through an NV index: memory of the TPM that outlives the process. It is removed
// on every path that this process lives to see; one that is killed leaves its index behind, 8 KiB of some tens that the
// TPM has. So a later run must recognise what is ours and dead, and touch nothing else:
//
//   - Ours lie in a window of windowSize handles, in the range that the TCG registry of reserved handles gives owners.
//   - Ours carry a mark in authPolicy, with the time of their making. With neither POLICYREAD nor POLICYWRITE set that
//     field grants nothing: it is a digest that no policy can produce.
//   - No run holds its index for longer than maxHold; one older than staleAge, by this machine's clock, is nobody's.
//
// There is no lock file: pods on one node share the TPM and its machine's clock, but no directory.
const (
	windowFirst = tpm2.TPMHandle(0x01a5ea00)
	windowSize  = 64

	indexMark = "sealfetch/nv/v1\x00"
	maxHold   = 2 * time.Minute
	staleAge  = 10 * time.Minute
)

// indexAlg names the index, and its digest size is that of authPolicy and the most that its auth value may have.
const indexAlg = tpm2.TPMAlgSHA512

var (
	errWindowFull = fmt.Errorf("all %d NV indices from %#x are taken", windowSize, uint32(windowFirst))
	errNoSpace    = errors.New("no NV space left in the TPM")
	errTooLarge   = errors.New("the TPM's NV indices are too small for an attestation document")
)

// nvIndex is an index of ours, and what it takes to use it.
type nvIndex struct {
	public tpm2.TPMSNVPublic
	auth   []byte
}

// name is what command authorization covers: it changes with the first write.
func (x *nvIndex) name() (tpm2.TPM2BName, error) {
	name, err := tpm2.NVName(&x.public)
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("naming an NV index: %w", err)
	}
	return *name, nil
}

// handle refers to the index with its name.
func (x *nvIndex) handle() (tpm2.NamedHandle, error) {
	name, err := x.name()
	return tpm2.NamedHandle{Handle: x.public.NVIndex, Name: name}, err
}

// defineIndex makes an index of size bytes at a free place of the window, starting anywhere in it, since two runs that
// scan in the same order would meet at every step.
func defineIndex(l *link, size uint16, now time.Time) (*nvIndex, error) {
	start, err := rand.Int(rand.Reader, big.NewInt(windowSize))
	if err != nil {
		return nil, err
	}
	for i := range int64(windowSize) {
		place := windowFirst + tpm2.TPMHandle((start.Int64()+i)%windowSize)
		index, err := defineAt(l, place, size, now)
		if !errors.Is(err, tpm2.TPMRCNVDefined) {
			return index, err
		}
	}
	return nil, errWindowFull
}

func defineAt(l *link, place tpm2.TPMHandle, size uint16, now time.Time) (*nvIndex, error) {
	index := &nvIndex{
		public: tpm2.TPMSNVPublic{
			NVIndex:    place,
			NameAlg:    indexAlg,
			Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true},
			AuthPolicy: tpm2.TPM2BDigest{Buffer: mark(now)},
			DataSize:   size,
		},
		// Text, because go-tpm v0.9.8 cuts an auth value at any zero byte and not only at trailing ones.
		auth: []byte(rand.Text()),
	}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: owner(),
		Auth:       tpm2.TPM2BAuth{Buffer: index.auth},
		PublicInfo: tpm2.New2B(index.public),
	}.Execute(l)
	switch {
	case err == nil:
		return index, nil
	case errors.Is(err, tpm2.TPMRCNVSpace):
		return nil, fmt.Errorf("%w: %w", errNoSpace, err)
	case errors.Is(err, tpm2.TPMRCSize), errors.Is(err, tpm2.TPMRCNVSize):
		return nil, fmt.Errorf("%w: %w", errTooLarge, err)
	default:
		return nil, fmt.Errorf("defining NV index %#x: %w", uint32(place), err)
	}
}

// owner is the owner hierarchy with its empty auth value.
func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
}

func (x *nvIndex) undefine(l *link) error {
	handle, err := x.handle()
	if err != nil {
		return err
	}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: owner(), NVIndex: handle}).Execute(l); err != nil {
		return fmt.Errorf("removing NV index %#x: %w", uint32(x.public.NVIndex), err)
	}
	return nil
}

// mark is the authPolicy of an index made now: indexMark, Unix seconds as 8 bytes big-endian, and random bytes.
func mark(now time.Time) []byte {
	policy := make([]byte, 64)
	rand.Read(policy) // never fails, as of Go 1.24
	copy(policy, indexMark)
	binary.BigEndian.PutUint64(policy[len(indexMark):], uint64(now.Unix()))
	return policy
}

// madeAt reads a mark; ok is false for an index that is not ours.
func madeAt(policy []byte) (made time.Time, ok bool) {
	rest, ok := bytes.CutPrefix(policy, []byte(indexMark))
	if !ok || len(policy) != 64 {
		return time.Time{}, false
	}
	return time.Unix(int64(binary.BigEndian.Uint64(rest)), 0), true
}

// sweep removes the indices that dead runs left behind, and counts those of runs that may still be alive.
func sweep(l *link, now time.Time) (alive int, err error) {
	handles, err := l.handles(windowFirst, windowSize)
	if err != nil {
		return 0, err
	}
	for _, handle := range handles {
		if handle < windowFirst || handle >= windowFirst+windowSize {
			continue
		}
		index, made, err := ours(l, handle)
		switch {
		case err != nil && !answered(err):
			return 0, err
		case err != nil || index == nil:
			continue // not ours, or gone meanwhile
		case now.Sub(made).Abs() <= staleAge:
			alive++
		default:
			if err := index.undefine(l); err != nil && !answered(err) {
				return 0, err
			}
		}
	}
	return alive, nil
}

// ours reads the public area of an index; index is nil for one that does not carry our mark.
func ours(l *link, handle tpm2.TPMHandle) (index *nvIndex, made time.Time, err error) {
	reply, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(l)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("looking at NV index %#x: %w", uint32(handle), err)
	}
	public, err := reply.NVPublic.Contents()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("looking at NV index %#x: %w", uint32(handle), err)
	}
	made, ok := madeAt(public.AuthPolicy.Buffer)
	if !ok || public.NVIndex != handle {
		return nil, time.Time{}, nil
	}
	return &nvIndex{public: *public}, made, nil
}
