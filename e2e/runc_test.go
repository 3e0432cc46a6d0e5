//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// image is the container image, built from the Dockerfile and unpacked.
type image struct {
	root       string // its files
	user       string
	entrypoint []string
	env        []string
}

// buildImage builds the Dockerfile's target that copies a binary which was built before.
func buildImage(t *testing.T) image {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("building and mounting an image needs root")
	}
	for _, tool := range []string{"buildah", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: `make e2e-runc` installs it", err)
		}
	}
	store := t.TempDir()
	buildah := func(args ...string) string {
		t.Helper()
		return run(t, "buildah", append([]string{"--storage-driver", "vfs", "--root", store + "/root", "--runroot", store + "/run"}, args...)...)
	}
	buildah("bud", "--isolation", "chroot", "--target", "prebuilt", "--build-arg", "VERSION=v0.0.0-e2e", "-t", "sealfetch:e2e", "..")
	container := buildah("from", "sealfetch:e2e")
	root := buildah("mount", container)
	t.Cleanup(func() { buildah("umount", container) })

	var inspected struct {
		OCIv1 struct {
			Config struct {
				User       string
				Entrypoint []string
				Env        []string
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(buildah("inspect", "--type", "image", "sealfetch:e2e")), &inspected); err != nil {
		t.Fatal(err)
	}
	c := inspected.OCIv1.Config
	return image{root, c.User, c.Entrypoint, c.Env}
}

// run runs a tool and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// pod is one run of the image as the kubelet would start it: read-only root, no capabilities, no new privileges.
type pod struct {
	image       image
	uid         int
	memory      int64  // limit in bytes
	volume      string // directory of the machine that is mounted at /mnt/models
	mounts      map[string]string
	env         []string
	termination string // file at /dev/termination-log
}

func (p pod) run(t *testing.T, args ...string) outcome {
	t.Helper()
	bundle := t.TempDir()
	data, err := json.MarshalIndent(p.spec(args), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("runc", "--root", t.TempDir(), "run", "--bundle", bundle, fmt.Sprintf("sealfetch-e2e-%d-%s", os.Getpid(), filepath.Base(bundle)))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

type object = map[string]any

// spec is the config.json of the OCI runtime specification.
func (p pod) spec(args []string) object {
	mounts := []object{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
		{"destination": "/mnt/models", "type": "bind", "source": p.volume, "options": []string{"bind", "rw"}},
		{"destination": "/dev/termination-log", "type": "bind", "source": p.termination, "options": []string{"bind", "rw"}},
	}
	for at, from := range p.mounts {
		mounts = append(mounts, object{"destination": at, "type": "bind", "source": from, "options": []string{"bind", "ro"}})
	}
	return object{
		"ociVersion": "1.0.2",
		"root":       object{"path": p.image.root, "readonly": true},
		"process": object{
			"user": object{"uid": p.uid, "gid": p.uid},
			"args": append(append([]string{}, p.image.entrypoint...), args...),
			"env":  append(append([]string{}, p.image.env...), p.env...),
			"cwd":  "/", "noNewPrivileges": true, "capabilities": object{},
		},
		"mounts": mounts,
		"linux": object{
			"namespaces":  []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"}},
			"resources":   object{"memory": object{"limit": p.memory, "swap": p.memory}, "devices": []object{{"allow": false, "access": "rwm"}}},
			"maskedPaths": []string{"/proc/kcore", "/proc/keys"},
		},
	}
}

// mountTmpfs mounts a tmpfs as the kubelet does for a volume in memory: open to every user, with a size.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777,size="+size); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestRunc runs the image as a pod would.
func TestRunc(t *testing.T) {
	img := buildImage(t)
	if img.user != "65532:65532" || strings.Join(img.entrypoint, " ") != "/sealfetch init" {
		t.Errorf("user %s, entrypoint %q", img.user, img.entrypoint)
	}
	if _, err := os.Stat(filepath.Join(img.root, "etc/ssl/certs/ca-certificates.crt")); err != nil {
		t.Error(err)
	}
	source, sealed, keys := t.TempDir(), filepath.Join(t.TempDir(), "sealed"), t.TempDir()
	makeModel(t, source, 64<<20)
	kek := filepath.Join(keys, "kek.jwk")
	must(t, nil, "keygen", "--out", kek)
	must(t, nil, "seal", "--model", "acme/e2e", "--version", "1", "--wrap", "jwk:"+kek, source, sealed)
	if err := os.Chmod(kek, 0o444); err != nil { // a Secret's volume
		t.Fatal(err)
	}
	const uri = "sealed+file:///sealed"
	start := func(t *testing.T) pod {
		termination := filepath.Join(t.TempDir(), "termination-log")
		if err := os.WriteFile(termination, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(termination, 0o666); err != nil {
			t.Fatal(err)
		}
		return pod{image: img, uid: 65532, memory: 512 << 20, mounts: map[string]string{"/sealed": sealed, "/keys": keys},
			env: []string{"SEALFETCH_TRUST_KEY=jwk:/keys/kek.jwk", "HF_HUB_ENABLE_HF_TRANSFER=1"}, termination: termination}
	}

	for _, uid := range []int{65532, 1337} { // the image's user, and the one that Istio puts in its place
		t.Run(fmt.Sprintf("loads as UID %d", uid), func(t *testing.T) {
			p := start(t)
			p.uid, p.volume = uid, mountTmpfs(t, "256m")
			if o := p.run(t, uri, "/mnt/models"); o.code != 0 {
				t.Fatalf("exit code %d\n%s", o.code, o.stderr)
			}
			wantSame(t, p.volume, source)
			wantOwner(t, filepath.Join(p.volume, "config.json"), uid)
		})
	}

	t.Run("the memory limit is too low", func(t *testing.T) {
		p := start(t)
		p.memory, p.volume = 100<<20, mountTmpfs(t, "256m")
		p.wantRefused(t, uri, "set resources.limits.memory of the container")
	})
	t.Run("the volume is too small", func(t *testing.T) {
		p := start(t)
		p.volume = mountTmpfs(t, "32m")
		p.wantRefused(t, uri, "set sizeLimit of the volume in memory to at least")
	})
	t.Run("the volume is on disk", func(t *testing.T) {
		p := start(t)
		p.volume = t.TempDir()
		if err := os.Chmod(p.volume, 0o777); err != nil {
			t.Fatal(err)
		}
		p.wantRefused(t, uri, "medium: Memory")
	})
}

// wantRefused wants exit code 17 with words where the kubelet looks for them, and an untouched volume.
func (p pod) wantRefused(t *testing.T, uri, words string) {
	t.Helper()
	o := p.run(t, uri, "/mnt/models")
	if o.code != 17 {
		t.Errorf("exit code %d, want 17\n%s", o.code, o.stderr)
	}
	message, err := os.ReadFile(p.termination)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(message), words) || len(message) > 1024 || !strings.HasSuffix(o.stderr, string(message)) {
		t.Errorf("the termination message is %q, want %q in it", message, words)
	}
	if strings.Contains(o.stderr, "key.released") {
		t.Error("the key was asked for although the destination is unfit")
	}
	t.Logf("%s", message)
	wantNothing(t, p.volume)
}

func wantOwner(t *testing.T, path string, uid int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != uid || info.Mode() != 0o644 {
		t.Errorf("%s: UID %d, mode %o", path, stat.Uid, info.Mode())
	}
}
