package decrypt_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

func take(tb testing.TB, b []byte) *secret.Key {
	tb.Helper()
	k, err := secret.Take(bytes.Clone(b))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(k.Wipe)
	return k
}

func testKey(tb testing.TB) *secret.Key {
	return take(tb, bytes.Repeat([]byte{7}, decrypt.KeySize))
}

// pattern is plaintext in which no two chunks are alike.
func pattern(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16*13)
	}
	return b
}

func TestSizes(t *testing.T) {
	const chunk, sealed = decrypt.ChunkSize, decrypt.SealedChunkSize
	for _, c := range []struct{ plain, sealed int64 }{
		{0, 56 + 16},
		{1, 56 + 17},
		{chunk - 1, 56 + sealed - 1},
		{chunk, 56 + sealed + 16},
		{chunk + 1, 56 + sealed + 17},
		{5*chunk - 1, 56 + 5*sealed - 1},
		{5 * chunk, 56 + 5*sealed + 16},
		{decrypt.MaxPlainSize, 56 + decrypt.MaxChunks*sealed - 1},
	} {
		if got := decrypt.SealedSize(c.plain); got != c.sealed {
			t.Errorf("SealedSize(%d) = %d, want %d", c.plain, got, c.sealed)
		}
		if got, err := decrypt.PlainSize(c.sealed); err != nil || got != c.plain {
			t.Errorf("PlainSize(%d) = %d, %v; want %d", c.sealed, got, err, c.plain)
		}
		last := decrypt.Chunks(c.plain) - 1
		if got := c.sealed - decrypt.ChunkOffset(last); got != c.plain%chunk+16 {
			t.Errorf("%d: the last chunk has %d bytes", c.plain, got)
		}
	}
}

func TestSizesThatNoObjectHas(t *testing.T) {
	const sealed = decrypt.SealedChunkSize
	for _, size := range []int64{
		math.MinInt64, -1, 0, 1, 24, 55, 56, 57, 71, // header, or less than a tag behind it
		56 + sealed, 56 + sealed + 1, 56 + sealed + 15, // no final chunk, or less than its tag
		56 + 7*sealed, 56 + 7*sealed + 15,
		56 + decrypt.MaxChunks*sealed, 56 + decrypt.MaxChunks*sealed + 16, math.MaxInt64,
	} {
		if got, err := decrypt.PlainSize(size); !fault.Is(err, fault.NotAuthentic) {
			t.Errorf("PlainSize(%d) = %d, %v", size, got, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	const chunk = decrypt.ChunkSize
	key, context := testKey(t), []byte("context")
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3*chunk + 5} {
		object, err := decrypt.SealAll(key, context, pattern(size))
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(object)) != decrypt.SealedSize(int64(size)) {
			t.Errorf("%d bytes were sealed to %d", size, len(object))
		}
		plaintext, err := decrypt.OpenAll(key, context, object)
		if err != nil || !bytes.Equal(plaintext, pattern(size)) {
			t.Errorf("%d bytes came back as %d, %v", size, len(plaintext), err)
		}
	}
}

func TestSaltIsNew(t *testing.T) {
	a, errA := decrypt.SealAll(testKey(t), nil, nil)
	b, errB := decrypt.SealAll(testKey(t), nil, nil)
	if errA != nil || errB != nil || bytes.Equal(a[:24], b[:24]) {
		t.Errorf("two objects share the salt %x; %v, %v", a[:24], errA, errB)
	}
}

// TestChunksInAnyOrder seals and opens chunks at once, out of order, in place, and expects what SealAll makes.
func TestChunksInAnyOrder(t *testing.T) {
	const size = 9*decrypt.ChunkSize + 3
	key, plaintext := testKey(t), pattern(size)
	s, header, err := decrypt.NewSealer(key, nil, size)
	if err != nil {
		t.Fatal(err)
	}
	o, err := decrypt.NewOpener(key, nil, header[:], size)
	if err != nil {
		t.Fatal(err)
	}
	if s.Chunks() != 10 || o.Chunks() != 10 {
		t.Fatalf("%d and %d chunks", s.Chunks(), o.Chunks())
	}
	var wg sync.WaitGroup
	for i := s.Chunks() - 1; i >= 0; i-- {
		wg.Go(func() {
			chunk, err := s.Seal(i, nil, chunkOf(plaintext, i))
			if err != nil {
				t.Errorf("sealing chunk %d: %v", i, err)
			}
			again, _ := s.Seal(i, make([]byte, 0, len(chunk)), chunkOf(plaintext, i))
			if !bytes.Equal(again, chunk) {
				t.Errorf("chunk %d was sealed to other bytes the second time", i)
			}
			got, err := o.Open(i, chunk)
			if err != nil || !bytes.Equal(got, chunkOf(plaintext, i)) {
				t.Errorf("opening chunk %d: %v", i, err)
			}
			if len(got) > 0 && &got[0] != &chunk[0] {
				t.Errorf("chunk %d was not opened in place", i)
			}
		})
	}
	wg.Wait()
}

// threeChunks is an object of two full chunks and a short one under testKey. It is a published vector's, so that it can
// be had where sealing is forbidden.
func threeChunks(t *testing.T) (key *secret.Key, object []byte) {
	t.Helper()
	for _, w := range wycheproofTests(t) {
		if w.Comment == "two full chunks followed by short chunk" {
			return take(t, w.Key), w.object(t)
		}
	}
	t.Fatal("the vector is gone")
	return nil, nil
}

func TestOpenFaults(t *testing.T) {
	key, object := threeChunks(t)
	const size, sealed = 2*decrypt.ChunkSize + 1, decrypt.SealedChunkSize
	chunk := func(i int) []byte { return object[56+i*sealed : min(56+(i+1)*sealed, len(object))] }
	flipped := func(i, at int) []byte {
		b := bytes.Clone(chunk(i))
		b[at] ^= 1
		return b
	}
	for _, c := range []struct {
		name  string
		index int64
		chunk []byte
		want  string
		kind  fault.Kind
	}{
		{"first bit", 0, flipped(0, 0), "chunk 0 is not authentic", fault.NotAuthentic},
		{"last tag bit", 1, flipped(1, sealed-1), "chunk 1 is not authentic", fault.NotAuthentic},
		{"last chunk", 2, flipped(2, 0), "chunk 2 is not authentic", fault.NotAuthentic},
		{"replayed elsewhere", 1, chunk(0), "chunk 1 is not authentic", fault.NotAuthentic},
		{"cut", 0, chunk(0)[:sealed-1], "chunk 0 is 16399 bytes long, not 16400", fault.NotAuthentic},
		{"tag cut", 2, chunk(2)[:16], "chunk 2 is 16 bytes long, not 17", fault.NotAuthentic},
		{"empty", 1, nil, "chunk 1 is 0 bytes long", fault.NotAuthentic},
		{"last in place of full", 1, chunk(2), "chunk 1 is 17 bytes long", fault.NotAuthentic},
		{"full in place of last", 2, chunk(0), "chunk 2 is 16400 bytes long", fault.NotAuthentic},
		{"index too high", 3, chunk(2), "chunk 3: the object has chunks 0 to 2", fault.Internal},
		{"index negative", -1, chunk(0), "chunk -1", fault.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := decrypt.NewOpener(key, nil, object[:56], size)
			if err != nil {
				t.Fatal(err)
			}
			buf := bytes.Clone(c.chunk)
			got, err := o.Open(c.index, buf)
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != c.kind {
				t.Errorf("error %v of kind %d, want %q", err, fault.Of(err), c.want)
			}
			if got != nil || !bytes.Equal(buf, make([]byte, len(buf))) {
				t.Error("bytes are left after a failure")
			}
		})
	}
}

