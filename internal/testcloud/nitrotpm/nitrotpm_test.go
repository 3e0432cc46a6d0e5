package nitrotpm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

// local is the TPM without a socket.
type local struct{ tpm *nitrotpm.TPM }

func (l local) Send(command []byte) ([]byte, error) { return l.tpm.Execute(command), nil }

func newTPM(t testing.TB, opts nitrotpm.Options) local {
	t.Helper()
	authority, err := nitrotpm.NewAuthority(time.Now)
	check(t, err)
	opts.Authority = authority
	tpm, err := nitrotpm.New(opts)
	check(t, err)
	return local{tpm}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const place = tpm2.TPMHandle(0x01800000)

// define makes an index with a password.
func define(l local, password string, attributes tpm2.TPMANV, size uint16) error {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner, Auth: tpm2.TPM2BAuth{Buffer: []byte(password)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: place, NameAlg: tpm2.TPMAlgSHA256, Attributes: attributes, DataSize: size,
		}),
	}.Execute(l)
	return err
}

var ours = tpm2.TPMANV{AuthRead: true, AuthWrite: true}

// write puts one byte into the index under an authorization.
func write(l local, auth tpm2.Session) error {
	public, err := tpm2.NVReadPublic{NVIndex: place}.Execute(l)
	if err != nil {
		return err
	}
	_, err = tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: place, Name: public.NVName, Auth: auth},
		NVIndex:    tpm2.NamedHandle{Handle: place, Name: public.NVName},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: []byte{7}},
	}.Execute(l)
	return err
}

func TestAuthorizationIsChecked(t *testing.T) {
	l := newTPM(t, nitrotpm.Options{})
	check(t, define(l, "secret", ours, 64))
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.RSAEKTemplate),
	}.Execute(l)
	check(t, err)
	public, err := key.OutPublic.Contents()
	check(t, err)
	salted := tpm2.Salted(key.ObjectHandle, *public)
	forged := *public
	modulus, err := public.Unique.RSA()
	check(t, err)
	other := bytes.Clone(modulus.Buffer)
	other[100] ^= 4
	forged.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: other})
	missalted := tpm2.Salted(key.ObjectHandle, forged)

	for name, test := range map[string]struct {
		auth tpm2.Session
		want error
	}{
		"password":                  {tpm2.PasswordAuth([]byte("secret")), nil},
		"wrong password":            {tpm2.PasswordAuth([]byte("Secret")), tpm2.TPMRCAuthFail},
		"empty password":            {tpm2.PasswordAuth(nil), tpm2.TPMRCAuthFail},
		"session":                   {tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth([]byte("secret"))), nil},
		"salted session":            {tpm2.HMAC(tpm2.TPMAlgSHA512, 64, tpm2.Auth([]byte("secret")), salted), nil},
		"session with wrong auth":   {tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth([]byte("Secret"))), tpm2.TPMRCAuthFail},
		"salted, with wrong auth":   {tpm2.HMAC(tpm2.TPMAlgSHA512, 64, salted), tpm2.TPMRCAuthFail},
		"salted for a forged key":   {tpm2.HMAC(tpm2.TPMAlgSHA512, 64, missalted), tpm2.TPMRCValue},
		"salted with unloaded key":  {tpm2.HMAC(tpm2.TPMAlgSHA512, 64, tpm2.Salted(0x80000099, *public)), tpm2.TPMRCHandle},
		"session with short nonces": {tpm2.HMAC(tpm2.TPMAlgSHA256, 8), tpm2.TPMRCSize},
		"parameter encryption": {
			tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptIn)), tpm2.TPMRCSymmetric},
	} {
		if err := write(l, test.auth); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(l)
	check(t, err)
	if n := l.tpm.Loaded(); n != 0 {
		t.Errorf("%d objects and sessions left", n)
	}
}

// TestSessionOfAnotherName has a command name another index in its authorization than in its handles.
func TestSessionOfAnotherName(t *testing.T) {
	l := newTPM(t, nitrotpm.Options{})
	check(t, define(l, "", ours, 64))
	wrong := tpm2.TPM2BName{Buffer: make([]byte, 34)}
	_, err := tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: place, Name: wrong, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16)},
		NVIndex:    tpm2.NamedHandle{Handle: place, Name: wrong},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: []byte{7}},
	}.Execute(l)
	if !errors.Is(err, tpm2.TPMRCAuthFail) {
		t.Errorf("a wrong name: %v", err)
	}
}

