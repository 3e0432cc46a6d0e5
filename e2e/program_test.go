//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is the release binary, built once for all tests.
var program string

func TestMain(m *testing.M) {
	if program := os.Getenv(measureEnv); program != "" {
		os.Exit(measure(program))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sealfetch-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "sealfetch")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "../cmd/sealfetch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building sealfetch: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// outcome is what a finished process leaves behind. Times and memory are the kernel's own, from wait4(2).
type outcome struct {
	code           int
	stdout, stderr string
	wall           time.Duration
	user, sys      time.Duration
	peak           int64 // resident memory in bytes; the pages of a tmpfs are not among it
}

// sealfetch runs the binary with exactly this environment.
//
// A process begins with its parent's peak of memory (exec(2) keeps the maximum), and this one's grows with the models
// that it makes. So the binary is the child of a fresh process, which measures it.
func sealfetch(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	report, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer report.Close()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(self, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = append([]string{measureEnv + "=" + program}, env...), &stdout, &stderr, []*os.File{w}
	err = cmd.Run()
	w.Close()
	o := outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if _, scanErr := fmt.Fscan(report, &o.wall, &o.user, &o.sys, &o.peak); scanErr != nil {
		t.Fatalf("sealfetch %s: %v, %v: %s", strings.Join(args, " "), err, scanErr, o.stderr)
	}
	return o
}

// measureEnv has this test binary run the program that it names, and report on descriptor 3.
const measureEnv = "E2E_MEASURE"

func measure(program string) int {
	if err := os.Unsetenv(measureEnv); err != nil {
		return 1
	}
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	begun := time.Now()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	state, usage := cmd.ProcessState, cmd.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Fprintln(os.NewFile(3, "report"), int64(time.Since(begun)), int64(state.UserTime()), int64(state.SystemTime()), usage.Maxrss<<10)
	return state.ExitCode()
}

// must runs the binary and wants exit code 0.
func must(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	o := sealfetch(t, env, args...)
	if o.code != 0 {
		t.Fatalf("sealfetch %s: exit code %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o
}

// refused runs the binary and wants an exit code, and words in its last lines.
func refused(t *testing.T, env []string, code int, words string, args ...string) outcome {
	t.Helper()
	o := sealfetch(t, env, args...)
	if o.code != code || !strings.Contains(o.lastLines(), words) {
		t.Errorf("sealfetch %s: exit code %d, want %d with %q\n%s", strings.Join(args, " "), o.code, code, words, o.stderr)
	}
	return o
}

// lastLines are those that KServe shows: the cause and the hint.
func (o outcome) lastLines() string {
	lines := strings.SplitAfter(strings.TrimRight(o.stderr, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-2):], "")
}

// figures is one line for a report.
func (o outcome) figures(bytes int64) string {
	return fmt.Sprintf("%d MiB: wall %.2f s, CPU %.2f s (user %.2f, sys %.2f), peak RSS %.1f MiB, %.0f MiB/s",
		bytes>>20, o.wall.Seconds(), (o.user + o.sys).Seconds(), o.user.Seconds(), o.sys.Seconds(),
		float64(o.peak)/(1<<20), float64(bytes)/(1<<20)/o.wall.Seconds())
}
