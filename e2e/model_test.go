//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// sizeOf reads a size such as 256Mi from a variable.
func sizeOf(t *testing.T, variable, otherwise string) int64 {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		value = otherwise
	}
	n, err := parseSize(value)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

func parseSize(value string) (int64, error) {
	number, shift := value, 0
	for i, unit := range []string{"Ki", "Mi", "Gi"} {
		if rest, ok := strings.CutSuffix(value, unit); ok {
			number, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	return n << shift, err
}

// shardSize is how large the weight files of published models are cut; these ones are smaller to be several.
const shardSize = 1 << 30

// makeModel writes a directory that looks as one with a language model does: weights in shards, a few configuration
// files, many small ones, an empty one. The weights are random, so that nothing on the way can compress them.
func makeModel(t *testing.T, dir string, weights int64) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	write := func(name string, size int64) {
		if err := writeFile(filepath.Join(dir, name), random, name, size); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", 1<<10)
	write("tokenizer.json", 9<<20)
	write("special_tokens_map.json", 0)
	for i := range 40 {
		write(fmt.Sprintf("assets/%02d/part.bin", i), 10_000+int64(i))
	}
	shard := min(shardSize, max(weights/4, 1<<20))
	for i := 0; weights > 0; i++ {
		write(fmt.Sprintf("model-%05d.safetensors", i+1), min(shard, weights))
		weights -= shard
	}
}

// writeFile writes size bytes; a weight file begins as safetensors does, with the length of a JSON header.
func writeFile(path string, random io.Reader, name string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if strings.HasSuffix(name, ".safetensors") {
		header := fmt.Sprintf(`{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}`, size, size)
		_, _ = w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))
		_, _ = w.WriteString(header)
	}
	if _, err := io.CopyN(w, random, size); err != nil {
		return err
	}
	return w.Flush()
}

// digests maps the files of a directory to their SHA-256, and says how many bytes they have.
func digests(t *testing.T, dir string) (sums map[string]string, size int64) {
	t.Helper()
	sums = map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		name, _ := filepath.Rel(dir, path)
		sums[name], size = hex.EncodeToString(h.Sum(nil)), size+n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums, size
}

// wantSame wants two directories to hold the same files.
func wantSame(t *testing.T, got, want string) {
	t.Helper()
	g, _ := digests(t, got)
	w, _ := digests(t, want)
	if len(w) == 0 || !maps.Equal(g, w) {
		t.Errorf("%s does not hold what %s holds: %d files, want %d", got, want, len(g), len(w))
	}
}

// wantNothing wants a directory to be absent or empty: no file, and no staging directory either.
func wantNothing(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("%s was left in %s", entries[0].Name(), dir)
	}
}

// memoryDir makes a directory on the machine's tmpfs.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealfetch-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
