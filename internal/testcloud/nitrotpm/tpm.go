// Package nitrotpm is a simulated NitroTPM for tests and the demo: a small TPM 2.0 behind a socket, with the vendor
// command of the real one, whose documents are signed under a test root.
//
// It parses the commands that the client sends, checks passwords and HMAC sessions, keeps NV indices with their
// attributes, and knows nothing else; an unknown command gets the answer that a real TPM gives. Its framing is that of
// the data socket of swtpm: commands and responses follow each other, each with its own header.
//
// It is not a TPM: its keys are in the memory of the process, and nothing that it signs proves anything.
package nitrotpm

import (
	"crypto/sha512"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// CommandNSM is the vendor command that turns a request in an NV index into a document.
const CommandNSM = 0x20000001

const pcrCount = 24

// Options say what the TPM is like. The zero value, with an Authority, is a healthy NitroTPM.
type Options struct {
	Authority *Authority
	ModuleID  string           // default i-0123456789abcdef0-tpm0000000000000000
	Now       func() time.Time // clock of the documents; default that of the Authority
	NVSpace   int              // bytes for NV indices together; default 32 KiB
	NVPiece   int              // TPM_PT_NV_BUFFER_MAX; default 1024

	NoVendorCommand bool // an ordinary TPM
	Manager         bool // a resource manager that does not let the vendor command pass
	NoSessions      bool // StartAuthSession fails: the TPM is out of session memory
	OwnerAuth       []byte
}

// TPM is the state of one simulated TPM. It is safe for concurrent use; it runs one command at a time.
type TPM struct {
	opts   Options
	signer *Signer

	turn sync.Mutex // held for the whole of a command

	mu       sync.Mutex // guards what follows; a command that hangs lets go of it
	pcrs     [pcrCount][48]byte
	indices  map[uint32]*nvIndex
	objects  map[uint32]*object
	sessions map[uint32]*session
	next     uint32   // handle counter of objects and sessions
	seen     []uint32 // command codes, in order
	proven   int      // commands under an HMAC session
	retries  int      // commands still to be answered with TPM_RC_RETRY
	hangOn   uint32
	released chan struct{} // closed when a hung TPM is let go
	release  sync.Once
}

// New makes a TPM with PCRs as after a boot: 0 to 9 measured, 17 to 22 all ones, the others zero.
func New(opts Options) (*TPM, error) {
	if opts.Now == nil {
		opts.Now = opts.Authority.now
	}
	if opts.ModuleID == "" {
		opts.ModuleID = "i-0123456789abcdef0-tpm0000000000000000"
	}
	if opts.NVSpace == 0 {
		opts.NVSpace = 32 << 10
	}
	if opts.NVPiece == 0 {
		opts.NVPiece = 1024
	}
	signer, err := opts.Authority.Signer(opts.ModuleID)
	if err != nil {
		return nil, err
	}
	t := &TPM{
		opts: opts, signer: signer,
		indices: map[uint32]*nvIndex{}, objects: map[uint32]*object{}, sessions: map[uint32]*session{},
		released: make(chan struct{}),
	}
	t.boot()
	return t, nil
}

func (t *TPM) boot() {
	for i := range 10 {
		t.pcrs[i] = sha512.Sum384([]byte{'P', 'C', 'R', byte(i)})
	}
	for i := 17; i <= 22; i++ {
		for j := range t.pcrs[i] {
			t.pcrs[i][j] = 0xff
		}
	}
}

// PCR returns the SHA-384 value of a PCR.
func (t *TPM) PCR(index int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.pcrs[index][:])
}

// Extend measures data into a PCR, as another kernel, command line or program would be.
func (t *TPM) Extend(index int, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	digest := sha512.Sum384(data)
	t.pcrs[index] = sha512.Sum384(append(t.pcrs[index][:], digest[:]...))
}

// Indices lists the handles of the NV indices that are defined.
func (t *TPM) Indices() []uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.indices))
}

// Loaded counts objects and sessions that nobody has flushed.
func (t *TPM) Loaded() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.objects) + len(t.sessions)
}

