package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// startLogging makes the logger that the settings ask for.
func (s *settings) startLogging() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return fault.New(fault.Usage, "debug, info, warn and error are known", "--log-level %q is unknown", s.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch format := s.logFormat; {
	case format == "json", format == "auto" && !isTerminal(s.program.stderr):
		s.log = slog.New(slog.NewJSONHandler(s.program.stderr, options))
	case format == "text", format == "auto":
		s.log = slog.New(slog.NewTextHandler(s.program.stderr, options))
	default:
		return fault.New(fault.Usage, "auto, text and json are known", "--log-format %q is unknown", format)
	}
	s.audit = audit.New(s.log)
	return nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// Progress is one record each 10 seconds, and a bar only on a terminal.
const (
	recordEvery = 10 * time.Second
	barEvery    = 200 * time.Millisecond
	barWidth    = 30
)

// counts is a reading of a progress.
type counts struct{ bytesDone, bytesTotal, filesDone, filesTotal int64 }

// report follows a progress until the returned function is called.
func (s *settings) report(read func() counts) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.follow(read, done) })
	return func() {
		close(done)
		wg.Wait()
	}
}

func (s *settings) follow(read func() counts, done <-chan struct{}) {
	terminal := isTerminal(s.program.stderr)
	every := recordEvery
	if terminal {
		every = barEvery
		defer fmt.Fprint(s.program.stderr, "\r\x1b[K")
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, since := int64(0), time.Now()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			c := read()
			rate := float64(c.bytesDone-last) / now.Sub(since).Seconds()
			last, since = c.bytesDone, now
			if terminal {
				drawBar(s.program.stderr, c, rate)
				continue
			}
			s.log.Info("progress", "bytes_done", c.bytesDone, "bytes_total", c.bytesTotal,
				"files_done", c.filesDone, "files_total", c.filesTotal, "rate", int64(rate))
		}
	}
}

func drawBar(w io.Writer, c counts, rate float64) {
	filled := 0
	if c.bytesTotal > 0 {
		filled = int(c.bytesDone * barWidth / c.bytesTotal)
	}
	fmt.Fprintf(w, "\r\x1b[K[%s%s] %d of %d MiB, %.0f MiB/s", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled),
		c.bytesDone>>20, c.bytesTotal>>20, rate/(1<<20))
}
