package main_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// s3Case is one way in which a store, a network or a bucket's content is not as it should be.
type s3Case struct {
	name    string
	big     bool // one file of several parts; else many files
	options testcloud.Options
	// arrange harms the store or the environment. The model is at models/m.
	arrange func(t *testing.T, s *store, box *sandbox, f *fixture)
	args    []string
	code    int
	message string // of the cause; a regular expression
	// after checks the request log; nil for none.
	after func(t *testing.T, s *store, f *fixture)
}

// run loads the model and expects what the case expects.
func (c s3Case) run(t *testing.T) {
	t.Parallel()
	c.serial(t)
}

func (c s3Case) serial(t *testing.T) {
	f := use(t, manyFiles)
	if c.big {
		f = use(t, bigFile)
	}
	s, box := newStore(t, c.options), newSandbox(t)
	s.configure(box)
	f.give(box)
	s.put("m", f.objects)
	if c.arrange != nil {
		c.arrange(t, s, box, f)
	}
	dest := filepath.Join(box.shm, "model")
	r := box.run(slices.Concat([]string{"init"}, c.args, []string{"sealed+s3://models/m", dest})...)
	r.want(t, c.code)
	if c.code == 0 {
		wantFiles(t, dest, f.files)
	} else {
		c.checkFailure(t, r, dest)
	}
	if c.after != nil {
		c.after(t, s, f)
	}
}

func (c s3Case) checkFailure(t *testing.T, r result, dest string) {
	wantNothing(t, dest)
	cause, hint := r.last()
	if !regexp.MustCompile(c.message).MatchString(cause) {
		t.Errorf("no %q in: %s", c.message, cause)
	}
	if hint == "" {
		t.Errorf("no hint after: %s", cause)
	}
	failed := records(r.stderr, "load.failed")
	if len(failed) != 1 || failed[0]["exit_code"] != float64(c.code) || failed[0]["cause"] != cause {
		t.Errorf("audit: %v", failed)
	}
	if len(records(r.stderr, "model.ready")) > 0 {
		t.Error("audit: model.ready")
	}
}

// inject returns an arrangement of one rule.
func inject(rule testcloud.Rule) func(*testing.T, *store, *sandbox, *fixture) {
	return func(t *testing.T, s *store, _ *sandbox, _ *fixture) {
		injection := s.cloud.Inject(rule)
		t.Cleanup(func() {
			if injection.Hits() == 0 {
				t.Error("the fault met no request")
			}
		})
	}
}

// data matches the only data object of the big model.
const data = "m/data/*"

var alone = []string{"--connections", "1"} // requests come one after the other

// window is what a connection reads, opens and writes at a time.
const window = sealfetch.WindowSize