// Sessions counts the commands that were authorized by an HMAC session.
func (t *TPM) Sessions() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proven
}

// Commands lists the codes of the commands received so far.
func (t *TPM) Commands() []uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.seen)
}

// HangOn has the TPM answer no more once it gets the command of this code, until Release.
func (t *TPM) HangOn(code uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hangOn = code
}

// Release lets a hung TPM go on with the command that it hangs on.
func (t *TPM) Release() { t.release.Do(func() { close(t.released) }) }

// RetryNext has the next n commands answered with TPM_RC_RETRY.
func (t *TPM) RetryNext(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retries = n
}

// call is one command taken apart.
type call struct {
	code    uint32
	handles []uint32
	auths   []*authorization
	params  *reader
	raw     []byte // the parameters, for cpHash
}

// Execute runs one command and returns its response.
func (t *TPM) Execute(command []byte) []byte {
	t.turn.Lock()
	defer t.turn.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	handles, body, c, rc := t.run(command)
	if rc != tpm2.TPMRCSuccess {
		return response(tpm2.TPMSTNoSessions, rc, nil)
	}
	var out writer
	for _, handle := range handles {
		out.u32(handle)
	}
	if len(c.auths) == 0 {
		out.raw(body)
		return response(tpm2.TPMSTNoSessions, rc, out)
	}
	out.u32(uint32(len(body)))
	out.raw(body)
	for _, auth := range c.auths {
		out.raw(t.answerAuth(c, auth, body))
	}
	return response(tpm2.TPMSTSessions, rc, out)
}

func response(tag tpm2.TPMST, rc tpm2.TPMRC, body []byte) []byte {
	var out writer
	out.u16(uint16(tag))
	out.u32(uint32(10 + len(body)))
	out.u32(uint32(rc))
	out.raw(body)
	return out
}

// run takes a command apart, checks its authorizations and does it.
func (t *TPM) run(raw []byte) (handles []uint32, body []byte, c *call, rc tpm2.TPMRC) {
	r := &reader{b: raw}
	tag, size, code := r.u16(), r.u32(), r.u32()
	if r.bad || int(size) != len(raw) {
		return nil, nil, nil, tpm2.TPMRCCommandSize
	}
	t.seen = append(t.seen, code)
	if t.hangOn == code && code != 0 {
		t.hang()
	}
	if t.retries > 0 {
		t.retries--
		return nil, nil, nil, tpm2.TPMRCRetry
	}
	does, rc := t.lookup(code)
	if rc != tpm2.TPMRCSuccess {
		return nil, nil, nil, rc
	}
	c, rc = parse(r, tag, code, does)
	if rc != tpm2.TPMRCSuccess {
		return nil, nil, nil, rc
	}
	if rc := t.authorize(c, does.auths); rc != tpm2.TPMRCSuccess {
		return nil, nil, nil, rc
	}
	handles, body, rc = does.run(t, c)
	if rc == tpm2.TPMRCSuccess && (c.params.bad || len(c.params.b) != 0) {
		rc = tpm2.TPMRCSize
	}
	return handles, body, c, rc
}

// hang waits, and keeps every other command waiting too.
func (t *TPM) hang() {
	t.mu.Unlock()
	<-t.released
	t.mu.Lock()
}

// parse reads the handle area, the authorization area and what remains.
func parse(r *reader, tag uint16, code uint32, does command) (*call, tpm2.TPMRC) {
	c := &call{code: code}
	for range does.handles {
		c.handles = append(c.handles, r.u32())
	}
	if tpm2.TPMST(tag) == tpm2.TPMSTSessions {
		area := &reader{b: r.take(int(r.u32()))}
		for !area.bad && len(area.b) > 0 {
			c.auths = append(c.auths, readAuth(area))
		}
		r.bad = r.bad || area.bad
	}
	if r.bad || len(c.auths) > 3 {
		return nil, tpm2.TPMRCAuthSize
	}
	if len(c.auths) < does.auths {
		return nil, tpm2.TPMRCAuthMissing
	}
	c.raw = r.b
	c.params = &reader{b: r.b}
	return c, tpm2.TPMRCSuccess
}
