package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// row is one line of the table at the end.
type row struct {
	name      string
	want, got int
	took      time.Duration
	cause     string
	leftover  string // what a refused run left at its destination
}

func (r row) ok() bool { return r.got == r.want && r.leftover == "" }

// step runs the binary, shows what it says, and notes how it ended.
func (s *stage) step(name string, want int, args ...string) {
	s.printf("\n$ sealfetch %s\n", strings.Join(args, " "))
	begun := time.Now()
	code, out := s.quiet(args...)
	took := time.Since(begun)
	cause := ""
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "{") { // a log record; the last lines are for people
			continue
		}
		s.printf("  %s", line)
		if rest, ok := strings.CutPrefix(line, "sealfetch: "); ok {
			cause = strings.TrimSpace(rest)
		}
	}
	s.printf("  → exit %d in %v\n", code, took.Round(time.Millisecond))
	s.rows = append(s.rows, row{name: name, want: want, got: code, took: took, cause: cause})
}

// quiet runs the binary and returns its exit code and all it printed.
func (s *stage) quiet(args ...string) (int, string) {
	cmd := exec.CommandContext(s.ctx, s.binary, args...)
	cmd.Env = s.environment(args[0])
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, err.Error() + "\n"
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// environment is the owner's for publishing, and the pod's for loading.
func (s *stage) environment(command string) []string {
	if command == "seal" || command == "keygen" {
		return s.owner
	}
	return s.pod
}

// compare holds the destination against the source, byte for byte.
func (s *stage) compare() {
	begun := time.Now()
	files, size, err := sameTrees(s.model, s.destination())
	r := row{name: "compare byte for byte", took: time.Since(begun)}
	if err != nil {
		r.got, r.cause = 1, err.Error()
	}
	s.printf("\n  %d files, %d bytes compared with the source: %s\n", files, size, orElse(r.cause, "identical"))
	s.rows = append(s.rows, r)
}

func sameTrees(want, got string) (files int, size int64, err error) {
	err = filepath.WalkDir(want, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(got, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%s differs", name)
		}
		files, size = files+1, size+int64(len(a))
		return nil
	})
	return files, size, err
}

// leftover names what is at a destination where nothing should be.
func leftover(dir string) string {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	return entries[0].Name()
}

func (s *stage) clean() { _ = os.RemoveAll(s.destination()) }

func (s *stage) snapshot() map[string][]byte {
	all := map[string][]byte{}
	for _, key := range s.bucket.Keys() {
		all[key] = s.get(key)
	}
	return all
}

func (s *stage) restore() {
	for _, key := range s.bucket.Keys() {
		if _, ok := s.pristine[key]; !ok {
			s.bucket.Delete(key)
		}
	}
	for key, data := range s.pristine {
		s.bucket.Put(key, data)
	}
}

// get returns a copy of an object.
func (s *stage) get(key string) []byte {
	data, _ := s.bucket.Get(key)
	return bytes.Clone(data)
}

// table prints how every step ended.
func (s *stage) table() {
	s.title("What happened")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\n\tstep\texit\texpected\ttime\tcause")
	for _, r := range s.rows {
		mark := "ok"
		if !r.ok() {
			mark = "WRONG"
			s.failed++
		}
		if r.leftover != "" {
			r.cause = "left behind: " + r.leftover
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%v\t%s\n", mark, r.name, r.got, r.want, r.took.Round(time.Millisecond), shorten(s.tidy(r.cause), 110))
	}
	_ = w.Flush()
}

// tidy leaves the demo's own directories out of a message.
func (s *stage) tidy(text string) string {
	return strings.NewReplacer(s.shm, "/dev/shm/…", s.dir, "…").Replace(text)
}

func shorten(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// writeEnv keeps the environments in files, for a reader who repeats commands.
func (s *stage) writeEnv() error {
	for name, env := range map[string][]string{"owner.env": s.owner, "pod.env": s.pod} {
		lines := "export " + strings.Join(env, "\nexport ") + "\n"
		if err := os.WriteFile(s.path(name), []byte(lines), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// build compiles the real binary. Its packages are those that `go test` has compiled, too.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "sealfetch")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", binary, "github.com/sealfetch/sealfetch/cmd/sealfetch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building sealfetch: %w\n%s", err, out)
	}
	return binary, nil
}

// generateModel makes files such as a language model has: two shards of tensors and some small ones.
func generateModel(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "tokenizer"), 0o755); err != nil {
		return err
	}
	small := map[string]string{
		"config.json":              `{"architectures":["DemoForCausalLM"],"hidden_size":2048}`,
		"generation_config.json":   `{"temperature":0.7}`,
		"tokenizer/vocab.txt":      strings.Repeat("token\n", 20_000),
		"tokenizer/added.json":     "{}",
		"tokenizer/empty.marker":   "",
		"model.safetensors.index":  `{"weight_map":{}}`,
		"special_tokens_map.json":  `{"eos_token":"</s>"}`,
		"tokenizer/merges.txt":     strings.Repeat("a b\n", 50_000),
		"tokenizer/tokenizer.json": strings.Repeat(`{"id":1}`, 10_000),
	}
	for name, text := range small {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for i := 1; i <= 2; i++ {
		if err := writeShard(filepath.Join(dir, fmt.Sprintf("model-%05d-of-00002.safetensors", i)), 48<<20); err != nil {
			return err
		}
	}
	return nil
}

// writeShard writes a safetensors file with one tensor of size random bytes.
func writeShard(path string, size int) error {
	header := fmt.Sprintf(`{"weight":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}`, size, size)
	data := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	data = append(data, header...)
	tensor := make([]byte, size)
	rand.Read(tensor)
	return os.WriteFile(path, append(data, tensor...), 0o644)
}

// tmpfsMagic is TMPFS_MAGIC of statfs(2).
const tmpfsMagic = 0x01021994

// diskDir makes a directory that is not in memory, or returns "" where there is none to be had.
func (s *stage) diskDir() string {
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		var st syscall.Statfs_t
		if syscall.Statfs(parent, &st) != nil || st.Type == tmpfsMagic {
			continue
		}
		if dir, err := os.MkdirTemp(parent, "sealfetch-demo-disk-"); err == nil {
			return dir
		}
	}
	return ""
}
