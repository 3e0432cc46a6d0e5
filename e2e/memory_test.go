//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"
)

// mostMemory bounds the resident memory of a load, whatever the model's size: 16 connections with a window of 256 KiB
// each, the SDK, TLS, and the Go runtime.
const mostMemory = 96 << 20

// TestPeakMemory loads models of several sizes (SEALFETCH_E2E_SIZES) and prints the peak of resident memory for each.
func TestPeakMemory(t *testing.T) {
	sizes := os.Getenv("SEALFETCH_E2E_SIZES")
	if sizes == "" {
		sizes = "64Mi 512Mi"
	}
	server := startS3(t)
	for size := range strings.FieldsSeq(sizes) {
		t.Run(size, func(t *testing.T) { testPeak(t, server, size) })
	}
}

func testPeak(t *testing.T, server s3Server, size string) {
	weights, err := parseSize(size)
	if err != nil {
		t.Fatal(err)
	}
	p := publish(t, server, "acme/"+size, weights)
	defer os.RemoveAll(server.object("acme/" + size))
	dir := memoryDir(t)
	o := must(t, server.env(), "init", "--trust-key", "jwk:"+p.kek, p.uri, dir)
	t.Logf("sealfetch init: %s", o.figures(p.size))
	if o.peak > mostMemory {
		t.Errorf("a model of %s took %d MiB, more than %d MiB", size, o.peak>>20, mostMemory>>20)
	}
	wantSame(t, dir, p.source)
}
