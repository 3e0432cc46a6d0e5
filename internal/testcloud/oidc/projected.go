package oidc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WriteProjected writes a token where a projected service-account volume has it, and returns its path, DIR/token: a
// link through DIR/..data to a directory that each call makes anew and swaps in by one rename, as the kubelet does.
func WriteProjected(dir, token string) (string, error) {
	generation := ".." + rand.Text()
	path := filepath.Join(dir, "token")
	if err := os.Mkdir(filepath.Join(dir, generation), 0o755); err != nil {
		return "", fmt.Errorf("projecting the token: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, generation, "token"), []byte(token), 0o644); err != nil {
		return "", fmt.Errorf("projecting the token: %w", err)
	}
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	next := filepath.Join(dir, "..data_tmp")
	err := errors.Join(os.Symlink(generation, next), os.Rename(next, filepath.Join(dir, "..data")))
	if _, missing := os.Lstat(path); missing != nil && err == nil {
		err = os.Symlink(filepath.Join("..data", "token"), path)
	}
	if old != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, old)))
	}
	if err != nil {
		return "", fmt.Errorf("projecting the token: %w", err)
	}
	return path, nil
}
