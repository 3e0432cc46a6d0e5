package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	accessKey = "AKIDBENCHBENCHBENCH0"
	secretKey = "benchbenchbenchbenchbenchbenchbenchbench"
	bucket    = "bench"
)

// dataset is a model, sealed and as it was.
type dataset struct {
	name  string
	files int
	size  int64 // of each file
	same  bool  // all files are one, linked: it saves memory and costs no client anything
	plain bool  // the plain files are served, too
	drop  bool  // the plain files are removed once they are sealed
}

func (d dataset) bytes() int64 { return int64(d.files) * d.size }

func (b *bench) sourceDir(d dataset) string {
	if d.plain {
		return filepath.Join(b.work, "s3", bucket, d.name+"-plain")
	}
	return filepath.Join(b.work, "src", d.name)
}

func (b *bench) sealedDir(d dataset) string { return filepath.Join(b.work, "s3", bucket, d.name) }

// prepare makes a dataset unless it is there. Others are removed first: the machine's memory is what they are kept in.
func (b *bench) prepare(ctx context.Context, d dataset) error {
	if b.current == d.name {
		return nil
	}
	if b.current != "" {
		err := errors.Join(os.RemoveAll(filepath.Join(b.work, "s3")), os.RemoveAll(filepath.Join(b.work, "src")))
		if err != nil {
			return err
		}
	}
	b.current = d.name
	b.say("making %s: %d x %s", d.name, d.files, human(d.size))
	if err := b.makeFiles(d); err != nil {
		return err
	}
	if err := b.makeKey(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.binary, "seal", "--model", "bench/"+d.name, "--version", "1",
		"--wrap", "jwk:"+b.key(), b.sourceDir(d), b.sealedDir(d))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sealing the data: %w\n%s", err, out)
	}
	if d.drop {
		if err := os.RemoveAll(b.sourceDir(d)); err != nil {
			return err
		}
	}
	return b.touch(d.bytes())
}

// touch has the host give this machine the memory that the destination will take: a virtual machine pays for the first
// touch of each page, whoever comes first.
func (b *bench) touch(bytes int64) error {
	if err := emptyDir(b.dst()); err != nil {
		return err
	}
	if err := childWrite(context.Background(), childFlags{dir: b.dst(), bytes: bytes, connections: 2}); err != nil {
		return err
	}
	return emptyDir(b.dst())
}

func (b *bench) key() string { return filepath.Join(b.work, "kek.jwk") }

func (b *bench) makeKey(ctx context.Context) error {
	if _, err := os.Stat(b.key()); err == nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, b.binary, "keygen", "--type", "kek", "--out", b.key()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("making the key: %w\n%s", err, out)
	}
	return nil
}

// makeFiles writes bytes that compress badly, with a seed of their own for each file.
func (b *bench) makeFiles(d dataset) error {
	dir := b.sourceDir(d)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range d.files {
		path := filepath.Join(dir, fmt.Sprintf("model-%05d.bin", i))
		if i > 0 && d.same {
			if err := os.Link(filepath.Join(dir, "model-00000.bin"), path); err != nil {
				return err
			}
			continue
		}
		if err := writeRandom(path, d.size, uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

func writeRandom(path string, size int64, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(f, io.LimitReader(content(seed), size), make([]byte, 1<<20))
	return err
}

// content is what a file with a seed holds.
func content(seed uint64) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
}

// objects lists the sealed data objects as children take them: "name:size,…".
func (b *bench) objects(d dataset) (string, error) {
	names, err := filepath.Glob(filepath.Join(b.sealedDir(d), "data", "*"))
	if err != nil || len(names) == 0 {
		return "", fmt.Errorf("no data objects in %s", b.sealedDir(d))
	}
	slices.Sort(names)
	var list []string
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		list = append(list, fmt.Sprintf("data/%s:%d", filepath.Base(name), info.Size()))
	}
	return strings.Join(list, ","), nil
}

// compare holds what a client wrote against what was sealed.
func (b *bench) compare(d dataset) error {
	for i := range d.files {
		seed := uint64(i)
		if d.same {
			seed = 0
		}
		if err := checkContent(filepath.Join(b.dst(), fmt.Sprintf("model-%05d.bin", i)), d.size, seed); err != nil {
			return err
		}
	}
	return nil
}

func checkContent(path string, size int64, seed uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != size {
		return fmt.Errorf("%s has not %d bytes: %w", path, size, err)
	}
	want, got, source := make([]byte, 1<<20), make([]byte, 1<<20), content(seed)
	for left := size; left > 0; left -= int64(len(want)) {
		n := min(left, int64(len(want)))
		_, _ = source.Read(want[:n])
		if _, err := io.ReadFull(f, got[:n]); err != nil {
			return err
		}
		if !bytes.Equal(want[:n], got[:n]) {
			return fmt.Errorf("%s differs within the last %d bytes", path, left)
		}
	}
	return nil
}

func human(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.4g GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.4g KiB", float64(n)/(1<<10))
}
