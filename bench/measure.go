package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one run of one variant.
type sample struct {
	Wall      float64 `json:"wall_s"`
	CPU       float64 `json:"cpu_s"` // user and system
	User      float64 `json:"user_s"`
	Sys       float64 `json:"sys_s"`
	ServerCPU float64 `json:"server_cpu_s"`
	AnonMiB   float64 `json:"anon_mib"` // peak RssAnon over the process and its children
	Foreign   float64 `json:"foreign"`  // share of the machine's CPU time that neither client nor server used
	Disturbed bool    `json:"disturbed,omitempty"`
	Took      float64 `json:"inner_s,omitempty"` // what a child measured by itself, without its start
}

// clientCore and serverCore are the cores with -one-core.
const (
	clientCore = 0
	serverCore = 1
	// mostForeign is the share of the machine's CPU time beyond which a run counts as disturbed.
	mostForeign = 0.06
	pollEvery   = 20 * time.Millisecond
)

// measure runs a command to its end.
func (b *bench) measure(ctx context.Context, cmd *exec.Cmd, oneCore bool, serverPID int) (s sample, err error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	busyBefore, serverBefore := machineBusy(), processCPU(serverPID)
	begun := time.Now()
	if err := startOn(cmd, oneCore, clientCore); err != nil {
		return s, err
	}
	stop, peak := make(chan struct{}), make(chan float64)
	go func() { peak <- pollAnon(cmd.Process.Pid, stop) }()
	err = cmd.Wait()
	s.Wall = time.Since(begun).Seconds()
	busy, server := machineBusy()-busyBefore, processCPU(serverPID)-serverBefore
	close(stop)
	s.AnonMiB = <-peak
	s.User, s.Sys = cmd.ProcessState.UserTime().Seconds(), cmd.ProcessState.SystemTime().Seconds()
	s.CPU, s.ServerCPU = s.User+s.Sys, server
	s.Foreign = max(0, busy-s.CPU-server) / (s.Wall * float64(runtime.NumCPU()))
	s.Disturbed = s.Foreign > mostForeign
	s.Took = printed(out.String(), tookPrefix)
	if beyond := printed(out.String(), beyondPrefix); beyond > 0 {
		s.AnonMiB = beyond
	}
	if ctx.Err() != nil {
		return s, context.Cause(ctx)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, tail(out.String(), 1500))
	}
	return s, nil
}

// printed returns the number that a child printed behind a prefix.
func printed(output, prefix string) float64 {
	i := strings.LastIndex(output, prefix)
	if i < 0 {
		return 0
	}
	rest, _, _ := strings.Cut(output[i+len(prefix):], "\n")
	v, _ := strconv.ParseFloat(strings.TrimSpace(rest), 64)
	return v
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// startOn starts a command, on one core if asked: a child inherits the affinity of the thread that starts it.
func startOn(cmd *exec.Cmd, pin bool, core int) error {
	if !pin {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	one.Set(core)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	return cmd.Start()
}

// pollAnon returns the peak of RssAnon of a process and its descendants in MiB.
func pollAnon(pid int, stop <-chan struct{}) float64 {
	var peak float64
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		peak = max(peak, anonTree(pid))
		select {
		case <-stop:
			return peak
		case <-tick.C:
		}
	}
}

func anonTree(pid int) float64 {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0
	}
	var total float64
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			total += kib / 1024
		}
	}
	children, _ := filepath.Glob(filepath.Join(proc, "task", "*", "children"))
	for _, path := range children {
		list, _ := os.ReadFile(path)
		for field := range strings.FieldsSeq(string(list)) {
			if child, err := strconv.Atoi(field); err == nil {
				total += anonTree(child)
			}
		}
	}
	return total
}

// ticks is the kernel's USER_HZ, which is 100 on every Linux port that Go knows.
const ticks = 100

// machineBusy returns the CPU seconds that all cores have worked, those stolen by the host among them, but not those of
// interrupts: on loopback they are the transfer's own, and belong to no process.
func machineBusy() float64 {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var busy float64
	for i, field := range strings.Fields(line)[1:] {
		if v, err := strconv.ParseFloat(field, 64); err == nil && (i < 3 || i == 7) { // user, nice, system, steal
			busy += v
		}
	}
	return busy / ticks
}

// processCPU returns the CPU seconds of a running process.
func processCPU(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}

var errNeverQuiet = errors.New("the machine did not get quiet")

// waitQuiet waits until the machine has been idle for a moment. It gives up after a while: the run is then judged by
// what disturbed it.
func (b *bench) waitQuiet(ctx context.Context) error {
	if b.impatient() {
		return nil
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		before := machineBusy()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
		if machineBusy()-before < 0.1*0.2*float64(runtime.NumCPU())+1.0/ticks {
			return nil
		}
	}
	return errNeverQuiet
}
