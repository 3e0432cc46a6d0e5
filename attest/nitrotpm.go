package attest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// TypeNitroTPM is the type of evidence that a NitroTPM makes.
const TypeNitroTPM = "nitrotpm"

const (
	// commandNSM is the vendor command of a NitroTPM that takes a request from an NV index and leaves the answer in it.
	// Its two handles are the index, as what authorizes and as what is meant; it has no parameters.
	commandNSM = 0x20000001

	bufferSize = 8192 // bytes of the index: about 5 KiB of document, and three fields of up to 1 KiB
	minPiece   = 64   // bytes of NV transfer at a time; what a TPM offers beyond maxPiece is not used
	maxPiece   = 2048

	spaceStep = 250 * time.Millisecond // between looks for NV space that other runs may give back
)

// NitroTPM collects the attestation documents of an EC2 instance with a NitroTPM.
// It holds no device between calls and is safe for concurrent use.
type NitroTPM struct {
	devices     []string
	now         func() time.Time
	commandTime time.Duration
	bufferSize  uint16
}

// NewNitroTPM takes what to open: a device node, unix:PATH or tcp:HOST:PORT. Empty means /dev/tpmrm0, the kernel's
// resource manager, and where that is missing or does not let the vendor command pass, /dev/tpm0.
func NewNitroTPM(device string) (*NitroTPM, error) {
	n := &NitroTPM{
		devices:     []string{"/dev/tpmrm0", "/dev/tpm0"},
		now:         time.Now,
		commandTime: commandTime,
		bufferSize:  bufferSize,
	}
	if device != "" {
		if err := checkDevice(device); err != nil {
			return nil, err
		}
		n.devices = []string{device}
	}
	return n, nil
}

// Type implements Attester.
func (*NitroTPM) Type() string { return TypeNitroTPM }

// Probe opens the TPM and asks for one property. Whether it is a NitroTPM shows in Collect alone.
func (n *NitroTPM) Probe(ctx context.Context) error {
	return n.first(ctx, func(l *link) error {
		_, err := l.property(tpm2.TPMPTManufacturer)
		return err
	})
}

// Collect implements Attester. It takes the TPM's time of an RSA key generation, and 8 KiB of its NV memory, which it
// gives back on every path. It ends with ctx, or a few seconds later where a command was under way.
func (n *NitroTPM) Collect(ctx context.Context, b Binding) (Evidence, error) {
	if err := b.check(); err != nil {
		return Evidence{}, err
	}
	request, err := encodeRequest(b)
	if err != nil {
		return Evidence{}, fmt.Errorf("encoding the attestation request: %w", err)
	}
	var document []byte
	err = n.first(ctx, func(l *link) error {
		document, err = n.document(l, request)
		return err
	})
	if err != nil {
		return Evidence{}, err
	}
	return Evidence{Type: TypeNitroTPM, Blob: document}, nil
}

// first does work on the first of the devices that is there and lets it pass.
func (n *NitroTPM) first(ctx context.Context, work func(*link) error) error {
	var err error
	for i, device := range n.devices {
		err = n.on(ctx, device, work)
		if last := i == len(n.devices)-1; last || !tryNext(err) {
			return explain(err, device)
		}
	}
	return err
}

// tryNext reports the two failures that say nothing about the TPM itself, only about the node used to reach it.
func tryNext(err error) bool {
	return errors.Is(err, errManager) || isMissing(err)
}

func (n *NitroTPM) on(ctx context.Context, device string, work func(*link) error) error {
	ctx, cancel := context.WithTimeout(ctx, maxHold-cleanTime-graceTime)
	defer cancel()
	channel, err := openChannel(ctx, device)
	if err != nil {
		return fmt.Errorf("opening the TPM: %w", err)
	}
	defer channel.close()
	return work(&link{ctx, channel, n.commandTime})
}

