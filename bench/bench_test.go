package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMediansLeaveDisturbedRunsOut(t *testing.T) {
	r := scenarioResult{Name: "s"}
	samples := []sample{{Wall: 3, CPU: 1}, {Wall: 90, CPU: 90, Disturbed: true}, {Wall: 1, CPU: 3}, {Wall: 2, CPU: 2}}
	for _, s := range samples {
		r.add("a", s)
	}
	r.add("b", sample{Wall: 5, Disturbed: true}) // all it has
	r.summarize()
	a, b := r.Variants[0], r.Variants[1]
	if a.Median.Wall != 2 || a.Least.Wall != 1 || a.Most.Wall != 3 || a.Median.CPU != 2 {
		t.Errorf("%+v", a)
	}
	if b.Median.Wall != 5 {
		t.Errorf("%+v", b)
	}
}

func TestGoalsCompareWithTheFastestPeer(t *testing.T) {
	r := &results{Scenarios: []scenarioResult{{Name: "s", Bytes: 100, Variants: []variantResult{
		{Name: "sealed", Median: figures{Wall: 3, CPU: 8}},
		{Name: "rclone", Median: figures{Wall: 4, CPU: 1}}, {Name: "manager", Median: figures{Wall: 2, CPU: 3}}}}}}
	v, detail, ok := wallOver("s", "sealed", peersPlain...)(r)
	if v != 1.5 || !ok || !strings.Contains(detail, "manager") {
		t.Error(v, detail, ok)
	}
	if v, _, ok := cpuOver("s", "sealed", "rclone", "manager")(r); v != 2 || !ok {
		t.Error(v, ok)
	}
	if v, _, ok := linkShare("s", "sealed", 50)(r); v != 100.0/50/3 || !ok {
		t.Error(v, ok)
	}
	if _, _, ok := cpuOver("s", "sealed", "rclone", "s5cmd")(r); ok {
		t.Error("a sum without one of its parts")
	}
	if _, _, ok := wallOver("other", "sealed", "rclone")(r); ok {
		t.Error("a ratio of what was not run")
	}
}

func TestServerServesRangesAndLists(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "b", "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "b", "p", "x"), []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(&server{root: root})
	defer web.Close()
	for _, c := range []struct{ path, byteRange, want string }{
		{"/b/p/x", "bytes=2-4", "234"},
		{"/b/p/x", "", "0123456789"},
		{"/b/p/y", "", "NoSuchKey"},
		{"/b?list-type=2&prefix=p/", "", "<Key>p/x</Key><Size>10</Size>"},
		{"/b?prefix=q/", "", "<KeyCount>0</KeyCount>"},
	} {
		req, _ := http.NewRequest(http.MethodGet, web.URL+c.path, nil)
		req.Header.Set("Range", c.byteRange)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(body), c.want) {
			t.Errorf("%s: %q", c.path, body)
		}
	}
}

// TestPaceIsKept sends in a bubble, in which time is exact.
func TestPaceIsKept(t *testing.T) {
	for _, c := range []struct {
		name        string
		pace        *pace
		connections int
		bytes       int64 // of each connection
		least, most time.Duration
	}{
		{"one connection's rate", &pace{connRate: 1e6}, 1, 2e6, 1900 * time.Millisecond, 2100 * time.Millisecond},
		{"each connection's rate", &pace{connRate: 1e6}, 4, 2e6, 1900 * time.Millisecond, 2100 * time.Millisecond},
		{"the link's rate", &pace{linkRate: 10e6}, 4, 5e6, 1900 * time.Millisecond, 2100 * time.Millisecond},
		{"slow start", &pace{rtt: 20 * time.Millisecond}, 1, 10 * 1460 * 15, 60 * time.Millisecond, 80 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, done := time.Now(), make(chan struct{})
				for range c.connections {
					go func() {
						conn := &connPace{}
						for left := c.bytes; left > 0; {
							left -= c.pace.wait(conn, left)
						}
						done <- struct{}{}
					}()
				}
				for range c.connections {
					<-done
				}
				if took := time.Since(begun); took < c.least || took > c.most {
					t.Errorf("%d bytes took %v", c.bytes, took)
				}
			})
		})
	}
}
