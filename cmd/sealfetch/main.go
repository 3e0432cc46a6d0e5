// Command sealfetch loads encrypted models into a KServe predictor's memory, and publishes, inspects and tests them.
//
// Results go to standard output. Standard error takes the log (text on a terminal, JSON otherwise) and, after a failure,
// the cause and a hint as its last two lines, because KServe shows a log's tail. This package is the only one that reads
// the environment or exits.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

func main() {
	if err := secret.Harden(); err != nil {
		fmt.Fprintln(os.Stderr, "sealfetch:", err)
		os.Exit(exitInternal)
	}
	p := &program{stdout: os.Stdout, stderr: os.Stderr, env: takeEnvironment()}
	ctx, stop := untilSignal(context.Background())
	code := p.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// program is what a command is given of the process it runs in.
type program struct {
	stdout, stderr *os.File
	env            environment
	termination    string // file for the last two lines; empty = none
}

// command is one subcommand. It registers its flags on s and returns what runs after they are parsed.
type command struct {
	name    string
	args    string
	summary string
	setup   func(s *settings) runner
}

// runner does a command's work. Results go to out.
type runner func(ctx context.Context, args []string, out io.Writer) error

func commands() []command {
	return []command{
		{"init", "URI DIR [URI DIR]...", "load models into tmpfs, as KServe's storage initializer", setupInit},
		{"seal", "SRC DEST", "encrypt a directory and publish it", setupSeal},
		{"open", "URI DIR", "load a model into a directory, for a person at a terminal", setupOpen},
		{"inspect", "URI", "say what can be said of a model, with or without its key", setupInspect},
		{"verify", "URI", "authenticate every byte of a model, write nothing", setupVerify},
		{"rewrap", "URI", "give a published model new wraps of the same key; data is not touched", setupRewrap},
		{"keygen", "", "make a local key", setupKeygen},
		{"evidence", "", "collect evidence of this machine and print its claims", setupEvidence},
		{"verify-evidence", "FILE", "check an attestation document offline, under AWS's root", setupVerifyEvidence},
		{"doctor", "[URI]", "check identity, bucket, key and destination, each with its cure", setupDoctor},
		{"policy", "URI", "print the IAM policies that let a loader reach a model across accounts", setupPolicy},
		{"version", "", "version, commit, Go and FIPS state", setupVersion},
	}
}

// run executes one command line and returns the exit code.
func (p *program) run(ctx context.Context, argv []string) int {
	if len(argv) == 0 || argv[0] == "help" || argv[0] == "--help" || argv[0] == "-h" {
		return p.help(argv)
	}
	for _, c := range commands() {
		if c.name == argv[0] {
			return p.finish(ctx, p.execute(ctx, c, argv[1:]))
		}
	}
	return p.finish(ctx, fault.New(fault.Usage, "`sealfetch help` lists the commands", "%q is not a command", argv[0]))
}

func (p *program) execute(ctx context.Context, c command, argv []string) error {
	s := newSettings(c, p)
	run := c.setup(s)
	args, err := s.parse(argv)
	p.termination = s.terminationLog // a wrong configuration is told there, too
	if errors.Is(err, errHelp) {
		return s.printHelp(p.stdout)
	}
	if err != nil {
		return err
	}
	if err := s.startLogging(); err != nil {
		return err
	}
	return run(ctx, args, p.stdout)
}

// help prints the list of commands: on request to standard output, else as an error.
func (p *program) help(argv []string) int {
	out, code := p.stdout, exitOK
	if len(argv) == 0 {
		out, code = p.stderr, exitUsage
	}
	fmt.Fprint(out, "sealfetch loads encrypted models into memory and publishes them.\n\nUsage: sealfetch COMMAND [FLAGS] [ARGUMENTS]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(out, "  %-15s %-22s %s\n", c.name, c.args, c.summary)
	}
	fmt.Fprint(out, "\n`sealfetch COMMAND --help` lists a command's flags. Each flag --a-b is also the variable SEALFETCH_A_B.\n",
		"A model's URI is sealed+s3://bucket/prefix, sealed+file:///path or sealed+https://host/path, with the query\n",
		"version, min-version, mdk-id, include and exclude.\n")
	return code
}

// signalled is the cause of a context that a signal ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "stopped by signal: " + s.Signal.String() }

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. A second one kills the process as usual.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	received := make(chan os.Signal, 1)
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if s, ok := <-received; ok {
			signal.Stop(received)
			cancel(signalled{s.(syscall.Signal)})
		}
	}()
	return ctx, func() {
		signal.Stop(received)
		cancel(nil)
	}
}
