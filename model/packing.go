package model

import (
	"fmt"
	"slices"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Packing: many small files cost few requests, and a large file costs nobody else's bytes (W-2).
const (
	ownObjectSize = 4 << 20 // a file of this many bytes has an object of its own
	packSize      = 8 << 20 // bytes of smaller files in one object, at most
	dataPrefix    = "data/"
)

// Source is a file that is to be sealed.
type Source struct {
	Path       string // relative, separated by /
	Size       int64  // bytes
	Executable bool
}

// NewManifest lays out sources in objects, which depends on nothing but their paths and sizes. Headers are set by
// SealObject, and digests by whoever signs. Sources that no manifest may hold are fault.Usage.
func NewManifest(model string, version uint64, created time.Time, sources []Source) (*Manifest, error) {
	sources = slices.Clone(sources)
	slices.SortFunc(sources, func(a, b Source) int { return comparePaths(a.Path, b.Path) })
	m := &Manifest{Format: Format, Model: model, Version: version, Created: created.UTC().Truncate(time.Second)}
	pack := -1 // the object that takes small files
	for _, s := range sources {
		object := pack
		switch {
		case s.Size >= ownObjectSize:
			object = m.addObject()
		case pack < 0 || s.Size > packSize-m.Objects[pack].Size:
			pack = m.addObject()
			object = pack
		}
		m.addFile(s, object)
	}
	if _, err := m.marshal(); err != nil { // better now than when everything is uploaded
		return nil, fmt.Errorf("planning %s version %d: %w", quote(model), version, err)
	}
	return m, nil
}

func (m *Manifest) addObject() int {
	m.Objects = append(m.Objects, Object{Name: fmt.Sprintf("%s%05d", dataPrefix, len(m.Objects))})
	return len(m.Objects) - 1
}

func (m *Manifest) addFile(s Source, object int) {
	mode := "0644"
	if s.Executable {
		mode = "0755"
	}
	o := &m.Objects[object]
	m.Files = append(m.Files, File{Path: s.Path, Size: s.Size, Object: object, Offset: o.Size, Mode: mode})
	o.Size += s.Size
}

// CheckRoomForDigests finds out before anything is uploaded whether the manifest will still fit when every file has its
// SHA-256: if not, it is fault.Usage.
func (m *Manifest) CheckRoomForDigests() error {
	plaintext, err := m.marshal()
	if err != nil {
		return err
	}
	const digestSize = len(`,"sha256":""`) + 64
	if len(plaintext)+len(m.Files)*digestSize > MaxManifestSize {
		return m.tooLarge()
	}
	return nil
}

func (m *Manifest) tooLarge() error {
	return fault.New(fault.Usage, "seal fewer files or shorter paths; files that are not signed need less room",
		"the manifest of %d files has more than %d bytes", len(m.Files), MaxManifestSize)
}
