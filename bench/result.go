package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// scenarioResult is what came out of one scenario.
type scenarioResult struct {
	Name     string          `json:"name"`
	Title    string          `json:"title"`
	Begun    time.Time       `json:"begun"`
	Binary   string          `json:"binary"` // digest of the sealfetch that was measured
	Bytes    int64           `json:"bytes"`
	Variants []variantResult `json:"variants"`
	Missing  []string        `json:"missing,omitempty"` // peers that are not built
	Failed   string          `json:"failed,omitempty"`
}

type variantResult struct {
	Name    string   `json:"name"`
	Median  figures  `json:"median"`
	Least   figures  `json:"minimum"`
	Most    figures  `json:"maximum"`
	Samples []sample `json:"samples"`
}

// figures are seconds, and MiB.
type figures struct {
	Wall      float64 `json:"wall_s"`
	CPU       float64 `json:"cpu_s"`
	ServerCPU float64 `json:"server_cpu_s"`
	AnonMiB   float64 `json:"anon_mib"`
}

func (r *scenarioResult) add(variant string, s sample) {
	for i := range r.Variants {
		if r.Variants[i].Name == variant {
			r.Variants[i].Samples = append(r.Variants[i].Samples, s)
			return
		}
	}
	r.Variants = append(r.Variants, variantResult{Name: variant, Samples: []sample{s}})
}

// summarize leaves disturbed samples out where at least two others are left.
func (r *scenarioResult) summarize() {
	for i := range r.Variants {
		v := &r.Variants[i]
		used := slices.DeleteFunc(slices.Clone(v.Samples), func(s sample) bool { return s.Disturbed })
		if len(used) < min(2, len(v.Samples)) {
			used = v.Samples
		}
		pick := func(of func(sample) float64) (median, least, most float64) {
			values := make([]float64, len(used))
			for i, s := range used {
				values[i] = of(s)
			}
			slices.Sort(values)
			n := len(values)
			return (values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]
		}
		v.Median.Wall, v.Least.Wall, v.Most.Wall = pick(func(s sample) float64 { return s.Wall })
		v.Median.CPU, v.Least.CPU, v.Most.CPU = pick(func(s sample) float64 { return s.CPU })
		v.Median.ServerCPU, v.Least.ServerCPU, v.Most.ServerCPU = pick(func(s sample) float64 { return s.ServerCPU })
		v.Median.AnonMiB, v.Least.AnonMiB, v.Most.AnonMiB = pick(func(s sample) float64 { return s.AnonMiB })
	}
}

// median returns a variant's figures, nil where it was not run.
func (r *results) median(scenario, variant string) *figures {
	s := r.find(scenario)
	if s == nil {
		return nil
	}
	for i := range s.Variants {
		if s.Variants[i].Name == variant {
			return &s.Variants[i].Median
		}
	}
	return nil
}

// fastest returns the least median wall time of some variants.
func (r *results) fastest(scenario string, variants ...string) (name string, f *figures) {
	for _, v := range variants {
		if m := r.median(scenario, v); m != nil && (f == nil || m.Wall < f.Wall) {
			name, f = v, m
		}
	}
	return name, f
}

func (r *results) print(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "\n%d cores of %s, %s, Linux %s, %s, commit %s\n", m.Cores, m.CPU, m.Memory, m.Kernel, m.Go, m.Commit)
	for _, s := range r.Scenarios {
		fmt.Fprintf(out, "\n%s: %s\n", s.Name, s.Title)
		if s.Failed != "" {
			fmt.Fprintf(out, "  failed: %s\n", s.Failed)
			continue
		}
		gib := float64(s.Bytes) / (1 << 30)
		w := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "\tvariant\twall s\tmin\tmax\tCPU s\tmin\tserver CPU s\twall s/GiB\tCPU s/GiB\tanon MiB\truns\t")
		for _, v := range s.Variants {
			m := v.Median
			fmt.Fprintf(w, "\t%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.0f\t%d\t\n",
				v.Name, m.Wall, v.Least.Wall, v.Most.Wall, m.CPU, v.Least.CPU, m.ServerCPU, m.Wall/gib, m.CPU/gib,
				m.AnonMiB, len(v.Samples))
		}
		_ = w.Flush()
		if len(s.Missing) > 0 {
			fmt.Fprintf(out, "  not built (make bench-peers): %s\n", strings.Join(s.Missing, ", "))
		}
	}
	r.printGoals(out)
}
