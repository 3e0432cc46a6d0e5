package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

// now is when all documents here are made.
var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

const maxAge = 5 * time.Minute

var newAuthority = sync.OnceValues(func() (*nitrotpm.Authority, error) {
	return nitrotpm.NewAuthority(func() time.Time { return now })
})

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signer returns a machine of the test authority, and a verifier that trusts it.
func signer(t testing.TB) (*nitrotpm.Signer, *verify.Verifier) {
	t.Helper()
	authority, err := newAuthority()
	check(t, err)
	s, err := authority.Signer("i-1-tpm0")
	check(t, err)
	v, err := verify.New(maxAge, authority.RootSHA256())
	check(t, err)
	return s, v
}

// statement is a document as it should be.
func statement() nitrotpm.Document {
	pcrs := map[int][]byte{}
	for i := range 24 {
		pcrs[i] = bytes.Repeat([]byte{byte(i)}, 48)
	}
	return nitrotpm.Document{
		ModuleID: "i-1-tpm0", Timestamp: now, PCRs: pcrs, PCRField: "nitrotpm_pcrs",
		PublicKey: []byte("key"), UserData: nil, Nonce: []byte("nonce"),
	}
}

func TestVerify(t *testing.T) {
	s, v := signer(t)
	for field, source := range map[string]verify.Source{"nitrotpm_pcrs": verify.NitroTPM, "pcrs": verify.Enclave} {
		d := statement()
		d.PCRField = field
		raw, err := s.Sign(d)
		check(t, err)
		for name, raw := range map[string][]byte{"untagged": raw, "tagged": append([]byte{0xd2}, raw...)} {
			claims, err := v.Verify(raw, now)
			if err != nil {
				t.Errorf("%s, %s: %v", source, name, err)
				continue
			}
			if claims.Source != source || claims.ModuleID != d.ModuleID || !claims.Timestamp.Equal(now) {
				t.Errorf("%s of %s at %v", claims.Source, claims.ModuleID, claims.Timestamp)
			}
			if !bytes.Equal(claims.PCRs[7], d.PCRs[7]) || len(claims.PCRs) != 24 || claims.PCRIndices()[23] != 23 {
				t.Errorf("PCRs %x", claims.PCRs)
			}
			if string(claims.PublicKey) != "key" || claims.UserData != nil || string(claims.Nonce) != "nonce" {
				t.Errorf("binds %q, %q, %q", claims.PublicKey, claims.UserData, claims.Nonce)
			}
			if len(claims.Chain) != 4 || claims.Chain[0].Subject.CommonName != "i-1-tpm0" || !claims.Chain[3].IsCA {
				t.Errorf("chain of %d certificates", len(claims.Chain))
			}
		}
	}
}

func TestTimes(t *testing.T) {
	s, v := signer(t)
	raw, err := s.Sign(statement())
	check(t, err)
	for _, test := range []struct {
		after time.Duration
		want  string
	}{
		{0, ""}, {maxAge, ""}, {-30 * time.Second, ""},
		{maxAge + time.Second, "5m1s ago, more than 5m0s"},
		{4 * time.Hour, "expired or is not yet valid"},
		{-time.Hour, "expired or is not yet valid"},
	} {
		_, err := v.Verify(raw, now.Add(test.after))
		wantError(t, test.after.String(), err, test.want)
	}
	ahead := statement()
	ahead.Timestamp = now.Add(2 * time.Minute)
	raw, err = s.Sign(ahead)
	check(t, err)
	_, err = v.Verify(raw, now)
	wantError(t, "a document of the future", err, "2m0s ahead")
}

// wantError checks an error's kind, words and cure; want "" means none.
func wantError(t *testing.T, name string, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	if !fault.Is(err, fault.Evidence) || !strings.Contains(err.Error(), want) || fault.Hint(err) == "" {
		t.Errorf("%s: error of kind %v: %v; want fault.Evidence with %q and a hint", name, fault.Of(err), err, want)
	}
}

func TestForeignRoot(t *testing.T) {
	s, _ := signer(t)
	raw, err := s.Sign(statement())
	check(t, err)
	aws, err := verify.New(maxAge, verify.AWSRoot())
	check(t, err)
	_, err = aws.Verify(raw, now)
	wantError(t, "under the root of AWS", err, "which is not trusted")
}

func TestAWSRoot(t *testing.T) {
	root := verify.AWSRoot()
	const published = "641A0321A3E244EFE456463195D606317ED7CDCC3C1756E09893F3C68F79BB5B"
	if got := strings.ToUpper(hex.EncodeToString(root[:])); got != published {
		t.Errorf("fingerprint %s", got)
	}
}

