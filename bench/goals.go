package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
)

// goal is a ratio that the project wants to keep. Ratios are between medians of one scenario of one run.
type goal struct {
	id, what string
	limit    float64
	atLeast  bool
	value    func(r *results) (ratio float64, detail string, ok bool)
}

// peersPlain are the programs that download without decrypting.
var peersPlain = []string{"rclone", "rclone-64", "manager", "manager-64", "manager-128", "transfermanager",
	"transfermanager-64", "kserve", "s5cmd"}

func wallOver(scenario, variant string, others ...string) func(*results) (float64, string, bool) {
	return func(r *results) (float64, string, bool) {
		ours := r.median(scenario, variant)
		name, theirs := r.fastest(scenario, others...)
		if ours == nil || theirs == nil {
			return 0, "", false
		}
		return ours.Wall / theirs.Wall, fmt.Sprintf("%.3f s against %.3f s of %s", ours.Wall, theirs.Wall, name), true
	}
}

func memoryOver(scenario, variant, other string) func(*results) (float64, string, bool) {
	return func(r *results) (float64, string, bool) {
		a, b := r.median(scenario, variant), r.median(scenario, other)
		if a == nil || b == nil {
			return 0, "", false
		}
		return a.AnonMiB / b.AnonMiB, fmt.Sprintf("%.0f MiB against %.0f MiB", a.AnonMiB, b.AnonMiB), true
	}
}

// cpuOver compares CPU time with the sum of others'.
func cpuOver(scenario, variant string, parts ...string) func(*results) (float64, string, bool) {
	return func(r *results) (float64, string, bool) {
		ours := r.median(scenario, variant)
		if ours == nil {
			return 0, "", false
		}
		var sum float64
		for _, part := range parts {
			p := r.median(scenario, part)
			if p == nil {
				return 0, "", false
			}
			sum += p.CPU
		}
		return ours.CPU / sum, fmt.Sprintf("%.3f s against %.3f s", ours.CPU, sum), true
	}
}

// absolute is a figure that is no ratio.
func absolute(scenario, variant, unit string, of func(figures) float64) func(*results) (float64, string, bool) {
	return func(r *results) (float64, string, bool) {
		f := r.median(scenario, variant)
		if f == nil {
			return 0, "", false
		}
		return of(*f), "in " + unit, true
	}
}

// linkShare is how much of a link's capacity a transfer used.
func linkShare(scenario, variant string, rate float64) func(*results) (float64, string, bool) {
	return func(r *results) (float64, string, bool) {
		f, s := r.median(scenario, variant), r.find(scenario)
		if f == nil {
			return 0, "", false
		}
		return float64(s.Bytes) / rate / f.Wall, fmt.Sprintf("%.2f s for %s", f.Wall, human(s.Bytes)), true
	}
}

func inverse(of func(*results) (float64, string, bool)) func(*results) (float64, string, bool) {
	return func(r *results) (float64, string, bool) {
		v, detail, ok := of(r)
		return 1 / v, detail, ok
	}
}

func anon(f figures) float64   { return f.AnonMiB }
func millis(f figures) float64 { return f.Wall * 1000 }

