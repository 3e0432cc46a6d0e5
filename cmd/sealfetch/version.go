package main

import (
	"context"
	"crypto/fips140"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version = ""

func setupVersion(s *settings) runner {
	return func(_ context.Context, args []string, out io.Writer) error {
		if len(args) != 0 {
			return s.wrongArgs(args)
		}
		v, commit := buildVersion()
		fips := "off"
		if fips140.Enabled() {
			fips = "on, module " + fips140.Version()
		}
		_, err := fmt.Fprintf(out, "sealfetch %s\ncommit %s\n%s %s/%s\nFIPS 140-3 mode %s\n", v, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, fips)
		return err
	}
}

// buildVersion takes what the linker was told, else what the Go toolchain recorded.
func buildVersion() (v, commit string) {
	v, commit = version, "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return orElse(v, "unknown"), commit
	}
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			commit += " (modified)"
		}
	}
	return orElse(v, info.Main.Version), commit
}
