package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// TestOutcome: one code for each kind, none twice, none without a number in the documentation's table.
func TestOutcome(t *testing.T) {
	for kind, want := range map[fault.Kind]int{
		fault.Internal: 1, fault.Usage: 2, fault.Identity: 10, fault.Access: 11, fault.Format: 12, fault.Evidence: 13, fault.Refused: 14,
		fault.KeyUnusable: 15, fault.NotAuthentic: 16, fault.Destination: 17, fault.Transient: 20,
	} {
		err := fmt.Errorf("outer: %w", fault.New(kind, "cure", "cause"))
		if code, hint := outcome(err); code != want || hint != "cure" {
			t.Errorf("kind %v: code %d, hint %q", kind, code, hint)
		}
	}
	if len(exitCodes) != 11 {
		t.Errorf("%d kinds have codes", len(exitCodes))
	}
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{nil, 0, ""},
		{errors.New("plain"), 1, "this is a defect of sealfetch"},
		{signalled{syscall.SIGINT}, 130, "start it again"},
		{fmt.Errorf("reading: %w", signalled{syscall.SIGTERM}), 143, "start it again"},
		{fault.New(fault.Transient, "", "stopped: %w", signalled{syscall.SIGTERM}), 143, "start it again"},
	} {
		if code, hint := outcome(c.err); code != c.code || !strings.Contains(hint, c.hint) || c.hint == "" && hint != "" {
			t.Errorf("%v: code %d, hint %q", c.err, code, hint)
		}
	}
}

func TestCut(t *testing.T) {
	for _, line := range []string{"short\n", strings.Repeat("x", 200) + "\n", strings.Repeat("ü", 200) + "\n", strings.Repeat("漢", 200) + "\n"} {
		for n := 10; n < 30; n++ {
			got := cut(line, n)
			if len(got) > n || !strings.HasSuffix(got, "\n") || strings.Count(got, "\n") != 1 || !utf8.ValidString(got) {
				t.Errorf("%d: %q", n, got)
			}
		}
	}
	if got := cut("ten bytes\n", 10); got != "ten bytes\n" {
		t.Errorf("%q", got)
	}
}

func TestOneLine(t *testing.T) {
	for s, want := range map[string]string{
		"plain ü 漢": "plain ü 漢", "a\nb\r\tc": "a b  c", "\x1b[31mred": " [31mred", "bad\xffbyte": "bad\uFFFDbyte", "\u202eflip": " flip", "\u0085next": " next", "\x00": " ",
	} {
		if got := oneLine(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestForeignValues(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"S3_READ_TIMEOUT", "30", "30s"}, {"S3_CONNECT_TIMEOUT", "15", "15s"},
		{"S3_VERIFY_SSL", "0", "false"}, {"S3_VERIFY_SSL", "false", "false"}, {"S3_VERIFY_SSL", "FALSE", "false"}, {"S3_VERIFY_SSL", "1", "true"}, {"S3_VERIFY_SSL", "no", "true"},
		{"S3_USER_VIRTUAL_BUCKET", "true", "true"}, {"S3_USER_VIRTUAL_BUCKET", "True", "true"}, {"S3_USER_VIRTUAL_BUCKET", "1", "false"}, {"S3_USER_VIRTUAL_BUCKET", "yes", "false"},
		{"awsAnonymousCredential", "TRUE", "true"}, {"awsAnonymousCredential", "on", "false"},
		{"AWS_REGION", "eu-central-1", "eu-central-1"},
	} {
		if got := foreignValue(c.name, c.value); got != c.want {
			t.Errorf("%s=%s is %q, want %q", c.name, c.value, got, c.want)
		}
	}
}

// TestSettingsHaveOneName: what the tables of variables speak of are flags, and every flag has help, a value that is said,
// and no secret.
func TestSettingsHaveOneName(t *testing.T) {
	p := &program{env: environment{}}
	flags := map[string]bool{}
	for _, c := range commands() {
		s := newSettings(c, p)
		c.setup(s)
		s.flags.VisitAll(func(f *flag.Flag) {
			flags[f.Name] = true
			if f.Usage == "" || f.Name != strings.ToLower(f.Name) || strings.Contains(f.Name, "_") {
				t.Errorf("%s --%s: usage %q", c.name, f.Name, f.Usage)
			}
		})
	}
	for name := range aliases {
		if !flags[name] {
			t.Errorf("variables %q stand for --%s, which no command has", aliases[name], name)
		}
	}
	for name := range contents {
		if !flags[name] {
			t.Errorf("%s has the content of --%s, which no command has", contents[name], name)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{"1": 1, "64Ki": 64 << 10, "32Mi": 32 << 20, "1Gi": 1 << 30} {
		var n size
		if err := n.Set(text); err != nil || n != want {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "1.5Gi", "1MB", "Mi", "1099511627776Gi", "8589934592Gi", "549755813887Gi", "9223372036854775807Ki", "0x10"} {
		var n size
		if err := n.Set(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}

func TestModes(t *testing.T) {
	for text, want := range map[string]mode{"0644": 0o644, "640": 0o640, "0777": 0o777, "1": 1} {
		var m mode
		if err := m.Set(text); err != nil || m != want {
			t.Errorf("%s: %o, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "0", "0888", "01000", "4755", "rw-r--r--", "-644"} {
		var m mode
		if err := m.Set(text); err == nil {
			t.Errorf("%q: %o", text, m)
		}
	}
}