var goals = []goal{
	{"P1", "one core, wall, over s5cmd plain", 1.00, false,
		wallOver("one-core", "sealed", "s5cmd")},
	{"P2", "10 Gbit/s link, wall, over the fastest plain peer", 1.03, false,
		wallOver("link-10g", "sealed", peersPlain...)},
	{"P2", "one core HTTP, the same", 1.12, false,
		wallOver("one-core", "sealed", peersPlain...)},
	{"P2", "one core TLS, the same", 1.30, false,
		wallOver("one-core-tls", "sealed", peersPlain...)},
	{"P3", "CPU over receive + AES-GCM + write apart", 1.10, false,
		cpuOver("big", "sealed", "floor: receive", "floor: AES-GCM", "floor: write")},
	{"P3", "CPU over the same steps in a bare loop", 1.10, false,
		cpuOver("big", "sealed", "floor: bare loop")},
	{"P3", "the same on one core", 1.10, false,
		cpuOver("one-core", "sealed", "floor: bare loop")},
	{"floor", "one core HTTP, wall, a bare loop over the fastest plain peer", 1.12, false,
		wallOver("one-core", "floor: bare loop", peersPlain...)},
	{"P4", "one core, wall, over KServe's plain download", 0.40, false,
		wallOver("one-core", "sealed", "kserve")},
	{"P5", "wall over KServe's download + JWE decryption", 0.05, false,
		wallOver("jwe", "sealed", "kserve + jwe")},
	{"P5", "peak memory, the same", 0.01, false,
		memoryOver("jwe", "sealed", "kserve + jwe")},
	{"P6", "2,000 small files, wall, over the fastest plain peer", 0.50, false,
		wallOver("small", "sealed", peersPlain...)},
	{"P6", "with 40 ms to the first byte, peers with at most 64 connections", 0.10, false,
		wallOver("small-40ms", "sealed", "rclone", "manager", "transfermanager", "kserve", "rclone-64", "manager-64",
			"transfermanager-64")},
	{"P6", "with 40 ms to the first byte, peers with 128 and 256 as well", 0.10, false,
		wallOver("small-40ms", "sealed", peersPlain...)},
	{"P6", "a small request, CPU over bare net/http", 1.20, false,
		cpuOver("requests", "source", "floor: net/http")},
	{"P7", "peak RssAnon at 64 connections", 40, false,
		absolute("huge", "sealed-64", "MiB", anon)},
	{"P7", "cgroup peak beyond the model", 64, false,
		absolute("cgroup", "sealed-64", "MiB", anon)},
	{"P8", "90 MB/s connections, 40 ms, wall over the best fixed setting", 1.10, false,
		wallOver("capped", "sealed", "fixed-8", "fixed-16", "fixed-32", "fixed-64")},
	{"P9", "20 ms round trip, 1 Gbit/s, share of the link", 0.95, true,
		linkShare("rtt", "sealed", 125e6)},
	{"P9", "with the rate that 1 % loss allows, best fixed over sealed", 0.90, true,
		inverse(wallOver("rtt-loss", "sealed", "fixed-64", "fixed-128"))},
	{"P10", "exec to first request", 50, false,
		absolute("startup", "sealed", "ms", millis)},
	{"P11", "seal, CPU over read + AES-GCM + upload apart", 1.25, false,
		cpuOver("seal", "seal", "floor: read", "floor: AES-GCM", "floor: upload")},
	{"gate", "CPU of sealed over plain of the same engine", 1.45, false,
		cpuOver("gate", "sealed", "plain, same engine")},
}

func (g goal) met(v float64) bool {
	if g.atLeast {
		return v >= g.limit
	}
	return v <= g.limit
}

func (r *results) printGoals(out io.Writer) {
	fmt.Fprint(out, "\ngoals\n")
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, g := range goals {
		v, detail, ok := g.value(r)
		if !ok {
			continue
		}
		word, sign := "missed", "<="
		if g.met(v) {
			word = "met"
		}
		if g.atLeast {
			sign = ">="
		}
		fmt.Fprintf(w, "  %s\t%s\t%.3f\t%s %.2f\t%s\t%s\n", g.id, g.what, v, sign, g.limit, word, detail)
	}
	_ = w.Flush()
}

// verdict fails the gate, which is all that may fail a build.
func (b *bench) verdict() error {
	if !b.gate {
		return nil
	}
	for _, g := range goals {
		if g.id != "gate" {
			continue
		}
		v, _, ok := g.value(b.results)
		if !ok {
			return errors.New("the gate was not measured")
		}
		if !g.met(v) {
			return fmt.Errorf("sealed costs %.2f times the CPU of plain, more than %.2f", v, g.limit)
		}
	}
	return nil
}
