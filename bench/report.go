package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// The page on performance holds the results between two markers.
const (
	beginMarker = "<!-- figures: made by make bench-docs -->\n"
	endMarker   = "<!-- end of figures -->\n"
)

// writeDocs puts the kept results into a page.
func (b *bench) writeDocs(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(page, []byte(beginMarker))
	_, after, ok2 := bytes.Cut(rest, []byte(endMarker))
	if !ok || !ok2 {
		return fmt.Errorf("%s has no markers for figures", path)
	}
	if len(b.results.Scenarios) == 0 {
		return errors.New("there are no results: make bench-full")
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(beginMarker)
	b.results.markdown(&out)
	out.WriteString(endMarker)
	out.Write(after)
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func (r *results) markdown(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "\n%d cores of %s, %s of memory, Linux %s, %s, commit %s. Client and server share them.\n\n",
		m.Cores, m.CPU, m.Memory, m.Kernel, m.Go, m.Commit)
	fmt.Fprint(out, "| | Goal | Limit | Measured |\n|---|---|---|---|\n")
	for _, g := range goals {
		v, detail, ok := g.value(r)
		if g.id == "gate" {
			continue
		}
		sign, word := "≤", "missed"
		if g.atLeast {
			sign = "≥"
		}
		if g.met(v) {
			word = "met"
		}
		measured := fmt.Sprintf("**%s**, %s: %s", ratio(v), word, detail)
		if !ok {
			measured = "not measured: a peer was missing"
		}
		fmt.Fprintf(out, "| %s | %s | %s %.2f | %s |\n", g.id, g.what, sign, g.limit, measured)
	}
	for _, s := range r.Scenarios {
		s.markdown(out)
	}
	fmt.Fprintln(out)
}

// ratio shows two digits that count, also of the small.
func ratio(v float64) string {
	if v < 0.1 {
		return fmt.Sprintf("%.2g", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (s scenarioResult) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n**%s**: %s\n\n", s.Name, s.Title)
	if s.Failed != "" {
		fmt.Fprintf(out, "failed: %s\n", strings.ReplaceAll(s.Failed, "\n", " "))
		return
	}
	fmt.Fprint(out, "| | wall s | spread | CPU s | CPU s/GiB | server CPU s | anon MiB | runs, disturbed |\n"+
		"|---|---|---|---|---|---|---|---|\n")
	for _, v := range s.Variants {
		disturbed := 0
		for _, sample := range v.Samples {
			if sample.Disturbed {
				disturbed++
			}
		}
		fmt.Fprintf(out, "| %s | %.3f | %.3f to %.3f | %.3f | %.3f | %.2f | %.0f | %d, %d |\n", v.Name, v.Median.Wall, v.Least.Wall,
			v.Most.Wall, v.Median.CPU, v.Median.CPU/(float64(s.Bytes)/gib), v.Median.ServerCPU, v.Median.AnonMiB, len(v.Samples), disturbed)
	}
}