// TestForgeries breaks each link of the chain and each part of the envelope.
func TestForgeries(t *testing.T) {
	s, v := signer(t)
	authority, err := newAuthority()
	check(t, err)
	other, err := nitrotpm.NewAuthority(func() time.Time { return now })
	check(t, err)
	stranger, err := other.Signer("i-1-tpm0")
	check(t, err)
	ours := authority.CABundle()

	tests := map[string]struct {
		forge func() ([]byte, error)
		want  string
	}{
		"flipped bit of the signature": {func() ([]byte, error) {
			raw, err := s.Sign(statement())
			raw[len(raw)-1] ^= 1
			return raw, err
		}, "does not fit"},
		"another payload": {func() ([]byte, error) {
			d := statement()
			d.PCRs[4] = make([]byte, 48)
			return splice(s, statement(), s.Payload(d))
		}, "does not fit"},
		"a stranger's leaf under our bundle": {func() ([]byte, error) {
			return stranger.Envelope(nitrotpm.Protected(), withBundle(stranger, ours))
		}, "certificate signed by unknown authority"},
		"our root in front of a stranger's chain": {func() ([]byte, error) {
			bundle := append([][]byte{ours[0]}, other.CABundle()...)
			return stranger.Envelope(nitrotpm.Protected(), withBundle(stranger, bundle))
		}, "certificate signed by unknown authority"},
		"our root, not first": {func() ([]byte, error) {
			bundle := slices.Clone(ours)
			slices.Reverse(bundle)
			return s.Envelope(nitrotpm.Protected(), withBundle(s, bundle))
		}, "which is not trusted"},
		"no intermediate certificates": {func() ([]byte, error) {
			return s.Envelope(nitrotpm.Protected(), withBundle(s, ours[:1]))
		}, "unknown authority"},
		"a signature of zeros": {func() ([]byte, error) {
			raw, err := s.Sign(statement())
			clear(raw[len(raw)-96:])
			return raw, err
		}, "does not fit"},
		"signed by another key": {func() ([]byte, error) {
			key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			check(t, err)
			r, x, err := ecdsa.Sign(rand.Reader, key, make([]byte, 48))
			check(t, err)
			raw, err := s.Sign(statement())
			copy(raw[len(raw)-96:], append(fill(r), fill(x)...))
			return raw, err
		}, "does not fit"},
	}
	for name, test := range tests {
		raw, err := test.forge()
		check(t, err)
		_, err = v.Verify(raw, now)
		wantError(t, name, err, test.want)
	}
}

func fill(v *big.Int) []byte { return v.FillBytes(make([]byte, 48)) }

// splice signs one document and ships another under its signature.
func splice(s *nitrotpm.Signer, signed nitrotpm.Document, payload []byte) ([]byte, error) {
	raw, err := s.Sign(signed)
	if err != nil {
		return nil, err
	}
	var parts []any
	if err := cbor.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	parts[2] = payload
	return cbor.Marshal(parts)
}

// fields decodes a payload so that a test can spoil it.
func fields(s *nitrotpm.Signer) map[string]any {
	var m map[string]any
	if err := cbor.Unmarshal(s.Payload(statement()), &m); err != nil {
		panic(err)
	}
	return m
}

func withBundle(s *nitrotpm.Signer, bundle [][]byte) []byte {
	m := fields(s)
	m["cabundle"] = bundle
	raw, err := cbor.Marshal(m)
	if err != nil {
		panic(err)
	}
	return raw
}

// TestMalformed has documents that are signed truly and say something that no real one does.
func TestMalformed(t *testing.T) {
	s, v := signer(t)
	pcr := make([]byte, 48)
	for name, test := range map[string]struct {
		spoil func(map[string]any)
		want  string
	}{
		"digest":             {func(m map[string]any) { m["digest"] = "SHA256" }, "not SHA384"},
		"no module":          {func(m map[string]any) { delete(m, "module_id") }, "module id of 0 bytes"},
		"long module":        {func(m map[string]any) { m["module_id"] = strings.Repeat("m", 257) }, "257 bytes"},
		"no timestamp":       {func(m map[string]any) { delete(m, "timestamp") }, "timestamp is 0"},
		"negative timestamp": {func(m map[string]any) { m["timestamp"] = -1 }, "cannot unmarshal"},
		"huge timestamp":     {func(m map[string]any) { m["timestamp"] = uint64(1) << 63 }, "timestamp is 92233"},
		"both kinds of PCR":  {func(m map[string]any) { m["pcrs"] = map[int][]byte{0: pcr} }, "both pcrs and"},
		"no PCRs":            {func(m map[string]any) { delete(m, "nitrotpm_pcrs") }, "0 PCRs"},
		"empty PCRs":         {func(m map[string]any) { m["nitrotpm_pcrs"] = map[int][]byte{} }, "0 PCRs"},
		"PCR 32":             {func(m map[string]any) { m["nitrotpm_pcrs"] = map[int][]byte{32: pcr} }, "PCR 32"},
		"PCR -1":             {func(m map[string]any) { m["nitrotpm_pcrs"] = map[int][]byte{-1: pcr} }, "cannot unmarshal"},
		"PCR of SHA-256":     {func(m map[string]any) { m["nitrotpm_pcrs"] = map[int][]byte{4: pcr[:32]} }, "with 32 bytes"},
		"PCR as text":        {func(m map[string]any) { m["nitrotpm_pcrs"] = map[int]string{4: "00"} }, "cannot unmarshal"},
		"no bundle":          {func(m map[string]any) { delete(m, "cabundle") }, "bundle of 0"},
		"long bundle":        {func(m map[string]any) { m["cabundle"] = make([][]byte, 9) }, "bundle of 9"},
		"empty certificate":  {func(m map[string]any) { m["cabundle"] = [][]byte{{}} }, "certificate of 0 bytes"},
		"long certificate":   {func(m map[string]any) { m["certificate"] = make([]byte, 2049) }, "certificate of 2049"},
		"no certificate":     {func(m map[string]any) { delete(m, "certificate") }, "certificate of 0 bytes"},
		"bad certificate":    {func(m map[string]any) { m["certificate"] = []byte{0x30, 0} }, "x509"},
		"long nonce":         {func(m map[string]any) { m["nonce"] = make([]byte, 1025) }, "1025 bytes"},
		"field in capitals":  {func(m map[string]any) { m["Digest"] = m["digest"]; delete(m, "digest") }, "not SHA384"},
		"a tag inside":       {func(m map[string]any) { m["nonce"] = cbor.Tag{Number: 24, Content: []byte{1}} }, "tag"},
	} {
		m := fields(s)
		test.spoil(m)
		payload, err := cbor.Marshal(m)
		check(t, err)
		raw, err := s.Envelope(nitrotpm.Protected(), payload)
		check(t, err)
		_, err = v.Verify(raw, now)
		wantError(t, name, err, test.want)
	}
	m := fields(s)
	m["a_field_of_tomorrow"] = 1
	payload, err := cbor.Marshal(m)
	check(t, err)
	raw, err := s.Envelope(nitrotpm.Protected(), payload)
	check(t, err)
	_, err = v.Verify(raw, now)
	wantError(t, "an unknown field", err, "")
}

