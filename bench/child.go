package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/fetch/identity"
)

// tookPrefix comes before the seconds that a child measured by itself.
const tookPrefix = "took "

// childFlags are the settings of all kinds of children.
type childFlags struct {
	endpoint, ca   string
	bucket, prefix string
	objects        string // "name:size,…"
	dir            string
	bytes          int64
	connections    int
	start          int
	part           int64
	key, profile   string
}

// child does one piece of work in a process of its own, so that wait4 tells what it costs.
func child(ctx context.Context, argv []string) error {
	kinds := map[string]func(context.Context, childFlags) error{
		"receive": childReceive, "bare": childBare, "plain": childPlain, "gcm-open": childOpen, "gcm-seal": childSeal,
		"get-bare": childGetBare, "get-source": childGetSource,
		"write": childWrite, "read": childRead, "upload": childUpload, "profile": childProfile,
	}
	if len(argv) == 0 || kinds[argv[0]] == nil {
		return fmt.Errorf("no kind of child: %q", argv)
	}
	var c childFlags
	f := flag.NewFlagSet("child", flag.ContinueOnError)
	f.StringVar(&c.endpoint, "endpoint", "", "")
	f.StringVar(&c.ca, "ca", "", "")
	f.StringVar(&c.bucket, "bucket", "bench", "")
	f.StringVar(&c.prefix, "prefix", "", "")
	f.StringVar(&c.objects, "objects", "", "")
	f.StringVar(&c.dir, "dir", "", "")
	f.Int64Var(&c.bytes, "bytes", 0, "")
	f.IntVar(&c.connections, "connections", 16, "")
	f.IntVar(&c.start, "start", 0, "")
	f.Int64Var(&c.part, "part", 256*sealfetch.WindowSize, "")
	f.StringVar(&c.key, "key", "", "")
	f.StringVar(&c.profile, "profile", "", "")
	if err := f.Parse(argv[1:]); err != nil {
		return err
	}
	begun := time.Now()
	if err := kinds[argv[0]](ctx, c); err != nil {
		return err
	}
	fmt.Printf(tookPrefix+"%.6f\n", time.Since(begun).Seconds())
	return nil
}

func (c childFlags) parseObjects() (objects []fetch.Object, err error) {
	for field := range strings.SplitSeq(c.objects, ",") {
		var o fetch.Object
		name, size, _ := strings.Cut(field, ":")
		if _, err := fmt.Sscan(size, &o.Size); err != nil {
			return nil, fmt.Errorf("-objects: %w", err)
		}
		o.Name = name
		objects = append(objects, o)
	}
	return objects, nil
}

// transport is the shipped one.
func (c childFlags) transport() (*http.Transport, error) {
	config := fetch.HTTPConfig{ConnectTimeout: 10 * time.Second, Connections: c.connections}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, err
		}
		config.CA = pem
	}
	return fetch.NewTransport(config)
}

func (c childFlags) opener() (fetch.Opener, error) {
	transport, err := c.transport()
	if err != nil {
		return fetch.Opener{}, err
	}
	return fetch.Opener{Transport: transport, S3: func(ctx context.Context, _ fetch.URI) (fetch.S3Config, error) {
		provider, _, err := identity.Credentials(ctx, identity.Config{Region: "us-east-1",
			Static: identity.Static{AccessKeyID: accessKey, SecretAccessKey: secretKey, From: "the benchmark"}})
		return fetch.S3Config{Credentials: provider, Region: "us-east-1", Endpoint: c.endpoint, PathStyle: true}, err
	}}, nil
}

// childReceive reads ranges with bare net/http and drops them: the floor of receiving.
func childReceive(ctx context.Context, c childFlags) error {
	objects, err := c.parseObjects()
	if err != nil {
		return err
	}
	return c.receive(ctx, objects, func(int, int64, []byte) error { return nil })
}

// childBare does the steps of a load with nothing around them: no signature, no check, no retry, and one key for all.
// It is the floor of what they cost together, which is more than each costs apart: they share caches and memory.
func childBare(ctx context.Context, c childFlags) error {
	objects, err := c.parseObjects()
	if err != nil {
		return err
	}
	aead, err := gcm()
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize())
	sink, err := c.plainSink(objects)
	if err != nil {
		return err
	}
	defer sink.close()
	return c.receive(ctx, objects, func(object int, off int64, window []byte) error {
		pieces := make([][]byte, 0, windowChunks)
		for chunk := range slices.Chunk(window, decrypt.SealedChunkSize) {
			plaintext := chunk[:max(0, len(chunk)-decrypt.TagSize)]
			aead.Seal(plaintext[:0], nonce, plaintext, nil) // costs what opening costs, and needs no true tag
			pieces = append(pieces, plaintext)
		}
		return sink.write(object, func(f *os.File) error {
			_, err := unix.Pwritev(int(f.Fd()), pieces, off/decrypt.SealedChunkSize*decrypt.ChunkSize)
			return err
		})
	})
}

