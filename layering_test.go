package sealfetch_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// These tests hold the code against the architecture as CONTRIBUTING.md draws it. Its two tables are read from there, so
// that the picture cannot differ from what it shows.

const modulePath = "github.com/sealfetch/sealfetch"

// pkg is a package of this module as its files say, without tests.
type pkg struct {
	dir     string // "." for the root
	files   []*ast.File
	imports map[string]bool
	docs    int // files with a package comment
}

// ours are the imports of this module, as directories.
func (p *pkg) ours() []string {
	var dirs []string
	for path := range p.imports {
		if path == modulePath {
			dirs = append(dirs, ".")
		} else if dir, ok := strings.CutPrefix(path, modulePath+"/"); ok {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// packages parses the module: all files but tests, and no nested module.
func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	all := map[string]*pkg{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(name)
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(name))
		if all[dir] == nil {
			all[dir] = &pkg{dir: dir, imports: map[string]bool{}}
		}
		all[dir].add(file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func enter(dir string) error {
	base := filepath.Base(dir)
	if base == "testdata" || base == "bin" || dir != "." && strings.HasPrefix(base, ".") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil && dir != "." {
		return fs.SkipDir
	}
	return nil
}

func (p *pkg) add(file *ast.File) {
	p.files = append(p.files, file)
	for _, spec := range file.Imports {
		p.imports[importPath(spec)] = true
	}
	if file.Doc != nil {
		p.docs++
	}
}

func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value)
	return p
}

// table reads the table of CONTRIBUTING.md that has this heading in its first column: what stands in backquotes in the
// first two columns.
func table(t *testing.T, heading string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n| "+heading+" |")
	if !found {
		t.Fatalf("CONTRIBUTING.md has no table that begins with %q", heading)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	names := func(cell string) (all []string) {
		for _, match := range quoted.FindAllStringSubmatch(cell, -1) {
			all = append(all, match[1])
		}
		return all
	}
	rows := map[string][]string{}
	for line := range strings.Lines(rest[strings.IndexByte(rest, '\n')+1:]) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			break
		}
		for _, name := range names(cells[1]) {
			rows[name] = names(cells[2])
			slices.Sort(rows[name])
		}
	}
	return rows
}

// free may be imported from everywhere.
var free = []string{"internal/fault", "internal/secret"}

// TestImports holds the imports among our own packages against the table of rooms: not one more, not one less.
func TestImports(t *testing.T) {
	rooms, found := table(t, "package"), packages(t)
	for dir, p := range found {
		allowed, listed := rooms[dir]
		if !listed {
			t.Errorf("%s: no row in the table of packages in CONTRIBUTING.md", dir)
			continue
		}
		actual := slices.DeleteFunc(p.ours(), func(dir string) bool { return slices.Contains(free, dir) })
		if !slices.Equal(actual, allowed) {
			t.Errorf("%s imports `%s`; CONTRIBUTING.md says `%s`", dir, strings.Join(actual, "`, `"), strings.Join(allowed, "`, `"))
		}
	}
	for dir := range rooms {
		if found[dir] == nil {
			t.Errorf("%s: in the table of packages in CONTRIBUTING.md, but there is no such package", dir)
		}
	}
}

// TestExclusiveImports holds the imports that few packages may have against the second table. An entry that ends in /...
// stands for all below it.
func TestExclusiveImports(t *testing.T) {
	found := packages(t)
	for pattern, allowed := range table(t, "import") {
		var importers []string
		for dir, p := range found {
			if shipped(dir) && imports(p, pattern) {
				importers = append(importers, dir)
			}
		}
		slices.Sort(importers)
		if !slices.Equal(importers, allowed) {
			t.Errorf("%s is imported by `%s`; CONTRIBUTING.md says `%s`", pattern, strings.Join(importers, "`, `"), strings.Join(allowed, "`, `"))
		}
	}
}

// shipped reports whether a package is meant for the programs that users run.
func shipped(dir string) bool {
	return dir != "cmd/demo" && !within(dir, "bench") && !within(dir, "e2e") && !within(dir, "internal/testcloud")
}

// within reports whether a slash-separated path is root or below it.
func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func imports(p *pkg, pattern string) bool {
	root, below := strings.CutSuffix(pattern, "/...")
	for path := range p.imports {
		if path == pattern || below && within(path, root) {
			return true
		}
	}
	return false
}

// TestNeverImported has the rules that no table can loosen.
func TestNeverImported(t *testing.T) {
	found := packages(t)
	for _, rule := range []struct {
		packages []string
		never    []string
	}{
		{[]string{"decrypt"}, []string{"net/...", "os/...", "log/...", "context"}},
		{[]string{".", "model", "internal/target", "internal/audit", "internal/secret", "internal/keyfile", "internal/strictjson"},
			[]string{"net/..."}},
		{[]string{".", "fetch", "model", "decrypt", "keybroker", "attest", "internal/target"}, []string{"flag", "testing/...", "C"}},
	} {
		for _, dir := range rule.packages {
			for _, pattern := range rule.never {
				if found[dir] == nil {
					t.Errorf("%s: no such package", dir)
				} else if imports(found[dir], pattern) {
					t.Errorf("%s imports %s", dir, pattern)
				}
			}
		}
	}
	for dir, p := range found {
		if !shipped(dir) {
			continue
		}
		for _, imported := range p.ours() {
			if !shipped(imported) {
				t.Errorf("%s imports %s, which is for tests and demonstrations alone", dir, imported)
			}
		}
	}
}

// process are functions that act on, or ask, the process as a whole: only programs do.
var process = map[string][]string{
	"os": {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv", "Exit", "Args"},
	"log/slog": {"Default", "SetDefault", "Debug", "Info", "Warn", "Error", "Log", "LogAttrs",
		"DebugContext", "InfoContext", "WarnContext", "ErrorContext"},
	"log":           {"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Default", "SetOutput"},
	"net/http":      {"ProxyFromEnvironment", "DefaultClient", "Get", "Post", "Head"},
	"os/signal":     {"Notify", "NotifyContext", "Ignore"},
	"runtime/debug": {"SetGCPercent", "SetMemoryLimit"},
}

// TestOnlyProgramsTouchTheProcess finds reads of the environment, exits, signals and default loggers outside cmd.
func TestOnlyProgramsTouchTheProcess(t *testing.T) {
	for dir, p := range packages(t) {
		if within(dir, "cmd") || !shipped(dir) {
			continue
		}
		for _, file := range p.files {
			for _, use := range uses(file) {
				if functions := process[use.path]; slices.Contains(functions, use.name) {
					t.Errorf("%s uses %s.%s: read it in cmd/ and pass it on", dir, use.path, use.name)
				}
			}
		}
	}
}

// use is one mention of another package's identifier.
type use struct{ path, name string }

func uses(file *ast.File) (all []use) {
	names := map[string]string{}
	for _, spec := range file.Imports {
		name := path.Base(importPath(spec))
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = importPath(spec)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && names[x.Name] != "" {
				all = append(all, use{names[x.Name], selector.Sel.Name})
			}
		}
		return true
	})
	return all
}