func TestNewOpenerFaults(t *testing.T) {
	key, object := threeChunks(t)
	const size = 2*decrypt.ChunkSize + 1
	flipped := func(at int) []byte {
		b := bytes.Clone(object[:56])
		b[at] ^= 1
		return b
	}
	short := take(t, make([]byte, 31))
	wiped := take(t, make([]byte, 32))
	wiped.Wipe()
	for _, c := range []struct {
		name    string
		key     *secret.Key
		context string
		header  []byte
		size    int64
		want    string
		kind    fault.Kind
	}{
		{"salt", key, "", flipped(0), size, "commitment", fault.NotAuthentic},
		{"commitment", key, "", flipped(55), size, "commitment", fault.NotAuthentic},
		{"context", key, "x", object[:56], size, "commitment", fault.NotAuthentic},
		{"other key", testKey(t), "", object[:56], size, "commitment", fault.NotAuthentic},
		{"header cut", key, "", object[:55], size, "header", fault.NotAuthentic},
		{"no header", key, "", nil, size, "header", fault.NotAuthentic},
		{"negative size", key, "", object[:56], -1, "-1 bytes", fault.Format},
		{"size beyond 4 PiB", key, "", object[:56], decrypt.MaxPlainSize + 1, "bytes", fault.Format},
		{"short key", short, "", object[:56], size, "31 bytes", fault.KeyUnusable},
		{"wiped key", wiped, "", object[:56], size, "0 bytes", fault.KeyUnusable},
		{"no key", nil, "", object[:56], size, "0 bytes", fault.KeyUnusable},
	} {
		o, err := decrypt.NewOpener(c.key, []byte(c.context), c.header, c.size)
		if o != nil || err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != c.kind {
			t.Errorf("%s: error %v of kind %d, want %q", c.name, err, fault.Of(err), c.want)
		}
	}
}