// TestEnvelopes spoils what is around the document.
func TestEnvelopes(t *testing.T) {
	s, v := signer(t)
	payload := s.Payload(statement())
	good, err := s.Sign(statement())
	check(t, err)
	header := func(m any) []byte {
		raw, err := cbor.Marshal(m)
		check(t, err)
		signed, err := s.Envelope(raw, payload)
		check(t, err)
		return signed
	}
	parts := func(change func([]any) []any) []byte {
		var p []any
		check(t, cbor.Unmarshal(good, &p))
		raw, err := cbor.Marshal(change(p))
		check(t, err)
		return raw
	}
	duplicate := append([]byte{0xbf}, append([]byte("\x65nonce\x41\x01"), payload[1:]...)...)
	twice, err := s.Envelope(nitrotpm.Protected(), duplicate)
	check(t, err)
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"empty":                  {nil, "EOF"},
		"too long":               {make([]byte, verify.MaxDocument+1), "more than 16384"},
		"cut":                    {good[:len(good)-1], "unexpected EOF"},
		"with a tail":            {append(slices.Clone(good), 0), "extraneous"},
		"tagged twice":           {append([]byte{0xd2, 0xd2}, good...), "tag"},
		"tagged as COSE_Mac0":    {append([]byte{0xd1}, good...), "tag"},
		"ES256":                  {header(map[int]int{1: -7}), "not that of ES384"},
		"no algorithm":           {header(map[int]int{}), "not that of ES384"},
		"a second parameter":     {header(map[int]int{1: -35, 4: 1}), "not that of ES384"},
		"header of another sort": {header([]int{1, -35}), "reading the protected header"},
		"unprotected parameter":  {parts(func(p []any) []any { p[1] = map[int]int{1: -35}; return p }), "unprotected"},
		"three parts":            {parts(func(p []any) []any { return p[:3] }), "reading COSE_Sign1"},
		"no payload":             {parts(func(p []any) []any { p[2] = nil; return p }), "reading the document"},
		"short signature":        {parts(func(p []any) []any { p[3] = p[3].([]byte)[:95]; return p }), "95 bytes"},
		"a field twice":          {twice, "duplicate map key"},
	} {
		_, err := v.Verify(test.raw, now)
		wantError(t, name, err, test.want)
	}
}

func TestNewNeedsDecisions(t *testing.T) {
	if _, err := verify.New(time.Minute); err == nil {
		t.Error("a verifier without a root")
	}
	if _, err := verify.New(0, verify.AWSRoot()); err == nil {
		t.Error("a verifier without an age limit")
	}
}

// FuzzVerify looks for panics, and for any document that verifies and was not signed as it is.
func FuzzVerify(f *testing.F) {
	s, v := signer(f)
	good, err := s.Sign(statement())
	check(f, err)
	f.Add(good)
	f.Add(append([]byte{0xd2}, good...))
	f.Add(good[:100])
	f.Add([]byte("\x84\x44\xa1\x01\x38\x22\xa0\x40\x40"))
	want, err := v.Verify(good, now)
	check(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		claims, err := v.Verify(raw, now)
		if err == nil && claims.ModuleID != want.ModuleID {
			t.Errorf("a forged document verifies: %+v", claims.Document)
		}
	})
}
