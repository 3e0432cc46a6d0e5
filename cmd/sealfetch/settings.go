package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// errHelp says that --help was given.
var errHelp = errors.New("help")

// settings is one command's configuration: flag over environment over default, checked once.
type settings struct {
	program *program
	command command
	flags   *flag.FlagSet
	log     *slog.Logger
	audit   *audit.Log

	reading     readSettings
	store       storeSettings
	destination destinationSettings

	logLevel, logFormat string
	terminationLog      string

	scope []scoped // the models of this command, for the session policy
	identityOnce
}

func newSettings(c command, p *program) *settings {
	s := &settings{program: p, command: c, flags: flag.NewFlagSet(c.name, flag.ContinueOnError)}
	s.flags.SetOutput(io.Discard) // errors are printed once, by finish
	s.flags.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error; audit records are always written")
	s.flags.StringVar(&s.logFormat, "log-format", "auto", "text, json, or auto: text on a terminal, else json")
	return s
}

// parse reads flags, wherever they stand among the arguments, then the environment.
func (s *settings) parse(argv []string) (args []string, err error) {
	for len(argv) > 0 {
		if err := s.flags.Parse(argv); err != nil {
			return nil, s.flagError(err)
		}
		rest := s.flags.Args()
		if terminated := len(rest) < len(argv) && argv[len(argv)-len(rest)-1] == "--"; terminated {
			args, rest = append(args, rest...), nil
		}
		if len(rest) == 0 {
			break
		}
		args, argv = append(args, rest[0]), rest[1:]
	}
	return args, s.fromEnvironment()
}

func (s *settings) flagError(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return errHelp
	}
	return fault.New(fault.Usage, "`sealfetch "+s.command.name+" --help` lists the flags", "%w", err)
}

// fromEnvironment sets the flags that the command line did not.
func (s *settings) fromEnvironment() (err error) {
	if err := s.program.env.checkNames(knownNames(s.program)); err != nil {
		return err
	}
	if err := s.program.env.applyStorageSpec(); err != nil {
		return err
	}
	given := map[string]bool{}
	s.flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	s.flags.VisitAll(func(f *flag.Flag) {
		value, name, ok := s.program.env.lookup(f.Name)
		if err != nil || given[f.Name] || !ok {
			return
		}
		if !strings.HasPrefix(name, envPrefix) {
			value = foreignValue(name, value)
		}
		if setErr := setAll(f, value); setErr != nil {
			err = fault.New(fault.Usage, "correct the variable", "%s: %w", name, setErr)
		}
	})
	return err
}

// foreignValue turns AWS's and KServe's notations into a flag's: durations in bare seconds, and booleans that are true
// for one word and false for anything else.
func foreignValue(name, value string) string {
	switch name {
	case "S3_CONNECT_TIMEOUT", "S3_READ_TIMEOUT":
		return value + "s"
	case "S3_VERIFY_SSL":
		return strconv.FormatBool(value != "0" && !strings.EqualFold(value, "false"))
	case "S3_USER_VIRTUAL_BUCKET", "S3_USE_ACCELERATE", "awsAnonymousCredential", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT":
		return strconv.FormatBool(strings.EqualFold(value, "true"))
	}
	return value
}

// setAll sets a flag. A repeatable one takes several values, on lines of their own or separated by commas.
func setAll(f *flag.Flag, value string) error {
	if _, repeatable := f.Value.(*list); !repeatable {
		return f.Value.Set(value)
	}
	for item := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == '\n' }) {
		if err := f.Value.Set(strings.TrimSpace(item)); err != nil {
			return err
		}
	}
	return nil
}

// knownNames are the variables of all flags of all commands: a pod's environment may serve several.
func knownNames(p *program) map[string]bool {
	known := map[string]bool{}
	for _, c := range commands() {
		s := newSettings(c, p)
		c.setup(s)
		s.flags.VisitAll(func(f *flag.Flag) { known[envName(f.Name)] = true })
	}
	for _, name := range contents {
		known[name] = true
	}
	return known
}

// printHelp writes the command's usage.
func (s *settings) printHelp(w io.Writer) error {
	fmt.Fprintf(w, "sealfetch %s: %s\n\nUsage: sealfetch %s [FLAGS] %s\n\n", s.command.name, s.command.summary, s.command.name, s.command.args)
	s.flags.VisitAll(func(f *flag.Flag) {
		kind, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  --%s %s\n        %s", f.Name, kind, usage)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			fmt.Fprintf(w, " (default %s)", f.DefValue)
		}
		fmt.Fprintf(w, " [%s]\n", strings.Join(append([]string{envName(f.Name)}, aliases[f.Name]...), ", "))
	})
	return nil
}

// list is a repeatable flag.
type list []string

func (l *list) String() string { return "" }

// Set appends.
func (l *list) Set(value string) error {
	if value == "" {
		return errors.New("is empty")
	}
	*l = append(*l, value)
	return nil
}

// size is a number of bytes: plain, or with Ki, Mi or Gi.
type size int64

func (n *size) String() string { return strconv.FormatInt(int64(*n)>>20, 10) + "Mi" }

// Set parses.
func (n *size) Set(value string) error {
	shift := 0
	for i, unit := range []string{"Ki", "Mi", "Gi"} {
		if rest, ok := strings.CutSuffix(value, unit); ok {
			value, shift = rest, 10*(i+1)
		}
	}
	v, err := strconv.ParseInt(value, 10, 64)
	if err != nil || v <= 0 || v > math.MaxInt64>>shift {
		return errors.New("is not a number of bytes, such as 32Mi")
	}
	*n = size(v << shift)
	return nil
}

// mode is permission bits in octal.
type mode uint32

func (m *mode) String() string { return fmt.Sprintf("%04o", uint32(*m)) }

// Set parses.
func (m *mode) Set(value string) error {
	v, err := strconv.ParseUint(value, 8, 32)
	if err != nil || v == 0 || v > 0o777 {
		return errors.New("is not a file mode from 1 to 0777 in octal")
	}
	*m = mode(v)
	return nil
}

// readFile reads a file that a flag names, within limit bytes. Its content never gets into an error.
func readFile(flagName, path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Usage, "check the path and its permissions", "--%s: %w", flagName, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fault.New(fault.Usage, "check the path", "--%s: %w", flagName, err)
	}
	if int64(len(data)) > limit {
		return nil, fault.New(fault.Usage, "check the path", "--%s: %s is larger than %d bytes", flagName, path, limit)
	}
	return data, nil
}

// content returns what a flag's file holds, or its twin variable, or nil.
func (s *settings) content(flagName, path string, limit int64) ([]byte, error) {
	if path != "" {
		return readFile(flagName, path, limit)
	}
	if value := s.program.env[contents[flagName]]; value != "" {
		return []byte(value), nil
	}
	return nil, nil
}

const (
	defaultConnectTimeout = 15 * time.Second
	defaultStallTimeout   = 30 * time.Second
)