func TestSealFaults(t *testing.T) {
	const size = decrypt.ChunkSize + 1
	s, _, err := decrypt.NewSealer(testKey(t), nil, size)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		index int64
		size  int
	}{{0, decrypt.ChunkSize - 1}, {0, decrypt.ChunkSize + 1}, {1, 0}, {1, 2}, {2, 0}, {-1, decrypt.ChunkSize}} {
		if got, err := s.Seal(c.index, nil, make([]byte, c.size)); err == nil || got != nil {
			t.Errorf("chunk %d of %d bytes was sealed", c.index, c.size)
		}
	}
	if _, _, err := decrypt.NewSealer(testKey(t), nil, decrypt.MaxPlainSize+1); err == nil {
		t.Error("an object beyond 4 PiB")
	}
}

// TestDeriveKey pins HKDF-Expand: the value is from RFC 5869's construction, computed apart with Python's hmac.
func TestDeriveKey(t *testing.T) {
	const want = "5f6c2888852414d4320bad2d5a36cd5e3e880a986bebd94009d0758d1f956860"
	k, err := decrypt.DeriveKey(testKey(t), []byte("info"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	if got := hex.EncodeToString(k.Bytes()); got != want {
		t.Errorf("derived %s, want %s", got, want)
	}
	if _, err := decrypt.DeriveKey(take(t, make([]byte, 16)), nil); !fault.Is(err, fault.KeyUnusable) {
		t.Errorf("a short key: %v", err)
	}
}

func TestChunksAllocateNothing(t *testing.T) {
	key := testKey(t)
	s, header, err := decrypt.NewSealer(key, nil, 2*decrypt.ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	o, err := decrypt.NewOpener(key, nil, header[:], 2*decrypt.ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, buf := pattern(decrypt.ChunkSize), make([]byte, 0, decrypt.SealedChunkSize)
	if n := testing.AllocsPerRun(100, func() {
		chunk, _ := s.Seal(1, buf, plaintext)
		_, err = o.Open(1, chunk)
	}); n >= 1 || err != nil {
		t.Errorf("%v allocations a chunk, error %v", n, err)
	}
}

// FuzzOpenAll feeds objects that were not sealed: whatever opens must have been sealed under the key.
func FuzzOpenAll(f *testing.F) {
	key, context := testKey(f), []byte("context")
	for _, size := range []int{0, 3, decrypt.ChunkSize} {
		object, err := decrypt.SealAll(key, context, pattern(size))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object, uint16(0), byte(0))
		f.Add(object, uint16(60), byte(1))
	}
	f.Fuzz(func(t *testing.T, object []byte, at uint16, flip byte) {
		damaged := bytes.Clone(object)
		if len(damaged) > 0 {
			damaged[int(at)%len(damaged)] ^= flip
		}
		plaintext, err := decrypt.OpenAll(key, context, damaged)
		if err != nil {
			if plaintext != nil || fault.Of(err) != fault.NotAuthentic {
				t.Fatalf("%d bytes, error %v", len(plaintext), err)
			}
			return
		}
		if flip != 0 {
			if _, err := decrypt.OpenAll(key, context, object); err == nil {
				t.Fatal("an object opens with and without a flipped bit")
			}
		}
		if decrypt.SealedSize(int64(len(plaintext))) != int64(len(damaged)) {
			t.Fatalf("%d bytes of plaintext from %d", len(plaintext), len(damaged))
		}
	})
}

func BenchmarkOpenChunk(b *testing.B) {
	key := testKey(b)
	s, header, err := decrypt.NewSealer(key, nil, decrypt.ChunkSize)
	if err != nil {
		b.Fatal(err)
	}
	o, err := decrypt.NewOpener(key, nil, header[:], decrypt.ChunkSize)
	if err != nil {
		b.Fatal(err)
	}
	chunk, err := s.Seal(0, nil, pattern(decrypt.ChunkSize))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, len(chunk))
	b.SetBytes(decrypt.ChunkSize)
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, chunk) // it is opened in place
		if _, err := o.Open(0, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealChunk(b *testing.B) {
	s, _, err := decrypt.NewSealer(testKey(b), nil, decrypt.ChunkSize)
	if err != nil {
		b.Fatal(err)
	}
	plaintext, buf := pattern(decrypt.ChunkSize), make([]byte, 0, decrypt.SealedChunkSize)
	b.SetBytes(decrypt.ChunkSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Seal(0, buf, plaintext); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleOpenAll() {
	key, err := secret.Random(decrypt.KeySize)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Wipe()
	object, err := decrypt.SealAll(key, []byte("greeting"), []byte("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	plaintext, err := decrypt.OpenAll(key, []byte("greeting"), object)
	fmt.Println(string(plaintext), err)
	_, err = decrypt.OpenAll(key, []byte("farewell"), object)
	fmt.Println(err)
	// Output:
	// hello <nil>
	// the header's commitment is to another key or context
}
