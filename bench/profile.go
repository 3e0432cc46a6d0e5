package main

import (
	"context"
	"os"
	"runtime/pprof"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/keyfile"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
)

// profileLoads is how often a profiled model is loaded, for enough samples.
const profileLoads = 5

// childProfile loads a model in this process, with the shipped code, and writes a CPU profile of it. The shipped binary
// has no switch for that.
func childProfile(ctx context.Context, c childFlags) error {
	data, err := os.ReadFile(c.key)
	if err != nil {
		return err
	}
	kek, err := keyfile.ParseKEK(data)
	if err != nil {
		return err
	}
	defer kek.Wipe()
	opener, err := c.opener()
	if err != nil {
		return err
	}
	out, err := os.Create(c.profile)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	for range profileLoads {
		if err := emptyDir(c.dir); err != nil {
			return err
		}
		_, err := sealfetch.Load(ctx, sealfetch.Job{
			Pairs: []sealfetch.Pair{{URI: fetch.URI{Scheme: "s3", Host: c.bucket, Path: c.prefix}, Dir: c.dir}},
			Reader: sealfetch.Reader{Open: opener.Source, Brokers: []keybroker.Broker{keybroker.NewLocal(kek)},
				Limits: fetch.Limits{Connections: 128, Start: 16, Retry: fetch.Retry{Attempts: 1, Stall: time.Minute}}},
			Destination: target.Options{}})
		if err != nil {
			return err
		}
	}
	return nil
}

// profile makes the data of the first scenario, loads it and leaves the profile where it was asked for.
func (b *bench) profileLoad(ctx context.Context) error {
	s := b.scenarios()[0]
	if err := b.prepare(ctx, s.data); err != nil {
		return err
	}
	server, err := b.startServer(s)
	if err != nil {
		return err
	}
	defer server.stop()
	return quietly(ctx, b.self, "child", "profile", "-endpoint", server.url, "-prefix", s.data.name,
		"-key", b.key(), "-dir", b.dst(), "-profile", b.profile)
}
