package identity

import (
	"regexp"
	"strings"
	"testing"
)

func TestSessionName(t *testing.T) {
	long := strings.Repeat("n", 63)
	for _, tt := range []struct {
		parts []string
		want  string
	}{
		{[]string{"sealfetch", "ml", "llama", "x2k4p"}, "sealfetch-ml-llama-x2k4p"},
		{[]string{"sealfetch", "", "llama", ""}, "sealfetch-llama"},
		{[]string{"sealfetch", "team a/b", "lläma"}, "sealfetch-team-a-b-ll-ma"},
		{[]string{"sealfetch", long, "llama-7b", "predictor-00001-7d9f8b-x2k4p"},
			"sealfetch-nnnnnnnnnnnnnnnnnn-llama-7b-00001-7d9f8b-x2k4p"},
		{nil, "sealfetch"},
		{[]string{"x"}, "sealfetch"},
	} {
		if got := SessionName(tt.parts...); got != tt.want {
			t.Errorf("SessionName(%q) = %q, want %q", tt.parts, got, tt.want)
		}
	}
}

func FuzzSessionName(f *testing.F) {
	f.Add("sealfetch", "ml", "llama", "x2k4p")
	f.Add("", "\x00", "ü", strings.Repeat("-", 100))
	valid := regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		if got := SessionName(a, b, c, d); !valid.MatchString(got) || !sessionNameOK(got) {
			t.Errorf("SessionName(%q, %q, %q, %q) = %q", a, b, c, d, got)
		}
	})
}
