package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func sqrt(x float64) float64 { return math.Sqrt(x) }

// serverProcess is the S3 server of one scenario.
type serverProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
	ca    string // PEM file; empty = plain HTTP
}

func (s *serverProcess) pid() int { return s.cmd.Process.Pid }

func (s *serverProcess) stop() {
	_ = s.stdin.Close()
	_ = s.cmd.Wait()
}

// startServer starts the server child and waits until it says where it listens.
func (b *bench) startServer(s scenario) (*serverProcess, error) {
	argv := append([]string{b.self, "serve", "-root", filepath.Join(b.work, "s3")}, s.server...)
	p := &serverProcess{}
	if s.tls {
		p.ca = b.ca()
		argv = append(argv, "-tls", p.ca)
	}
	if s.onLink {
		argv = append(b.link.inside(), append(argv, "-addr", b.link.serverAddr())...)
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startOn(p.cmd, s.oneCore || b.oneCore, serverCore); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the server did not start: %w", err)
	}
	p.url = strings.TrimSpace(line)
	return p, nil
}

// firstRequest runs a command until it sends something to the S3 endpoint, which is this process.
func firstRequest(ctx context.Context, argv []string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL_S3=http://"+listener.Addr().String())
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return err
	}
	fmt.Printf(tookPrefix+"%.6f\n", time.Since(begun).Seconds())
	cancel()
	_ = cmd.Wait()
	return nil
}

// inOwnCgroup runs a command in a new memory cgroup and prints how much more than size was charged to it at its peak.
func inOwnCgroup(ctx context.Context, argv []string) error {
	size, err := strconv.ParseInt(argv[0], 10, 64)
	if err != nil {
		return err
	}
	dir, peakFile, err := newCgroup()
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	shell := []string{"-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, dir}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(shell, argv[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, peakFile))
	if err != nil {
		return err
	}
	peak, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return err
	}
	fmt.Printf("%s%.3f\n", beyondPrefix, float64(peak-size)/mib)
	return nil
}

// beyondPrefix comes before the MiB that a cgroup was charged beyond the model.
const beyondPrefix = "beyond "

func newCgroup() (dir, peakFile string, err error) {
	name := fmt.Sprintf("sealfetch-bench-%d", os.Getpid())
	for _, c := range []struct{ parent, peak string }{
		{"/sys/fs/cgroup/memory", "memory.max_usage_in_bytes"}, {"/sys/fs/cgroup", "memory.peak"},
	} {
		dir := filepath.Join(c.parent, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if exists(filepath.Join(dir, c.peak)) {
			return dir, c.peak, nil
		}
		_ = os.Remove(dir)
	}
	return "", "", errors.New("no memory cgroup can be made here: it takes root")
}

// mountHuge puts a tmpfs with huge pages in the destination's place. What the scenarios before it left is compacted
// first: a node that has just started has its memory in one piece.
func (b *bench) mountHuge(context.Context) error {
	if err := emptyDir(b.dst()); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0); err != nil {
		return fmt.Errorf("compacting memory takes root: %w", err)
	}
	if err := unix.Mount("tmpfs", b.dst(), "tmpfs", 0, "huge=within_size"); err != nil {
		return fmt.Errorf("mounting a tmpfs takes root: %w", err)
	}
	return nil
}

func (b *bench) unmount() {
	if err := unix.Unmount(b.dst(), 0); err != nil {
		b.say("unmounting %s: %v", b.dst(), err)
	}
}