func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []s3Case{
		{name: "none", code: 0},
		{name: "reset", big: true, code: 0, args: alone,
			arrange: inject(testcloud.Rule{Key: data, Times: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 1 << 20, How: testcloud.Reset}}}),
			after:   resumed(1 << 20)},
		{name: "closed early", big: true, code: 0, args: alone,
			arrange: inject(testcloud.Rule{Key: data, Skip: 1, Times: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 5<<20 + 1}}}),
			after:   resumed(5<<20 + 1)},
		{name: "closed at a window's end", big: true, code: 0, args: alone,
			arrange: inject(testcloud.Rule{Key: data, Times: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 3 * window}}}),
			after:   resumed(3 * window)},
		{name: "closed before the first byte", big: true, code: 0, args: alone,
			arrange: inject(testcloud.Rule{Key: data, Times: 2, Fault: testcloud.Fault{Break: &testcloud.Break{}}}),
			after:   resumed(0)},
		{name: "no answer", big: true, code: 0,
			arrange: inject(testcloud.Rule{Key: data, Times: 2, Fault: testcloud.Fault{LoseAnswer: true}})},
		{name: "stall", big: true, code: 0, args: []string{"--connections", "1", "--stall-timeout", "300ms"},
			arrange: inject(testcloud.Rule{Key: data, Times: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 2 << 20, How: testcloud.Stall}}}),
			after:   resumed(2 << 20)},
		{name: "stall of the envelope", code: 0, args: []string{"--stall-timeout", "300ms"},
			arrange: inject(testcloud.Rule{Key: "m/envelope.json", Times: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 10, How: testcloud.Stall}}})},
		{name: "stall forever", code: 20, args: []string{"--stall-timeout", "150ms", "--attempts", "2"}, message: "no data within the stall timeout.*gave up after 2 attempts",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{Break: &testcloud.Break{How: testcloud.Stall}}})},
		{name: "cut off again and again", big: true, code: 0, args: []string{"--attempts", "1"},
			// Whatever comes forward does not use up attempts; but one attempt allows for no failure at all.
			arrange: inject(testcloud.Rule{Key: data, Times: 1, Fault: testcloud.Fault{Latency: 10 * time.Millisecond}})},
		{name: "progress renews attempts", big: true, code: 0, args: []string{"--attempts", "2", "--connections", "1"},
			arrange: inject(testcloud.Rule{Key: data, Times: 7, Fault: testcloud.Fault{Break: &testcloud.Break{After: window}}})},
		{name: "503 and then well", code: 0, args: []string{"--attempts", "3"},
			arrange: inject(testcloud.Rule{Times: 2, Fault: testcloud.Fault{Error: testcloud.SlowDown()}})},
		{name: "503 of data and then well", big: true, code: 0, args: []string{"--attempts", "3"},
			arrange: inject(testcloud.Rule{Key: data, Times: 2, Fault: testcloud.Fault{Error: testcloud.SlowDown()}})},
		{name: "503 forever", code: 20, args: []string{"--attempts", "2"}, message: "SlowDown.*gave up after 2 attempts",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{Error: testcloud.SlowDown()}})},
		{name: "500 forever", code: 20, args: []string{"--attempts", "2"}, message: "envelope.json.*InternalError",
			arrange: inject(testcloud.Rule{Key: "m/envelope.json", Fault: testcloud.Fault{Error: testcloud.InternalError()}})},
		{name: "nobody there", code: 20, args: []string{"--attempts", "2"}, message: "connection refused",
			arrange: func(t *testing.T, _ *store, box *sandbox, _ *fixture) {
				box.env["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
			}},
		{name: "no TLS there", code: 20, args: []string{"--attempts", "1"}, message: "HTTPS",
			arrange: func(t *testing.T, s *store, box *sandbox, _ *fixture) {
				box.env["AWS_ENDPOINT_URL"] = "https" + s.cloud.S3URL()[len("http"):]
			}},
	} {
		t.Run(c.name, c.run)
	}
}

// resumed demands that the request after one that broke off begins at the first byte that was not taken: sent bytes in
// whole windows, or fewer where a reset lost some on their way.
func resumed(sent int64) func(*testing.T, *store, *fixture) {
	return func(t *testing.T, s *store, f *fixture) {
		var missing int64 // of the request before
		next, again := int64(decrypt.HeaderSize), false
		for _, r := range s.cloud.S3Requests("GetObject") {
			if ok, _ := filepath.Match("m/data/*", r.Key); !ok {
				continue
			}
			first, last := rangeOf(t, r.Range)
			if missing > 0 {
				again = true
				if taken := first - next; taken%window != 0 || taken > sent || taken < 0 {
					t.Errorf("resumed at %d, %d bytes after the beginning, of which %d were sent", first, taken, sent)
				}
			} else if first != next {
				t.Errorf("asked for byte %d, not %d", first, next)
			}
			missing = last - first + 1 - r.BytesOut
			if next = last + 1; missing > 0 {
				next = first
			}
		}
		if size := int64(len(f.objects["data/00000"])); missing != 0 || next != size || !again {
			t.Errorf("ends at %d of %d, %d missing, resumed: %v", next, size, missing, again)
		}
	}
}

