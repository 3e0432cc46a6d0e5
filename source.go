package sealfetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

// sourceFile is a file to be sealed, as it was when the directory was scanned.
type sourceFile struct {
	model.Source
	real     string // path on this machine, symbolic links followed
	modified time.Time
}

// scan lists the regular files below dir. Symbolic links to regular files are followed, as Hugging Face
// snapshots are made of them; hidden files and those that match a pattern of exclude are left out.
func scan(dir string, exclude []string) (files []sourceFile, leftOut []string, err error) {
	excluded, err := model.NewSelection(exclude, nil)
	if err != nil {
		return nil, nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, nil, sourceError(dir, err)
	}
	err = filepath.WalkDir(dir, func(real string, entry fs.DirEntry, err error) error {
		if err != nil {
			return sourceError(real, err)
		}
		name, err := filepath.Rel(dir, real)
		if err != nil || name == "." {
			return err
		}
		if strings.HasPrefix(entry.Name(), ".") || !entry.IsDir() && len(exclude) > 0 && excluded.Match(filepath.ToSlash(name)) {
			leftOut = append(leftOut, filepath.ToSlash(name))
			return skip(entry)
		}
		if entry.IsDir() {
			return nil
		}
		file, err := newSourceFile(real, filepath.ToSlash(name))
		files = append(files, file)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(files) == 0 {
		return nil, nil, fault.New(fault.Usage, "name the directory that holds the model's files", "%q holds no files to seal", dir)
	}
	return files, leftOut, nil
}

// inOrderOf puts the files into the order of the manifest, which has one entry for each: from here on one index is
// good for both.
func inOrderOf(manifest *model.Manifest, files []sourceFile) []sourceFile {
	byPath := make(map[string]sourceFile, len(files))
	for _, f := range files {
		byPath[f.Path] = f
	}
	ordered := make([]sourceFile, len(manifest.Files))
	for i, f := range manifest.Files {
		ordered[i] = byPath[f.Path]
	}
	return ordered
}

func skip(entry fs.DirEntry) error {
	if entry.IsDir() {
		return fs.SkipDir
	}
	return nil
}

func newSourceFile(real, name string) (sourceFile, error) {
	info, err := os.Stat(real)
	if err != nil {
		return sourceFile{}, sourceError(real, err)
	}
	if !info.Mode().IsRegular() {
		return sourceFile{}, fault.New(fault.Usage, "leave it out with --exclude, or replace it by a regular file",
			"%q is not a regular file nor a link to one (%s)", real, info.Mode().Type())
	}
	source := model.Source{Path: name, Size: info.Size(), Executable: info.Mode()&0o111 != 0}
	return sourceFile{source, real, info.ModTime()}, nil
}

func sourceError(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fault.New(fault.Usage, "check that the file exists, is readable, and that no link is dangling or loops",
		"reading %q: %w", path, err)
}

// unchanged checks that no file was written while it was sealed.
func unchanged(files []sourceFile) error {
	for _, f := range files {
		info, err := os.Stat(f.real)
		if err != nil {
			return sourceError(f.real, err)
		}
		if info.Size() != f.Size || !info.ModTime().Equal(f.modified) {
			return changedWhileSealed(f.real)
		}
	}
	return nil
}

func changedWhileSealed(path string) error {
	return fault.New(fault.Usage, "seal a directory that nobody writes to", "%q changed while it was being sealed", path)
}

// content reads the plaintext of one object: its files one after the other. It keeps the last file open.
type content struct {
	files    []sourceFile
	order    []int
	manifest *model.Manifest
	index    int // of f, in files
	f        *os.File
}

func newContent(files []sourceFile, order []int, manifest *model.Manifest) *content {
	return &content{files: files, order: order, manifest: manifest, index: -1}
}

// readAt fills p with the object's plaintext from off on. A file that became shorter is an error.
func (c *content) readAt(p []byte, off int64) error {
	files := c.manifest.Files
	i, _ := slices.BinarySearchFunc(c.order, off, func(file int, off int64) int {
		if files[file].Offset+files[file].Size <= off {
			return -1
		}
		return 1
	})
	for ; len(p) > 0; i++ {
		if i >= len(c.order) {
			return fault.New(fault.Internal, "", "object plan ends before its size")
		}
		file := files[c.order[i]]
		within := off - file.Offset
		n := min(int64(len(p)), file.Size-within)
		if err := c.readFile(c.order[i], p[:n], within); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

func (c *content) readFile(index int, p []byte, off int64) (err error) {
	if len(p) == 0 {
		return nil
	}
	path := c.files[index].real
	if c.index != index {
		c.close()
		if c.f, err = os.Open(path); err != nil {
			return sourceError(path, err)
		}
		c.index = index
	}
	if _, err := c.f.ReadAt(p, off); errors.Is(err, io.EOF) {
		return changedWhileSealed(path)
	} else if err != nil {
		return sourceError(path, err)
	}
	return nil
}

func (c *content) close() {
	if c.f != nil {
		_ = c.f.Close()
		c.f, c.index = nil, -1
	}
}

// digestFiles records the SHA-256 of every file in the manifest.
func (p *publication) digestFiles(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range p.files {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return p.digestFile(i)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return unchanged(p.files)
}

func (p *publication) digestFile(i int) error {
	f, err := os.Open(p.files[i].real)
	if err != nil {
		return sourceError(p.files[i].real, err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return sourceError(p.files[i].real, err)
	}
	p.manifest.Files[i].SHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}
