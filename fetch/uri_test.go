package fetch

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestParseURI(t *testing.T) {
	id := bytes.Repeat([]byte{7}, 32)
	text := base64.RawURLEncoding.EncodeToString(id)
	for s, want := range map[string]URI{
		"sealed+s3://bucket/prefix":                           {Scheme: "s3", Host: "bucket", Path: "prefix"},
		"sealed+s3://bucket/deep/prefix/":                     {Scheme: "s3", Host: "bucket", Path: "deep/prefix"},
		"sealed+s3://bucket/a/b///":                           {Scheme: "s3", Host: "bucket", Path: "a/b"},
		"sealed+s3://bucket":                                  {Scheme: "s3", Host: "bucket"},
		"sealed+s3://bucket/":                                 {Scheme: "s3", Host: "bucket"},
		"sealed+s3://my.bucket-1/x":                           {Scheme: "s3", Host: "my.bucket-1", Path: "x"},
		"sealed+s3://bucket/a%20b/%C3%BC/+":                   {Scheme: "s3", Host: "bucket", Path: "a b/ü/+"},
		"sealed+file:///models/a":                             {Scheme: "file", Path: "/models/a"},
		"sealed+file:///models/a/":                            {Scheme: "file", Path: "/models/a"},
		"sealed+https://host/path":                            {Scheme: "https", Host: "host", Path: "/path"},
		"sealed+https://host:8443":                            {Scheme: "https", Host: "host:8443"},
		"sealed+s3://bucket/p?version=3":                      {Scheme: "s3", Host: "bucket", Path: "p", Demand: Demand{Version: 3}},
		"sealed+s3://bucket/p?min-version=9007199254740991":   {Scheme: "s3", Host: "bucket", Path: "p", Demand: Demand{MinVersion: 1<<53 - 1}},
		"sealed+s3://bucket/p?mdk-id=" + text:                 {Scheme: "s3", Host: "bucket", Path: "p", Demand: Demand{MDKID: id}},
		"sealed+s3://bucket/p?include=*.json&include=a/**":    {Scheme: "s3", Host: "bucket", Path: "p", Demand: Demand{Include: []string{"*.json", "a/**"}}},
		"sealed+file:///p?exclude=x&include=y&version=1":      {Scheme: "file", Path: "/p", Demand: Demand{Version: 1, Include: []string{"y"}, Exclude: []string{"x"}}},
		"sealed+file:///a%3Fb?include=a%26b":                  {Scheme: "file", Path: "/a?b", Demand: Demand{Include: []string{"a&b"}}},
		"sealed+s3://bucket/a:b/c=d":                          {Scheme: "s3", Host: "bucket", Path: "a:b/c=d"},
		"sealed+s3://" + strings.Repeat("b", 63) + "/...x/.y": {Scheme: "s3", Host: strings.Repeat("b", 63), Path: "...x/.y"},
	} {
		got, err := ParseURI(s)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", s, got, err, want)
		}
	}
}