func TestLyingStores(t *testing.T) {
	t.Parallel()
	offset := int64(12 << 20)
	chunk := (offset - decrypt.HeaderSize) / decrypt.SealedChunkSize
	for _, c := range []s3Case{
		{name: "200 for 206", big: true, code: 11, message: "data/00000 at sealed.*asked for .* got ",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{IgnoreRange: true}})},
		{name: "another range", big: true, code: 11, message: "data/00000 at sealed.*asked for .* got ",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{ContentRange: fmt.Sprintf("bytes 0-99/%d", decrypt.SealedSize(bigSize))}})},
		{name: "another size", big: true, code: 16, message: "data/00000 at sealed.* is 99999999 bytes long, its manifest says",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{ContentRange: "bytes 56-16793655/99999999"}})},
		{name: "impossible range", big: true, code: 11, message: "data/00000 at sealed.*Content-Range",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{ContentRange: "bytes 9-5/0"}})},
		{name: "unknown size", big: true, code: 0,
			arrange: func(t *testing.T, s *store, _ *sandbox, _ *fixture) {
				s.cloud.OnS3Request(func(r *testcloud.Request) testcloud.Fault {
					if r.Range == "" {
						return testcloud.Fault{}
					}
					first, last := rangeOf(t, r.Range)
					return testcloud.Fault{ContentRange: fmt.Sprintf("bytes %d-%d/*", first, last)}
				})
			}},
		{name: "short body", big: true, code: 0,
			arrange: inject(testcloud.Rule{Key: data, Times: 1, Fault: testcloud.Fault{LengthDelta: -100_000}})},
		{name: "always short body", big: true, code: 20, args: []string{"--attempts", "2"}, message: "data/00000 at sealed.*gave up",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{LengthDelta: -100_000}})},
		{name: "promises more than it sends", big: true, code: 0,
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{LengthDelta: 100_000}})},
		{name: "flipped bit", big: true, code: 16, message: fmt.Sprintf(`data/00000 \(file "weights.safetensors"\) at sealed.*chunk %d is not authentic`, chunk),
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{FlipByte: &offset}})},
		{name: "bit flipped once", big: true, code: 16, args: alone, message: fmt.Sprintf("chunk %d is not authentic", chunk), arrange: flipOnce(offset)},
		{name: "bit flipped in the last tag of the last file", code: 16, message: `data/0000\d \(file "vocab/19.txt"\)`, arrange: flipLastBit},
		{name: "object cut", big: true, code: 16, message: "data/00000 .* bytes long, its manifest says", arrange: reshape(func(b []byte) []byte { return b[:len(b)-1] })},
		{name: "object cut before the last part", big: true, code: 16, message: "data/00000 .*(bytes long|ends before)", arrange: reshape(func(b []byte) []byte { return b[:12<<20] })},
		{name: "object cut to nothing", big: true, code: 16, message: "data/00000 .*(bytes long|ends before)", arrange: reshape(func(b []byte) []byte { return nil })},
		{name: "object extended", big: true, code: 16, message: "data/00000 .* bytes long, its manifest says", arrange: reshape(func(b []byte) []byte { return append(bytes.Clone(b), 0) })},
		{name: "object of zeros", big: true, code: 16, message: "data/00000 .*not authentic", arrange: reshape(func(b []byte) []byte { return make([]byte, len(b)) })},
		{name: "changed between ranges", big: true, code: 11, args: alone, message: "data/00000 at sealed.* changed while it was read",
			arrange: replaceLater(true)},
		{name: "same bytes, another ETag", big: true, code: 11, args: alone, options: testcloud.Options{OpaqueETags: true},
			message: "data/00000 at sealed.* changed while it was read", arrange: replaceLater(false)},
		{name: "changed in a versioned bucket", big: true, code: 0, args: alone,
			arrange: func(t *testing.T, s *store, box *sandbox, f *fixture) {
				s.bucket.SetVersioning(true)
				s.put("m", f.objects)
				replaceLater(true)(t, s, box, f)
			}},
		{name: "data missing", code: 11, message: "data/00001 at sealed.*(missing|no such object)",
			arrange: func(t *testing.T, s *store, _ *sandbox, _ *fixture) { s.bucket.Delete("m/data/00001") }},
		{name: "manifest missing", code: 11, message: "manifest.enc at sealed.*(missing|no such object)",
			arrange: func(t *testing.T, s *store, _ *sandbox, _ *fixture) { s.bucket.Delete("m/manifest.enc") }},
		{name: "endless envelope", code: 12, message: "envelope.json at sealed.* larger than the 65536 bytes",
			arrange: func(t *testing.T, s *store, _ *sandbox, _ *fixture) {
				s.bucket.PutReaderAt("m/envelope.json", zeros{}, 1<<40)
			}},
		{name: "endless manifest", code: 12, message: "manifest.enc at sealed.* larger than the \\d+ bytes",
			arrange: func(t *testing.T, s *store, _ *sandbox, _ *fixture) {
				s.bucket.PutReaderAt("m/manifest.enc", zeros{}, 1<<40)
			}},
		{name: "data objects swapped", code: 16, message: "data/0000[01] .*(not authentic|bytes long)", arrange: swapObjects},
	} {
		t.Run(c.name, c.run)
	}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// reshape changes the first data object.
