package strictjson_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/strictjson"
)

type inner struct {
	Size  int64  `json:"size"`
	Label string `json:"label,omitempty"`
}

type document struct {
	Name    string            `json:"name"`
	Version uint64            `json:"version"`
	On      bool              `json:"on"`
	Ratio   float64           `json:"ratio"`
	When    time.Time         `json:"when"`
	Items   []inner           `json:"items"`
	Tags    map[string]string `json:"tags,omitempty"`
	Deep    *inner            `json:"deep,omitempty"`
	//lint:ignore U1000 a name that encoding/json does not see
	hidden  int
	Skipped func() `json:"-"`
}

const good = `{"name":"n","version":3,"on":true,"ratio":1.5e3,"when":"2026-11-22T10:00:00Z",
	"items":[{"size":-1},{"label":"\u00e9\ud83d\ude00\"\\","size":2}],"tags":{"a":"b"},"deep":{"size":0}}`

func TestUnmarshal(t *testing.T) {
	var got document
	if err := strictjson.Unmarshal([]byte(good), &got); err != nil {
		t.Fatal(err)
	}
	want := document{
		Name: "n", Version: 3, On: true, Ratio: 1500, When: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		Items: []inner{{Size: -1}, {2, "é😀\"\\"}}, Tags: map[string]string{"a": "b"}, Deep: &inner{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestRefusals changes the good document by one replacement each.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{`"on":true,`, `"on":true,"extra":1,`, "extra: unknown field"},
		{`"on":true,`, `"on":true,"On":true,`, "On: unknown field"},
		{`"name"`, `"Name"`, "Name: unknown field"},
		{`"name"`, `"nam\u0065"`, "unknown field"},
		{`"on":true,`, `"on":true,"on":true,`, "on: duplicate field"},
		{`"size":2`, `"size":2,"size":2`, "items[1].size: duplicate field"},
		{`"tags":{"a":"b"}`, `"tags":{"a":"b","a":"c"}`, "tags.a: duplicate key"},
		{`"tags":{"a":"b"}`, `"tags":{"\u0061":"b"}`, "escape in a key"},
		{`"on":true,`, ``, `no field "on"`},
		{`{"size":-1}`, `{}`, `items[0]: no field "size"`},
		{`"name":"n"`, `"name":null`, "name: null"},
		{`{"size":-1}`, `null`, "items[0]: null"},
		{`"deep":{"size":0}`, `"deep":null`, "deep: null"},
		{`{"size":-1}`, `{"size":1,"label":""}`, "items[0].label: empty"},
		{`"version":3`, `"version":3.0`, "version: strconv.ParseUint"},
		{`"version":3`, `"version":3e0`, "version: strconv.ParseUint"},
		{`"version":3`, `"version":"3"`, "version: not an integer"},
		{`"version":3`, `"version":03`, "version: not an integer"},
		{`"version":3`, `"version":-3`, "version: strconv.ParseUint"},
		{`"version":3`, `"version":18446744073709551616`, "out of range"},
		{`"size":0`, `"size":-0`, "size: not an integer"},
		{`"size":0`, `"size":-`, "size: strconv.ParseInt"},
		{`"size":0`, `"size":9223372036854775808`, "out of range"},
		{`1.5e3`, `1.5e`, "ratio: "},
		{`1.5e3`, `01`, "ratio: "},
		{`1.5e3`, `1e999`, "ratio: "},
		{`"on":true`, `"on":tru`, "on: "},
		{`"on":true`, `"on":truer`, "on: "},
		{`"on":true`, `"on":1`, "on: not a boolean"},
		{`"name":"n"`, `"name":{}`, "name: not a string"},
		{`"2026-11-22T10:00:00Z"`, `"2026-11-22"`, "when: parsing time"},
		{`"2026-11-22T10:00:00Z"`, `1`, "when: not a string"},
		{`"items":[`, `"items":{`, "items: not an array"},
		{`"deep":{"size":0}`, `"deep":[]`, "deep: not an object"},
		{`"size":0}}`, `"size":0}} {}`, "behind the end"},
		{`"size":0}}`, "\"size\":0}}\x00", "behind the end"},
		{`"size":0}}`, `"size":0}`, "neither , nor }"},
		{`"size":0}}`, `"size":0,}}`, "not a key"},
		{`{"size":-1}`, `{"size":-1},`, "not an object"},
		{`"name":"n"`, `"name" "n"`, "no colon"},
		{`"name":"n"`, `"name":"\ud800"`, "half a surrogate pair"},
		{`"name":"n"`, `"name":"\ud800\u0061"`, "half a surrogate pair"},
		{`"name":"n"`, `"name":"\udc00"`, "half a surrogate pair"},
		{`"name":"n"`, `"name":"\uD83D\uDE0`, "half a surrogate pair"},
		{`"name":"n"`, `"name":"\u00g0"`, "name: invalid character"},
		{`"name":"n"`, `"name":"\x"`, "name: invalid character"},
		{`"name":"n"`, "\"name\":\"\xff\"", "not UTF-8"},
		{`"name":"n"`, "\"name\":\"\xed\xa0\x80\"", "not UTF-8"},
		{`"name":"n"`, "\"name\":\"a\nb\"", "control character"},
		{`"name":"n"`, `"name":"n`, "neither , nor }"},
		{good, "", "not an object"},
		{good, `{"name":"`, "unterminated string"},
		{good, "\ufeff" + good, "not an object"},
		{good, `{"\`, "unterminated string"},
	} {
		data := strings.Replace(good, c.old, c.new, 1)
		if data == good {
			t.Fatalf("%q is not in the document", c.old)
		}
		var v document
		err := strictjson.Unmarshal([]byte(data), &v)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: error %v, want one with %q", c.old, c.new, err, c.want)
		}
	}
}

func TestTypesThatCannotBeChecked(t *testing.T) {
	type recursive struct {
		Next *recursive `json:"next,omitempty"`
	}
	type untagged struct{ Name string }
	type embedded struct {
		inner `json:"inner"`
	}
	type nested struct {
		X embedded `json:"x"`
	}
	for _, v := range []any{nil, document{}, (*document)(nil), new(any), new(map[int]string), new(recursive),
		new(untagged), new([]any),
		new(embedded), new(nested)} {
		if err := strictjson.Unmarshal([]byte(`{}`), v); err == nil {
			t.Errorf("%T: no error", v)
		}
	}
}

func TestKeysInMessagesAreBounded(t *testing.T) {
	var v document
	err := strictjson.Unmarshal(fmt.Appendf(nil, "{%q:1}", strings.Repeat("x", 1<<16)), &v)
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("message of %d bytes", len(err.Error()))
	}
	err = strictjson.Unmarshal(fmt.Appendf(nil, `{"version":%s}`, strings.Repeat("1", 1<<16)), &v)
	if err == nil || len(err.Error()) > 300 {
		t.Errorf("message of %d bytes", len(err.Error()))
	}
	err = strictjson.Unmarshal([]byte("{\"\x1b[2J\":1}"), &v)
	if err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("message %q", err)
	}
}

// FuzzUnmarshal holds Unmarshal against encoding/json: what passes here decodes there, to the same value, and the
// value's own encoding passes again.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"name":"\ud800","version":1}`))
	f.Add([]byte(`[{}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want document
		if strictjson.Unmarshal(data, &got) != nil {
			return
		}
		if err := json.Unmarshal(data, &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("encoding/json: %v, %+v, not %+v", err, want, got)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Skip(err) // a year beyond 9999
		}
		if err := strictjson.Unmarshal(again, &want); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}
