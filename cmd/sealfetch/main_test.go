package main_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binary is the program under test: the real one, built once as it ships.
var binary string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sealfetch-bin-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // other users run it, too
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sealfetch")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program under test: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// sandbox is where a test runs the binary: a directory, a tmpfs, and an environment that inherits nothing.
type sandbox struct {
	t       testing.TB
	dir     string
	shm     string
	env     map[string]string
	secrets []string // must not be in any output, in any notation
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	return &sandbox{t: t, dir: t.TempDir(), shm: tmpfs(t), env: map[string]string{}}
}

// tmpfs makes a directory on a tmpfs that lives as long as the test.
func tmpfs(t testing.TB) string {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err != nil || int64(st.Type) != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is not a tmpfs: a destination must be on one")
	}
	dir, err := os.MkdirTemp("/dev/shm", "sealfetch-test-")
	if err != nil {
		t.Skip("no directory can be made in /dev/shm: ", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// result is what one run left behind.
type result struct {
	args           []string
	code           int
	stdout, stderr string
}

// run runs the binary to its end and checks what holds for every run.
func (s *sandbox) run(args ...string) result {
	s.t.Helper()
	return s.start(args...).wait()
}

// command is a bare call, for what is not itself under test.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{}
	return cmd
}

// process is a run under way.
type process struct {
	s              *sandbox
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	before         []string // staging directories that were there
}

func (s *sandbox) start(args ...string) *process {
	s.t.Helper()
	return s.startAs(nil, args...)
}

// startAs runs as another user where credential is not nil.
func (s *sandbox) startAs(credential *syscall.Credential, args ...string) *process {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.t.Cleanup(cancel)
	p := &process{s: s, cmd: exec.CommandContext(ctx, binary, args...), before: stagings(s.shm)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.dir, &p.stdout, &p.stderr
	p.cmd.Env = []string{}
	for name, value := range s.env {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	if credential != nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatalf("starting sealfetch %q: %v", args, err)
	}
	return p
}

// wait waits for the end.
func (p *process) wait() result {
	p.s.t.Helper()
	err := p.cmd.Wait()
	r := result{p.cmd.Args[1:], exitCode(err), p.stdout.String(), p.stderr.String()}
	secrets := append(slices.Clone(p.s.secrets), secretsIn(p.s.dir, p.s.env)...)
	for _, problem := range r.problems(secrets) {
		p.s.t.Errorf("sealfetch %q: %s\n%s", r.args, problem, r.stderr)
	}
	if left := without(stagings(p.s.shm), p.before); len(left) > 0 {
		p.s.t.Errorf("sealfetch %q left %q", r.args, left)
	}
	return r
}

// exitCode is -1 for a process that did not run or was killed by a signal.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// want checks the exit code and that every pattern is in standard error.
func (r result) want(t testing.TB, code int, patterns ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("sealfetch %q: exit code %d, want %d\n%s%s", r.args, r.code, code, r.stdout, r.stderr)
		return
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(r.stderr) {
			t.Errorf("sealfetch %q: no %q in\n%s", r.args, pattern, r.stderr)
		}
	}
}

// last returns the cause and the hint: the last two lines.
func (r result) last() (cause, hint string) {
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	if rest, ok := strings.CutPrefix(lines[len(lines)-1], "hint: "); ok && len(lines) > 1 {
		hint, lines = rest, lines[:len(lines)-1]
	}
	cause, _ = strings.CutPrefix(lines[len(lines)-1], "sealfetch: ")
	return cause, hint
}

// publicCodes are the exit codes that README.md and the InferenceService's status speak of.
var publicCodes = []int{0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 20, 130, 143}

// problems returns what is wrong with a run whatever it was for.
func (r result) problems(secrets []string) (problems []string) {
	if !slices.Contains(publicCodes, r.code) {
		problems = append(problems, fmt.Sprintf("exit code %d is none of the public ones", r.code))
	}
	if leak := findSecret(r.stdout+r.stderr, secrets); leak != "" {
		problems = append(problems, "a secret is in the output, as "+leak)
	}
	if strings.Contains(r.stderr, "goroutine ") || strings.Contains(r.stderr, "%!") {
		problems = append(problems, "a panic, or a broken format")
	}
	return append(problems, r.checkLines()...)
}

// checkLines demands that standard error ends with cause and hint after a failure, and has only log records otherwise.
func (r result) checkLines() (problems []string) {
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	if r.stderr == "" || len(r.args) == 0 { // without a command there is the help
		lines = nil
	}
	if r.code != 0 && len(lines) > 0 {
		if strings.HasPrefix(lines[len(lines)-1], "hint: ") {
			lines = lines[:len(lines)-1]
		}
		if len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1], "sealfetch: ") {
			return []string{"standard error does not end with the cause"}
		}
		lines = lines[:len(lines)-1]
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) && !strings.HasPrefix(line, "time=") {
			problems = append(problems, fmt.Sprintf("%q is no log record", line))
		}
	}
	return problems
}

