package model

import (
	"errors"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Bounds on patterns. Matching takes at most the product of the lengths of pattern and path.
const (
	MaxPatterns    = 64
	MaxPatternSize = MaxPathSize // bytes
)

// Selection chooses files by their paths: those that match an include pattern, or all where there is none, less those
// that match an exclude pattern. SPEC.md ("Selection") has the grammar. A nil Selection chooses all.
type Selection struct {
	include, exclude []glob
}

// NewSelection compiles patterns. Bad ones are fault.Usage.
func NewSelection(include, exclude []string) (*Selection, error) {
	if len(include)+len(exclude) > MaxPatterns {
		return nil, fault.New(fault.Usage, "use fewer, broader patterns", "more than %d patterns", MaxPatterns)
	}
	var s Selection
	var err error
	if s.include, err = compileAll(include); err != nil {
		return nil, err
	}
	if s.exclude, err = compileAll(exclude); err != nil {
		return nil, err
	}
	return &s, nil
}

// Match reports whether the selection chooses a path.
func (s *Selection) Match(path string) bool {
	if s == nil {
		return true
	}
	elements := strings.Split(path, "/")
	return (len(s.include) == 0 || anyMatches(s.include, elements)) && !anyMatches(s.exclude, elements)
}

// Select returns the indexes of the files that a selection chooses, in their order. Choosing none is an error.
func (m *Manifest) Select(s *Selection) ([]int, error) {
	var files []int
	for i, f := range m.Files {
		if s.Match(f.Path) {
			files = append(files, i)
		}
	}
	if len(files) == 0 {
		return nil, fault.New(fault.Format, "list the files with sealfetch inspect and change include or exclude",
			"none of the model's %d files is selected", len(m.Files))
	}
	return files, nil
}

// glob is a pattern, split into its elements. anyDepth stands for any number of elements, the others for one.
type glob []string

const anyDepth = "**"

func compileAll(patterns []string) ([]glob, error) {
	globs := make([]glob, len(patterns))
	for i, p := range patterns {
		var err error
		if globs[i], err = compile(p); err != nil {
			return nil, fault.New(fault.Usage, "patterns look like *.json, tokenizer/**, **/config.json or /config.json",
				"pattern %s: %w", quote(p), err)
		}
	}
	return globs, nil
}

func compile(pattern string) (glob, error) {
	if len(pattern) > MaxPatternSize || !utf8.ValidString(pattern) {
		return nil, errors.New("too long, or not UTF-8")
	}
	if strings.HasPrefix(pattern, "!") {
		return nil, errors.New("patterns are not negated; use exclude, or [!] for the character")
	}
	anchored := strings.Contains(pattern, "/")
	elements := strings.Split(norm.NFC.String(strings.TrimPrefix(pattern, "/")), "/")
	for _, e := range elements {
		if err := checkElement(e); err != nil {
			return nil, err
		}
	}
	if !anchored {
		elements = append([]string{anyDepth}, elements...)
	}
	if elements[len(elements)-1] == anyDepth {
		elements = append(elements, "*") // what is below a directory, not a file of its name
	}
	return elements, nil
}

func checkElement(e string) error {
	switch {
	case e == anyDepth:
		return nil
	case e == "" || e == "." || e == "..":
		return errors.New("an empty, . or .. element; a directory's files are dir/**")
	case strings.Contains(e, anyDepth):
		return errors.New("** stands alone between slashes")
	}
	_, err := path.Match(e, "")
	return err
}

func anyMatches(globs []glob, elements []string) bool {
	for _, g := range globs {
		if g.match(elements) {
			return true
		}
	}
	return false
}

// match compares element by element. Where that fails it goes back to the latest ** alone and gives it one element
// more: an earlier one could only leave less for the rest. So the work is bounded by the product of the lengths.
func (g glob) match(elements []string) bool {
	i, star, taken := 0, -1, 0
	for j := 0; j < len(elements); {
		switch {
		case i < len(g) && g[i] == anyDepth:
			star, taken = i, j
			i++
		case i < len(g) && matchElement(g[i], elements[j]):
			i++
			j++
		case star >= 0:
			taken++
			i, j = star+1, taken
		default:
			return false
		}
	}
	return i == len(g) // the last element of a glob is never **, and so must have matched something
}

func matchElement(pattern, element string) bool {
	ok, err := path.Match(pattern, element)
	return ok && err == nil
}
