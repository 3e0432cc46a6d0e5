package nitrotpm

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// Response codes of the specification's format one name what they are about: a parameter, a handle or a session, and
// which one. Source: TPM 2.0 Library Part 2, section 6.6.2.
func inParameter(rc tpm2.TPMRC, i int) tpm2.TPMRC { return rc | 0x40 | tpm2.TPMRC(i)<<8 }
func inHandle(rc tpm2.TPMRC, i int) tpm2.TPMRC    { return rc | tpm2.TPMRC(i)<<8 }
func inSession(rc tpm2.TPMRC, i int) tpm2.TPMRC   { return rc | 0x800 | tpm2.TPMRC(i)<<8 }

const continueSession = 1 // bit of the session attributes

// session is an HMAC session.
type session struct {
	alg      tpm2.TPMIAlgHash
	key      []byte
	nonceTPM []byte
}

// authorization is one entry of a command's authorization area. The last two fields are for the response.
type authorization struct {
	handle     uint32
	nonce      []byte
	attributes uint8
	hmac       []byte

	session *session
	value   []byte // the auth value of what was authorized
}

func readAuth(r *reader) *authorization {
	return &authorization{handle: r.u32(), nonce: r.sized(), attributes: r.u8(), hmac: r.sized()}
}

// authorize checks the authorization of the first count handles.
func (t *TPM) authorize(c *call, count int) tpm2.TPMRC {
	for i := range count {
		value, protected, rc := t.authValue(c.handles[i])
		if rc != tpm2.TPMRCSuccess {
			return inHandle(rc, i+1)
		}
		ok, rc := t.proves(c, c.auths[i], value)
		if rc != tpm2.TPMRCSuccess {
			return rc
		}
		if !ok && protected {
			return inSession(tpm2.TPMRCAuthFail, i+1)
		}
		if !ok {
			return inSession(tpm2.TPMRCBadAuth, i+1)
		}
	}
	return tpm2.TPMRCSuccess
}

// authValue returns what must be known to use a handle, and whether guessing it is punished.
func (t *TPM) authValue(handle uint32) (value []byte, protected bool, rc tpm2.TPMRC) {
	switch tpm2.TPMHandle(handle) {
	case tpm2.TPMRHOwner:
		return t.opts.OwnerAuth, false, tpm2.TPMRCSuccess
	case tpm2.TPMRHEndorsement:
		return nil, false, tpm2.TPMRCSuccess
	}
	if handle < pcrCount {
		return nil, false, tpm2.TPMRCSuccess
	}
	if index, ok := t.indices[handle]; ok {
		return index.auth, true, tpm2.TPMRCSuccess
	}
	return nil, false, tpm2.TPMRCHandle
}

// proves checks one authorization: a password, or an HMAC over the command under a session's key.
func (t *TPM) proves(c *call, auth *authorization, value []byte) (bool, tpm2.TPMRC) {
	value = bytes.TrimRight(value, "\x00")
	if tpm2.TPMHandle(auth.handle) == tpm2.TPMRSPW {
		return hmac.Equal(bytes.TrimRight(auth.hmac, "\x00"), value), tpm2.TPMRCSuccess
	}
	s, ok := t.sessions[auth.handle]
	if !ok {
		return false, tpm2.TPMRCReferenceH0 + 8 // TPM_RC_REFERENCE_S0
	}
	auth.session, auth.value = s, value
	digest := s.hash(uint32Bytes(c.code), t.names(c), c.raw)
	want := s.hmac(value, digest, auth.nonce, s.nonceTPM, []byte{auth.attributes})
	ok = hmac.Equal(want, auth.hmac)
	if ok {
		t.proven++
	}
	return ok, tpm2.TPMRCSuccess
}

// answerAuth makes the authorization that goes with a response.
func (t *TPM) answerAuth(c *call, auth *authorization, body []byte) []byte {
	var out writer
	if auth.session == nil {
		out.sized(nil)
		out.u8(continueSession)
		out.sized(nil)
		return out
	}
	s := auth.session
	s.nonceTPM = random(len(s.nonceTPM))
	digest := s.hash(uint32Bytes(0), uint32Bytes(c.code), body)
	out.sized(s.nonceTPM)
	out.u8(auth.attributes)
	out.sized(s.hmac(auth.value, digest, s.nonceTPM, auth.nonce, []byte{auth.attributes}))
	if auth.attributes&continueSession == 0 {
		delete(t.sessions, auth.handle)
	}
	return out
}

