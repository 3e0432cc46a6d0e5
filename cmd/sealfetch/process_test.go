package main_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// halfway starts a load of the big model that stands still in the middle, with bytes in its staging directory.
func halfway(t *testing.T) (*process, string) {
	t.Helper()
	f, s, box := use(t, bigFile), newStore(t, testcloud.Options{}), newSandbox(t)
	s.configure(box)
	f.give(box)
	s.put("m", f.objects)
	dest := filepath.Join(box.shm, "model")
	s.cloud.Inject(testcloud.Rule{Key: data, Skip: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 1 << 20, How: testcloud.Stall}}})
	p := box.start("init", "--connections", "1", "sealed+s3://models/m", dest)
	await(t, "bytes in the staging directory", func() bool {
		found, _ := filepath.Glob(filepath.Join(dest, ".sealfetch-*", "weights.safetensors"))
		return len(found) == 1 && allocated(found[0]) > 1<<20
	})
	return p, dest
}

// allocated is how many bytes of a sparse file were written.
func allocated(path string) int64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// await polls for what another process does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
	}
}

func TestSignalsLeaveNothing(t *testing.T) {
	t.Parallel()
	for signal, code := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGINT: 130} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			p, dest := halfway(t)
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			r := p.wait()
			r.want(t, code, "(?m)^sealfetch: stopped by signal: "+signal.String()+"$")
			wantNothing(t, filepath.Dir(dest)) // the destination was made by the run
			if failed := records(r.stderr, "load.failed"); len(failed) != 1 || failed[0]["exit_code"] != float64(code) {
				t.Errorf("audit: %v", failed)
			}
		})
	}
}

