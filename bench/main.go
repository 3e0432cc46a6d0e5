package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	binary    string // sealfetch itself
	peers     string // directory with bin/ and venv/, as `make bench-peers` fills it
	work      string // data, on tmpfs
	out       string // JSON
	only      string // comma-separated scenarios; empty = the mode's
	full      bool
	gate      bool
	resume    bool
	rounds    int
	oneCore   bool
	keepNoise bool
	listOnly  bool
	limit     time.Duration
	profile   string
	docs      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, argv []string) error {
	if len(argv) > 0 {
		switch argv[0] {
		case "serve":
			return serve(ctx, argv[1:])
		case "child":
			return child(ctx, argv[1:])
		case "first-request":
			return firstRequest(ctx, argv[1:])
		case "cgroup":
			return inOwnCgroup(ctx, argv[1:])
		}
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.binary, "binary", "bin/sealfetch", "sealfetch `FILE` to measure")
	f.StringVar(&o.peers, "peers", "bench/peers", "`DIR` where make bench-peers built the peers")
	f.StringVar(&o.work, "work", "/dev/shm/sealfetch-bench", "`DIR` on tmpfs for data; 8 GiB, 18 GiB with -full")
	f.StringVar(&o.out, "out", "", "JSON `FILE`; default bench/results/MODE.json")
	f.StringVar(&o.only, "only", "", "`SCENARIOS` to run, separated by commas; see -list")
	f.BoolVar(&o.full, "full", false, "all scenarios at full size, about 40 minutes")
	f.BoolVar(&o.gate, "gate", false, "only the regression gate: CPU of sealed over plain of the same engine")
	f.BoolVar(&o.resume, "resume", false, "keep the scenarios that FILE already has")
	f.IntVar(&o.rounds, "rounds", 0, "rounds of each scenario; default the scenario's own")
	f.BoolVar(&o.oneCore, "one-core", false, "pin every client to one core and the server to another, in all scenarios")
	f.BoolVar(&o.keepNoise, "keep-noise", false, "keep runs that others disturbed, and do not wait for a quiet CPU")
	f.DurationVar(&o.limit, "limit", 33*time.Minute, "after half of this, disturbed runs are kept")
	f.StringVar(&o.profile, "profile", "", "only load a model a few times and write a CPU profile to `FILE`")
	f.StringVar(&o.docs, "docs", "", "only put the results that are there into the page `FILE`")
	f.BoolVar(&o.listOnly, "list", false, "list the scenarios")
	if err := f.Parse(argv); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer b.cleanUp()
	if b.docs != "" {
		return b.writeDocs(b.docs)
	}
	if b.profile != "" {
		return b.profileLoad(ctx)
	}
	return b.runAll(ctx)
}
