package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bench is one run of the program.
type bench struct {
	options
	self    string // this program, for children
	results *results
	current string // dataset that is in place
	link    *link
	begun   time.Time
}

func newBench(o options) (*bench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return nil, err
	}
	if _, err := os.Stat(o.binary); err != nil && !o.listOnly && o.docs == "" {
		return nil, fmt.Errorf("sealfetch is not built: %w", err)
	}
	if o.peers, err = filepath.Abs(o.peers); err != nil {
		return nil, err
	}
	b := &bench{options: o, self: self, begun: time.Now()}
	if b.out == "" {
		b.out = filepath.Join("bench", "results", b.mode()+".json")
	}
	if b.results, err = b.loadResults(); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bench) mode() string {
	switch {
	case b.gate:
		return "gate"
	case b.full:
		return "full"
	}
	return "quick"
}

func (b *bench) dst() string { return filepath.Join(b.work, "dst") }

func (b *bench) ca() string { return filepath.Join(b.work, "ca.pem") }

func (b *bench) cleanUp() {
	if b.link != nil {
		b.link.remove()
	}
	if err := os.RemoveAll(b.work); err != nil {
		b.say("%v", err)
	}
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (b *bench) runAll(ctx context.Context) error {
	all := b.scenarios()
	if b.listOnly {
		for _, s := range all {
			fmt.Printf("%-12s %s\n", s.name, s.title)
		}
		return nil
	}
	for _, s := range all {
		if b.only != "" && !slices.Contains(strings.Split(b.only, ","), s.name) {
			continue
		}
		if b.resume && b.results.has(s.name) {
			b.say("%s: have it", s.name)
			continue
		}
		if err := b.scenario(ctx, s); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b.say("%s: %v", s.name, err)
			b.results.put(scenarioResult{Name: s.name, Title: s.title, Failed: err.Error()})
		}
		if err := b.results.save(b.out); err != nil {
			return err
		}
	}
	b.results.print(os.Stdout)
	b.say("kept in %s", b.out)
	return b.verdict()
}

// scenario runs all variants in each of its rounds.
func (b *bench) scenario(ctx context.Context, s scenario) error {
	if s.setUp != nil {
		if err := s.setUp(); err != nil {
			return err
		}
	}
	if err := b.prepare(ctx, s.data); err != nil {
		return err
	}
	if s.afterData != nil {
		if err := s.afterData(ctx); err != nil {
			return err
		}
	}
	server, err := b.startServer(s)
	if err != nil {
		return err
	}
	defer server.stop()
	if s.tearDown != nil {
		defer s.tearDown()
	}
	r := scenarioResult{Name: s.name, Title: s.title, Bytes: s.data.bytes(), Binary: b.results.binary,
		Begun: time.Now().UTC().Truncate(time.Second)}
	rounds := s.rounds
	if b.rounds > 0 {
		rounds = b.rounds
	}
	variants := slices.DeleteFunc(s.variants, func(v variant) bool {
		missing := v.needs != "" && !exists(v.needs)
		if missing {
			r.Missing = append(r.Missing, v.name)
		}
		return missing
	})
	for round := range rounds {
		for _, v := range variants {
			sample, err := b.undisturbed(ctx, s, v, server, round == 0)
			if err != nil {
				return err
			}
			r.add(v.name, sample)
			b.say("%-12s %d/%d %-22s wall %7.3f  cpu %7.3f  server %6.3f  anon %6.1f MiB%s", s.name, round+1, rounds, v.name,
				sample.Wall, sample.CPU, sample.ServerCPU, sample.AnonMiB, note(sample))
		}
	}
	r.summarize()
	b.results.put(r)
	return nil
}

