//go:build e2e && linux

package versitygw

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// A program of its own, so no dependency of this module.
	gatewayModule = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
	// The directory with the built programs; set inside the namespaces.
	programsEnv   = "E2E_VERSITYGW_PROGRAMS"
	issuerName    = "issuer.example"
	issuerAddress = "198.51.100.10"
)

// TestMain builds the programs, with the network that takes, and runs the tests in namespaces without.
func TestMain(m *testing.M) {
	if os.Getenv(programsEnv) != "" {
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "setting up the namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func outside() (int, error) {
	dir, err := os.MkdirTemp("", "sealfetch-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{
		{"build", "-trimpath", "-o", dir, "../../cmd/sealfetch"},
		{"install", gatewayModule},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go %v: %w\n%s", args, err, out)
		}
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Env = append(os.Environ(), programsEnv+"="+dir)
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err = self.Run()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return failed.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("making namespaces: %w", err)
	}
	return 0, nil
}

func program(name string) string { return filepath.Join(os.Getenv(programsEnv), name) }

// enter brings the loopback device up with the issuer's address beside its own, and gives the address its name.
func enter() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := setFlags(fd, "lo", unix.IFF_UP|unix.IFF_RUNNING); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr(net.ParseIP(issuerAddress).To4()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
		return fmt.Errorf("adding %s: %w", issuerAddress, err)
	}
	return mountHosts()
}

func setFlags(fd int, device string, flags uint16) error {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

func mountHosts() error {
	hosts := filepath.Join(os.Getenv(programsEnv), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+issuerAddress+" "+issuerName+"\n"),
		0o644); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting /etc/hosts: %w", err)
	}
	return nil
}
