package fetch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// fileStore publishes into a directory. An object is written under a temporary name and linked to its own, which fails
// where something is there.
type fileStore struct {
	uri  URI
	root *os.Root
	made bool // the directory was not there before
}

const unfinished = ".unfinished"

func createFiles(u URI) (*fileStore, error) {
	_, err := os.Lstat(u.Path)
	made := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(u.Path, 0o755); err != nil {
		return nil, storeError(u, "", err)
	}
	root, err := os.OpenRoot(u.Path)
	if err != nil {
		return nil, storeError(u, "", err)
	}
	return &fileStore{u, root, made}, nil
}

func (s *fileStore) String() string { return s.uri.String() }

// Close removes the directory again if it was made for nothing.
func (s *fileStore) Close() error {
	if s.made {
		_ = os.Remove(s.uri.Path) // fails while it holds anything
	}
	return s.root.Close()
}

func (s *fileStore) Exists(_ context.Context, name string) (bool, error) {
	_, err := s.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, storeError(s.uri, name, err)
	}
	return true, nil
}

func (s *fileStore) Create(ctx context.Context, name string, data []byte) error {
	up, err := s.Begin(ctx, name, int64(len(data)))
	if err != nil {
		return err
	}
	if _, err := up.Part(ctx, 0, 0, data); err != nil {
		return errors.Join(err, up.Abort(ctx))
	}
	if err := up.Complete(ctx, nil); err != nil {
		return errors.Join(err, up.Abort(ctx))
	}
	return nil
}

func (s *fileStore) Begin(_ context.Context, name string, size int64) (Upload, error) {
	up, err := s.begin(name, size)
	if err != nil {
		return nil, err
	}
	return up, nil
}

func (s *fileStore) begin(name string, size int64) (*fileUpload, error) {
	if dir := path.Dir(name); dir != "." {
		if err := s.root.MkdirAll(dir, 0o755); err != nil {
			return nil, storeError(s.uri, name, err)
		}
	}
	f, err := s.root.OpenFile(name+unfinished, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, storeError(s.uri, name+unfinished, err)
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(storeError(s.uri, name, err), f.Close(), s.root.Remove(name+unfinished))
	}
	return &fileUpload{s, f, name}, nil
}

// Replace writes the new bytes beside the old ones and renames them into place.
func (s *fileStore) Replace(ctx context.Context, name string, data []byte, pin Pin) error {
	up, err := s.begin(name, int64(len(data)))
	if err != nil {
		return err
	}
	if _, err := up.Part(ctx, 0, 0, data); err != nil {
		return errors.Join(err, up.Abort(ctx))
	}
	info, err := s.root.Lstat(name)
	if err != nil {
		return errors.Join(storeError(s.uri, name, err), up.Abort(ctx))
	}
	if filePin(info) != pin {
		return errors.Join(changed(name, s), up.Abort(ctx))
	}
	if err := errors.Join(up.f.Sync(), up.f.Close(), s.root.Rename(name+unfinished, name)); err != nil {
		return errors.Join(storeError(s.uri, name, err), up.Abort(ctx))
	}
	return nil
}

// Remove deletes an object, and its directory where that was the last one.
func (s *fileStore) Remove(_ context.Context, name string) error {
	if err := s.root.Remove(name); err != nil {
		return storeError(s.uri, name, err)
	}
	s.prune(name)
	return nil
}

func (s *fileStore) prune(name string) {
	if dir := path.Dir(name); dir != "." {
		_ = s.root.Remove(dir) // fails while it holds anything
	}
}

// fileUpload is a file under its temporary name.
type fileUpload struct {
	store *fileStore
	f     *os.File
	name  string
}

func (u *fileUpload) Part(_ context.Context, _ int, off int64, data []byte) (string, error) {
	if _, err := u.f.WriteAt(data, off); err != nil {
		return "", storeError(u.store.uri, u.name, err)
	}
	return "", nil
}

func (u *fileUpload) Complete(context.Context, []string) error {
	root := u.store.root
	if err := errors.Join(u.f.Sync(), u.f.Close()); err != nil {
		return storeError(u.store.uri, u.name, err)
	}
	if err := root.Link(u.name+unfinished, u.name); err != nil {
		return storeError(u.store.uri, u.name, err)
	}
	if err := root.Remove(u.name + unfinished); err != nil {
		return storeError(u.store.uri, u.name, err)
	}
	return nil
}

func (u *fileUpload) Abort(context.Context) error {
	_ = u.f.Close() // it may be closed already
	if err := u.store.root.Remove(u.name + unfinished); err != nil {
		return storeError(u.store.uri, u.name, err)
	}
	u.store.prune(u.name)
	return nil
}

func storeError(u URI, name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return alreadyThere(name, u)
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fault.New(fault.Access, "check that the directory exists, has room and is writable", "writing %s at %s: %w",
		quote(name), u.location(), err)
}
