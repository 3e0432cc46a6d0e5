package sealfetch

import (
	"context"
	"time"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
)

// Pair is one model and the directory it goes to.
type Pair struct {
	URI fetch.URI
	Dir string
}

// Loaded is what became known of a model. After an error, what was not reached is zero.
type Loaded struct {
	Pair
	Model   string
	Version uint64
	MDKID   string // base64url
	Files   int
	Bytes   int64 // plaintext
}

// Job is one call of Load: models, where they go, and what the operator demands of them.
type Job struct {
	Pairs       []Pair
	Reader      Reader
	Destination target.Options
	Progress    *Progress // may be nil
}

// Reader is how sealed models are read and whom the operator trusts.
type Reader struct {
	Open    func(context.Context, fetch.URI) (fetch.Source, error)
	Brokers []keybroker.Broker // the trusted keys; a wrap that none of them holds is refused
	Policy  Policy
	Limits  fetch.Limits
	Audit   *audit.Log // may be nil
	Warn    func(message string, args ...any)
}

// Load brings every model of the job to its destination, or none: on any error nothing is left there. It says of each
// model what it got to know, after an error, too.
func Load(ctx context.Context, job Job) ([]Loaded, error) {
	l := newLoading(job)
	err := l.end(ctx, l.run(ctx))
	return l.report(ctx, err), err
}

// run is the road of the data, step by step.
func (l *loading) run(ctx context.Context) error {
	for _, m := range l.models {
		if err := m.fetchEnvelope(ctx); err != nil { // 1 the source, 2 the envelope and the operator's policy
			return err
		}
	}
	if err := l.openTargets(); err != nil { // 3 fit and large enough, before any key exists
		return err
	}
	for _, m := range l.models {
		if err := m.releaseKey(ctx); err != nil { // 4 challenge, evidence, key
			return err
		}
		if err := m.openManifest(ctx); err != nil { // 5 files, sizes, ranges
			return err
		}
	}
	if err := l.stage(); err != nil { // the room again, now that sizes are authentic
		return err
	}
	if err := l.stream(ctx); err != nil { // 6 ranged reads, opened in place, written
		return err
	}
	return l.commit() // 7 all authentic: into place
}

// loading is the state of one Load.
type loading struct {
	job    Job
	models []*sealed
	begun  time.Time
}

func newLoading(job Job) *loading {
	if job.Progress == nil {
		job.Progress = new(Progress)
	}
	l := &loading{job: job, begun: time.Now()}
	for _, p := range job.Pairs {
		l.models = append(l.models, &sealed{reader: job.Reader, uri: p.URI, dir: p.Dir})
	}
	return l
}

// openTargets opens every destination and checks that what the envelopes announce fits, all together.
func (l *loading) openTargets() (err error) {
	var claims []target.Claim
	for _, m := range l.models {
		if m.target, err = target.Open(m.dir, l.job.Destination); err != nil {
			return err
		}
		if m.target.MaySwap() {
			m.reader.warn("plaintext may be swapped to disk: mount the destination with noswap, or turn swap off", "dir", m.dir)
		}
		if m.wantsAll() { // else only the manifest knows how much is wanted
			claims = append(claims, target.Claim{Target: m.target, Need: target.Need{Bytes: m.envelope.ModelSize, Files: 1}})
		}
	}
	return target.CheckRoom(claims...)
}

func (l *loading) stage() (err error) {
	claims := make([]target.Claim, len(l.models))
	for i, m := range l.models {
		claims[i] = target.Claim{Target: m.target, Need: target.Need{Bytes: m.plan.Size(), Files: len(m.plan.Files())}}
	}
	if err := target.CheckRoom(claims...); err != nil {
		return err
	}
	for _, m := range l.models {
		if m.staging, err = m.target.Stage(); err != nil {
			return err
		}
	}
	return nil
}

func (l *loading) stream(ctx context.Context) error {
	sinks := make([]sink, len(l.models))
	for i, m := range l.models {
		w := newWriter(m, l.job.Progress)
		defer w.closeAll()
		if err := w.createEmpty(); err != nil {
			return err
		}
		sinks[i] = w
	}
	return stream(ctx, l.models, sinks, false, l.job.Reader.Limits, l.job.Progress)
}

func (l *loading) commit() error {
	stagings := make([]*target.Staging, len(l.models))
	for i, m := range l.models {
		stagings[i] = m.staging
	}
	if err := target.CommitAll(stagings...); err != nil {
		return err
	}
	for _, m := range l.models {
		if others := m.staging.Foreign(); len(others) > 0 {
			m.reader.warn("the destination holds entries that are not of this model", "dir", m.dir, "entries", others)
		}
	}
	return nil
}

// report says what is known of each model and, if all went well, writes model.ready: 8, the end of the road.
func (l *loading) report(ctx context.Context, err error) []Loaded {
	all := make([]Loaded, len(l.models))
	for i, m := range l.models {
		all[i] = m.loaded()
		if err == nil {
			l.job.Reader.Audit.ModelReady(ctx, audit.ModelReady{Model: all[i].Model, Version: all[i].Version, MDKID: all[i].MDKID,
				ObjectVersionID: m.pin.VersionID, Files: all[i].Files, Bytes: all[i].Bytes, Duration: time.Since(l.begun)})
		}
	}
	return all
}

// end wipes keys and, unless everything was committed, leaves nothing behind.
func (l *loading) end(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	for i := len(l.models) - 1; i >= 0; i-- {
		m := l.models[i]
		if rest := m.staging.Discard(); rest != nil && err == nil {
			err = fault.New(fault.Destination, "", "removing the staging directory: %w", rest)
		}
		m.target.Close()
		m.close()
	}
	return err
}
