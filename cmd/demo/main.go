// Command demo shows sealfetch at work, and what it refuses, on a machine with Go and nothing else.
//
// It starts a cloud of its own on 127.0.0.1 (S3, STS with two accounts, an OIDC issuer, KMS) and a simulated NitroTPM,
// runs the real binary against them with the arguments and the environment that KServe injects, and compares what
// arrives byte for byte. Then it attacks what is stored and shows each attack
// refused with its exit code. It prints every command it runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	model := flag.String("model", "", "`DIR` with a model of your own; default a generated one")
	binary := flag.String("binary", "", "`FILE`, a sealfetch binary; default one built now")
	keep := flag.Bool("keep", false, "keep cloud and files until interrupted, so that commands can be repeated")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *model, *binary, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, model, binary string, keep bool) (err error) {
	s, err := newStage(ctx, model, binary)
	if err != nil {
		return err
	}
	defer s.close()
	s.mainJob()
	s.attacks()
	s.table()
	if keep {
		s.printf("\nThe cloud keeps running and the files stay in %s until you press Ctrl-C.\nBefore repeating a command: . %s/pod.env\n", s.dir, s.dir)
		<-ctx.Done()
	}
	if s.failed > 0 {
		return fmt.Errorf("%d of %d steps did not end as they should", s.failed, len(s.rows))
	}
	return nil
}

// stage is where the demo plays: a cloud, a directory for keys and models, and a destination in memory.
type stage struct {
	ctx context.Context
	*world
	binary   string
	dir      string // keys and sources
	shm      string // destinations, on tmpfs
	model    string // the plaintext model
	rows     []row
	failed   int
	pristine map[string][]byte // the bucket before an attack
}

func newStage(ctx context.Context, model, binary string) (_ *stage, err error) {
	s := &stage{ctx: ctx, model: model, binary: binary}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "sealfetch-demo-"); err != nil {
		return nil, err
	}
	if s.shm, err = os.MkdirTemp("/dev/shm", "sealfetch-demo-"); err != nil {
		return nil, fmt.Errorf("the demo loads into /dev/shm: %w", err)
	}
	if s.model == "" {
		s.model = filepath.Join(s.dir, "model")
		if err := generateModel(s.model); err != nil {
			return nil, err
		}
	}
	if s.binary == "" {
		s.printf("building sealfetch …\n")
		if s.binary, err = build(ctx, s.dir); err != nil {
			return nil, err
		}
	}
	if s.world, err = newWorld(s.dir); err != nil {
		return nil, err
	}
	return s, s.writeEnv()
}

func (s *stage) close() {
	if s.world != nil {
		s.world.close()
	}
	for _, dir := range []string{s.dir, s.shm} {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
	}
}

func (s *stage) printf(format string, args ...any) { fmt.Printf(format, args...) }
