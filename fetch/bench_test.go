package fetch

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"
)

// endlessSource answers any range from one buffer, at once: what is left is the engine.
type endlessSource struct{ zeros []byte }

func (s endlessSource) Get(_ context.Context, r Range) (*Body, error) {
	return &Body{ReadCloser: io.NopCloser(io.LimitReader(repeating(s), r.Len)), Off: r.Off, Len: r.Len, Size: -1}, nil
}

func (endlessSource) Close() error   { return nil }
func (endlessSource) String() string { return "zeros" }

// repeating returns full reads that copy nothing.
type repeating struct{ zeros []byte }

func (repeating) Read(p []byte) (int, error) { return len(p), nil }

type nothing struct{}

func (nothing) Window(context.Context, int, int64, []byte) error { return nil }

// BenchmarkStreamWindow is the engine's own cost of a window, whatever its size: with 256 KiB, 4,096 of them a GiB.
func BenchmarkStreamWindow(b *testing.B) {
	const window = 4 << 10
	src := endlessSource{bytes.Repeat([]byte{0}, window)}
	size := int64(b.N) * window
	plan := Plan{Window: window, Objects: []Object{{Source: src, Name: "o", Size: size}}}
	for off := int64(0); off < size; off += 256 * window {
		plan.Parts = append(plan.Parts, Part{0, off, min(256*window, size-off)})
	}
	limits := Limits{Connections: 16, Start: 4, Retry: Retry{Attempts: 1, Stall: time.Minute}}
	b.ReportAllocs()
	b.ResetTimer()
	if err := Stream(b.Context(), plan, nothing{}, limits, new(Progress)); err != nil {
		b.Fatal(err)
	}
}
