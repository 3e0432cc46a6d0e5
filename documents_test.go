package sealfetch_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// These tests hold the documents against the program and the tests that they speak of.

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestReadmeSettings wants a row in README.md for every flag of every command, in the words of --help, and no other row.
func TestReadmeSettings(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sealfetch")
	if out, err := exec.Command("go", "build", "-o", program, "./cmd/sealfetch").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := settingRows(t, program)
	found := map[string]bool{}
	for line := range strings.Lines(readText(t, "README.md")) {
		if strings.HasPrefix(line, "| `--") && strings.Count(line, "|") == 6 {
			found[strings.TrimSpace(line)] = true
		}
	}
	for _, row := range want {
		if !found[row] {
			t.Errorf("README.md lacks the row\n%s", row)
		}
	}
	for row := range found {
		if !slices.Contains(want, row) {
			t.Errorf("README.md has a row that --help has not\n%s", row)
		}
	}
}

var (
	commandLine = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +\S`)
	flagLines   = regexp.MustCompile(`(?m)^  --(\S+) ?(.*)\n {8}(.*?)(?: \(default ([^()]*)\))? \[(.*)\]$`)
)

// settingRows makes the rows from the help of all commands.
func settingRows(t *testing.T, program string) []string {
	t.Helper()
	help := func(args ...string) string {
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
		return string(out)
	}
	var commands, rows []string
	users := map[string][]string{}
	for _, command := range commandLine.FindAllStringSubmatch(help("help"), -1) {
		commands = append(commands, command[1])
		for _, flag := range flagLines.FindAllStringSubmatch(help(command[1], "--help"), -1) {
			row := settingRow(flag)
			if users[row] == nil {
				rows = append(rows, row)
			}
			users[row] = append(users[row], command[1])
		}
	}
	if len(rows) < 50 {
		t.Fatalf("the help lists %d flags", len(rows))
	}
	for i, row := range rows {
		rows[i] = row + userCell(users[row], commands) + " |"
	}
	return rows
}

// settingRow has all cells but the last.
func settingRow(flag []string) string {
	name, kind, usage, value, variables := flag[1], flag[2], flag[3], flag[4], flag[5]
	if kind != "" {
		name += " " + kind
	}
	if value != "" {
		value = " `" + value + "`"
	}
	return fmt.Sprintf("| `--%s` | `%s` |%s | %s | ", name, strings.ReplaceAll(variables, ", ", "`, `"), value, usage)
}

// userCell names the commands that have a flag, the usual sets of them by one word.
func userCell(users, all []string) string {
	reading := []string{"init", "open", "inspect", "verify", "rewrap", "doctor"}
	rest := slices.DeleteFunc(slices.Clone(users), func(c string) bool { return slices.Contains(reading, c) })
	switch {
	case slices.Equal(users, all):
		return "all"
	case len(users)-len(rest) == len(reading) && len(rest) == 0:
		return "reading"
	case len(users)-len(rest) == len(reading):
		return "reading, `" + strings.Join(rest, "`, `") + "`"
	}
	return "`" + strings.Join(users, "`, `") + "`"
}

// TestReadmeTwins wants every variable that carries the content of a file in README.md, beside its flag.
func TestReadmeTwins(t *testing.T) {
	twins := literalMap(t, "cmd/sealfetch/env.go", "contents")
	if len(twins) == 0 {
		t.Fatal("no map of contents in cmd/sealfetch/env.go")
	}
	text := readText(t, "README.md")
	for flag, variable := range twins {
		row := regexp.MustCompile("(?m)^\\| `--" + flag + "( jwk:FILE)?` \\| `" + variable + "` \\|$")
		if !row.MatchString(text) {
			t.Errorf("README.md has no row for --%s and %s", flag, variable)
		}
	}
	if n := len(regexp.MustCompile("(?m)^\\| `--[^|]*\\| `SEALFETCH_[A-Z_]*` \\|$").FindAllString(text, -1)); n != len(twins) {
		t.Errorf("README.md has %d rows of twins, want %d", n, len(twins))
	}
}

// literalMap reads a map of strings from a file's source.
func literalMap(t *testing.T, path, name string) map[string]string {
	t.Helper()
	m := map[string]string{}
	ast.Inspect(parseFile(t, path), func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != name || len(spec.Values) != 1 {
			return true
		}
		for _, element := range spec.Values[0].(*ast.CompositeLit).Elts {
			pair := element.(*ast.KeyValueExpr)
			key, _ := strconv.Unquote(pair.Key.(*ast.BasicLit).Value)
			m[key], _ = strconv.Unquote(pair.Value.(*ast.BasicLit).Value)
		}
		return false
	})
	return m
}

func parseFile(t *testing.T, path string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestReadmeExitCodes compares the table of exit codes with the program's constants.
func TestReadmeExitCodes(t *testing.T) {
	var want []string
	ast.Inspect(parseFile(t, "cmd/sealfetch/exit.go"), func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && len(spec.Values) == 1 && strings.HasPrefix(spec.Names[0].Name, "exit") && spec.Names[0].Name != "exitSignal" {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				want = append(want, literal.Value)
			}
		}
		return true
	})
	want = append(want, "130, 143") // exitSignal and SIGINT, SIGTERM
	_, table, _ := strings.Cut(readText(t, "README.md"), "\n| code |")
	var got []string
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) == 6 && !strings.Contains(line, "---") && cells[1] != "" {
			got = append(got, strings.TrimSpace(cells[1]))
		} else if len(got) > 0 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("README.md has the exit codes %q, the program %q", got, want)
	}
}

// TestReadmeManifests wants the manifests in README.md to be those that are deployed.
func TestReadmeManifests(t *testing.T) {
	text := readText(t, "README.md")
	for _, path := range []string{"deploy/base/clusterstoragecontainer.yaml", "deploy/examples/local-key/inferenceservice.yaml"} {
		if !strings.Contains(text, "```yaml\n"+readText(t, path)+"```\n") {
			t.Errorf("README.md does not show %s as it is", path)
		}
	}
}

// TestLinks follows the relative links of all documents.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, path := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(readText(t, path), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), match[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, match[1], err)
			}
		}
	}
}

// TestNamedTests wants every test, script and vector that a document names to be there.
func TestNamedTests(t *testing.T) {
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*|testdata/[A-Za-z0-9_./-]+)`")
	tests := testNames(t)
	for _, path := range documents(t) {
		for _, match := range named.FindAllStringSubmatch(readText(t, path), -1) {
			if name := match[1]; strings.HasPrefix(name, "testdata/") {
				if _, err := os.Stat(name); err != nil {
					t.Errorf("%s names %s: %v", path, name, err)
				}
			} else if !tests[name] {
				t.Errorf("%s names the test %s, which is nowhere", path, name)
			}
		}
	}
}

// documents are the Markdown files of the project.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	walk(t, func(path string) {
		if strings.HasSuffix(path, ".md") {
			paths = append(paths, path)
		}
	})
	if !slices.Contains(paths, "THREATMODEL.md") {
		t.Fatalf("the documents are %q", paths)
	}
	return paths
}

func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	walk(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			for _, match := range function.FindAllStringSubmatch(readText(t, path), -1) {
				names[match[1]] = true
			}
		}
	})
	return names
}

// walk visits the project's files, those of nested modules too, but nothing hidden or built.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	skip := map[string]bool{"bin": true, "node_modules": true, "venv": true, "vectors": true}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (skip[d.Name()] || path != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case !d.IsDir():
			visit(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