// records returns the audit records of an event.
func records(stderr, event string) (found []map[string]any) {
	for line := range strings.Lines(stderr) {
		var record map[string]any
		if json.Unmarshal([]byte(line), &record) == nil && record["event"] == event && record["audit"] == 1.0 {
			found = append(found, record)
		}
	}
	return found
}

// secretVariables carry secrets, or documents with secrets.
var secretVariables = []string{
	"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "SEALFETCH_TRUST_KEY_JWK",
	"SEALFETCH_OIDC_CLIENT_SECRET", "STORAGE_CONFIG",
}

// secretsIn gathers what a run could know and must not say: key files below a directory, and variables.
func secretsIn(dir string, env map[string]string) (secrets []string) {
	for _, name := range secretVariables {
		secrets = append(secrets, env[name])
		secrets = append(secrets, secretsOfJWK([]byte(env[name]))...)
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".jwk") {
			data, _ := os.ReadFile(path)
			secrets = append(secrets, secretsOfJWK(data)...)
		}
		return nil
	})
	return secrets
}

// secretsOfJWK returns the secret members of a key: what is symmetric or private (RFC 7518, section 6), and of
// KServe's storage configuration.
func secretsOfJWK(data []byte) (secrets []string) {
	var key map[string]any
	_ = json.Unmarshal(data, &key)
	for _, name := range []string{"k", "d", "p", "q", "dp", "dq", "qi", "secret_access_key"} {
		if s, ok := key[name].(string); ok {
			secrets = append(secrets, s)
		}
	}
	return secrets
}

// findSecret looks for secrets as they are and, where they are base64url, for their bytes in other notations.
func findSecret(text string, secrets []string) (notation string) {
	for _, s := range secrets {
		if len(s) < 8 {
			continue
		}
		notations := map[string]string{"it is": s}
		if raw, err := base64.RawURLEncoding.DecodeString(s); err == nil {
			notations["hexadecimal"] = hex.EncodeToString(raw)
			notations["base64"] = base64.RawStdEncoding.EncodeToString(raw)
			notations["Go bytes"] = strings.Trim(fmt.Sprint(raw), "[]")
			notations["raw bytes"] = string(raw)
		}
		for _, name := range slices.Sorted(maps.Keys(notations)) {
			if strings.Contains(strings.ToLower(text), strings.ToLower(notations[name])) {
				return name
			}
		}
	}
	return ""
}

// TestSecretsAreFound makes sure that the search which every run goes through can find something.
func TestSecretsAreFound(t *testing.T) {
	dir := t.TempDir()
	key := bytes.Repeat([]byte{0xC3, 0x5A}, 16)
	jwk := fmt.Sprintf(`{"kty":"oct","k":"%s"}`, base64.RawURLEncoding.EncodeToString(key))
	if err := os.WriteFile(filepath.Join(dir, "a.jwk"), []byte(jwk), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := secretsIn(dir, map[string]string{"AWS_SECRET_ACCESS_KEY": "secretsecret"})
	for _, text := range []string{
		"x secretsecret", fmt.Sprintf("%x", key), fmt.Sprintf("%X", key), fmt.Sprintf("%v", key), string(key),
		base64.StdEncoding.EncodeToString(key), base64.URLEncoding.EncodeToString(key),
	} {
		if r := (result{stderr: text}); findSecret(text, secrets) == "" || len(r.problems(secrets)) == 0 {
			t.Errorf("no secret found in %q", text)
		}
	}
	if found := findSecret("nothing to see", secrets); found != "" {
		t.Errorf("found %s", found)
	}
}

// stagings lists staging directories below dir, two levels deep.
func stagings(dir string) []string {
	var all []string
	for _, pattern := range []string{"/.sealfetch-*", "/*/.sealfetch-*", "/*/*/.sealfetch-*"} {
		found, _ := filepath.Glob(dir + pattern)
		all = append(all, found...)
	}
	return all
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// list describes everything below dir, one line an entry: mode, size of regular files, path.
func list(dir string) (lines []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		line := info.Mode().String() + " " + name
		if info.Mode().IsRegular() {
			line = fmt.Sprintf("%s %d %s", info.Mode(), info.Size(), name)
		}
		lines = append(lines, line)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return lines, err
}

// wantNothing demands that a destination is absent or empty, hidden entries included.
func wantNothing(t testing.TB, dir string) {
	t.Helper()
	if lines, err := list(dir); err != nil || len(lines) > 0 {
		t.Errorf("the destination %s holds %q (%v)", dir, lines, err)
	}
}

// files reads a tree.
func files(dir string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = string(data)
		return err
	})
	return all, err
}

// wantFiles demands that a tree holds exactly these files.
func wantFiles(t testing.TB, dir string, want map[string]string) {
	t.Helper()
	got, err := files(dir)
	if err != nil {
		t.Error(err)
		return
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s/%s: %d bytes that are not the %d wanted", dir, name, len(got[name]), len(want[name]))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s/%s is there and should not be", dir, name)
		}
	}
}