// TestKilled: nothing can be done about SIGKILL but this: nothing is at the destination's names, the key is not on it, and
// the next run cleans up.
func TestKilled(t *testing.T) {
	t.Parallel()
	p, dest := halfway(t)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	if left := stagings(dest); len(left) != 1 {
		t.Fatalf("staging directories: %q", left)
	} else if info, err := os.Stat(left[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may look into it: %v, %v", info.Mode(), err)
	}
	f := use(t, bigFile)
	pub := t.TempDir()
	writeObjects(t, pub, f.copy())
	p.s.run("init", "sealed+file://"+pub, dest).want(t, 0)
	wantFiles(t, dest, f.files)
}

// writeObjects lays a published model into a directory.
func writeObjects(t testing.TB, dir string, objects map[string][]byte) {
	t.Helper()
	for name, object := range objects {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, object, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTwoRunsAtOnce: the second one keeps its hands off, and the first one ends well.
func TestTwoRunsAtOnce(t *testing.T) {
	t.Parallel()
	f, s, box := use(t, manyFiles), newStore(t, testcloud.Options{}), newSandbox(t)
	s.configure(box)
	f.give(box)
	s.put("m", f.objects)
	dest := filepath.Join(box.shm, "model")
	release := make(chan struct{})
	var held atomic.Int64
	s.cloud.OnS3Request(func(r *testcloud.Request) testcloud.Fault {
		if strings.HasPrefix(r.Key, "m/data/") {
			held.Add(1)
			<-release
		}
		return testcloud.Fault{}
	})
	first := box.start("init", "sealed+s3://models/m", dest)
	await(t, "request for data", func() bool { return held.Load() > 0 })
	second := newSandbox(t)
	s.configure(second)
	f.give(second)
	second.run("init", "sealed+s3://models/m", dest).want(t, 17, "another run is writing to")
	close(release)
	first.wait().want(t, 0)
	wantFiles(t, dest, f.files)
}

// TestUnprivileged runs as KServe's user: any UID, no home, a working directory that cannot be written.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can run as another user")
	}
	f, box := use(t, manyFiles), newSandbox(t)
	f.give(box)
	pub := filepath.Join(box.dir, "pub")
	writeObjects(t, pub, f.objects)
	for dir := box.dir; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dest := filepath.Join(box.shm, "model")
	nobody := &syscall.Credential{Uid: 65532, Gid: 65532}
	if err := os.Chmod(box.shm, 0o755); err != nil {
		t.Fatal(err)
	}
	refused := box.startAs(nobody, "init", "sealed+file://"+pub, dest).wait()
	refused.want(t, 17, "permission denied", "hint: .*fsGroup")
	wantNothing(t, box.shm)

	if err := os.Chown(box.shm, 65532, 65532); err != nil {
		t.Fatal(err)
	}
	box.env["SEALFETCH_LOG_LEVEL"] = "debug"
	box.startAs(nobody, "init", "sealed+file://"+pub, dest).wait().want(t, 0)
	wantFiles(t, dest, f.files)
}

// TestMemoryDoesNotGrowWithTheModel compares the peak of two loads: whole objects in memory would show.
func TestMemoryDoesNotGrowWithTheModel(t *testing.T) {
	t.Parallel()
	peak := func(size int) int {
		box := newSandbox(t)
		pub := filepath.Join(box.dir, "pub")
		writeObjects(t, filepath.Join(box.dir, "m"), map[string][]byte{"f": make([]byte, size)})
		box.run("keygen", "--out", "kek.jwk").want(t, 0)
		box.run("seal", "--model", "a/b", "--version", "1", "--wrap", "jwk:kek.jwk", "--connections", "2", "--part-size", "5Mi", "m", pub).want(t, 0)
		p := box.start("init", "--trust-key", "jwk:kek.jwk", "--connections", "4", "sealed+file://"+pub, filepath.Join(box.shm, "model"))
		seen := watchPeak(p)
		p.wait().want(t, 0)
		return <-seen
	}
	small, large := 0, peak(64<<20)
	for range 10 { // it may be over before it is first looked at
		if small = peak(1 << 20); small > 0 {
			break
		}
	}
	if small == 0 || large == 0 || large-small > 16<<10 {
		t.Errorf("a load of 64 MiB peaks at %d KiB, one of 1 MiB at %d KiB", large, small)
	}
}

// watchPeak follows a run's peak of resident memory in KiB until it ends. getrusage(2) would not do: it counts the test's
// own memory, which the run shares until it has become another program.
func watchPeak(p *process) <-chan int {
	seen := make(chan int, 1)
	go func() {
		for peak := 0; ; time.Sleep(500 * time.Microsecond) {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
			_, rest, found := strings.Cut(string(status), "VmHWM:")
			if !found { // gone, or a zombie
				seen <- peak
				return
			}
			_, _ = fmt.Sscan(rest, &peak)
		}
	}()
	return seen
}

// TestProcessIsHardened looks at a run from outside: not dumpable, so neither memory nor descriptors are anybody's.
func TestProcessIsHardened(t *testing.T) {
	t.Parallel()
	p, _ := halfway(t)
	defer func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		p.wait().want(t, 143)
	}()
	proc := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	limits, err := os.ReadFile(proc + "/limits")
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
		t.Errorf("core limit: %v\n%s", err, limits)
	}
	info, err := os.Stat(proc + "/mem")
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
		t.Errorf("/proc/PID/mem belongs to UID %d: the process is dumpable", owner)
	}
	environ, _ := os.ReadFile(proc + "/cmdline")
	if findSecret(string(environ), p.s.secrets) != "" {
		t.Error("a secret is on the command line")
	}
}

