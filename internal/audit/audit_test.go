package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/audit"
)

// events calls every method with every field set, and has the record that is to come out, without its time.
var events = map[string]struct {
	write func(*audit.Log, context.Context)
	json  string
}{
	"identity.assumed": {
		func(l *audit.Log, ctx context.Context) {
			l.IdentityAssumed(ctx, audit.IdentityAssumed{
				Hop: 1, RoleARN: "arn:aws:iam::1:role/r", AssumedRoleID: "AROA:s", RequestID: "req",
			})
		},
		`{"level":"INFO","msg":"identity.assumed","audit":1,"event":"identity.assumed","hop":1,` +
			`"role_arn":"arn:aws:iam::1:role/r","assumed_role_id":"AROA:s","request_id":"req"}`,
	},
	"evidence.produced": {
		func(l *audit.Log, ctx context.Context) {
			l.EvidenceProduced(ctx, audit.EvidenceProduced{Model: "a/m", Version: 3, Attester: "tpm", Bytes: 4096})
		},
		`{"level":"INFO","msg":"evidence.produced","audit":1,"event":"evidence.produced","model":"a/m","version":3,` +
			`"attester":"tpm","bytes":4096}`,
	},
	"key.released": {
		func(l *audit.Log, ctx context.Context) {
			l.KeyReleased(ctx, audit.KeyReleased{
				Model: "a/m", Version: 3, MDKID: "id", WrapType: "aws-kms", KeyID: "arn", RequestID: "req",
				Assurance: "measured-boot", Attester: "nitrotpm", ModuleID: "i-0",
			})
		},
		`{"level":"INFO","msg":"key.released","audit":1,"event":"key.released","model":"a/m","version":3,"mdk_id":"id",` +
			`"wrap_type":"aws-kms","key_id":"arn","request_id":"req","assurance":"measured-boot","attester":"nitrotpm",` +
			`"module_id":"i-0"}`,
	},
	"model.ready": {
		func(l *audit.Log, ctx context.Context) {
			l.ModelReady(ctx, audit.ModelReady{
				Model: "a/m", Version: 1<<64 - 1, MDKID: "id", ObjectVersionID: "v", Files: 2, Bytes: 1 << 40,
				Duration: 1500 * time.Millisecond,
			})
		},
		`{"level":"INFO","msg":"model.ready","audit":1,"event":"model.ready","model":"a/m","version":18446744073709551615,` +
			`"mdk_id":"id","object_version_id":"v","files":2,"bytes":1099511627776,"duration_ms":1500}`,
	},
	"load.failed": {
		func(l *audit.Log, ctx context.Context) {
			l.LoadFailed(ctx, audit.LoadFailed{
				Model: "a/m", Version: 3, MDKID: "id", ExitCode: 16, Cause: "chunk 7\n\"forged\"", Duration: time.Second,
			})
		},
		`{"level":"ERROR","msg":"load.failed","audit":1,"event":"load.failed","model":"a/m","version":3,"mdk_id":"id",` +
			`"exit_code":16,"cause":"chunk 7\n\"forged\"","duration_ms":1000}`,
	},
}

// quiet is a handler's options under which an ordinary logger says nothing at all.
func quiet() *slog.HandlerOptions {
	return &slog.HandlerOptions{Level: slog.LevelError + 1, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
}

func TestEventsAsJSON(t *testing.T) {
	for name, e := range events {
		var out bytes.Buffer
		e.write(audit.New(slog.New(slog.NewJSONHandler(&out, quiet()))), t.Context())
		if got := strings.TrimSuffix(out.String(), "\n"); got != e.json {
			t.Errorf("%s:\n got %s\nwant %s", name, got, e.json)
		}
	}
}

// TestEventsAsText finds the fields of the JSON record in the text record, which is one line.
func TestEventsAsText(t *testing.T) {
	for name, e := range events {
		var out bytes.Buffer
		e.write(audit.New(slog.New(slog.NewTextHandler(&out, quiet()))), t.Context())
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Errorf("%s is on %d lines", name, n)
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(e.json), &fields); err != nil {
			t.Fatal(err)
		}
		for key := range fields {
			if !strings.Contains(" "+out.String(), " "+key+"=") {
				t.Errorf("%s: no %s in %s", name, key, out.String())
			}
		}
		if !strings.Contains(out.String(), " audit=1 event="+name+" ") {
			t.Errorf("%s: %s", name, out.String())
		}
	}
}

func TestEventsKeepTheLoggersAttributes(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, nil)).With("pod", "p")
	before := time.Now().Add(-time.Second)
	audit.New(logger).ModelReady(t.Context(), audit.ModelReady{})
	var record struct {
		Time  time.Time
		Pod   string
		Audit int
	}
	if err := json.Unmarshal(out.Bytes(), &record); err != nil {
		t.Fatal(err)
	}
	if record.Pod != "p" || record.Audit != 1 || record.Time.Before(before) || record.Time.After(time.Now()) {
		t.Errorf("%s", out.String())
	}
}

func TestUnknownFieldsAreEmptyNotAbsent(t *testing.T) {
	var out bytes.Buffer
	audit.New(slog.New(slog.NewJSONHandler(&out, nil))).LoadFailed(t.Context(), audit.LoadFailed{})
	for _, field := range []string{`"model":""`, `"version":0`, `"mdk_id":""`, `"exit_code":0`, `"cause":""`} {
		if !strings.Contains(out.String(), field) {
			t.Errorf("no %s in %s", field, out.String())
		}
	}
}

func TestNilLogsWriteNothing(t *testing.T) {
	if audit.New(nil) != nil {
		t.Error("a nil logger makes a log")
	}
	for _, e := range events {
		e.write(nil, t.Context()) // must not panic
	}
}

// TestNoSecretFitsIn keeps the fields to strings and integers: no byte slice, no key, no error, no any.
func TestNoSecretFitsIn(t *testing.T) {
	log := reflect.TypeFor[*audit.Log]()
	if log.NumMethod() != len(events) {
		t.Errorf("%d methods, %d events are tested", log.NumMethod(), len(events))
	}
	for i := range log.NumMethod() {
		method := log.Method(i)
		event := method.Type.In(method.Type.NumIn() - 1)
		if event.Kind() != reflect.Struct || event.Name() != method.Name || method.Type.NumIn() != 3 {
			t.Errorf("%s takes %v", method.Name, event)
			continue
		}
		for j := range event.NumField() {
			switch f := event.Field(j); f.Type.Kind() {
			case reflect.String, reflect.Int, reflect.Int64, reflect.Uint64:
			default:
				t.Errorf("%s.%s is a %v", event.Name(), f.Name, f.Type)
			}
		}
	}
}
