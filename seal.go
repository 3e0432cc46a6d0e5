package sealfetch

import (
	"context"
	"crypto"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/keybroker"
	"github.com/sealfetch/sealfetch/model"
)

// SealJob is one publication.
type SealJob struct {
	Dir      string // the model's files
	Exclude  []string
	Model    string
	Version  uint64
	Wrappers []keybroker.Wrapper // at least one: who may release the key
	Signer   crypto.Signer       // nil = unsigned
	Store    fetch.Store
	Limits   fetch.PublishLimits
	Created  time.Time
	Progress *SealProgress                    // may be nil
	Warn     func(message string, arg ...any) // nil = silent
}

// SealProgress counts what has been published. It may be read while Seal runs.
type SealProgress struct {
	Bytes      atomic.Int64 // stored bytes of data objects
	BytesTotal atomic.Int64
}

// Sealed says what was published.
type Sealed struct {
	Envelope *model.Envelope
	Files    int
	LeftOut  []string // hidden and excluded files, by name
}

// Seal encrypts a directory under a new key and publishes it. The envelope goes up last: until then nobody sees a model,
// and on any error what went up is taken back.
func Seal(ctx context.Context, job SealJob) (_ *Sealed, err error) {
	if job.Progress == nil {
		job.Progress = new(SealProgress)
	}
	files, leftOut, err := scan(job.Dir, job.Exclude) // what there is to seal
	if err != nil {
		return nil, err
	}
	p, err := newPublication(job, files)
	if err != nil {
		return nil, err
	}
	defer func() { p.end(ctx, err) }()

	if err := p.refuseOverwrite(ctx); err != nil {
		return nil, err
	}
	if err := p.wrapKey(ctx); err != nil { // before any upload: a wrong key must not cost an hour
		return nil, err
	}
	if err := p.putData(ctx); err != nil {
		return nil, err
	}
	if err := unchanged(files); err != nil {
		return nil, err
	}
	if err := p.putManifest(ctx); err != nil {
		return nil, err
	}
	if err := p.putEnvelope(ctx); err != nil {
		return nil, err
	}
	return &Sealed{Envelope: p.envelope, Files: len(files), LeftOut: leftOut}, nil
}

// publication is the state of one Seal.
type publication struct {
	job      SealJob
	files    []sourceFile
	mdk      *secret.Key
	keys     *model.Keys
	manifest *model.Manifest
	contents [][]int // files of each object
	sealers  []*decrypt.Sealer
	envelope *model.Envelope
	put      []string  // objects that are up
	windows  sync.Pool // of *plainWindow
}

// plainWindow holds the plaintext of one window.
type plainWindow [windowChunks * decrypt.ChunkSize]byte

func newPublication(job SealJob, files []sourceFile) (*publication, error) {
	sources := make([]model.Source, len(files))
	for i, f := range files {
		sources[i] = f.Source
	}
	manifest, err := model.NewManifest(job.Model, job.Version, job.Created, sources)
	if err != nil {
		return nil, err
	}
	p := &publication{job: job, files: inOrderOf(manifest, files), manifest: manifest, contents: manifest.Contents()}
	if p.mdk, err = secret.Random(keybroker.KeySize); err != nil {
		return nil, err
	}
	if p.keys, err = model.DeriveKeys(p.mdk, job.Model, job.Version); err != nil {
		p.mdk.Wipe()
		return nil, err
	}
	if err := p.prepare(); err != nil {
		p.keys.Wipe()
		p.mdk.Wipe()
		return nil, err
	}
	return p, nil
}

// prepare makes a sealer of every object and meets the limits that can be met without a request.
func (p *publication) prepare() (err error) {
	if p.job.Signer != nil {
		if err := p.manifest.CheckRoomForDigests(); err != nil {
			return err
		}
	}
	p.sealers = make([]*decrypt.Sealer, len(p.manifest.Objects))
	for i := range p.sealers {
		if p.sealers[i], err = p.keys.SealObject(&p.manifest.Objects[i]); err != nil {
			return err
		}
	}
	return nil
}

// end wipes the keys and, after an error, takes back what is up.
func (p *publication) end(ctx context.Context, err error) {
	p.keys.Wipe()
	p.mdk.Wipe()
	if err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for _, name := range slices.Backward(p.put) { // the envelope first: a model in part must not be visible
		if rest := p.job.Store.Remove(ctx, name); rest != nil && p.job.Warn != nil {
			p.job.Warn("an object of the failed publication is still there", "object", name, "cause", rest.Error())
		}
	}
}

