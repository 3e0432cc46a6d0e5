package decrypt_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type wycheproofTest struct {
	ID        int      `json:"tcId"`
	Comment   string   `json:"comment"`
	Flags     []string `json:"flags"`
	Key       hexBytes `json:"key"`
	Context   hexBytes `json:"ctx"`
	Packed    hexBytes `json:"ct"`
	MsgLength int64    `json:"msgLength"`
	MsgSHA512 hexBytes `json:"msgSha512"`
	Result    string   `json:"result"`
}

func (w *wycheproofTest) valid() bool { return w.Result == "valid" }

func (w *wycheproofTest) object(t *testing.T) []byte {
	t.Helper()
	r, err := zlib.NewReader(bytes.NewReader(w.Packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wycheproofTests(t *testing.T) []wycheproofTest {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, "c2sp_chunked_encryption_aes_256_gcm_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int `json:"numberOfTests"`
		TestGroups    []struct {
			Tests []wycheproofTest `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var tests []wycheproofTest
	for _, g := range file.TestGroups {
		tests = append(tests, g.Tests...)
	}
	if len(tests) == 0 || len(tests) != file.NumberOfTests {
		t.Fatalf("%d tests, the file says %d", len(tests), file.NumberOfTests)
	}
	return tests
}

func TestWycheproofOpenAll(t *testing.T) {
	for _, w := range wycheproofTests(t) {
		object := w.object(t)
		before := bytes.Clone(object)
		plaintext, err := decrypt.OpenAll(take(t, w.Key), w.Context, object)
		if !bytes.Equal(object, before) {
			t.Errorf("test %d: OpenAll changed the object", w.ID)
		}
		switch digest := sha512.Sum512(plaintext); {
		case !w.valid() && err == nil:
			t.Errorf("test %d (%s): opened", w.ID, w.Comment)
		case !w.valid() && plaintext != nil:
			t.Errorf("test %d (%s): plaintext besides an error", w.ID, w.Comment)
		case !w.valid() && fault.Of(err) != wantKind(w):
			t.Errorf("test %d (%s): kind %d of %v", w.ID, w.Comment, fault.Of(err), err)
		case w.valid() && (err != nil || int64(len(plaintext)) != w.MsgLength || !bytes.Equal(digest[:], w.MsgSHA512)):
			t.Errorf("test %d (%s): %d bytes, error %v", w.ID, w.Comment, len(plaintext), err)
		}
	}
}

func wantKind(w wycheproofTest) fault.Kind {
	if slices.Contains(w.Flags, "InvalidKeySize") {
		return fault.KeyUnusable
	}
	return fault.NotAuthentic
}

// TestWycheproofLastChunk authenticates the length alone, as a random reader would.
func TestWycheproofLastChunk(t *testing.T) {
	for _, w := range wycheproofTests(t) {
		if slices.Contains(w.Flags, "ValidFinalChunk") {
			continue // opens, and may
		}
		if err := openLast(take(t, w.Key), w.Context, w.object(t)); (err == nil) != w.valid() {
			t.Errorf("test %d (%s): %v", w.ID, w.Comment, err)
		}
	}
}

func openLast(key *secret.Key, context, object []byte) error {
	size, err := decrypt.PlainSize(int64(len(object)))
	if err != nil {
		return err
	}
	o, err := decrypt.NewOpener(key, context, object[:decrypt.HeaderSize], size)
	if err != nil {
		return err
	}
	last := o.Chunks() - 1
	_, err = o.Open(last, object[decrypt.ChunkOffset(last):])
	return err
}

// TestWycheproofSeal reproduces the valid objects from their plaintext and salt.
func TestWycheproofSeal(t *testing.T) {
	for _, w := range wycheproofTests(t) {
		if !w.valid() {
			continue
		}
		object := w.object(t)
		plaintext, err := decrypt.OpenAll(take(t, w.Key), w.Context, object)
		if err != nil {
			t.Fatal(err)
		}
		s, sealed, err := decrypt.NewSealerWithSalt(take(t, w.Key), w.Context, object[:24], w.MsgLength)
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Chunks() {
			if sealed, err = s.Seal(i, sealed, chunkOf(plaintext, i)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(sealed, object) {
			t.Errorf("test %d (%s): sealed to other bytes", w.ID, w.Comment)
		}
	}
}

func chunkOf(plaintext []byte, i int64) []byte {
	return plaintext[i*decrypt.ChunkSize : min((i+1)*decrypt.ChunkSize, int64(len(plaintext)))]
}

const fipsChild = "DECRYPT_TEST_FIPS_CHILD"

// TestFIPSOnly runs the opening tests once more where the runtime forbids nonces of one's own choice.
func TestFIPSOnly(t *testing.T) {
	if os.Getenv(fipsChild) != "" {
		t.Skip("this is the child")
	}
	cmd := exec.Command(os.Args[0], "-test.v",
		"-test.run=^(TestWycheproofOpenAll|TestWycheproofLastChunk|TestOpenFaults|TestFIPSChild)$")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only", fipsChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "\n--- PASS"); n != 4 {
		t.Fatalf("%d of 4 tests passed\n%s", n, out)
	}
}

// TestFIPSChild says no to sealing under fips140=only, in words that a user can act on.
func TestFIPSChild(t *testing.T) {
	if os.Getenv(fipsChild) == "" {
		t.Skip("runs as the child of TestFIPSOnly")
	}
	_, err := decrypt.SealAll(take(t, make([]byte, decrypt.KeySize)), nil, []byte("plaintext"))
	if !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), "this mode opens but cannot seal") ||
		!strings.Contains(fault.Hint(err), "fips140=on") {
		t.Errorf("sealing: %v, hint %q", err, fault.Hint(err))
	}
}
