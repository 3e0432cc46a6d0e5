package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// TestScripts runs testdata/script: command lines as users write them, against the real binary.
//
// Beside testscript's own commands there are:
//
//	sealfetch ARGS...          run it, exit code 0
//	exits CODE PROGRAM ARGS... run a program, this exit code exactly
//	cloud [OPTION...]          start an S3; set endpoint, keys and region. Options: tls, versioned, global, opaque
//	s3 keys | put KEY FILE | get KEY FILE | del KEY | log    look at the bucket and its requests
//	gen FILE SIZE              make a file of that many bytes
//	flip FILE OFFSET           invert a bit
//	list DIR                   print modes, sizes and names
//	same DIR DIR               compare two trees, contents and executable bits
//	grab NAME FILE REGEXP      set a variable to the first group
//	audit EVENT [KEY=VALUE...] the last run wrote this audit record, once
//	lasttwo FILE               the file holds the last two lines of standard error
//	proxy                      set HTTP_PROXY to one that takes every host for the cloud
//	hosts                      print the hosts that it was asked for
//	special FILE               make a FIFO or a socket, by its extension
//
// Every run is also checked for what holds always; see result.problems.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "../../testdata/script",
		Setup:              setupScript,
		Condition:          condition,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sealfetch": cmdSealfetch,
			"exits":     cmdExits,
			"cloud":     cmdCloud,
			"s3":        cmdS3,
			"gen":       cmdGen,
			"flip":      cmdFlip,
			"list":      cmdList,
			"same":      cmdSame,
			"grab":      cmdGrab,
			"audit":     cmdAudit,
			"lasttwo":   cmdLastTwo,
			"proxy":     cmdProxy,
			"hosts":     cmdHosts,
			"special":   cmdSpecial,
		},
	})
}

// inScript is what a script's commands share.
type inScript struct {
	cloud  *testcloud.Cloud
	bucket *testcloud.Bucket

	mu    sync.Mutex
	hosts []string // that the proxy was asked for
}

type scriptKey struct{}

// setupScript gives each script a tmpfs, $SHM, and the binary in its path.
func setupScript(env *testscript.Env) error {
	shm, err := os.MkdirTemp("/dev/shm", "sealfetch-test-")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(shm) })
	env.Values[scriptKey{}] = new(inScript)
	env.Setenv("SHM", shm)
	env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
	return nil
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Getuid() == 0, nil
	case "mounts": // whether a tmpfs can be mounted in a namespace of its own
		return exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt").Run() == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

func state(ts *testscript.TestScript) *inScript {
	return ts.Value(scriptKey{}).(*inScript)
}

func cmdSealfetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("which exit code? say: exits CODE sealfetch ...")
	}
	cmdExits(ts, false, append([]string{"0", "sealfetch"}, args...))
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	before := stagings(ts.Getenv("SHM"))
	code := exitCode(ts.Exec(args[1], args[2:]...))
	r := result{args[2:], code, ts.ReadFile("stdout"), ts.ReadFile("stderr")}
	for _, problem := range r.problems(scriptSecrets(ts)) {
		ts.Fatalf("%s", problem)
	}
	if left := without(stagings(ts.Getenv("SHM")), before); len(left) > 0 {
		ts.Fatalf("left %q", left)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func scriptSecrets(ts *testscript.TestScript) []string {
	env := map[string]string{}
	for _, name := range secretVariables {
		env[name] = ts.Getenv(name)
	}
	return secretsIn(ts.Getenv("WORK"), env)
}

const (
	scriptAccount = "111122223333"
	scriptRegion  = "eu-central-1"
)

func cmdCloud(ts *testscript.TestScript, neg bool, args []string) {
	var opts testcloud.Options
	for _, arg := range args {
		switch arg {
		case "tls":
			opts.TLS = true
		case "global":
			opts.GlobalEndpoint = true
		case "opaque":
			opts.OpaqueETags = true
		case "versioned":
		default:
			ts.Fatalf("unknown option %q", arg)
		}
	}
	cloud, err := testcloud.New(opts)
	ts.Check(err)
	ts.Defer(cloud.Close)
	s := state(ts)
	s.cloud, s.bucket = cloud, cloud.Account(scriptAccount).NewBucket("models", scriptRegion)
	s.bucket.SetVersioning(slices.Contains(args, "versioned"))
	keys := cloud.Account(scriptAccount).NewAccessKey()
	ts.Setenv("AWS_ACCESS_KEY_ID", keys.AccessKeyID)
	ts.Setenv("AWS_SECRET_ACCESS_KEY", keys.SecretAccessKey)
	ts.Setenv("AWS_DEFAULT_REGION", scriptRegion)
	ts.Setenv("AWS_ENDPOINT_URL", cloud.S3URL())
	ts.Setenv("S3_URL", cloud.S3URL())
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), cloud.CAPEM(), 0o644))
}

func cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	bucket := state(ts).bucket
	switch {
	case len(args) == 1 && args[0] == "keys":
		fmt.Fprintln(ts.Stdout(), strings.Join(bucket.Keys(), "\n"))
	case len(args) == 1 && args[0] == "log":
		for _, r := range state(ts).cloud.S3Requests() {
			fmt.Fprintf(ts.Stdout(), "%s %s %s %d %s auth=%q agent=%q\n", r.Op, r.Bucket, r.Key, r.Status, r.Code,
				r.Header.Get("Authorization"), r.UserAgent)
		}
	case len(args) == 3 && args[0] == "put":
		bucket.Put(args[1], []byte(ts.ReadFile(args[2])))
	case len(args) == 3 && args[0] == "get":
		data, ok := bucket.Get(args[1])
		if !ok {
			ts.Fatalf("no object %s", args[1])
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[2]), data, 0o644))
	case len(args) == 2 && args[0] == "del":
		bucket.Delete(args[1])
	default:
		ts.Fatalf("s3 %q?", args)
	}
}

func cmdGen(ts *testscript.TestScript, neg bool, args []string) {
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, noise(args[0], size), 0o644))
}

// noise is size bytes that depend on the name and do not repeat soon.
func noise(name string, size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%s %d\n", name, i)
	}
	return b.Bytes()[:size]
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	offset, err := strconv.Atoi(args[1])
	ts.Check(err)
	data := []byte(ts.ReadFile(args[0]))
	data[offset] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

func cmdList(ts *testscript.TestScript, neg bool, args []string) {
	lines, err := list(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, line := range lines {
		fmt.Fprintln(ts.Stdout(), line)
	}
}

func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	a, err := comparable(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := comparable(ts.MkAbs(args[1]))
	ts.Check(err)
	if maps.Equal(a, b) == neg {
		ts.Fatalf("%v and %v: same %v", slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)), !neg)
	}
}

// comparable maps paths to contents and executable bits.
func comparable(dir string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = fmt.Sprintf("%v %s", info.Mode()&0o100 != 0, data)
		return err
	})
	return all, err
}

func cmdGrab(ts *testscript.TestScript, neg bool, args []string) {
	match := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(match) != 2 {
		ts.Fatalf("no %q in %s", args[2], args[1])
	}
	ts.Setenv(args[0], match[1])
}

func cmdAudit(ts *testscript.TestScript, neg bool, args []string) {
	found := records(ts.ReadFile("stderr"), args[0])
	if neg {
		if len(found) > 0 {
			ts.Fatalf("%d records of %s", len(found), args[0])
		}
		return
	}
	if len(found) != 1 {
		ts.Fatalf("%d records of %s, not 1", len(found), args[0])
	}
	for _, arg := range args[1:] {
		name, want, _ := strings.Cut(arg, "=")
		value, there := found[0][name]
		got, err := json.Marshal(value)
		ts.Check(err)
		if s, ok := value.(string); ok {
			got = []byte(s)
		}
		if !there || string(got) != want {
			ts.Fatalf("%s: %s is %s, not %s", args[0], name, got, want)
		}
	}
}

func cmdSpecial(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	if filepath.Ext(path) == ".fifo" {
		ts.Check(syscall.Mkfifo(path, 0o644))
		return
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	ts.Check(err)
	defer syscall.Close(fd)
	ts.Check(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
}

func cmdLastTwo(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.SplitAfter(ts.ReadFile("stderr"), "\n")
	if n := len(lines); n < 3 || strings.Join(lines[n-3:], "") != ts.ReadFile(args[0]) {
		ts.Fatalf("%s holds %q", args[0], ts.ReadFile(args[0]))
	}
}

// cmdProxy starts a forward proxy that takes every host for the cloud, and notes the names.
func cmdProxy(ts *testscript.TestScript, neg bool, args []string) {
	s := state(ts)
	cloud, err := url.Parse(s.cloud.S3URL())
	ts.Check(err)
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		s.mu.Lock()
		s.hosts = append(s.hosts, r.In.Host)
		s.mu.Unlock()
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = cloud.Scheme, cloud.Host, r.In.Host
	}})
	ts.Defer(front.Close)
	ts.Setenv("HTTP_PROXY", front.URL)
}

func cmdHosts(ts *testscript.TestScript, neg bool, args []string) {
	s := state(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(ts.Stdout(), strings.Join(slices.Compact(s.hosts), "\n"))
}
