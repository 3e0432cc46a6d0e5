package model

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/decrypt"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/strictjson"
)

// Manifest says which files a published version has and where their bytes are. One that came from ParseManifest or
// OpenManifest keeps every rule of SPEC.md; it is safe for concurrent reading.
type Manifest struct {
	Format  string    `json:"format"`
	Model   string    `json:"model"`
	Version uint64    `json:"version"`
	Created time.Time `json:"created"`
	Objects []Object  `json:"objects"`
	Files   []File    `json:"files"`
}

// Object is one sealed data object. Its plaintext is whole files, one behind the other.
type Object struct {
	Name   string `json:"name"` // below the model's prefix
	Size   int64  `json:"size"` // bytes of plaintext
	Header Header `json:"header"`
}

// File is one file of the model.
type File struct {
	Path   string `json:"path"` // relative, separated by /
	Size   int64  `json:"size"` // bytes
	Object int    `json:"object"`
	Offset int64  `json:"offset"` // bytes into the object's plaintext
	Mode   string `json:"mode"`   // four octal digits
	SHA256 string `json:"sha256,omitempty"`
}

// Executable reports whether the file's owner may execute it, which is all that a mode says here.
func (f File) Executable() bool { return len(f.Mode) == 4 && (f.Mode[1]-'0')&1 == 1 }

// Size returns the bytes of plaintext in all objects, which are those of all files.
func (m *Manifest) Size() int64 {
	var size int64
	for _, o := range m.Objects {
		size += o.Size
	}
	return size
}

// ParseManifest reads the plaintext of a manifest. Errors do not name the object it came from; the caller knows it.
func ParseManifest(plaintext []byte) (*Manifest, error) {
	if len(plaintext) > MaxManifestSize {
		return nil, manifestFault(fmt.Errorf("more than %d bytes", MaxManifestSize))
	}
	var m Manifest
	if err := strictjson.Unmarshal(plaintext, &m); err != nil {
		return nil, manifestFault(err)
	}
	if err := m.check(); err != nil {
		return nil, manifestFault(err)
	}
	return &m, nil
}

func manifestFault(err error) error {
	return fault.New(fault.Format, hintPublisher, "%w", err)
}

// marshal checks the manifest and returns its JSON.
func (m *Manifest) marshal() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fault.New(fault.Usage, "leave the file out with --exclude, or rename it", "no manifest can say this: %w",
			err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encoding %s: %w", ManifestName, err)
	}
	if b.Len() > MaxManifestSize {
		return nil, m.tooLarge()
	}
	return b.Bytes(), nil
}

func (m *Manifest) check() error {
	if m.Format != Format {
		return fmt.Errorf("format %s is not %q, the only one known here", quote(m.Format), Format)
	}
	if err := checkName(m.Model, m.Version); err != nil {
		return err
	}
	if n := len(m.Files); n < 1 || n > MaxFiles {
		return fmt.Errorf("%d files, not 1 to %d", n, MaxFiles)
	}
	if err := m.checkObjects(); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := m.checkFile(&f); err != nil {
			return fmt.Errorf("file %s: %w", quote(f.Path), err)
		}
	}
	if err := checkClashes(m.Files); err != nil {
		return err
	}
	return m.checkCover()
}

// checkObjects holds names and sizes against the rules (M-5, M-6). Sizes are summed where they cannot overflow.
func (m *Manifest) checkObjects() error {
	if n := len(m.Objects); n > len(m.Files) {
		return fmt.Errorf("%d objects, more than files", n)
	}
	seen := make(map[string]bool, len(m.Objects))
	left := int64(MaxModelSize)
	for _, o := range m.Objects {
		digits, found := strings.CutPrefix(o.Name, dataPrefix)
		switch {
		case !found || len(digits) < 5 || len(digits) > 10 || strings.Trim(digits, "0123456789") != "":
			return fmt.Errorf("object %s: the name is not %s and 5 to 10 digits", quote(o.Name), dataPrefix)
		case seen[o.Name]:
			return fmt.Errorf("object %q comes twice", o.Name)
		case o.Size < 0 || o.Size > decrypt.MaxPlainSize || o.Size > left:
			return fmt.Errorf("object %q: size %d is negative or too large", o.Name, o.Size)
		}
		seen[o.Name] = true
		left -= o.Size
	}
	return nil
}

func (m *Manifest) checkFile(f *File) error {
	if err := checkPath(f.Path); err != nil {
		return err
	}
	if f.Object < 0 || f.Object >= len(m.Objects) {
		return fmt.Errorf("object %d of %d", f.Object, len(m.Objects))
	}
	if size := m.Objects[f.Object].Size; f.Size < 0 || f.Offset < 0 || f.Offset > size || f.Size > size-f.Offset {
		return fmt.Errorf("%d bytes at offset %d are not inside its object", f.Size, f.Offset)
	}
	if len(f.Mode) != 4 || strings.Trim(f.Mode, "01234567") != "" {
		return fmt.Errorf("mode %s is not four octal digits", quote(f.Mode))
	}
	if f.SHA256 != "" && (len(f.SHA256) != 64 || strings.Trim(f.SHA256, "0123456789abcdef") != "") {
		return errors.New("sha256 is not 64 lower-case hexadecimal digits")
	}
	return nil
}

// checkCover demands that the files of each object cover it: no gap, no overlap, nobody's bytes (M-8).
func (m *Manifest) checkCover() error {
	for i, files := range m.Contents() {
		o := m.Objects[i]
		if len(files) == 0 {
			return fmt.Errorf("object %q: no file is in it", o.Name)
		}
		var end int64
		for _, index := range files {
			f := &m.Files[index]
			if f.Offset != end {
				return fmt.Errorf("object %q: file %s begins at %d, not at %d", o.Name, quote(f.Path), f.Offset, end)
			}
			end += f.Size
		}
		if end != o.Size {
			return fmt.Errorf("object %q: files cover %d of %d bytes", o.Name, end, o.Size)
		}
	}
	return nil
}

// Contents returns for each object the indexes of its files, in the order of their bytes. An empty file stands before
// the file that begins where it does.
func (m *Manifest) Contents() [][]int {
	counts := make([]int, len(m.Objects))
	for i := range m.Files {
		counts[m.Files[i].Object]++
	}
	contents, all := make([][]int, len(m.Objects)), make([]int, len(m.Files))
	for i, n := range counts {
		contents[i], all = all[:0:n], all[n:]
	}
	for i := range m.Files {
		o := m.Files[i].Object
		contents[o] = append(contents[o], i)
	}
	for _, files := range contents {
		slices.SortFunc(files, func(i, j int) int {
			a, b := &m.Files[i], &m.Files[j]
			return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), cmp.Compare(i, j))
		})
	}
	return contents
}

// RequireDigests refuses a manifest with a file that has no SHA-256. A trusted signature calls for it: it vouches for
// the manifest, and through the digests for the content, also against others who hold the model data key.
func (m *Manifest) RequireDigests() error {
	for _, f := range m.Files {
		if f.SHA256 == "" {
			return manifestFault(fmt.Errorf("file %s has no sha256, which a signed model needs", quote(f.Path)))
		}
	}
	return nil
}
