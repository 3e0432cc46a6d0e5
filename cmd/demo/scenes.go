package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// The exit codes that the demo expects; see README.
const (
	exitOK           = 0
	exitFormat       = 12
	exitKeyUnusable  = 15
	exitNotAuthentic = 16
	exitDestination  = 17
)

// mainJob publishes two versions of a model and loads the newer one as KServe does.
func (s *stage) mainJob() {
	s.title("The model's owner makes a key and publishes two versions")
	s.step("make a key", exitOK, "keygen", "--out", s.path("kek.jwk"))
	s.step("publish version 1", exitOK, s.seal("1", "kek.jwk", "acme/v1")...)
	s.step("publish version 2", exitOK, s.seal("2", "kek.jwk", "acme/v2")...)
	s.step("publish over a version", 2, s.seal("3", "kek.jwk", "acme/v2")...)

	s.title("A pod starts: KServe runs `init URI DIR`")
	s.step("load version 2 into tmpfs", exitOK, s.init("acme/v2")...)
	s.compare()
	s.clean()
	s.pristine = s.snapshot()
}

// attacks changes what the store holds, or where the model goes, and expects each to be refused with nothing left.
func (s *stage) attacks() {
	s.title("The store turns hostile")
	s.attack("one bit flipped", exitNotAuthentic, func() { s.flip("acme/v2/data/00001") }, s.init("acme/v2"))
	s.attack("two files swapped", exitNotAuthentic, func() { s.swap("acme/v2/data/00001", "acme/v2/data/00002") }, s.init("acme/v2"))
	s.attack("an object cut short", exitNotAuthentic, func() { s.cut("acme/v2/data/00001") }, s.init("acme/v2"))
	s.attack("a plain file in place of a sealed one", exitNotAuthentic, func() { s.plain("acme/v2/data/00001") }, s.init("acme/v2"))
	s.attack("an older version replayed", exitFormat, func() { s.replay("acme/v1", "acme/v2") },
		s.init("acme/v2", "--min-version", "2"))
	s.attack("the attacker's own model, under a key of theirs", exitFormat, func() { s.foreign("acme/v2") }, s.init("acme/v2"))
	s.attack("a key that is not this model's", exitKeyUnusable, func() { s.otherKey() }, s.initWith("other.jwk", "acme/v2"))

	s.title("The pod is not what it should be")
	if disk := s.diskDir(); disk != "" {
		args := s.init("acme/v2")
		args[len(args)-1] = disk
		s.attack("a destination on disk", exitDestination, func() {}, args)
		s.rows[len(s.rows)-1].leftover = leftover(disk)
		_ = os.RemoveAll(disk)
	}
}

func (s *stage) seal(version, key, prefix string) []string {
	return []string{"seal", "--model", "acme/demo", "--version", version, "--wrap", "jwk:" + s.path(key), s.model, "s3://" + bucket + "/" + prefix}
}

// init is what a ClusterStorageContainer runs: settings are flags here, to be seen.
func (s *stage) init(prefix string, flags ...string) []string {
	return s.initWith("kek.jwk", prefix, flags...)
}

func (s *stage) initWith(key, prefix string, flags ...string) []string {
	args := append([]string{"init", "--trust-key", "jwk:" + s.path(key)}, flags...)
	return append(args, "sealed+s3://"+bucket+"/"+prefix, s.destination())
}

// attack runs a command after a change to the store, which is undone afterwards.
func (s *stage) attack(name string, want int, change func(), args []string) {
	change()
	s.step(name, want, args...)
	s.rows[len(s.rows)-1].leftover = leftover(s.destination())
	s.restore()
	s.clean()
}

func (s *stage) flip(key string) {
	data := s.get(key)
	data[len(data)/2] ^= 1
	s.bucket.Put(key, data)
}

func (s *stage) swap(a, b string) {
	dataA, dataB := s.get(a), s.get(b)
	s.bucket.Put(a, dataB)
	s.bucket.Put(b, dataA)
}

func (s *stage) cut(key string) {
	data := s.get(key)
	s.bucket.Put(key, data[:len(data)-16400])
}

func (s *stage) plain(key string) {
	s.bucket.Put(key, bytes.Repeat([]byte("plain"), len(s.get(key))/5+1)[:len(s.get(key))])
}

func (s *stage) replay(from, to string) {
	for key, data := range s.pristine {
		if rest, ok := strings.CutPrefix(key, from+"/"); ok {
			s.bucket.Put(to+"/"+rest, data)
		}
	}
}

// foreign publishes another model in the place of the real one, with a key of the attacker's.
func (s *stage) foreign(prefix string) {
	_, _ = s.quiet("keygen", "--out", s.path("attacker.jwk"))
	_, _ = s.quiet(s.seal("2", "attacker.jwk", "evil")...)
	for _, key := range s.bucket.Keys() {
		if rest, ok := strings.CutPrefix(key, "evil/"); ok {
			s.bucket.Put(prefix+"/"+rest, s.get(key))
		}
	}
}

// otherKey makes a key that claims to be the model's by its id.
func (s *stage) otherKey() {
	_, _ = s.quiet("keygen", "--out", s.path("random.jwk"))
	real, err := os.ReadFile(s.path("kek.jwk"))
	fake, err2 := os.ReadFile(s.path("random.jwk"))
	if err != nil || err2 != nil {
		return
	}
	_ = os.WriteFile(s.path("other.jwk"), bytes.ReplaceAll(fake, keyID(fake), keyID(real)), 0o600)
}

// keyID cuts the kid out of a JWK.
func keyID(jwk []byte) []byte {
	_, rest, _ := bytes.Cut(jwk, []byte(`"kid": "`))
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return id
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) destination() string { return filepath.Join(s.shm, "models") }