func (p *publication) refuseOverwrite(ctx context.Context) error {
	there, err := p.job.Store.Exists(ctx, model.EnvelopeName)
	if err != nil {
		return err
	}
	if there {
		return fault.New(fault.Usage, "a published version never changes: choose a new prefix for a new version",
			"a model is already published at %s", p.job.Store)
	}
	return nil
}

// wrapKey has every wrapper make its way in, and drafts the envelope.
func (p *publication) wrapKey(ctx context.Context) error {
	p.envelope = &model.Envelope{Format: model.Format, Suite: model.Suite, Model: p.job.Model, Version: p.job.Version,
		MDKID: p.keys.ID(), ModelSize: p.manifest.Size()}
	for _, wrapper := range p.job.Wrappers {
		wrap, err := wrapper.Wrap(ctx, p.mdk, p.job.Model, p.job.Version)
		if err != nil {
			return err
		}
		p.envelope.Wraps = append(p.envelope.Wraps, model.Wrap(wrap))
	}
	return nil
}

// putData seals and uploads the data objects, many parts at a time.
func (p *publication) putData(ctx context.Context) error {
	objects := make([]fetch.NewObject, len(p.manifest.Objects))
	for i, o := range p.manifest.Objects {
		objects[i] = fetch.NewObject{Name: o.Name, Size: decrypt.SealedSize(o.Size), Head: decrypt.HeaderSize, Step: decrypt.SealedChunkSize}
		p.job.Progress.BytesTotal.Add(objects[i].Size)
	}
	if err := fetch.Publish(ctx, p.job.Store, objects, p.fill, p.job.Limits, &p.job.Progress.Bytes); err != nil {
		return err
	}
	for _, o := range objects {
		p.put = append(p.put, o.Name)
	}
	return nil
}

// fill seals one part of an object: the header where it begins the object, then whole chunks. Files are read a window
// at a time, so that it is still in the core's cache when it is sealed.
func (p *publication) fill(ctx context.Context, i int, off int64, part []byte) error {
	object := p.manifest.Objects[i]
	if off == 0 {
		copy(part, object.Header[:])
		part, off = part[decrypt.HeaderSize:], decrypt.HeaderSize
	}
	chunk := (off - decrypt.HeaderSize) / decrypt.SealedChunkSize
	content := newContent(p.files, p.contents[i], p.manifest)
	defer content.close()
	buf, ok := p.windows.Get().(*plainWindow)
	if !ok {
		buf = new(plainWindow)
	}
	defer p.windows.Put(buf)
	for window := range slices.Chunk(part, WindowSize) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		chunks := (len(window) + decrypt.SealedChunkSize - 1) / decrypt.SealedChunkSize
		plaintext := buf[:len(window)-chunks*decrypt.TagSize]
		if err := content.readAt(plaintext, chunk*decrypt.ChunkSize); err != nil {
			return err
		}
		for sealed := range slices.Chunk(window, decrypt.SealedChunkSize) {
			n := len(sealed) - decrypt.TagSize
			if _, err := p.sealers[i].Seal(chunk, sealed[:0], plaintext[:n]); err != nil {
				return fmt.Errorf("sealing %s: %w", object.Name, err)
			}
			plaintext = plaintext[n:]
			chunk++
		}
	}
	return nil
}

// putManifest publishes the manifest, and the signature over it.
func (p *publication) putManifest(ctx context.Context) error {
	if p.job.Signer != nil {
		if err := p.digestFiles(ctx); err != nil {
			return err
		}
	}
	sealedManifest, err := p.keys.SealManifest(p.manifest)
	if err != nil {
		return err
	}
	p.envelope.Manifest.Size = int64(len(sealedManifest))
	if err := p.create(ctx, model.ManifestName, sealedManifest); err != nil || p.job.Signer == nil {
		return err
	}
	signature, err := model.Sign(p.job.Signer, p.envelope.Statement(sealedManifest))
	if err != nil {
		return err
	}
	return p.create(ctx, model.SignatureName, signature)
}

func (p *publication) putEnvelope(ctx context.Context) error {
	data, err := p.envelope.Marshal()
	if err != nil {
		return err
	}
	return p.create(ctx, model.EnvelopeName, data)
}

func (p *publication) create(ctx context.Context, name string, data []byte) error {
	err := p.job.Store.Create(ctx, name, data)
	if err == nil || fault.Of(err) == fault.Transient { // of trouble on the way it is not known whether it arrived
		p.put = append(p.put, name)
	}
	return err
}