func TestURIsRefused(t *testing.T) {
	for s, word := range map[string]string{
		"":                            "is not the URI of a sealed model",
		"s3://bucket/prefix":          "is not the URI of a sealed model",
		"SEALED+s3://bucket/prefix":   "is not the URI of a sealed model",
		"/models/a":                   "is not the URI of a sealed model",
		"sealed+":                     "has the scheme",
		"sealed+gs://bucket/p":        "known are s3, https and file",
		"sealed+http://host/p":        "known are s3, https and file",
		"sealed+sealed+s3://bucket/p": "known are s3, https and file",
		"sealed+s3:bucket":            "no //",
		"sealed+s3:///p":              "names no bucket",
		"sealed+s3://b/p":             "names no bucket",
		"sealed+s3://-bucket/p":       "names no bucket",
		"sealed+s3://buc ket/p":       "does not parse",
		"sealed+s3://bucket:443/p":    "names no bucket",
		"sealed+s3://" + strings.Repeat("b", 256) + "/p":                         "names no bucket",
		"sealed+s3://user@bucket/p":                                              "credentials do not belong into a URI",
		"sealed+https://u:secretpw@host/p":                                       "credentials do not belong into a URI",
		"sealed+s3://bucket/p#x":                                                 "fragment",
		"sealed+s3://bucket/p#":                                                  "fragment",
		"sealed+s3://bucket/../other":                                            `path element ".."`,
		"sealed+s3://bucket/a/%2e%2e/b":                                          `path element ".."`,
		"sealed+s3://bucket/./a":                                                 `path element "."`,
		"sealed+s3://bucket/a//b":                                                `path element ""`,
		"sealed+s3://bucket//a":                                                  `path element ""`,
		"sealed+s3://bucket/a%00b":                                               "path element",
		"sealed+s3://bucket/a%5Cb":                                               "path element",
		"sealed+file://host/p":                                                   "names no absolute path",
		"sealed+file://p":                                                        "names no absolute path",
		"sealed+file:///":                                                        "names no absolute path",
		"sealed+file:///a/../b":                                                  `path element ".."`,
		"sealed+https:///p":                                                      "names no host",
		"sealed+s3://bucket/p?version=0":                                         "not a decimal number",
		"sealed+s3://bucket/p?version=03":                                        "not a decimal number",
		"sealed+s3://bucket/p?version=-1":                                        "not a decimal number",
		"sealed+s3://bucket/p?version=%2B1":                                      "not a decimal number",
		"sealed+s3://bucket/p?version=1e3":                                       "not a decimal number",
		"sealed+s3://bucket/p?version=":                                          "not a decimal number",
		"sealed+s3://bucket/p?version":                                           "not a decimal number",
		"sealed+s3://bucket/p?version=9007199254740992":                          "not a decimal number",
		"sealed+s3://bucket/p?version=1&version=1":                               "says version more than once",
		"sealed+s3://bucket/p?mdk-id=AAAA":                                       "not 32 bytes",
		"sealed+s3://bucket/p?mdk-id=" + strings.Repeat("A", 42) + "B":           "not 32 bytes", // bits that mean nothing
		"sealed+s3://bucket/p?mdk-id=" + strings.Repeat("A", 43) + "=":           "not 32 bytes",
		"sealed+s3://bucket/p?Version=1":                                         "unknown query parameter",
		"sealed+s3://bucket/p?versionId=1":                                       "unknown query parameter",
		"sealed+s3://bucket/p?a;b":                                               "does not parse",
		"sealed+s3://bucket/p?include=%zz":                                       "does not parse",
		"sealed+s3://bucket/p?" + strings.Repeat("include=a&", 64) + "exclude=b": "more than 64 patterns",
		"sealed+s3://bucket/" + strings.Repeat("a/", 5000):                       "longer than 8192 bytes",
		"sealed+s3://bucket/p%zz":                                                "does not parse",
		"sealed+s3://bucket/\x7f":                                                "does not parse",
	} {
		u, err := ParseURI(s)
		if !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), word) {
			t.Errorf("%.100q: %v, %v; want %q", s, u, err, word)
			continue
		}
		if strings.Contains(err.Error(), "secretpw") {
			t.Errorf("the password is in the error: %v", err)
		}
		if len(err.Error()) > 600 {
			t.Errorf("%.100q: an error of %d bytes", s, len(err.Error()))
		}
	}
}

func TestParseDestination(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for s, want := range map[string]URI{
		"pub":                        {Scheme: "file", Path: dir + "/pub"},
		"./a/../pub/":                {Scheme: "file", Path: dir + "/pub"},
		"/abs/pub":                   {Scheme: "file", Path: "/abs/pub"},
		"pub?version=1":              {Scheme: "file", Path: dir + "/pub?version=1"}, // a name like any other
		"file:///abs/pub":            {Scheme: "file", Path: "/abs/pub"},
		"sealed+file:///abs/pub":     {Scheme: "file", Path: "/abs/pub"},
		"s3://bucket/prefix/":        {Scheme: "s3", Host: "bucket", Path: "prefix"},
		"sealed+s3://bucket/prefix":  {Scheme: "s3", Host: "bucket", Path: "prefix"},
		"sealed+s3://bucket/prefix?": {Scheme: "s3", Host: "bucket", Path: "prefix"},
	} {
		got, err := ParseDestination(s)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "sealed+", "https://host/p", "s3://bucket/p?version=1", "s3://bucket/p?include=x", "gs://b/p",
		"s3://bucket/../p", "file://p", "s3://u:p@bucket/p"} {
		if u, err := ParseDestination(s); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %+v, %v", s, u, err)
		}
	}
}

// FuzzParseURI: what parses has one spelling of its place, which parses to itself and leads nowhere else.
func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"sealed+s3://bucket/prefix?version=3&min-version=2&include=*.json", "sealed+file:///a/b", "sealed+https://host:1/p",
		"sealed+s3://bucket/%2e%2e/x", "sealed+s3://bucket/a%2Fb", "sealed+file:///%00", "sealed+s3://b%75cket/x", "sealed+https://[::1]/x",
		"sealed+s3://bucket/?mdk-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "sealed+file:////", "sealed+https://h/?a;b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			if !fault.Is(err, fault.Usage) {
				t.Errorf("%q: %v is of kind %v", s, err, fault.Of(err))
			}
			return
		}
		if u.Path != "" {
			for element := range strings.SplitSeq(strings.TrimPrefix(u.Path, "/"), "/") {
				if element == "" || element == "." || element == ".." || strings.ContainsAny(element, "\x00\\") {
					t.Errorf("%q has the path %q", s, u.Path)
				}
			}
		}
		if (u.Scheme == "file") != (u.Host == "") || u.Scheme != "s3" && u.Path != "" && u.Path[0] != '/' || u.Scheme == "s3" && strings.HasPrefix(u.Path, "/") {
			t.Errorf("%q: %+v", s, u)
		}
		if d := u.Demand; d.Version >= 1<<53 || d.MinVersion >= 1<<53 || d.MDKID != nil && len(d.MDKID) != 32 || len(d.Include)+len(d.Exclude) > maxPatterns {
			t.Errorf("%q: %+v", s, d)
		}
	})
}