func note(s sample) string {
	if !s.Disturbed {
		return ""
	}
	return fmt.Sprintf("  (disturbed: %.0f %%)", 100*s.Foreign)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// undisturbed runs a variant until nobody else used the machine meanwhile, three times at most.
func (b *bench) undisturbed(ctx context.Context, s scenario, v variant, server *serverProcess,
	check bool) (best sample, err error) {
	for try := range 3 {
		quiet := b.waitQuiet(ctx)
		if quiet != nil && !errors.Is(quiet, errNeverQuiet) {
			return best, quiet
		}
		got, err := b.once(ctx, s, v, server, check)
		if err != nil {
			return best, fmt.Errorf("%s: %w", v.name, err)
		}
		if try == 0 || got.Foreign < best.Foreign {
			best = got
		}
		if !best.Disturbed || b.impatient() {
			break
		}
	}
	return best, nil
}

// impatient reports whether disturbed runs are taken as they are: the whole must end some time.
func (b *bench) impatient() bool { return b.keepNoise || time.Since(b.begun) > b.limit/2 }

// once empties the destination, runs a variant and, in the first round, compares what came out.
func (b *bench) once(ctx context.Context, s scenario, v variant, server *serverProcess,
	check bool) (total sample, err error) {
	if err := emptyDir(b.dst()); err != nil {
		return total, err
	}
	for i, step := range v.steps(server) {
		if v.between != nil && i > 0 {
			if err := v.between(); err != nil {
				return total, err
			}
		}
		cmd := exec.CommandContext(ctx, step.argv[0], step.argv[1:]...)
		cmd.Env = append(baseEnv(), step.env...)
		got, err := b.measure(ctx, cmd, s.oneCore || b.oneCore, server.pid())
		if err != nil {
			return total, err
		}
		if s.name == "startup" { // the helper's own start is not sealfetch's
			got.Wall = got.Took
		}
		total.add(got)
	}
	if check && v.output {
		return total, b.compare(s.data)
	}
	return total, emptyDir(b.dst())
}

// add joins the steps of one variant.
func (s *sample) add(t sample) {
	s.Wall, s.CPU, s.User, s.Sys = s.Wall+t.Wall, s.CPU+t.CPU, s.User+t.User, s.Sys+t.Sys
	s.ServerCPU, s.Took = s.ServerCPU+t.ServerCPU, s.Took+t.Took
	s.AnonMiB, s.Foreign = max(s.AnonMiB, t.AnonMiB), max(s.Foreign, t.Foreign)
	s.Disturbed = s.Disturbed || t.Disturbed
}

// baseEnv is what every child gets of the environment.
func baseEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "LANG=C.UTF-8",
		"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_EC2_METADATA_DISABLED=true"}
}

// emptyDir leaves the directory itself: it may be a mount.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return os.MkdirAll(dir, 0o755)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// results are what is kept of all scenarios.
type results struct {
	Machine   machine          `json:"machine"`
	Scenarios []scenarioResult `json:"scenarios"`
	binary    string           // digest of the sealfetch that is measured
}

// recent is how old a result may be that a resumed run keeps.
const recent = 6 * time.Hour

// has reports whether a scenario was measured not long ago, with the same binary.
func (r *results) has(name string) bool {
	s := r.find(name)
	return s != nil && s.Binary == r.binary && time.Since(s.Begun) < recent
}

type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Commit string `json:"commit"`
}

func digest(path string) string {
	data, _ := os.ReadFile(path)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

func describeMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: field("/proc/cpuinfo", "model name"),
		Memory: field("/proc/meminfo", "MemTotal")}
	version, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(version))
	commit, _ := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	m.Commit = strings.TrimSpace(string(commit))
	return m
}

func field(path, name string) string {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (b *bench) loadResults() (*results, error) {
	r := &results{}
	data, err := os.ReadFile(b.out)
	if err == nil && b.docs != "" { // as it was, with the machine it was on
		return r, json.Unmarshal(data, r)
	}
	if err == nil && (b.resume || b.only != "") {
		if err := json.Unmarshal(data, r); err != nil {
			return nil, fmt.Errorf("%s: %w", b.out, err)
		}
		r.Scenarios = slices.DeleteFunc(r.Scenarios, func(s scenarioResult) bool { return s.Failed != "" })
	}
	r.Machine = describeMachine()
	r.binary = digest(b.binary)
	return r, nil
}

func (r *results) find(name string) *scenarioResult {
	for i := range r.Scenarios {
		if r.Scenarios[i].Name == name {
			return &r.Scenarios[i]
		}
	}
	return nil
}

func (r *results) put(s scenarioResult) {
	if old := r.find(s.Name); old != nil {
		*old = s
		return
	}
	r.Scenarios = append(r.Scenarios, s)
}

func (r *results) save(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
