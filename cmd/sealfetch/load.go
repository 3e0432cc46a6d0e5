package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
)

// maxPairs bounds one command line.
const maxPairs = 64

// destinationSettings are those of the commands that write a model.
type destinationSettings struct {
	allowDisk bool
	fileMode  mode
}

func (s *settings) fileModeFlag() {
	s.destination.fileMode = 0o644
	s.flags.Var(&s.destination.fileMode, "file-mode", "permission `BITS` of files; executable ones can also be executed by whoever can read them")
}

// setupInit is the container's entrypoint.
func setupInit(s *settings) runner {
	s.readFlags()
	s.storeFlags()
	s.fileModeFlag()
	s.flags.BoolVar(&s.destination.allowDisk, "allow-disk", false, "accept a destination that is not tmpfs: plaintext may reach a disk")
	s.flags.StringVar(&s.terminationLog, "termination-log", "/dev/termination-log", "`FILE` for the last two lines after a failure, if it exists")
	return func(ctx context.Context, args []string, _ io.Writer) error { return s.load(ctx, args) }
}

// setupOpen is init for a person at a terminal: the destination may be on disk.
func setupOpen(s *settings) runner {
	s.readFlags()
	s.storeFlags()
	s.fileModeFlag()
	s.destination.allowDisk = true
	return func(ctx context.Context, args []string, _ io.Writer) error {
		if len(args) != 2 {
			return s.wrongArgs(args)
		}
		return s.load(ctx, args)
	}
}

// load brings the pairs of args to their destinations, and says in the audit log if it could not.
func (s *settings) load(ctx context.Context, args []string) error {
	begun := time.Now()
	loaded, err := s.tryLoad(ctx, args)
	if err == nil {
		return nil
	}
	code, _ := outcome(err)
	if len(loaded) == 0 {
		loaded = make([]sealfetch.Loaded, 1)
	}
	for _, m := range loaded {
		s.audit.LoadFailed(context.WithoutCancel(ctx), audit.LoadFailed{Model: m.Model, Version: m.Version, MDKID: m.MDKID,
			ExitCode: code, Cause: oneLine(err.Error()), Duration: time.Since(begun)})
	}
	return err
}

func (s *settings) tryLoad(ctx context.Context, args []string) ([]sealfetch.Loaded, error) {
	pairs, err := s.pairs(args)
	if err != nil {
		return nil, err
	}
	reader, wipe, err := s.reader(ctx)
	if err != nil {
		return nil, err
	}
	defer wipe()
	if err := requireTrust(reader); err != nil {
		return nil, err
	}
	progress := new(sealfetch.Progress)
	defer s.report(loadCounts(progress))()
	return sealfetch.Load(ctx, sealfetch.Job{Pairs: pairs, Reader: reader, Progress: progress,
		Destination: target.Options{AllowDisk: s.destination.allowDisk, FileMode: fs.FileMode(s.destination.fileMode)}})
}

func (s *settings) pairs(args []string) (pairs []sealfetch.Pair, err error) {
	if len(args) == 0 || len(args)%2 != 0 || len(args) > 2*maxPairs {
		return nil, s.wrongArgs(args)
	}
	for i := 0; i < len(args); i += 2 {
		uri, err := fetch.ParseURI(args[i])
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, sealfetch.Pair{URI: uri, Dir: args[i+1]})
		s.scope = append(s.scope, scoped{uri: uri})
	}
	return pairs, nil
}

func (s *settings) wrongArgs(args []string) error {
	return fault.New(fault.Usage, fmt.Sprintf("usage: sealfetch %s [FLAGS] %s", s.command.name, s.command.args),
		"%s does not take %d arguments", s.command.name, len(args))
}

func loadCounts(p *sealfetch.Progress) func() counts {
	return func() counts {
		return counts{p.Bytes.Load(), p.BytesTotal.Load(), p.FilesDone.Load(), p.FilesTotal.Load()}
	}
}

// oneURI parses the only argument of a command.
func (s *settings) oneURI(args []string) (fetch.URI, error) {
	if len(args) != 1 {
		return fetch.URI{}, s.wrongArgs(args)
	}
	uri, err := fetch.ParseURI(args[0])
	s.scope = []scoped{{uri: uri}}
	return uri, err
}

func setupVerify(s *settings) runner {
	s.readFlags()
	s.storeFlags()
	return func(ctx context.Context, args []string, out io.Writer) error {
		uri, err := s.oneURI(args)
		if err != nil {
			return err
		}
		reader, wipe, err := s.reader(ctx)
		if err != nil {
			return err
		}
		defer wipe()
		if err := requireTrust(reader); err != nil {
			return err
		}
		progress := new(sealfetch.Progress)
		stop := s.report(loadCounts(progress))
		found, err := sealfetch.Verify(ctx, uri, reader, progress)
		stop()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "authentic: %s version %d, %d files, %d bytes, mdk-id %s\n",
			found.Model, found.Version, found.Files, found.Bytes, found.MDKID)
		return err
	}
}

func setupInspect(s *settings) runner {
	s.readFlags()
	s.storeFlags()
	asJSON := s.flags.Bool("json", false, "print JSON")
	return func(ctx context.Context, args []string, out io.Writer) error {
		uri, err := s.oneURI(args)
		if err != nil {
			return err
		}
		reader, wipe, err := s.reader(ctx)
		if err != nil {
			return err
		}
		defer wipe()
		found, err := sealfetch.Inspect(ctx, uri, reader)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(out, found)
		}
		return printInspection(out, found)
	}
}

func printJSON(out io.Writer, found *sealfetch.Inspection) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{"envelope": found.Envelope, "signature_verified": found.Signed, "manifest": found.Manifest})
}

func printInspection(out io.Writer, found *sealfetch.Inspection) error {
	e, w := found.Envelope, tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "model\t%s\nversion\t%d\nformat\t%s, %s\nmdk-id\t%s\nsize\t%d bytes\n", e.Model, e.Version, e.Format, e.Suite, e.MDKID, e.ModelSize)
	for _, wrap := range e.Wraps {
		fmt.Fprintf(w, "key\t%s\n", keybroker.Wrap(wrap).Name())
	}
	if found.Signed {
		fmt.Fprintf(w, "signature\tby a trusted publisher\n")
	} else {
		fmt.Fprintf(w, "signature\tnot checked: no --trust-signer\n")
	}
	if found.Manifest == nil {
		fmt.Fprintf(w, "files\tunknown without a key that opens it: --trust-key\n")
		return w.Flush()
	}
	fmt.Fprintf(w, "created\t%s\nfiles\t%d in %d objects\n", found.Manifest.Created.Format(time.RFC3339), len(found.Manifest.Files), len(found.Manifest.Objects))
	for _, f := range found.Manifest.Files {
		fmt.Fprintf(w, "  %s\t%d\n", oneLine(f.Path), f.Size)
	}
	return w.Flush()
}
