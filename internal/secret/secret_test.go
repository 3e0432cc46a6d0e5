package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/secret"
)

const canary = "CANARYCANARYCANARYCANARYCANARY32"

func take(t *testing.T) *secret.Key {
	t.Helper()
	k, err := secret.Take([]byte(canary))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func TestNothingPrintsAKey(t *testing.T) {
	type holder struct {
		Name string
		Key  *secret.Key
		priv *secret.Key
	}
	k := take(t)
	h := holder{"h", k, k}
	var out bytes.Buffer
	for _, v := range []any{k, *k, h, &h, []*secret.Key{k}, map[string]*secret.Key{"k": k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		j, _ := json.Marshal(v)
		out.Write(j)
		_ = gob.NewEncoder(&out).Encode(v)
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("m", "v", v)
		}
	}
	for _, leak := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary))[1:40]} {
		if _, after, found := strings.Cut(out.String(), leak); found {
			t.Errorf("output contains the key as %q, before %.200q", leak, after)
		}
	}
}

func TestTakeWipesItsSource(t *testing.T) {
	b := []byte(canary)
	k, err := secret.Take(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Error("the source still holds the key")
	}
	if string(k.Bytes()) != canary {
		t.Error("the key is not what was taken")
	}
	k.Wipe()
	k.Wipe()
	if k.Bytes() != nil {
		t.Error("bytes after Wipe")
	}
	if k.Equal(take(t)) {
		t.Error("a wiped key equals a live one")
	}
}

// TestHarden runs itself as a child, since the test's own process must stay debuggable.
func TestHarden(t *testing.T) {
	if os.Getenv("SECRET_TEST_CHILD") == "1" {
		if err := secret.Harden(); err != nil {
			t.Fatal(err)
		}
		limits, err := os.ReadFile("/proc/self/limits")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(limits)) {
			if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] == "0" {
				fmt.Println("core limit is zero")
			}
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHarden$", "-test.v")
	cmd.Env = append(os.Environ(), "SECRET_TEST_CHILD=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("core limit is zero")) {
		t.Fatalf("%v\n%s", err, out)
	}
}
