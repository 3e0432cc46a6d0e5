package fetch

import (
	"context"
	"fmt"
	"io"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Source reads the objects of one model. Implementations are safe for concurrent use.
type Source interface {
	// Get opens a range of an object. Errors are of kind fault.Access (missing, denied, changed, redirected elsewhere),
	// fault.Identity (credentials), or fault.Transient (worth another try, which is the caller's decision).
	// Cancelling the context ends reads of the body.
	Get(ctx context.Context, r Range) (*Body, error)
	// Close releases idle connections and open directories.
	Close() error
	// String names the model's place for messages and carries no credentials.
	fmt.Stringer
}

// Range asks for bytes [Off, Off+Len) of an object; Len < 0 asks for the whole object.
type Range struct {
	Name string
	Off  int64
	Len  int64
	Pin  Pin // where not zero: only if the object is still this one
}

// whole reports whether no Range header is to be sent.
func (r Range) whole() bool { return r.Len < 0 }

// header is the value of the HTTP Range header (RFC 9110, section 14.2).
func (r Range) header() string { return fmt.Sprintf("bytes=%d-%d", r.Off, r.Off+r.Len-1) }

// Pin identifies one state of an object, so that two ranges never come from two states.
type Pin struct {
	ETag      string // or another validator of the source's choice
	VersionID string // on versioned buckets
}

// Body is an answer to a Range. Off, Len and Size are what the server claims; whoever reads checks them.
type Body struct {
	io.ReadCloser
	Off, Len  int64 // the range that follows; Len < 0 = unknown
	Size      int64 // the object's size; < 0 = unknown
	Pin       Pin
	RequestID string
}

// ReadAll reads a whole object of at most limit bytes, with retries. An object that is larger is refused with fault.Format:
// limits are the format's.
func ReadAll(ctx context.Context, src Source, name string, limit int64, retry Retry) ([]byte, Pin, error) {
	var data []byte
	var pin Pin
	err := retry.do(ctx, func(ctx context.Context) error {
		body, err := src.Get(ctx, Range{Name: name, Len: -1})
		if err != nil {
			return err
		}
		defer body.Close()
		pin = body.Pin
		data, err = io.ReadAll(io.LimitReader(body, limit+1))
		if err != nil {
			return readError(ctx, err, "reading %s", name)
		}
		return nil
	})
	if err != nil {
		return nil, Pin{}, err
	}
	if int64(len(data)) > limit {
		return nil, Pin{}, fault.New(fault.Format, "this is not a model that `sealfetch seal` published",
			"%s at %s is larger than the %d bytes it may have", name, src, limit)
	}
	return data, pin, nil
}
