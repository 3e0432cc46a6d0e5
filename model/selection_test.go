package model_test

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"

	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/model"
)

func selection(t testing.TB, include, exclude []string) *model.Selection {
	t.Helper()
	s, err := model.NewSelection(include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGlobs(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no string // paths, separated by spaces
	}{
		{"config.json", "config.json a/config.json a/b/config.json", "config.jsonl xconfig.json config.json/a"},
		{"*.json", "a.json x/b.json .json", "a.jsonl a.json/b"},
		{"/config.json", "config.json", "a/config.json"},
		{"/*.json", "config.json", "a/config.json"},
		{"a/*.json", "a/b.json", "b.json a/b/c.json x/a/b.json"},
		{"a/**", "a/b a/b/c", "a b/a xa/b"},
		{"/a/**", "a/b a/b/c", "a b/a/c"},
		{"**/a", "a x/a x/y/a", "a/x xa"},
		{"**/a/**", "a/x y/a/x", "a y/a"},
		{"a/**/z", "a/z a/b/z a/b/c/z", "az a/b/zz x/a/z"},
		{"a/**/b/**/z", "a/b/z a/x/b/y/z a/b/b/z", "a/z a/b a/x/z"},
		{"**", "a a/b", ""},
		{"**/*", "a a/b", ""},
		{"*", "a a/b", ""},
		{"/*", "a", "a/b"},
		{"?", "a é x/y", "ab"},
		{"model-0000[1-3]-of-*.bin", "model-00001-of-9.bin", "model-00004-of-9.bin"},
		{"[^a]*", "b", "a"},
		{"[!]x", "!x", "yx"},
		{`a\*`, "a*", "ab"},
		{"{a,b}", "{a,b}", "a b"},
		{"e\u0301", "\u00e9", "e"},
		{"a*b*c", "abc axbxc aabbcc", "acb"},
	} {
		s := selection(t, []string{c.pattern}, nil)
		for _, p := range strings.Fields(c.yes) {
			if !s.Match(p) {
				t.Errorf("%q does not match %q", c.pattern, p)
			}
		}
		for _, p := range strings.Fields(c.no) {
			if s.Match(p) {
				t.Errorf("%q matches %q", c.pattern, p)
			}
		}
	}
}

func TestBadGlobs(t *testing.T) {
	for _, p := range []string{"", "/", "a//b", "a/", "./a", "a/../b", "a**", "**a/b", "[", "a/[z-", `a\`, "!a", "\xff",
		strings.Repeat("a", model.MaxPatternSize+1)} {
		for _, patterns := range [][2][]string{{{p}, nil}, {nil, {"ok", p}}} {
			if s, err := model.NewSelection(patterns[0], patterns[1]); s != nil || !fault.Is(err,
				fault.Usage) || fault.Hint(err) == "" {
				t.Errorf("%.20q: %v", p, err)
			}
		}
	}
	many := make([]string, model.MaxPatterns)
	for i := range many {
		many[i] = "a"
	}
	if _, err := model.NewSelection(many, []string{"b"}); !fault.Is(err, fault.Usage) {
		t.Errorf("too many patterns: %v", err)
	}
	if _, err := model.NewSelection(many, nil); err != nil {
		t.Errorf("as many patterns as are allowed: %v", err)
	}
}

func TestSelect(t *testing.T) {
	m := &model.Manifest{Files: []model.File{{Path: "a.json"}, {Path: "b.bin"}, {Path: "c/d.bin"}}}
	for _, c := range []struct {
		s    *model.Selection
		want string
	}{
		{nil, "0 1 2"},
		{selection(t, nil, nil), "0 1 2"},
		{selection(t, []string{"*.bin"}, nil), "1 2"},
		{selection(t, nil, []string{"c/**"}), "0 1"},
		{selection(t, []string{"*.bin", "a.*"}, []string{"b.*"}), "0 2"},
	} {
		got, err := m.Select(c.s)
		if text := strings.Trim(fmt.Sprint(got), "[]"); err != nil || text != c.want {
			t.Errorf("selected %v, %v; want %s", got, err, c.want)
		}
	}
	if got, err := m.Select(selection(t, []string{"*.safetensors"}, nil)); got != nil || !fault.Is(err, fault.Format) {
		t.Errorf("selected %v, %v; want none and an error", got, err)
	}
}

// TestGlobsDoNotExplode would not end if backtracking went back to more than the latest wildcard.
func TestGlobsDoNotExplode(t *testing.T) {
	deep := strings.Repeat("a/", 500) + "b"
	for _, pattern := range []string{strings.Repeat("**/a/", 150) + "c", strings.Repeat("**/", 300) + "c",
		strings.Repeat("*a", 500) + "c"} {
		if selection(t, []string{pattern}, nil).Match(deep) || selection(t, []string{pattern}, nil).Match(strings.Repeat("a",
			1000)) {
			t.Errorf("%.20q matches", pattern)
		}
	}
}

// FuzzGlob holds the matcher against one that tries everything.
func FuzzGlob(f *testing.F) {
	f.Add("**/a/*/b", "x/a/y/b")
	f.Add("a/**/b/**", "a/b/b")
	f.Add("*.json", "a/b.json")
	f.Add("[a-", "a")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		s, err := model.NewSelection([]string{pattern}, nil)
		if err != nil {
			if !fault.Is(err, fault.Usage) {
				t.Fatal(err)
			}
			return
		}
		if strings.Count(pattern, "/") > 6 || strings.Count(name, "/") > 8 {
			return // too much to try
		}
		elements := strings.Split(norm.NFC.String(strings.TrimPrefix(pattern, "/")), "/")
		if !strings.Contains(pattern, "/") {
			elements = append([]string{"**"}, elements...)
		}
		if want := matchesSomehow(elements, strings.Split(name, "/")); s.Match(name) != want {
			t.Fatalf("%q, %q: %v, want %v", pattern, name, !want, want)
		}
	})
}

func matchesSomehow(pattern, elements []string) bool {
	if len(pattern) == 0 {
		return len(elements) == 0
	}
	if pattern[0] != "**" {
		ok := len(elements) > 0
		if ok {
			ok, _ = path.Match(pattern[0], elements[0])
		}
		return ok && matchesSomehow(pattern[1:], elements[1:])
	}
	if len(pattern) == 1 {
		return len(elements) > 0
	}
	for i := range len(elements) + 1 {
		if matchesSomehow(pattern[1:], elements[i:]) {
			return true
		}
	}
	return false
}