// receive reads the objects in ranges with bare net/http, window by window.
func (c childFlags) receive(ctx context.Context, objects []fetch.Object,
	use func(object int, off int64, window []byte) error) error {
	transport, err := c.transport()
	if err != nil {
		return err
	}
	parts := make(chan fetch.Part, 1<<16)
	for _, part := range c.parts(objects) {
		parts <- part
	}
	close(parts)
	return parallel(c.connections, func(int) error {
		buf := make([]byte, sealfetch.WindowSize)
		for p := range parts {
			url := c.endpoint + "/" + c.bucket + "/" + c.prefix + "/" + objects[p.Object].Name
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", p.Off, p.Off+p.Len-1))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return err
			}
			for got := int64(0); got < p.Len; {
				n, err := io.ReadFull(resp.Body, buf[:min(int64(len(buf)), p.Len-got)])
				if err != nil {
					return err
				}
				if err := use(p.Object, p.Off+got, buf[:n]); err != nil {
					return err
				}
				got += int64(n)
			}
			resp.Body.Close()
		}
		return nil
	})
}

// parts cuts the objects and takes them in turns, as a load does.
func (c childFlags) parts(objects []fetch.Object) (parts []fetch.Part) {
	var largest int64
	for _, o := range objects {
		largest = max(largest, o.Size)
	}
	for off := int64(0); off < largest; off += c.part {
		for i, o := range objects {
			if off < o.Size {
				parts = append(parts, fetch.Part{Object: i, Off: off, Len: min(c.part, o.Size-off)})
			}
		}
	}
	return parts
}

func parallel(n int, work func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- work(i) }()
	}
	var first error
	for range n {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// childPlain is the engine with everything but the decryption: it writes what arrives.
func childPlain(ctx context.Context, c childFlags) error {
	objects, err := c.parseObjects()
	if err != nil {
		return err
	}
	opener, err := c.opener()
	if err != nil {
		return err
	}
	source, err := opener.Source(ctx, fetch.URI{Scheme: "s3", Host: c.bucket, Path: c.prefix})
	if err != nil {
		return err
	}
	defer source.Close()
	for i := range objects {
		objects[i].Source = source
	}
	sink, err := c.plainSink(objects)
	if err != nil {
		return err
	}
	defer sink.close()
	plan := fetch.Plan{Window: sealfetch.WindowSize, Objects: objects, Parts: c.parts(objects)}
	limits := fetch.Limits{Connections: c.connections, Start: c.start,
		Retry: fetch.Retry{Attempts: 3, Base: 100 * time.Millisecond, Cap: time.Second, Stall: 30 * time.Second}}
	return fetch.Stream(ctx, plan, sink, limits, new(fetch.Progress))
}

// plainSink writes as the shipped writer does: one writer at a time for each file.
type plainSink []plainFile

type plainFile struct {
	busy sync.Mutex
	file *os.File
}

// plainSink makes a file of each object's size.
func (c childFlags) plainSink(objects []fetch.Object) (_ plainSink, err error) {
	sink := make(plainSink, len(objects))
	defer func() {
		if err != nil {
			sink.close()
		}
	}()
	for i, o := range objects {
		if sink[i].file, err = os.Create(filepath.Join(c.dir, filepath.Base(o.Name))); err != nil {
			return nil, err
		}
		if err := sink[i].file.Truncate(o.Size); err != nil {
			return nil, err
		}
	}
	return sink, nil
}

func (s plainSink) write(object int, write func(*os.File) error) error {
	f := &s[object]
	f.busy.Lock()
	defer f.busy.Unlock()
	return write(f.file)
}

// Window is fetch.Sink's.
func (s plainSink) Window(_ context.Context, object int, off int64, p []byte) error {
	return s.write(object, func(f *os.File) error {
		_, err := f.WriteAt(p, off)
		return err
	})
}

func (s plainSink) close() {
	for i := range s {
		if s[i].file != nil {
			s[i].file.Close()
		}
	}
}

// requests is how many small ranges the children below ask for.
const requests = 20_000

// childGetBare asks for small ranges with bare net/http: the floor of a request.
func childGetBare(ctx context.Context, c childFlags) error {
	objects, err := c.parseObjects()
	if err != nil {
		return err
	}
	transport, err := c.transport()
	if err != nil {
		return err
	}
	url := c.endpoint + "/" + c.bucket + "/" + c.prefix + "/" + objects[0].Name
	return c.ask(objects[0].Size, func(off int64) (io.ReadCloser, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+c.part-1))
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		return resp.Body, nil
	})
}

// childGetSource asks for the same through the shipped source: signed, checked, classed.
func childGetSource(ctx context.Context, c childFlags) error {
	objects, err := c.parseObjects()
	if err != nil {
		return err
	}
	opener, err := c.opener()
	if err != nil {
		return err
	}
	source, err := opener.Source(ctx, fetch.URI{Scheme: "s3", Host: c.bucket, Path: c.prefix})
	if err != nil {
		return err
	}
	defer source.Close()
	return c.ask(objects[0].Size, func(off int64) (io.ReadCloser, error) {
		return source.Get(ctx, fetch.Range{Name: objects[0].Name, Off: off, Len: c.part})
	})
}