// document has the TPM answer a request: through a session as AWS's own tool makes it, or where the TPM refuses that
// session, through a plain password. The session guards nothing that matters, since the request is public and the
// answer is signed; it comes first because it is the form known to be used on the real thing.
func (n *NitroTPM) document(l *link, request []byte) (document []byte, err error) {
	piece, err := pieceSize(l)
	if err != nil {
		return nil, err
	}
	index, err := n.reserve(l)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = both(err, discard(l, index)); err != nil {
			document = nil
		}
	}()

	document, err = withSession(l, index.auth, func(s tpm2.Session) ([]byte, error) {
		return transact(l, index, s, request, piece)
	})
	if err == nil || !worthPlain(err) {
		return document, err
	}
	document, plainErr := transact(l, index, tpm2.PasswordAuth(index.auth), request, piece)
	if plainErr != nil {
		return nil, fmt.Errorf("%w (and with a salted session: %w)", plainErr, err)
	}
	return document, nil
}

// worthPlain reports the failures that a password may not meet: those of the session, not of the command or the line.
func worthPlain(err error) bool {
	if errors.Is(err, errUnknownCommand) || errors.Is(err, errManager) {
		return false
	}
	return answered(err) || errors.Is(err, errSession)
}

// both returns the two errors as one, the first first. Either may be nil.
func both(first, second error) error {
	if first == nil || second == nil {
		return cmp.Or(first, second)
	}
	return fmt.Errorf("%w; and %w", first, second)
}

// discard removes the index also after the caller has given up, and says so where that cannot be done.
func discard(l *link, index *nvIndex) error {
	if err := l.clean(index.undefine); err != nil {
		return fmt.Errorf("%w: it stays behind until a later run removes it, after %s", err, staleAge)
	}
	return nil
}

// reserve makes our index. Where the TPM has no room for it and other runs hold indices of their own, it waits for them
// as long as the context allows. They come and go between the look and the try, so nobody else there is believed only
// when it was seen several times.
func (n *NitroTPM) reserve(l *link) (*nvIndex, error) {
	for alone := 0; ; {
		alive, err := sweep(l, n.now())
		if err != nil {
			return nil, err
		}
		index, err := defineIndex(l, n.bufferSize, n.now())
		if !errors.Is(err, errNoSpace) && !errors.Is(err, errWindowFull) {
			return index, err
		}
		if alive == 0 {
			if alone++; alone == 3 {
				return nil, err
			}
			continue
		}
		if ctxErr := sleep(l.ctx, spaceStep); ctxErr != nil {
			return nil, fmt.Errorf("%w, and %d other runs did not give theirs back: %w", err, alive, ctxErr)
		}
	}
}

// pieceSize is how many bytes one NV_Write or NV_Read may carry.
func pieceSize(l *link) (int, error) {
	size, err := l.property(tpm2.TPMPTNVBufferMax)
	if err != nil {
		return 0, err
	}
	if size < minPiece {
		return 0, fmt.Errorf("the TPM moves NV data in pieces of %d bytes, fewer than %d", size, minPiece)
	}
	return int(min(size, maxPiece)), nil
}

// withSession does work under an HMAC session that is salted with the TPM's endorsement key, and removes both.
// The key is not checked against a certificate: see document for what the session is good for.
func withSession(l *link, auth []byte, work func(tpm2.Session) ([]byte, error)) (document []byte, err error) {
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.RSAEKTemplate),
	}.Execute(l)
	if err != nil {
		return nil, fmt.Errorf("creating the endorsement key: %w", err)
	}
	defer func() { err = both(err, flush(l, key.ObjectHandle)) }()
	public, err := key.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading the endorsement key: %w", err)
	}
	session, _, err := tpm2.HMACSession(l, indexAlg, 64, tpm2.Auth(auth), tpm2.Salted(key.ObjectHandle, *public))
	if err != nil {
		return nil, fmt.Errorf("starting a salted session: %w", err)
	}
	defer func() { err = both(err, flush(l, session.Handle())) }()
	return work(session)
}

// flush frees what a TPM without a resource manager would keep.
func flush(l *link, handle tpm2.TPMHandle) error {
	return l.clean(func(l *link) error {
		if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(l); err != nil {
			return fmt.Errorf("flushing handle %#x: %w", uint32(handle), err)
		}
		return nil
	})
}
