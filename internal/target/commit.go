package target

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// renamer is renameat2(2).
type renamer func(oldDir int, oldName string, newDir int, newName string, flags uint) error

// renameat2 leaves calls without flags to renameat(2), which sandboxes without the newer call have too.
func renameat2(oldDir int, oldName string, newDir int, newName string, flags uint) error {
	return ignoreEINTR(func() error {
		if flags == 0 {
			return unix.Renameat(oldDir, oldName, newDir, newName)
		}
		return unix.Renameat2(oldDir, oldName, newDir, newName, flags)
	})
}

// replacedPrefix starts the names, in the staging directory, of entries that a rename without flags moved out of the
// way. No model has such a name, see checkPath.
const replacedPrefix = stagingPrefix + "replaced-"

// move is one entry in its place, with what it takes to undo that.
type move struct {
	name      string
	exchanged bool   // the old entry has this name in the staging directory
	replaced  string // the old entry's name in the staging directory where it is another one; empty if there is none
}

// Commit moves the model into the destination, replacing entries of the same names. Every File must be closed.
//
// Each top-level entry is moved atomically, one after the other. An entry that is there already, as a restarted
// container finds its own, changes places with the new one and goes with the staging directory; a link is replaced and
// not followed. After an error the destination is as it was before. A model without files is an error.
func (s *Staging) Commit() error { return CommitAll(s) }

// CommitAll commits several models, each to a destination of its own. After an error all destinations are as before.
func CommitAll(all ...*Staging) error {
	for _, s := range all {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	for _, s := range all {
		if err := s.ready(); err != nil {
			return err
		}
	}
	for i, s := range all {
		if err := s.moveAll(); err != nil {
			for _, before := range slices.Backward(all[:i]) {
				err = errors.Join(err, before.undoAll())
			}
			return err
		}
	}
	for _, s := range all {
		s.stage = committed
		// The model is in place whether or not the replaced entries can be removed: those of another user may stay, and
		// Foreign names the directory they are in. The next run tries again.
		_ = s.remove()
	}
	return nil
}

// ready reports why the model cannot be committed.
func (s *Staging) ready() error {
	if s.stage != staged {
		return fmt.Errorf("committing to %s: %w", s.target.path, errEnded)
	}
	if n := s.writing.Load(); n != 0 {
		return fmt.Errorf("committing to %s: %d files are still being written", s.target.path, n)
	}
	if len(s.entries) == 0 {
		return fault.New(fault.Format, "publish the model with its files, and check include and exclude",
			"the model for %s has no files", s.target.path)
	}
	return nil
}

// moveAll moves every entry, or none.
func (s *Staging) moveAll() error {
	for i, name := range slices.Sorted(maps.Keys(s.entries)) {
		m, err := s.place(name, replacedPrefix+strconv.Itoa(i))
		if err != nil {
			err = s.target.fail(fmt.Sprintf("moving %q into %s", name, s.target.path), err)
			return errors.Join(err, s.undoAll())
		}
		s.moved = append(s.moved, m)
	}
	return nil
}

// place moves one entry into the destination; aside is a free name in the staging directory.
func (s *Staging) place(name, aside string) (move, error) {
	from, to, rename := int(s.root.Fd()), s.target.fd(), s.target.rename
	err := rename(from, name, to, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		if err = rename(from, name, to, name, unix.RENAME_EXCHANGE); err == nil {
			return move{name: name, exchanged: true}, nil
		}
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return s.placePlain(name, aside)
	}
	return move{name: name}, err
}

// placePlain is for filesystems that know no flags of renameat2(2), such as NFS. The old entry makes way first, so
// that for a moment there is neither.
func (s *Staging) placePlain(name, aside string) (move, error) {
	from, to, rename := int(s.root.Fd()), s.target.fd(), s.target.rename
	m := move{name: name, replaced: aside}
	if err := rename(to, name, from, aside, 0); errors.Is(err, unix.ENOENT) {
		m.replaced = ""
	} else if err != nil {
		return m, err
	}
	err := rename(from, name, to, name, 0)
	if err != nil && m.replaced != "" {
		err = errors.Join(err, rename(from, aside, to, name, 0))
	}
	return m, err
}

// undoAll takes moves back, the last one first, as many as it can.
func (s *Staging) undoAll() error {
	var failures []error
	for _, m := range slices.Backward(s.moved) {
		if err := s.undo(m); err != nil {
			failures = append(failures, s.target.fail(fmt.Sprintf("moving %q out of %s again", m.name, s.target.path), err))
		}
	}
	s.moved = nil
	return errors.Join(failures...)
}

func (s *Staging) undo(m move) error {
	from, to, rename := s.target.fd(), int(s.root.Fd()), s.target.rename
	if m.exchanged {
		return rename(from, m.name, to, m.name, unix.RENAME_EXCHANGE)
	}
	err := rename(from, m.name, to, m.name, 0)
	if err == nil && m.replaced != "" {
		err = rename(to, m.replaced, from, m.name, 0)
	}
	return err
}

// maxForeign bounds what Foreign returns, and maxEntries what it looks at.
const (
	maxForeign = 20
	maxEntries = 10_000
)

// Foreign names top-level entries of the destination that this model does not have: up to 20, in order, of the first
// 10,000 entries.
func (s *Staging) Foreign() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	seen := 0
	_ = s.target.entries(func(e fs.DirEntry) bool {
		if _, ours := s.entries[e.Name()]; !ours && (s.stage != staged || e.Name() != s.name) {
			names = append(names, e.Name())
		}
		seen++
		return seen < maxEntries && len(names) < maxForeign
	})
	slices.Sort(names)
	return names
}
