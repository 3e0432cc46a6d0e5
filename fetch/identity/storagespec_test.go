package identity

import (
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/fault"
)

func TestParseStorageSpec(t *testing.T) {
	s, err := ParseStorageSpec(`{"type":"s3","access_key_id":"AKIA","secret_access_key":"s","bucket":"b",`+
		`"endpoint_url":"https://minio","region":"a","anonymous":"false"}`,
		`{"region":"eu-central-1","ca_bundle":"/ca","verify_ssl":"1"}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		got  *string
		want string
	}{
		"key": {s.AccessKeyID, "AKIA"}, "secret": {s.SecretAccessKey, "s"}, "endpoint": {s.EndpointURL,
			"https://minio"},
		"region": {s.Region, "eu-central-1"}, "CA": {s.CABundle, "/ca"}, "verify": {s.VerifySSL, "1"},
		"anonymous": {s.Anonymous, "false"},
	} {
		if tt.got == nil || *tt.got != tt.want {
			t.Errorf("%s is not %q", name, tt.want)
		}
	}
	for name, in := range map[string][2]string{
		"nothing": {"", ""}, "another type": {`{"type":"hdfs","region":"x"}`, ""}, "no type": {`{"region":"x"}`, "{}"},
		"type overridden": {`{"type":"s3","region":"x"}`, `{"type":"hdfs"}`},
	} {
		if s, err := ParseStorageSpec(in[0], in[1]); err != nil || s != (StorageSpec{}) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	for name, in := range map[string][2]string{
		"not JSON": {`{"type":"s3","secret_access_key":"hush"`, ""}, "a list": {"", `["hush"]`},
		"not a string": {`{"type":"s3","secret_access_key":["hush"]}`, ""},
	} {
		_, err := ParseStorageSpec(in[0], in[1])
		if !fault.Is(err, fault.Usage) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseStorageSpec(f *testing.F) {
	f.Add(`{"type":"s3","region":"x"}`, `{"region":"y"}`)
	f.Add("null", "null")
	f.Add("", "[]")
	f.Fuzz(func(t *testing.T, config, override string) {
		s, err := ParseStorageSpec(config, override)
		if err != nil && (s != StorageSpec{} || !fault.Is(err, fault.Usage)) {
			t.Errorf("%+v beside %v", s, err)
		}
	})
}