// TestHTTPS reads a model from a plain web server.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	f := use(t, manyFiles)
	pub := t.TempDir()
	writeObjects(t, filepath.Join(pub, "models", "m"), f.objects)
	static := http.FileServer(http.Dir(pub))
	mux := http.NewServeMux()
	mux.Handle("/models/", static)
	mux.Handle("/moved/", http.RedirectHandler("/models/m/envelope.json", http.StatusFound))
	mux.HandleFunc("/down/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/models/m/envelope.json", http.StatusFound)
	})
	mux.HandleFunc("/loop/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	mux.HandleFunc("/forbidden/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	mux.HandleFunc("/teapot/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	mux.HandleFunc("/busy/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/norange/", func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		r.URL.Path = strings.Replace(r.URL.Path, "/norange/", "/models/m/", 1)
		static.ServeHTTP(w, r)
	})
	mux.HandleFunc("/weak/", func(w http.ResponseWriter, r *http.Request) { // an ETag that promises nothing, and changes
		r.URL.Path = strings.Replace(r.URL.Path, "/weak/", "/models/m/", 1)
		w.Header().Set("ETag", fmt.Sprintf(`W/"%d"`, time.Now().UnixNano()))
		static.ServeHTTP(w, r)
	})
	server := httptest.NewUnstartedServer(mux)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // bad certificates are the point of a case
	server.StartTLS()
	t.Cleanup(server.Close)
	place := "sealed+" + server.URL
	for _, c := range []struct {
		uri     string
		code    int
		message string
	}{
		{place + "/models/m", 0, ""},
		{place + "/models/m/", 0, ""},
		{place + "/weak", 0, ""},
		{place + "/moved", 16, "manifest.enc at .*the envelope says"}, // everything redirects to the envelope
		{place + "/down", 11, "redirected from https to"},
		{place + "/loop", 11, "redirected more than"},
		{place + "/absent", 11, "envelope.json is missing at"},
		{place + "/forbidden", 11, "denied: 403"},
		{place + "/teapot", 11, "418"},
		{place + "/busy", 20, "503.*gave up after 2 attempts"},
		{place + "/norange", 11, "asked for .* got"},
	} {
		t.Run(strings.TrimPrefix(c.uri, place), func(t *testing.T) {
			t.Parallel()
			box := newSandbox(t)
			f.give(box)
			ca := filepath.Join(box.dir, "ca.pem")
			if err := os.WriteFile(ca, pemOf(server), 0o644); err != nil {
				t.Fatal(err)
			}
			dest := filepath.Join(box.shm, "model")
			r := box.run("init", "--attempts", "2", "--ca-bundle", ca, c.uri, dest)
			r.want(t, c.code, c.message)
			if c.code == 0 {
				wantFiles(t, dest, f.files)
			} else {
				wantNothing(t, dest)
			}
		})
	}
	box := newSandbox(t)
	f.give(box)
	box.run("init", place+"/models/m", filepath.Join(box.shm, "model")).want(t, 11, "certificate", "hint: .*--ca-bundle")
	box.run("init", "sealed+http://"+strings.TrimPrefix(server.URL, "https://")+"/m", filepath.Join(box.shm, "model")).want(t, 2, "scheme")
}

// TestSealToS3Fails: after a failed publication nothing is in the bucket, no upload is pending, and the next one works.
func TestSealToS3Fails(t *testing.T) {
	t.Parallel()
	f := use(t, bigFile)
	for name, c := range map[string]struct {
		rule testcloud.Rule
		code int
	}{
		"part":      {testcloud.Rule{Op: "UploadPart", Skip: 2, Fault: testcloud.Fault{Error: &testcloud.Error{Status: 403, Code: "AccessDenied"}}}, 11},
		"completed": {testcloud.Rule{Op: "CompleteMultipartUpload", Fault: testcloud.Fault{Error: &testcloud.Error{Status: 403, Code: "AccessDenied"}}}, 11},
		"manifest":  {testcloud.Rule{Op: "PutObject", Key: "m/manifest.enc", Fault: testcloud.Fault{Error: &testcloud.Error{Status: 403, Code: "AccessDenied"}}}, 11},
		"envelope":  {testcloud.Rule{Op: "PutObject", Key: "m/envelope.json", Fault: testcloud.Fault{Error: &testcloud.Error{Status: 403, Code: "AccessDenied"}}}, 11},
		"throttled": {testcloud.Rule{Op: "UploadPart", Times: 2, Fault: testcloud.Fault{Error: testcloud.SlowDown()}}, 0},
		"broken":    {testcloud.Rule{Op: "UploadPart", Times: 1, Fault: testcloud.Fault{Break: &testcloud.Break{After: 1 << 20, How: testcloud.Reset}}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, box := newStore(t, testcloud.Options{}), newSandbox(t)
			s.configure(box)
			f.give(box)
			writeObjects(t, filepath.Join(box.dir, "src"), map[string][]byte{"w": []byte(f.files["weights.safetensors"]), "c": []byte("c")})
			hit := s.cloud.Inject(c.rule)
			args := []string{"seal", "--model", "a/b", "--version", "1", "--wrap", "jwk:kek.jwk", "--part-size", "5Mi", "--connections", "2", "src", "s3://models/m"}
			box.run(args...).want(t, c.code)
			if hit.Hits() == 0 {
				t.Error("the fault met no request")
			}
			if keys := s.bucket.Keys(); c.code != 0 && (len(keys) > 0 || s.bucket.Uploads() > 0) {
				t.Errorf("left: %q and %d uploads", keys, s.bucket.Uploads())
			}
			s.cloud.ClearFaults()
			if c.code != 0 {
				box.run(args...).want(t, 0)
			}
			box.run("verify", "sealed+s3://models/m").want(t, 0)
		})
	}
}

