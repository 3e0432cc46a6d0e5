// Package secret keeps key bytes where nothing prints, swaps or dumps them.
//
// A Key holds its bytes behind a pointer: formatting verbs, loggers and encoders reach only a redacted word. The bytes
// live outside the Go heap in pages of their own, locked into memory where RLIMIT_MEMLOCK allows and left out of core
// dumps, and are zeroed by Wipe. The copies that crypto packages expand from them (AES key schedules) are beyond reach:
// Harden keeps those from being read by other processes of the same user.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const redacted = "[secret]"

// Key is a handle to key bytes. The zero Key holds none. Copies of a *Key share the bytes.
// A Key is safe for concurrent use as long as Wipe comes last.
type Key struct {
	p *pages
}

// pages is an anonymous private mapping, page-aligned, of which the first n bytes are the key.
type pages struct {
	once sync.Once
	mem  []byte
	n    int
}

// New makes a key of size zero bytes that the caller fills through Bytes.
func New(size int) (*Key, error) {
	if size <= 0 {
		return nil, fmt.Errorf("secret: size %d", size)
	}
	page := os.Getpagesize()
	length := (size + page - 1) / page * page
	mem, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mapping memory for a key: %w", err)
	}
	// Both are best effort: a container may have no locked memory to give, and a tmpfs model swaps no less than its key.
	_ = unix.Mlock(mem)
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	return &Key{&pages{mem: mem, n: size}}, nil
}

// Take moves b into a new key: b is zeroed, also on error.
func Take(b []byte) (*Key, error) {
	defer clear(b)
	k, err := New(len(b))
	if err != nil {
		return nil, err
	}
	copy(k.Bytes(), b)
	return k, nil
}

// Random makes a key of size random bytes.
func Random(size int) (*Key, error) {
	k, err := New(size)
	if err != nil {
		return nil, err
	}
	rand.Read(k.Bytes()) // never fails, as of Go 1.24
	return k, nil
}

// Bytes returns the key itself, not a copy: do not keep it beyond Wipe. It is nil after Wipe.
func (k *Key) Bytes() []byte {
	if k == nil || k.p == nil || k.p.mem == nil {
		return nil
	}
	return k.p.mem[:k.p.n:k.p.n]
}

// Equal reports in constant time whether both keys hold the same bytes.
func (k *Key) Equal(other *Key) bool {
	return subtle.ConstantTimeCompare(k.Bytes(), other.Bytes()) == 1
}

// Wipe zeroes the bytes and gives the memory back. It may be called on nil and more than once.
func (k *Key) Wipe() {
	if k == nil || k.p == nil {
		return
	}
	k.p.once.Do(func() {
		clear(k.p.mem)
		mem := k.p.mem
		k.p.mem = nil
		_ = unix.Munmap(mem)
	})
}

// String, GoString, Format, LogValue, MarshalText, MarshalJSON and MarshalBinary keep the bytes from every printer and encoder.
func (Key) String() string { return redacted }

// GoString redacts.
func (Key) GoString() string { return redacted }

// Format redacts under every verb.
func (Key) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue redacts.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText redacts.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON redacts.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalBinary refuses: binary encoders (gob) are for storage, and a key is not stored.
func (Key) MarshalBinary() ([]byte, error) { return nil, errors.New("secret: a key is not encoded") }

// Harden makes the process unreadable to others of its user (no ptrace, no /proc/PID/mem) and forbids core dumps.
// It is called once, first thing in main; see prctl(2) PR_SET_DUMPABLE.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process not dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setting the core limit to 0: %w", err)
	}
	return nil
}
