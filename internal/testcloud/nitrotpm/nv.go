package nitrotpm

import (
	"bytes"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"
)

const maxIndex = 8192 // bytes of one NV index

// nvIndex is one NV index. Only the attributes AUTHREAD, AUTHWRITE and WRITTEN are known.
type nvIndex struct {
	public tpm2.TPMSNVPublic
	auth   []byte
	data   []byte
}

func (x *nvIndex) name() []byte {
	name, err := tpm2.NVName(&x.public)
	if err != nil {
		return nil
	}
	return name.Buffer
}

func nvDefineSpace(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	auth, raw := c.params.sized(), c.params.sized()
	public, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](raw)
	if err != nil {
		return nil, nil, inParameter(tpm2.TPMRCSize, 2)
	}
	h, err := public.NameAlg.Hash()
	handle := uint32(public.NVIndex)
	_, taken := t.indices[handle]
	switch {
	case tpm2.TPMHandle(c.handles[0]) != tpm2.TPMRHOwner:
		return nil, nil, inHandle(tpm2.TPMRCHierarchy, 1)
	case err != nil:
		return nil, nil, inParameter(tpm2.TPMRCHash, 2)
	case handle>>24 != 1:
		return nil, nil, inParameter(tpm2.TPMRCValue, 2)
	case len(auth) > h.Size():
		return nil, nil, inParameter(tpm2.TPMRCSize, 1)
	case len(public.AuthPolicy.Buffer) != 0 && len(public.AuthPolicy.Buffer) != h.Size():
		return nil, nil, inParameter(tpm2.TPMRCSize, 2)
	case public.Attributes.Written || !public.Attributes.AuthRead || !public.Attributes.AuthWrite:
		return nil, nil, inParameter(tpm2.TPMRCAttributes, 2)
	case public.DataSize > maxIndex:
		return nil, nil, inParameter(tpm2.TPMRCSize, 2)
	case taken:
		return nil, nil, tpm2.TPMRCNVDefined
	case t.nvUsed()+int(public.DataSize) > t.opts.NVSpace:
		return nil, nil, tpm2.TPMRCNVSpace
	}
	t.indices[handle] = &nvIndex{*public, bytes.Clone(auth), bytes.Repeat([]byte{0xff}, int(public.DataSize))}
	return nil, nil, tpm2.TPMRCSuccess
}

func (t *TPM) nvUsed() int {
	used := 0
	for _, index := range t.indices {
		used += len(index.data)
	}
	return used
}

func nvUndefineSpace(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	if _, ok := t.indices[c.handles[1]]; !ok {
		return nil, nil, inHandle(tpm2.TPMRCHandle, 2)
	}
	if tpm2.TPMHandle(c.handles[0]) != tpm2.TPMRHOwner {
		return nil, nil, inHandle(tpm2.TPMRCHierarchy, 1)
	}
	delete(t.indices, c.handles[1])
	return nil, nil, tpm2.TPMRCSuccess
}

func nvReadPublic(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	index, ok := t.indices[c.handles[0]]
	if !ok {
		return nil, nil, inHandle(tpm2.TPMRCHandle, 1)
	}
	var out writer
	out.sized(tpm2.Marshal(index.public))
	out.sized(index.name())
	return nil, out, tpm2.TPMRCSuccess
}

// own finds the index that authorizes itself, the only way that this TPM knows.
func (t *TPM) own(c *call) (*nvIndex, tpm2.TPMRC) {
	index, ok := t.indices[c.handles[1]]
	if !ok {
		return nil, inHandle(tpm2.TPMRCHandle, 2)
	}
	if c.handles[0] != c.handles[1] {
		return nil, tpm2.TPMRCNVAuthorization
	}
	return index, tpm2.TPMRCSuccess
}

func nvWrite(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	data, offset := c.params.sized(), int(c.params.u16())
	index, rc := t.own(c)
	switch {
	case rc != tpm2.TPMRCSuccess:
		return nil, nil, rc
	case len(data) > t.opts.NVPiece:
		return nil, nil, inParameter(tpm2.TPMRCSize, 1)
	case offset+len(data) > len(index.data):
		return nil, nil, tpm2.TPMRCNVRange
	}
	copy(index.data[offset:], data)
	index.public.Attributes.Written = true
	return nil, nil, tpm2.TPMRCSuccess
}

func nvRead(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	size, offset := int(c.params.u16()), int(c.params.u16())
	index, rc := t.own(c)
	switch {
	case rc != tpm2.TPMRCSuccess:
		return nil, nil, rc
	case !index.public.Attributes.Written:
		return nil, nil, tpm2.TPMRCNVUninitialized
	case size > t.opts.NVPiece:
		return nil, nil, inParameter(tpm2.TPMRCValue, 1)
	case offset+size > len(index.data):
		return nil, nil, tpm2.TPMRCNVRange
	}
	var out writer
	out.sized(index.data[offset : offset+size])
	return nil, out, tpm2.TPMRCSuccess
}

// request is what the vendor command finds in the index.
type request struct {
	Attestation *struct {
		UserData  []byte `cbor:"user_data"`
		Nonce     []byte `cbor:"nonce"`
		PublicKey []byte `cbor:"public_key"`
	} `cbor:"Attestation"`
}

const maxField = 1024 // bytes of each free field of a document

// nsmRequest is the vendor command: it reads a request from the index, and leaves the answer in it, padded with 0xFF.
func nsmRequest(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	index, rc := t.own(c)
	if rc != tpm2.TPMRCSuccess {
		return nil, nil, rc
	}
	if !index.public.Attributes.Written {
		return nil, nil, tpm2.TPMRCNVUninitialized
	}
	answer := t.attest(index.data)
	if len(answer) > len(index.data) {
		answer = encode(map[string]string{"Error": "BufferTooSmall"})
	}
	for i := range index.data {
		index.data[i] = 0xff
	}
	copy(index.data, answer)
	return nil, nil, tpm2.TPMRCSuccess
}

func (t *TPM) attest(raw []byte) []byte {
	var r request
	if _, err := cbor.UnmarshalFirst(raw, &r); err != nil || r.Attestation == nil {
		return encode(map[string]string{"Error": "InvalidOperation"})
	}
	a := r.Attestation
	if max(len(a.UserData), len(a.Nonce), len(a.PublicKey)) > maxField {
		return encode(map[string]string{"Error": "InvalidArgument"})
	}
	pcrs := map[int][]byte{}
	for i := range t.pcrs {
		pcrs[i] = bytes.Clone(t.pcrs[i][:])
	}
	document, err := t.signer.Sign(Document{
		ModuleID: t.opts.ModuleID, Timestamp: t.opts.Now(), PCRs: pcrs, PCRField: "nitrotpm_pcrs",
		PublicKey: a.PublicKey, UserData: a.UserData, Nonce: a.Nonce,
	})
	if err != nil {
		return encode(map[string]string{"Error": "InternalError"})
	}
	return encode(map[string]any{"Attestation": map[string]any{"document": document}})
}