// TestSealIsInterrupted: a signal takes everything back, too.
func TestSealIsInterrupted(t *testing.T) {
	t.Parallel()
	f, s, box := use(t, bigFile), newStore(t, testcloud.Options{}), newSandbox(t)
	s.configure(box)
	f.give(box)
	writeObjects(t, filepath.Join(box.dir, "src"), map[string][]byte{"w": []byte(f.files["weights.safetensors"])})
	var parts atomic.Int64
	end := make(chan struct{})
	defer close(end)
	s.cloud.OnS3Request(func(r *testcloud.Request) testcloud.Fault {
		if r.Op == "UploadPart" && parts.Add(1) == 3 {
			<-end
		}
		return testcloud.Fault{}
	})
	p := box.start("seal", "--model", "a/b", "--version", "1", "--wrap", "jwk:kek.jwk", "--part-size", "5Mi", "--connections", "1", "src", "s3://models/m")
	await(t, "third part", func() bool { return parts.Load() == 3 })
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.wait().want(t, 143)
	if keys := s.bucket.Keys(); len(keys) > 0 || s.bucket.Uploads() > 0 {
		t.Errorf("left: %q and %d uploads", keys, s.bucket.Uploads())
	}
}

// TestSourceChangesWhileItIsSealed: a model that somebody writes to is not published.
func TestSourceChangesWhileItIsSealed(t *testing.T) {
	t.Parallel()
	f := use(t, bigFile)
	for name, change := range map[string]func(path string) error{
		"touched": func(path string) error { return os.Chtimes(path, time.Time{}, time.Now().Add(time.Second)) },
		"cut":     func(path string) error { return os.Truncate(path, 1<<20) },
		"removed": os.Remove,
		"replaced": func(path string) error {
			return os.WriteFile(path, []byte("x"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, box := newStore(t, testcloud.Options{}), newSandbox(t)
			s.configure(box)
			f.give(box)
			src := filepath.Join(box.dir, "src")
			writeObjects(t, src, map[string][]byte{"w": []byte(f.files["weights.safetensors"])})
			var once atomic.Bool
			s.cloud.OnS3Request(func(r *testcloud.Request) testcloud.Fault {
				if r.Op == "UploadPart" && !once.Swap(true) {
					if err := change(filepath.Join(src, "w")); err != nil {
						t.Error(err)
					}
				}
				return testcloud.Fault{}
			})
			r := box.run("seal", "--model", "a/b", "--version", "1", "--wrap", "jwk:kek.jwk", "--part-size", "5Mi", "--connections", "1", "src", "s3://models/m")
			r.want(t, 2, `src/w`)
			if keys := s.bucket.Keys(); len(keys) > 0 || s.bucket.Uploads() > 0 {
				t.Errorf("left: %q and %d uploads", keys, s.bucket.Uploads())
			}
		})
	}
}

// TestDataThatIsNoFile: a store that is a directory can hold what blocks or leads away.
func TestDataThatIsNoFile(t *testing.T) {
	t.Parallel()
	f := use(t, manyFiles)
	for name, plant := range map[string]func(path string) error{
		"fifo":      func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"outside":   func(path string) error { return os.Symlink("/etc/hostname", path) },
		"loop":      func(path string) error { return os.Symlink(filepath.Base(path), path) },
	} {
		for _, object := range []string{"envelope.json", "manifest.enc", "data/00000"} {
			t.Run(name+" "+filepath.Base(object), func(t *testing.T) {
				t.Parallel()
				box := newSandbox(t)
				f.give(box)
				pub := filepath.Join(box.dir, "pub")
				writeObjects(t, pub, f.objects)
				path := filepath.Join(pub, object)
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := plant(path); err != nil {
					t.Fatal(err)
				}
				dest := filepath.Join(box.shm, "model")
				box.run("init", "sealed+file://"+pub, dest).want(t, 11, object)
				wantNothing(t, dest)
			})
		}
	}
}

// pemOf is the certificate of a test server, which signed itself.
func pemOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