// names concatenates the names of a command's handles.
func (t *TPM) names(c *call) []byte {
	var all []byte
	for _, handle := range c.handles {
		if index, ok := t.indices[handle]; ok {
			all = append(all, index.name()...)
		} else if object, ok := t.objects[handle]; ok {
			all = append(all, object.name...)
		} else {
			all = append(all, uint32Bytes(handle)...)
		}
	}
	return all
}

func (s *session) hash(parts ...[]byte) []byte {
	h, _ := s.alg.Hash()
	state := h.New()
	for _, part := range parts {
		state.Write(part)
	}
	return state.Sum(nil)
}

// hmac is the authorization of Part 1, section 19.6.5: keyed by session key and auth value together.
func (s *session) hmac(value []byte, parts ...[]byte) []byte {
	h, _ := s.alg.Hash()
	state := hmac.New(h.New, append(bytes.Clone(s.key), value...))
	for _, part := range parts {
		state.Write(part)
	}
	return state.Sum(nil)
}

// startAuthSession is TPM2_StartAuthSession for HMAC sessions, unbound, salted or not, without parameter encryption.
func startAuthSession(t *TPM, c *call) ([]uint32, []byte, tpm2.TPMRC) {
	nonceCaller, encryptedSalt := c.params.sized(), c.params.sized()
	kind := tpm2.TPMSE(c.params.u8())
	if symmetric := tpm2.TPMAlgID(c.params.u16()); symmetric != tpm2.TPMAlgNull {
		return nil, nil, inParameter(tpm2.TPMRCSymmetric, 4)
	}
	alg := tpm2.TPMIAlgHash(c.params.u16())
	h, err := alg.Hash()
	switch {
	case t.opts.NoSessions:
		return nil, nil, tpm2.TPMRCSessionMemory
	case c.params.bad || kind != tpm2.TPMSEHMAC || err != nil:
		return nil, nil, inParameter(tpm2.TPMRCValue, 3)
	case tpm2.TPMHandle(c.handles[1]) != tpm2.TPMRHNull:
		return nil, nil, inHandle(tpm2.TPMRCHandle, 2)
	case len(nonceCaller) < 16 || len(nonceCaller) > h.Size():
		return nil, nil, inParameter(tpm2.TPMRCSize, 1)
	}
	salt, rc := t.salt(c.handles[0], encryptedSalt)
	if rc != tpm2.TPMRCSuccess {
		return nil, nil, rc
	}
	s := &session{alg: alg, nonceTPM: random(h.Size())}
	if salt != nil {
		s.key = tpm2.KDFa(h, salt, "ATH", s.nonceTPM, nonceCaller, h.Size()*8)
	}
	handle := t.handle(0x02000000)
	t.sessions[handle] = s
	var out writer
	out.sized(s.nonceTPM)
	return []uint32{handle}, out, tpm2.TPMRCSuccess
}

// salt decrypts a session's salt with a loaded key. It is nil for an unsalted session.
func (t *TPM) salt(handle uint32, encrypted []byte) ([]byte, tpm2.TPMRC) {
	if tpm2.TPMHandle(handle) == tpm2.TPMRHNull {
		return nil, tpm2.TPMRCSuccess
	}
	key, ok := t.objects[handle]
	if !ok {
		return nil, inHandle(tpm2.TPMRCHandle, 1)
	}
	salt, err := rsa.DecryptOAEP(sha256.New(), nil, key.private, encrypted, []byte("SECRET\x00"))
	if err != nil {
		return nil, inParameter(tpm2.TPMRCValue, 2)
	}
	return salt, tpm2.TPMRCSuccess
}

func (t *TPM) handle(base uint32) uint32 {
	t.next++
	return base | t.next&0xffffff
}

func uint32Bytes(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
