package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
)

// The exit codes that the demo expects; see README.
const (
	exitOK           = 0
	exitUsage        = 2
	exitIdentity     = 10
	exitFormat       = 12
	exitRefused      = 14
	exitKeyUnusable  = 15
	exitNotAuthentic = 16
	exitDestination  = 17
)

const modelName = "acme/demo"

// mainJob publishes two versions of a model in the owner's account and loads the newer one in another account.
func (s *stage) mainJob() {
	s.title("Account %s: the model's owner publishes two versions, under a KMS key and a local one", ownerAccount)
	s.step("make a local key", exitOK, "keygen", "--out", s.path("kek.jwk"))
	s.step("publish version 1", exitOK, s.seal("1", "acme/v1")...)
	s.step("publish version 2", exitOK, s.seal("2", "acme/v2")...)
	s.step("publish over a version", exitUsage, s.seal("3", "acme/v2")...)

	s.title("Account %s: a pod starts, KServe runs `init URI DIR` with this environment", loaderAccount)
	for _, setting := range s.pod {
		s.printf("  %s\n", setting)
	}
	s.step("preflight", exitOK, "doctor", "--destination", s.shm, s.uri("acme/v2"))
	s.step("load version 2 into tmpfs, attested", exitOK, s.init("acme/v2")...)
	s.compare()
	s.clean()
	s.step("load it with the local key", exitOK, s.initLocal("kek.jwk", "acme/v2")...)
	s.clean()
	s.pristine = s.snapshot()
}

// attacks changes the store, the cloud, the machine or the pod, and expects each to be refused with nothing left.
func (s *stage) attacks() {
	s.title("The store turns hostile")
	v2 := s.init("acme/v2")
	s.attack("one bit flipped", exitNotAuthentic, func() { s.flip("acme/v2/data/00001") }, v2)
	s.attack("two files swapped", exitNotAuthentic, func() { s.swap("acme/v2/data/00001", "acme/v2/data/00002") }, v2)
	s.attack("an object cut short", exitNotAuthentic, func() { s.cut("acme/v2/data/00001") }, v2)
	s.attack("a plain file in place of a sealed one", exitNotAuthentic, func() { s.plain("acme/v2/data/00001") }, v2)
	s.attack("an older version replayed", exitFormat, func() { s.replay("acme/v1", "acme/v2") }, s.init("acme/v2", "--min-version", "2"))
	s.attack("a wrapped key of another version", exitKeyUnusable, func() { s.graftWraps("acme/v1", "acme/v2") }, v2)
	s.attack("the attacker's own model, under a key of theirs", exitFormat, func() { s.foreign("acme/v2") }, v2)
	s.attack("a local key that is not this model's", exitKeyUnusable, s.otherKey, s.initLocal("other.jwk", "acme/v2"))

	s.title("The machine, the pod or the way to KMS is not what it should be")
	s.attack("KMS answers in the clear", exitRefused, func() { s.kms.OnReply(leak) }, v2)
	s.kms.OnReply(nil)
	s.attack("another service account's token", exitIdentity, func() { _ = s.become("system:serviceaccount:inference:curious") }, v2)
	_ = s.become(subject)
	s.attack("another external id", exitIdentity, func() {}, s.init("acme/v2", "--external-id", "acme-8"))
	if disk := s.diskDir(); disk != "" {
		s.attack("a destination on disk", exitDestination, func() {}, []string{"init", s.uri("acme/v2"), disk})
		s.rows[len(s.rows)-1].leftover = leftover(disk)
		_ = os.RemoveAll(disk)
	}
	s.attack("another kernel booted: wrong PCR", exitRefused, func() { s.tpm.Extend(4, []byte("another kernel")) }, v2)
}

// leak is a KMS, or something that poses as one, that ignores the recipient.
func leak(op string, reply kms.Reply) {
	if op == "Decrypt" {
		delete(reply, "CiphertextForRecipient")
		reply["Plaintext"] = make([]byte, 32)
	}
}

func (s *stage) seal(version, prefix string) []string {
	return []string{"seal", "--model", modelName, "--version", version, "--wrap", "aws-kms:" + s.key.ARN,
		"--wrap", "jwk:" + s.path("kek.jwk"), s.model, "s3://" + bucket + "/" + prefix}
}

func (s *stage) uri(prefix string) string { return "sealed+s3://" + bucket + "/" + prefix }

// init is what KServe runs; further settings are flags here, to be seen.
func (s *stage) init(prefix string, flags ...string) []string {
	return append(append([]string{"init"}, flags...), s.uri(prefix), s.destination())
}

// initLocal trusts a local key in place of the KMS key.
func (s *stage) initLocal(key, prefix string) []string {
	return s.init(prefix, "--trust-key", "jwk:"+s.path(key))
}

// attack runs a command after a change, which is undone in the store afterwards.
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
	size := len(s.get(key))
	s.bucket.Put(key, bytes.Repeat([]byte("plain"), size/5+1)[:size])
}

func (s *stage) replay(from, to string) {
	for key, data := range s.pristine {
		if rest, ok := strings.CutPrefix(key, from+"/"); ok {
			s.bucket.Put(to+"/"+rest, data)
		}
	}
}

// graftWraps puts the wraps of one version into the envelope of another.
func (s *stage) graftWraps(from, to string) {
	_, wraps, _ := bytes.Cut(s.get(from+"/envelope.json"), []byte(`"wraps"`))
	head, _, _ := bytes.Cut(s.get(to+"/envelope.json"), []byte(`"wraps"`))
	s.bucket.Put(to+"/envelope.json", append(append(head, `"wraps"`...), wraps...))
}

// foreign publishes another model in the place of the real one, with a key of the attacker's.
func (s *stage) foreign(prefix string) {
	_, _ = s.quiet("keygen", "--out", s.path("attacker.jwk"))
	_, _ = s.quiet("seal", "--model", modelName, "--version", "2", "--wrap", "jwk:"+s.path("attacker.jwk"), s.model, "s3://"+bucket+"/evil")
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

func (s *stage) title(format string, args ...any) {
	s.printf("\n── %s\n", fmt.Sprintf(format, args...))
}