// TestPackages finds packages without a comment or with a name that says nothing, init functions, and imports that
// bring names in unseen.
func TestPackages(t *testing.T) {
	empty := []string{"util", "utils", "common", "helper", "helpers", "types", "errors", "misc", "base", "shared"}
	for dir, p := range packages(t) {
		if p.docs != 1 {
			t.Errorf("%s has %d package comments, not one", dir, p.docs)
		}
		for _, file := range p.files {
			if slices.Contains(empty, file.Name.Name) {
				t.Errorf("%s: the package's name %s says nothing", dir, file.Name.Name)
			}
			checkDecls(t, dir, file)
		}
	}
}

func checkDecls(t *testing.T, dir string, file *ast.File) {
	t.Helper()
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			t.Errorf("%s has an init function", dir)
		}
	}
	for _, spec := range file.Imports {
		if spec.Name != nil && (spec.Name.Name == "." || spec.Name.Name == "_") {
			t.Errorf("%s: import %s %s", dir, spec.Name.Name, importPath(spec))
		}
	}
}

// TestLinked asks the toolchain what the released program is made of.
func TestLinked(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "./cmd/sealfetch")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	linked := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		linked[strings.TrimSpace(line)] = true
	}
	if !linked[modulePath+"/decrypt"] {
		t.Fatal("go list does not list what the program is made of")
	}
	for path := range linked {
		dir, mine := strings.CutPrefix(path, modulePath+"/")
		if mine && !shipped(dir) || path == "testing" || path == "net/http/httptest" || path == "runtime/cgo" || path == "plugin" {
			t.Errorf("cmd/sealfetch links %s", path)
		}
	}
}

// TestDependencies wants a reason in CONTRIBUTING.md for every direct dependency, and for nothing else.
func TestDependencies(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, match := range regexp.MustCompile(`(?m)^\s+(\S+\.\S+/\S+) v\S+$`).FindAllStringSubmatch(string(text), -1) {
		direct = append(direct, match[1])
	}
	slices.Sort(direct)
	if reasons := slices.Sorted(maps.Keys(table(t, "module"))); !slices.Equal(direct, reasons) {
		t.Errorf("direct dependencies are %q; CONTRIBUTING.md gives reasons for %q", direct, reasons)
	}
}

// TestRows prints the rows that TestImports wants, for whoever adds a package: go test -run TestRows -v .
func TestRows(t *testing.T) {
	if !testing.Verbose() {
		t.Skip("prints the rows of the table of packages")
	}
	found := packages(t)
	for _, dir := range slices.Sorted(maps.Keys(found)) {
		actual := slices.DeleteFunc(found[dir].ours(), func(dir string) bool { return slices.Contains(free, dir) })
		row := fmt.Sprintf("| `%s` | ", dir)
		for i, imported := range actual {
			if i > 0 {
				row += ", "
			}
			row += "`" + imported + "`"
		}
		t.Log(row + " | |")
	}
}
