package main

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/keyfile"
)

// sealSettings are those of publishing.
type sealSettings struct {
	model       string
	version     string
	wraps       list
	sign        string
	exclude     list
	connections int
	partSize    size
}

func setupSeal(s *settings) runner {
	t, f := &sealSettings{partSize: 16 << 20}, s.flags
	f.StringVar(&t.model, "model", "", "`NAME` of the model, such as acme/llama-7b")
	f.StringVar(&t.version, "version", "", "`N`, a number that grows with every publication of the model")
	f.Var(&t.wraps, "wrap", wrapUsage)
	f.StringVar(&t.sign, "sign", "", "`FILE` with the publisher's private key (JWK)")
	f.Var(&t.exclude, "exclude", "`GLOB` of files to leave out; repeatable")
	f.IntVar(&t.connections, "connections", 8, "uploads at a time, 1 to 256")
	f.Var(&t.partSize, "part-size", "`BYTES` of one upload; memory is connections times this")
	s.storeFlags()
	return func(ctx context.Context, args []string, out io.Writer) error { return s.seal(ctx, *t, args, out) }
}

func (s *settings) seal(ctx context.Context, t sealSettings, args []string, out io.Writer) error {
	if len(args) != 2 {
		return s.wrongArgs(args)
	}
	job, closeAll, err := s.sealJob(ctx, t, args[0], args[1])
	if err != nil {
		return err
	}
	defer closeAll()
	stop := s.report(func() counts {
		return counts{bytesDone: job.Progress.Bytes.Load(), bytesTotal: job.Progress.BytesTotal.Load()}
	})
	sealed, err := sealfetch.Seal(ctx, job)
	stop()
	if err != nil {
		return err
	}
	for _, name := range sealed.LeftOut {
		fmt.Fprintf(out, "left out: %s\n", oneLine(name))
	}
	e := sealed.Envelope
	_, err = fmt.Fprintf(out, "sealed: %s version %d, %d files, %d bytes, at %s\nmdk-id: %s\n",
		e.Model, e.Version, sealed.Files, e.ModelSize, job.Store, e.MDKID)
	return err
}

// sealJob turns the settings into a job; nothing is created at the destination but its directory.
func (s *settings) sealJob(ctx context.Context, t sealSettings, src, dest string) (_ sealfetch.SealJob, closeAll func(), err error) {
	job := sealfetch.SealJob{Dir: src, Exclude: t.exclude, Model: t.model, Created: time.Now().UTC().Truncate(time.Second),
		Limits: fetch.PublishLimits{Connections: t.connections, PartSize: int64(t.partSize)}, Progress: new(sealfetch.SealProgress),
		Warn: s.log.Warn}
	if err := t.check(); err != nil {
		return job, nil, err
	}
	if err := s.checkConnections(t.connections); err != nil {
		return job, nil, err
	}
	if job.Version, err = fetch.ParseVersion(t.version); err != nil {
		return job, nil, err
	}
	if job.Signer, err = signer(t.sign); err != nil {
		return job, nil, err
	}
	uri, err := fetch.ParseDestination(dest)
	if err != nil {
		return job, nil, err
	}
	s.scope = []scoped{{uri: uri, write: true, wraps: t.wraps}} // before there are credentials, which it narrows
	wrappers, wipe, err := s.wrappers(ctx, t.wraps)
	if err != nil {
		return job, nil, err
	}
	job.Wrappers = wrappers
	if job.Store, err = s.openStore(ctx, uri, t.connections); err != nil {
		wipe()
		return job, nil, err
	}
	return job, func() {
		wipe()
		_ = job.Store.Close()
	}, nil
}

func (t sealSettings) check() error {
	const least = 5 << 20 // S3's least part
	switch {
	case t.model == "":
		return fault.New(fault.Usage, "give the model a name: --model acme/llama-7b", "--model is missing")
	case t.version == "":
		return fault.New(fault.Usage, "number the publication: --version 1", "--version is missing")
	case len(t.wraps) == 0:
		return fault.New(fault.Usage, "say who may release the key: --wrap jwk:FILE", "--wrap is missing")
	case t.partSize < least || t.partSize > 1<<30:
		return fault.New(fault.Usage, "5Mi to 1Gi are possible", "--part-size %d is out of bounds", int64(t.partSize))
	}
	return nil
}

func (s *settings) openStore(ctx context.Context, uri fetch.URI, connections int) (fetch.Store, error) {
	opener, err := s.opener(connections)
	if err != nil {
		return nil, err
	}
	return opener.Store(ctx, uri)
}

func signer(path string) (crypto.Signer, error) {
	if path == "" {
		return nil, nil
	}
	data, err := readFile("sign", path, keyfile.MaxSize)
	if err != nil {
		return nil, err
	}
	return keyfile.ParseSigner(data)
}

func setupKeygen(s *settings) runner {
	kind := s.flags.String("type", keyfile.TypeKEK, "`TYPE`: kek (symmetric), kek-ec (a pair: publishers need the public half alone) or signing")
	path := s.flags.String("out", "", "`FILE` for the key, readable by its owner alone; a pair's public half goes to FILE.pub")
	return func(_ context.Context, args []string, out io.Writer) error {
		if len(args) != 0 {
			return s.wrongArgs(args)
		}
		if *path == "" {
			return fault.New(fault.Usage, "name a file: --out FILE", "--out is missing")
		}
		return keygen(*kind, *path, out)
	}
}

// keygen writes a new key. Nothing is overwritten, and a half-written pair is taken back.
func keygen(kind, path string, out io.Writer) error {
	private, public, id, err := keyfile.Generate(kind)
	if err != nil {
		return err
	}
	defer clear(private)
	if err := writeNew(path, private, 0o600); err != nil {
		return err
	}
	if public != nil {
		if err := writeNew(path+".pub", public, 0o644); err != nil {
			_ = os.Remove(path)
			return err
		}
		fmt.Fprintf(out, "public half: %s.pub\n", path)
	}
	_, err = fmt.Fprintf(out, "key id: %s\n", id)
	return err
}

// writeNew creates a file with exactly these permission bits.
func writeNew(path string, data []byte, perm os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.New(fault.Usage, "name a file that does not exist in a directory you can write to", "%w", err)
	}
	_, err = f.Write(append(data, '\n'))
	for _, step := range []func() error{func() error { return f.Chmod(perm) }, f.Sync, f.Close} {
		if e := step(); err == nil {
			err = e
		}
	}
	if err != nil {
		_ = os.Remove(path)
		return fault.New(fault.Usage, "check the disk", "writing %s: %w", path, err)
	}
	return nil
}
