package nitrotpm

import (
	"crypto/rsa"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// command is what the TPM knows about a command code: how many handles come first, how many of those are authorized,
// and what to do.
type command struct {
	handles, auths int
	run            func(*TPM, *call) (handles []uint32, body []byte, rc tpm2.TPMRC)
}

// lookup finds a command, or the answer to one that this TPM does not have.
func (t *TPM) lookup(code uint32) (command, tpm2.TPMRC) {
	switch tpm2.TPMCC(code) {
	case tpm2.TPMCCStartup:
		return command{0, 0, startup}, tpm2.TPMRCSuccess
	case tpm2.TPMCCGetCapability:
		return command{0, 0, getCapability}, tpm2.TPMRCSuccess
	case tpm2.TPMCCGetRandom:
		return command{0, 0, getRandom}, tpm2.TPMRCSuccess
	case tpm2.TPMCCPCRRead:
		return command{0, 0, pcrRead}, tpm2.TPMRCSuccess
	case tpm2.TPMCCCreatePrimary:
		return command{1, 1, createPrimary}, tpm2.TPMRCSuccess
	case tpm2.TPMCCReadPublic:
		return command{1, 0, readPublic}, tpm2.TPMRCSuccess
	case tpm2.TPMCCStartAuthSession:
		return command{2, 0, startAuthSession}, tpm2.TPMRCSuccess
	case tpm2.TPMCCFlushContext:
		return command{0, 0, flushContext}, tpm2.TPMRCSuccess
	case tpm2.TPMCCNVDefineSpace:
		return command{1, 1, nvDefineSpace}, tpm2.TPMRCSuccess
	case tpm2.TPMCCNVUndefineSpace:
		return command{2, 1, nvUndefineSpace}, tpm2.TPMRCSuccess
	case tpm2.TPMCCNVReadPublic:
		return command{1, 0, nvReadPublic}, tpm2.TPMRCSuccess
	case tpm2.TPMCCNVWrite:
		return command{2, 1, nvWrite}, tpm2.TPMRCSuccess
	case tpm2.TPMCCNVRead:
		return command{2, 1, nvRead}, tpm2.TPMRCSuccess
	case CommandNSM:
		return t.lookupNSM()
	default:
		return command{}, tpm2.TPMRCCommandCode
	}
}

func (t *TPM) lookupNSM() (command, tpm2.TPMRC) {
	switch {
	case t.opts.Manager:
		return command{}, 11<<16 | tpm2.TPMRCCommandCode
	case t.opts.NoVendorCommand:
		return command{}, tpm2.TPMRCCommandCode
	default:
		return command{2, 1, nsmRequest}, tpm2.TPMRCSuccess
	}
}

// startup answers that the TPM runs already.
func startup(_ *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	c.params.u16()
	return nil, nil, tpm2.TPMRCInitialize
}

func getRandom(_ *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	var out writer
	out.sized(random(min(int(c.params.u16()), 64)))
	return nil, out, tpm2.TPMRCSuccess
}

func getCapability(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	capability, property, count := tpm2.TPMCap(c.params.u32()), c.params.u32(), c.params.u32()
	var out writer
	switch capability {
	case tpm2.TPMCapHandles:
		found := slices.DeleteFunc(slices.Sorted(maps.Keys(t.indices)), func(h uint32) bool { return h < property })
		shown := found[:min(len(found), int(count))]
		out.u8(flag(len(shown) < len(found)))
		out.u32(uint32(capability))
		out.u32(uint32(len(shown)))
		for _, handle := range shown {
			out.u32(handle)
		}
	case tpm2.TPMCapTPMProperties:
		value, ok := t.property(tpm2.TPMPT(property))
		out.u8(0)
		out.u32(uint32(capability))
		out.u32(uint32(flag(ok)))
		if ok {
			out.u32(property)
			out.u32(value)
		}
	default:
		return nil, nil, inParameter(tpm2.TPMRCValue, 1)
	}
	return nil, out, tpm2.TPMRCSuccess
}

func (t *TPM) property(tag tpm2.TPMPT) (uint32, bool) {
	switch tag {
	case tpm2.TPMPTManufacturer:
		return 0x53494d55, true // "SIMU"
	case tpm2.TPMPTNVBufferMax:
		return uint32(t.opts.NVPiece), true
	default:
		return 0, false
	}
}

func flag(set bool) uint8 {
	if set {
		return 1
	}
	return 0
}

// pcrRead serves one selection of the SHA-384 bank, of up to eight PCRs.
func pcrRead(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	count, alg, size := c.params.u32(), c.params.u16(), c.params.u8()
	if count != 1 || tpm2.TPMAlgID(alg) != tpm2.TPMAlgSHA384 || size != 3 {
		return nil, nil, inParameter(tpm2.TPMRCValue, 1)
	}
	asked := c.params.take(3)
	var digests [][]byte
	given := make([]byte, 3)
	for i := range t.pcrs {
		if asked[i/8]&(1<<(i%8)) != 0 && len(digests) < 8 {
			given[i/8] |= 1 << (i % 8)
			digests = append(digests, t.pcrs[i][:])
		}
	}
	var out writer
	out.u32(1) // update counter
	out.u32(1)
	out.u16(alg)
	out.u8(3)
	out.raw(given)
	out.u32(uint32(len(digests)))
	for _, digest := range digests {
		out.sized(digest)
	}
	return nil, out, tpm2.TPMRCSuccess
}

// object is a loaded key.
type object struct {
	public  []byte // TPMT_PUBLIC
	name    []byte
	private *rsa.PrivateKey
}

// createPrimary makes the endorsement key, whatever template it is given under the endorsement hierarchy.
func createPrimary(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	c.params.sized() // sensitive
	template := c.params.sized()
	c.params.sized() // outside info
	if selections := c.params.u32(); selections != 0 {
		return nil, nil, inParameter(tpm2.TPMRCValue, 4)
	}
	if tpm2.TPMHandle(c.handles[0]) != tpm2.TPMRHEndorsement {
		return nil, nil, inHandle(tpm2.TPMRCHierarchy, 1)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](template)
	if err != nil || public.Type != tpm2.TPMAlgRSA || public.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, nil, inParameter(tpm2.TPMRCType, 2)
	}
	key, err := t.opts.Authority.endorsementKey()
	if err != nil {
		return nil, nil, tpm2.TPMRCFailure
	}
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, nil, tpm2.TPMRCFailure
	}
	handle := t.handle(0x80000000)
	made := &object{public: tpm2.Marshal(*public), name: name.Buffer, private: key}
	t.objects[handle] = made
	var out writer
	out.sized(made.public)
	out.sized(creationData())
	out.sized(random(32))
	out.u16(uint16(tpm2.TPMSTCreation)) // a ticket, which nobody asks to have checked
	out.u32(uint32(tpm2.TPMRHEndorsement))
	out.sized(random(32))
	out.sized(made.name)
	return []uint32{handle}, out, tpm2.TPMRCSuccess
}

// creationData is the smallest legal TPMS_CREATION_DATA: no PCRs, the hierarchy as parent.
func creationData() []byte {
	var out writer
	out.u32(0)     // PCR selections
	out.sized(nil) // PCR digest
	out.u8(1)      // locality
	out.u16(uint16(tpm2.TPMAlgNull))
	out.sized(uint32Bytes(uint32(tpm2.TPMRHEndorsement)))
	out.sized(uint32Bytes(uint32(tpm2.TPMRHEndorsement)))
	out.sized(nil)
	return out
}

func readPublic(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	key, ok := t.objects[c.handles[0]]
	if !ok {
		return nil, nil, inHandle(tpm2.TPMRCHandle, 1)
	}
	var out writer
	out.sized(key.public)
	out.sized(key.name)
	out.sized(key.name)
	return nil, out, tpm2.TPMRCSuccess
}

func flushContext(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	handle := c.params.u32()
	_, isObject := t.objects[handle]
	_, isSession := t.sessions[handle]
	if !isObject && !isSession {
		return nil, nil, inParameter(tpm2.TPMRCHandle, 1)
	}
	delete(t.objects, handle)
	delete(t.sessions, handle)
	return nil, nil, tpm2.TPMRCSuccess
}
