package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Store takes the objects of a model that is being published. Nothing is ever overwritten: making an object that is
// there is an error of kind fault.Usage. Implementations are safe for concurrent use.
type Store interface {
	Exists(ctx context.Context, name string) (bool, error)
	// Create stores a small object whole, in one step.
	Create(ctx context.Context, name string, data []byte) error
	// Begin starts an object of size bytes that arrives in parts and is not visible under its name before Complete.
	Begin(ctx context.Context, name string, size int64) (Upload, error)
	// Replace puts other bytes in the place of a small object, if it is still the one that pin says. It is for the
	// envelope alone, when its wraps are renewed. An object that has changed is fault.Access.
	Replace(ctx context.Context, name string, data []byte, pin Pin) error
	// Remove takes back an object that this run made.
	Remove(ctx context.Context, name string) error
	Close() error
	fmt.Stringer
}

// Upload is an object under way. Part may be called concurrently, in any order.
type Upload interface {
	// Part stores part i, which begins at byte off, and returns its tag.
	Part(ctx context.Context, i int, off int64, data []byte) (tag string, err error)
	Complete(ctx context.Context, tags []string) error
	Abort(ctx context.Context) error
}

// maxParts is S3's limit of parts to an object.
const maxParts = 10_000

// NewObject is an object to be published. Its parts are cut after Head bytes and then every Step bytes, so that no
// chunk is sealed in two parts.
type NewObject struct {
	Name string
	Size int64
	Head int64
	Step int64
}

// Filler writes bytes [off, off+len(p)) of object i into p. It is called once for each part, from several goroutines.
type Filler func(ctx context.Context, i int, off int64, p []byte) error

// PublishLimits bound a publication: its memory is Connections x PartSize, more where an object needs over 10,000 parts.
type PublishLimits struct {
	Connections int
	PartSize    int64 // bytes
}

// Publish uploads objects in parts over at most Limits.Connections connections. On failure it aborts what is under way
// and removes what it completed.
func Publish(ctx context.Context, store Store, objects []NewObject, fill Filler, limits PublishLimits, done *atomic.Int64) (err error) {
	p := &publication{store: store, fill: fill, done: done}
	for i, o := range objects {
		p.plan(i, o, limits.PartSize)
	}
	defer func() {
		if err != nil {
			p.undo(ctx)
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	for range min(limits.Connections, len(p.parts)) {
		g.Go(func() error { return p.worker(gctx) })
	}
	return g.Wait()
}

type publication struct {
	store   Store
	fill    Filler
	done    *atomic.Int64
	objects []*newObject
	parts   []newPart
	largest int64 // part
	next    atomic.Int64
}

type newObject struct {
	NewObject
	mu       sync.Mutex
	upload   Upload // made with the first part; nil for an object of one part
	tags     []string
	left     int
	complete bool
}

type newPart struct {
	object, index int
	off, size     int64
}

// plan cuts an object into parts of about partSize bytes, on chunk borders.
func (p *publication) plan(i int, o NewObject, partSize int64) {
	least := (o.Size + maxParts - 2) / (maxParts - 1)
	step := max((max(partSize, least)+o.Step-1)/o.Step*o.Step, o.Step)
	obj := &newObject{NewObject: o}
	for off, end := int64(0), o.Head+step; off < o.Size || off == 0; off, end = end, end+step {
		part := newPart{i, obj.left, off, min(end, o.Size) - off}
		p.parts, p.largest = append(p.parts, part), max(p.largest, part.size)
		obj.left++
	}
	obj.tags = make([]string, obj.left)
	p.objects = append(p.objects, obj)
}

func (p *publication) worker(ctx context.Context) error {
	var buf []byte
	for ctx.Err() == nil {
		i := int(p.next.Add(1)) - 1
		if i >= len(p.parts) {
			return nil
		}
		part := p.parts[i]
		if buf == nil {
			buf = make([]byte, p.largest)
		}
		data := buf[:part.size]
		if err := p.fill(ctx, part.object, part.off, data); err != nil {
			return err
		}
		if err := p.put(ctx, p.objects[part.object], part, data); err != nil {
			return err
		}
		p.done.Add(part.size)
	}
	return context.Cause(ctx)
}

// put stores one part, and the object with its last one.
func (p *publication) put(ctx context.Context, o *newObject, part newPart, data []byte) error {
	if len(o.tags) == 1 {
		if err := p.store.Create(ctx, o.Name, data); err != nil {
			return err
		}
		return o.finish(nil)
	}
	upload, err := o.begin(ctx, p.store)
	if err != nil {
		return err
	}
	tag, err := upload.Part(ctx, part.index, part.off, data)
	if err != nil {
		return err
	}
	if !o.arrived(part.index, tag) {
		return nil
	}
	return o.finish(upload.Complete(ctx, o.tags))
}

// begin starts the upload with whichever part comes first.
func (o *newObject) begin(ctx context.Context, store Store) (_ Upload, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.upload == nil {
		o.upload, err = store.Begin(ctx, o.Name, o.Size)
	}
	return o.upload, err
}

// arrived notes a part and reports whether it was the last one missing.
func (o *newObject) arrived(index int, tag string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tags[index] = tag
	o.left--
	return o.left == 0
}

func (o *newObject) finish(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.complete = err == nil
	return err
}

// undo takes back what this run stored. It outlives the cancellation that may have brought it on.
func (p *publication) undo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for _, o := range p.objects {
		switch {
		case o.complete:
			_ = p.store.Remove(ctx, o.Name)
		case o.upload != nil:
			_ = o.upload.Abort(ctx)
		}
	}
}

// errExists is in the chain of the error for an object that is there already.
var errExists = errors.New("already there")

func alreadyThere(name string, where fmt.Stringer) error {
	return fault.New(fault.Usage, "publish under a new prefix, or remove what an unfinished run left there",
		"%s is %w at %s, and nothing is overwritten", name, errExists, where)
}