// ask gets the ranges on as many connections as are said.
func (c childFlags) ask(size int64, get func(off int64) (io.ReadCloser, error)) error {
	var next atomic.Int64
	return parallel(c.connections, func(int) error {
		buf := make([]byte, c.part)
		for i := next.Add(1); i <= requests; i = next.Add(1) {
			body, err := get(i * c.part % (size - c.part))
			if err != nil {
				return err
			}
			if _, err := io.ReadFull(body, buf); err != nil {
				return err
			}
			body.Close()
		}
		return nil
	})
}

// share runs work for windows of bytes in all, on as many goroutines as connections are said to be.
func (c childFlags) share(work func(worker int, window int64) error) error {
	windows := c.bytes / windowPlain
	var next atomic.Int64
	return parallel(c.connections, func(worker int) error {
		for i := next.Add(1) - 1; i < windows; i = next.Add(1) - 1 {
			if err := work(worker, i); err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	windowChunks = sealfetch.WindowSize / decrypt.SealedChunkSize
	windowPlain  = windowChunks * decrypt.ChunkSize
)

func gcm() (cipher.AEAD, error) {
	block, err := aes.NewCipher(make([]byte, decrypt.KeySize))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// childOpen opens chunks out of one hot window into another, over and over: the floor of decryption.
func childOpen(_ context.Context, c childFlags) error {
	aead, err := gcm()
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize())
	sealed := aead.Seal(nil, nonce, make([]byte, decrypt.ChunkSize), nil)
	buffers := make([][]byte, c.connections)
	for i := range buffers {
		buffers[i] = make([]byte, sealfetch.WindowSize)
		for k := range windowChunks {
			copy(buffers[i][k*decrypt.SealedChunkSize:], sealed)
		}
	}
	plaintext := make([][]byte, c.connections)
	for i := range plaintext {
		plaintext[i] = make([]byte, windowPlain)
	}
	return c.share(func(worker int, _ int64) error {
		for k := range windowChunks {
			chunk := buffers[worker][k*decrypt.SealedChunkSize : (k+1)*decrypt.SealedChunkSize]
			out := plaintext[worker][k*decrypt.ChunkSize : k*decrypt.ChunkSize : (k+1)*decrypt.ChunkSize]
			if _, err := aead.Open(out, nonce, chunk, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// childSeal is childOpen's counterpart.
func childSeal(_ context.Context, c childFlags) error {
	aead, err := gcm()
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize())
	buffers := make([][]byte, c.connections)
	for i := range buffers {
		buffers[i] = make([]byte, sealfetch.WindowSize)
	}
	return c.share(func(worker int, _ int64) error {
		for k := range windowChunks {
			chunk := buffers[worker][k*decrypt.SealedChunkSize : (k+1)*decrypt.SealedChunkSize]
			aead.Seal(chunk[:0], nonce, chunk[:decrypt.ChunkSize], nil)
		}
		return nil
	})
}

// childWrite writes one hot window to files, over and over: the floor of tmpfs. Each worker has a file of its own,
// because the kernel lets one writer into a file at a time.
func childWrite(_ context.Context, c childFlags) error {
	each := c.bytes / int64(c.connections)
	return parallel(c.connections, func(worker int) error {
		f, err := os.Create(filepath.Join(c.dir, fmt.Sprint(worker)))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(each); err != nil {
			return err
		}
		buf := make([]byte, windowPlain)
		for i := range buf {
			buf[i] = byte(i)
		}
		for off := int64(0); off < each; off += windowPlain {
			if _, err := f.WriteAt(buf[:min(windowPlain, each-off)], off); err != nil {
				return err
			}
		}
		return nil
	})
}

// childRead reads files from tmpfs.
func childRead(_ context.Context, c childFlags) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var files []*os.File
	var ends []int64
	c.bytes = 0
	for _, e := range entries {
		f, err := os.Open(filepath.Join(c.dir, e.Name()))
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		c.bytes += info.Size()
		files, ends = append(files, f), append(ends, c.bytes)
	}
	buffers := make([][]byte, c.connections)
	for i := range buffers {
		buffers[i] = make([]byte, windowPlain)
	}
	return c.share(func(worker int, i int64) error {
		off, k := i*windowPlain, 0
		for off >= ends[k] {
			k++
		}
		if k > 0 {
			off -= ends[k-1]
		}
		_, err := files[k].ReadAt(buffers[worker], off)
		if err == io.EOF {
			return nil
		}
		return err
	})
}

// childUpload puts parts of one hot buffer with bare net/http: the floor of uploading.
func childUpload(ctx context.Context, c childFlags) error {
	transport, err := c.transport()
	if err != nil {
		return err
	}
	parts := (c.bytes + c.part - 1) / c.part
	var next atomic.Int64
	var once sync.Once
	var shared []byte
	return parallel(c.connections, func(int) error {
		once.Do(func() { shared = make([]byte, c.part) })
		for i := next.Add(1) - 1; i < parts; i = next.Add(1) - 1 {
			url := fmt.Sprintf("%s/%s/upload/%d", c.endpoint, c.bucket, i)
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(shared))
			if err != nil {
				return err
			}
			req.ContentLength = c.part
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return nil
	})
}
