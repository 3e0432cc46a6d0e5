package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// stagingPrefix begins the names of the loader's own directories at a destination.
const stagingPrefix = ".sealfetch-"

// checkPath holds a path against the rules (P-1 to P-5): it names a file below the destination, in one spelling only.
func checkPath(path string) error {
	switch {
	case path == "" || len(path) > MaxPathSize:
		return fmt.Errorf("%d bytes, not 1 to %d", len(path), MaxPathSize)
	case !utf8.ValidString(path) || !norm.NFC.IsNormalString(path):
		return errors.New("not UTF-8 in normal form NFC")
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == '\\' || r == 0x7f }):
		return errors.New("a control character or a backslash")
	case strings.HasPrefix(path, stagingPrefix):
		return fmt.Errorf("names that begin with %s are the loader's own", stagingPrefix)
	}
	for element := range strings.SplitSeq(path, "/") {
		switch {
		case element == "" || element == "." || element == "..":
			return fmt.Errorf("an element %q", element)
		case len(element) > MaxElementSize:
			return fmt.Errorf("an element of more than %d bytes", MaxElementSize)
		}
	}
	return nil
}

// comparePaths orders paths element by element, elements by their bytes: as if the separator came before every other
// byte. In this order a directory's files stand together, right behind a file that bears the directory's name.
func comparePaths(a, b string) int {
	n := commonPrefix(a, b)
	if n == len(a) || n == len(b) {
		return cmp.Compare(len(a), len(b))
	}
	switch {
	case a[n] == '/':
		return -1
	case b[n] == '/':
		return 1
	}
	return cmp.Compare(a[n], b[n])
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// checkClashes refuses a path that comes twice or is a directory of another, and too many directories (P-6, P-7). Paths
// have passed checkPath. Manifests mostly come in path order; then nothing is sorted.
func checkClashes(files []File) error {
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = f.Path
	}
	if !slices.IsSortedFunc(paths, comparePaths) {
		slices.SortFunc(paths, comparePaths)
	}
	previous, directories := "", 0
	for i, path := range paths {
		shared := commonPrefix(previous, path)
		if i > 0 && shared == len(previous) {
			if shared == len(path) {
				return fmt.Errorf("file %s comes twice", quote(path))
			}
			if path[shared] == '/' {
				return fmt.Errorf("file %s is a directory of file %s", quote(previous), quote(path))
			}
		}
		if directories += strings.Count(path[shared:], "/"); directories > MaxDirectories {
			return fmt.Errorf("more than %d directories", MaxDirectories)
		}
		previous = path
	}
	return nil
}