func TestNVRules(t *testing.T) {
	l := newTPM(t, nitrotpm.Options{NVSpace: 9000})
	for name, test := range map[string]struct {
		attributes tpm2.TPMANV
		size       uint16
		want       error
	}{
		"no read":   {tpm2.TPMANV{AuthWrite: true}, 64, tpm2.TPMRCAttributes},
		"too large": {ours, 8193, tpm2.TPMRCSize},
	} {
		if err := define(l, "", test.attributes, test.size); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	check(t, define(l, "", ours, 64))
	if err := define(l, "", ours, 64); !errors.Is(err, tpm2.TPMRCNVDefined) {
		t.Errorf("defined twice: %v", err)
	}
	handle := tpm2.AuthHandle{Handle: place, Name: tpm2.TPM2BName{Buffer: []byte{1}}, Auth: tpm2.PasswordAuth(nil)}
	index := tpm2.NamedHandle{Handle: place}
	_, err := tpm2.NVRead{AuthHandle: handle, NVIndex: index, Size: 1}.Execute(l)
	if !errors.Is(err, tpm2.TPMRCNVUninitialized) {
		t.Errorf("read before written: %v", err)
	}
	check(t, write(l, tpm2.PasswordAuth(nil)))
	_, err = tpm2.NVRead{AuthHandle: handle, NVIndex: index, Size: 1, Offset: 64}.Execute(l)
	if !errors.Is(err, tpm2.TPMRCNVRange) {
		t.Errorf("read beyond the end: %v", err)
	}
	reply, err := tpm2.NVRead{AuthHandle: handle, NVIndex: index, Size: 2}.Execute(l)
	if err != nil || !bytes.Equal(reply.Data.Buffer, []byte{7, 0xff}) {
		t.Errorf("read %+v, %v", reply, err)
	}
}

func TestPCRRead(t *testing.T) {
	l := newTPM(t, nitrotpm.Options{})
	before := l.tpm.PCR(12)
	l.tpm.Extend(12, []byte("command line"))
	reply, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA384, PCRSelect: tpm2.PCClientCompatible.PCRs(4, 12)},
	}}}.Execute(l)
	check(t, err)
	got := reply.PCRValues.Digests
	if len(got) != 2 || !bytes.Equal(got[1].Buffer, l.tpm.PCR(12)) || bytes.Equal(got[1].Buffer, before) {
		t.Errorf("PCRs %x", got)
	}
}

func TestUnknownCommands(t *testing.T) {
	l := newTPM(t, nitrotpm.Options{NoVendorCommand: true})
	if _, err := (tpm2.GetTime{}).Execute(l); err == nil {
		t.Error("a command that is not there was answered")
	}
	for code, want := range map[uint32]tpm2.TPMRC{
		uint32(tpm2.TPMCCQuote): tpm2.TPMRCCommandCode, nitrotpm.CommandNSM: tpm2.TPMRCCommandCode,
		uint32(tpm2.TPMCCNVWrite): tpm2.TPMRCAuthSize, // no handles
	} {
		command := binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, code)
		response := l.tpm.Execute(command)
		if rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); rc != want {
			t.Errorf("command %#x: %v, want %v", code, rc, want)
		}
	}
}

// FuzzExecute looks for panics and for responses that are not framed.
func FuzzExecute(f *testing.F) {
	l := newTPM(f, nitrotpm.Options{})
	check(f, define(l, "", ours, 64))
	for _, code := range []tpm2.TPMCC{
		tpm2.TPMCCGetCapability, tpm2.TPMCCCreatePrimary, tpm2.TPMCCStartAuthSession, tpm2.TPMCCNVDefineSpace,
		tpm2.TPMCCNVWrite, tpm2.TPMCCNVRead, tpm2.TPMCCPCRRead, nitrotpm.CommandNSM,
	} {
		f.Add(uint32(code), []byte{1, 0x80, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, code uint32, body []byte) {
		body = body[:min(len(body), 4000)]
		command := binary.BigEndian.AppendUint32([]byte{0x80, 2}, uint32(10+len(body)))
		command = append(binary.BigEndian.AppendUint32(command, code), body...)
		response := l.tpm.Execute(command)
		if len(response) < 10 || int(binary.BigEndian.Uint32(response[2:])) != len(response) {
			t.Errorf("response %x", response)
		}
	})
}