func reshape(change func([]byte) []byte) func(*testing.T, *store, *sandbox, *fixture) {
	return func(t *testing.T, s *store, _ *sandbox, f *fixture) {
		s.bucket.Put("m/data/00000", change(f.objects["data/00000"]))
	}
}

// flipOnce harms the first answer that has the byte: what is not authentic is not asked for again.
func flipOnce(offset int64) func(*testing.T, *store, *sandbox, *fixture) {
	return func(t *testing.T, s *store, _ *sandbox, _ *fixture) {
		var flipped atomic.Bool
		s.cloud.OnS3Request(func(r *testcloud.Request) testcloud.Fault {
			if r.Range == "" {
				return testcloud.Fault{}
			}
			if first, last := rangeOf(t, r.Range); offset < first || offset > last || flipped.Swap(true) {
				return testcloud.Fault{}
			}
			return testcloud.Fault{FlipByte: &offset}
		})
	}
}

func flipLastBit(t *testing.T, s *store, _ *sandbox, f *fixture) {
	name := ""
	for object := range f.objects {
		if m, _ := filepath.Match("data/*", object); m && len(f.objects[object]) < 4<<20 {
			name = object // the one that small files are packed into
		}
	}
	changed := bytes.Clone(f.objects[name])
	changed[len(changed)-1] ^= 0x80
	s.bucket.Put("m/"+name, changed)
}

func swapObjects(t *testing.T, s *store, _ *sandbox, f *fixture) {
	s.bucket.Put("m/data/00000", f.objects["data/00001"])
	s.bucket.Put("m/data/00001", f.objects["data/00000"])
}

// replaceLater overwrites the data object after its first range was read: by other bytes, or by the same ones.
func replaceLater(other bool) func(*testing.T, *store, *sandbox, *fixture) {
	return func(t *testing.T, s *store, box *sandbox, f *fixture) {
		with := bytes.Clone(f.objects["data/00000"])
		if other {
			with[len(with)-1] ^= 1
		}
		inject(testcloud.Rule{Key: data, Skip: 1, Times: 1, Fault: testcloud.Fault{Replace: with}})(t, s, box, f)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	denied := &testcloud.Error{Status: 403, Code: "AccessDenied", Message: "Access Denied"}
	for _, c := range []s3Case{
		{name: "access denied", code: 11, message: "envelope.json at sealed.*AccessDenied",
			arrange: inject(testcloud.Rule{Fault: testcloud.Fault{Error: denied}})},
		{name: "access to data denied", code: 11, message: "data/0000\\d at sealed.*AccessDenied",
			arrange: inject(testcloud.Rule{Key: data, Fault: testcloud.Fault{Error: denied}})},
		{name: "no such bucket", code: 11, message: "models.*NoSuchBucket",
			arrange: inject(testcloud.Rule{Fault: testcloud.Fault{Error: &testcloud.Error{Status: 404, Code: "NoSuchBucket", Message: "The specified bucket does not exist"}}})},
		{name: "unknown access key", code: 10, message: "InvalidAccessKeyId",
			arrange: func(t *testing.T, s *store, box *sandbox, _ *fixture) { s.cloud.Revoke(s.keys.AccessKeyID) }},
		{name: "wrong secret key", code: 10, message: "SignatureDoesNotMatch",
			arrange: func(t *testing.T, s *store, box *sandbox, _ *fixture) {
				box.env["AWS_SECRET_ACCESS_KEY"] = "canary+canary/canary+canary/canary+canary"
			}},
		{name: "session", code: 0, arrange: session(time.Hour, 0)},
		{name: "expired session", code: 10, message: "ExpiredToken", arrange: session(time.Hour, 2*time.Hour)},
		{name: "wrong session token", code: 10, message: "InvalidToken",
			arrange: func(t *testing.T, s *store, box *sandbox, f *fixture) {
				session(time.Hour, 0)(t, s, box, f)
				box.env["AWS_SESSION_TOKEN"] = "canary-canary-canary-canary"
			}},
		{name: "the node's clock is wrong", code: 10, message: "RequestTimeTooSkewed",
			arrange: func(t *testing.T, s *store, _ *sandbox, _ *fixture) { s.cloud.Advance(time.Hour) }},
		{name: "another region", code: 0, // S3 says which one, and is believed
			arrange: func(t *testing.T, s *store, box *sandbox, _ *fixture) { box.env["AWS_DEFAULT_REGION"] = "us-west-2" }},
		{name: "another region, global endpoint", code: 0, options: testcloud.Options{GlobalEndpoint: true},
			arrange: func(t *testing.T, s *store, box *sandbox, _ *fixture) { box.env["AWS_DEFAULT_REGION"] = "us-west-2" }},
		{name: "another owner", code: 11, message: "AccessDenied", args: []string{"--expected-bucket-owner", "999999999999"}},
		{name: "the owner", code: 0, args: []string{"--expected-bucket-owner", scriptAccount}},
		{name: "anonymous", code: 11, message: "AccessDenied", args: []string{"--anonymous"}},
	} {
		t.Run(c.name, c.run)
	}
}

// session uses credentials that end, as of the cloud's clock after a while. The run's own clock follows the cloud's Date
// header at most; what counts is that the server refuses.
func session(lifetime, passed time.Duration) func(*testing.T, *store, *sandbox, *fixture) {
	return func(t *testing.T, s *store, box *sandbox, _ *fixture) {
		keys := s.cloud.Account(scriptAccount).NewSession(lifetime - passed)
		box.env["AWS_ACCESS_KEY_ID"], box.env["AWS_SECRET_ACCESS_KEY"] = keys.AccessKeyID, keys.SecretAccessKey
		box.env["AWS_SESSION_TOKEN"] = keys.SessionToken
	}
}

// TestRedirectIsNotFollowed: a store that sends us elsewhere must not have its signed requests followed there.
func TestRedirectIsNotFollowed(t *testing.T) {
	var hits atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer elsewhere.Close()
	t.Run("", s3Case{code: 11, message: "envelope.json at sealed.*TemporaryRedirect", arrange: func(t *testing.T, s *store, box *sandbox, f *fixture) {
		inject(testcloud.Rule{Fault: testcloud.Fault{Redirect: elsewhere.URL}})(t, s, box, f)
	}}.serial)
	if hits.Load() > 0 {
		t.Errorf("%d requests went to the other place", hits.Load())
	}
}
