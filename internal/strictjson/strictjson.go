// Package strictjson decodes JSON of which every byte may be hostile.
//
// Two readers of one document must not see two different things in it. encoding/json lets them: it takes the last of
// two equal keys, folds the case of names, reads null as "leave it", and replaces what is not UTF-8. Unmarshal refuses
// all of these, besides unknown fields, absent ones, trailing bytes, and numbers that are not plain integers where
// integers are meant.
//
// It is one pass, directed by the Go type. Nothing is made for an element before the one in front of it is complete
// and right, so that a document of ten million empty elements fails at its first; depth is that of the type.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Unmarshal decodes data into what v points to, which is zero before. Struct fields are required unless tagged
// omitempty or omitzero; such an optional field, if present, is not the empty string. After an error, nothing in v is
// to be used.
//
// It supports structs without embedding, slices, maps with string keys, strings, integers, floats, booleans, pointers
// and implementations of encoding.TextUnmarshaler. Other types are an error for every document.
func Unmarshal(data []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("decoding into a %T, not a pointer to something", v)
	}
	s, err := shapeOf(target.Type().Elem(), nil)
	if err != nil {
		return err
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	d := decoder{data: data}
	if err := d.value(s, target.Elem()); err != nil {
		return err
	}
	if d.next(); d.pos < len(data) {
		return d.fail("something behind the end")
	}
	return nil
}

// decoder reads a document from front to back.
type decoder struct {
	data []byte
	pos  int
}

// value decodes one value of shape s into v.
func (d *decoder) value(s *shape, v reflect.Value) error {
	for v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch c := d.next(); {
	case c == 'n':
		return d.fail("null")
	case s.kind == object && c == '{':
		return d.object(s, v)
	case s.kind == mapping && c == '{':
		return d.mapping(s, v)
	case s.kind == array && c == '[':
		return d.array(s, v)
	case (s.kind == text || s.kind == parsed) && c == '"':
		return d.text(s, v)
	case s.kind == integer && startsNumber(c):
		return d.integer(v)
	case s.kind == float && startsNumber(c), s.kind == boolean && (c == 't' || c == 'f'):
		start := d.pos
		return d.failIf(json.Unmarshal(d.token(), v.Addr().Interface()), start)
	}
	return d.fail("not " + kindNames[s.kind])
}

func startsNumber(c byte) bool { return c == '-' || '0' <= c && c <= '9' }

// object decodes an object whose keys are the fields of a struct.
func (d *decoder) object(s *shape, v reflect.Value) error {
	var seen uint64
	guess := 0 // fields mostly come in the order of the struct
	err := d.members(func(key []byte) error {
		i := s.find(key, guess)
		switch {
		case i < 0:
			return d.fail("unknown field")
		case seen&(1<<i) != 0:
			return d.fail("duplicate field")
		case s.fields[i].optional && bytes.HasPrefix(d.data[d.pos:], []byte(`""`)):
			return d.fail("empty; an optional field is left out instead")
		}
		seen |= 1 << i
		guess = i + 1
		return d.value(s.fields[i].shape, v.Field(s.fields[i].index))
	})
	if err != nil {
		return err
	}
	for i, f := range s.fields {
		if !f.optional && seen&(1<<i) == 0 {
			return d.fail(fmt.Sprintf("no field %q", f.name))
		}
	}
	return nil
}

// mapping decodes an object whose keys are free.
func (d *decoder) mapping(s *shape, v reflect.Value) error {
	v.Set(reflect.MakeMap(v.Type()))
	return d.members(func(key []byte) error {
		if bytes.IndexByte(key, '\\') >= 0 { // it could equal another key that is spelled plainly
			return d.fail("escape in a key")
		}
		k := reflect.ValueOf(string(key)).Convert(v.Type().Key())
		if v.MapIndex(k).IsValid() {
			return d.fail("duplicate key")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(s.elem, elem); err != nil {
			return err
		}
		v.SetMapIndex(k, elem)
		return nil
	})
}

// members passes over an object and calls visit at each value. Keys are as they are spelled, escapes and all.
func (d *decoder) members(visit func(key []byte) error) error {
	d.pos++ // {
	for first := true; ; first = false {
		switch c := d.next(); {
		case c == '}':
			d.pos++
			return nil
		case !first && c == ',':
			d.pos++
		case !first:
			return d.fail("neither , nor }")
		}
		if d.next() != '"' {
			return d.fail("not a key")
		}
		key, _, err := d.quoted()
		if err != nil {
			return err
		}
		if d.next() != ':' {
			return d.fail("no colon behind a key")
		}
		d.pos++
		d.next()
		if err := visit(key); err != nil {
			return within(name(key), err)
		}
	}
}

func (d *decoder) array(s *shape, v reflect.Value) error {
	d.pos++ // [
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for i := 0; ; i++ {
		switch c := d.next(); {
		case c == ']':
			d.pos++
			return nil
		case i > 0 && c == ',':
			d.pos++
		case i > 0:
			return d.fail("neither , nor ]")
		}
		v.Grow(1)
		v.SetLen(i + 1)
		if err := d.value(s.elem, v.Index(i)); err != nil {
			return within(fmt.Sprintf("[%d]", i), err)
		}
	}
}

// text decodes a string. encoding/json undoes escapes, which are rare.
func (d *decoder) text(s *shape, v reflect.Value) error {
	start := d.pos
	b, escaped, err := d.quoted()
	if err != nil {
		return err
	}
	if escaped {
		var plain string
		if err := json.Unmarshal(d.data[start:d.pos], &plain); err != nil {
			return d.failIf(err, start)
		}
		b = []byte(plain)
	}
	if s.kind == parsed {
		return d.failIf(v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(b), start)
	}
	v.SetString(string(b))
	return nil
}

// quoted passes over a string and returns what stands between its quotes.
func (d *decoder) quoted() (b []byte, escaped bool, err error) {
	d.pos++ // "
	for start := d.pos; d.pos < len(d.data); {
		switch c := d.data[d.pos]; {
		case c == '"':
			d.pos++
			return d.data[start : d.pos-1], escaped, nil
		case c == '\\':
			escaped = true
			if err := d.escape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, d.fail("control character in a string")
		default:
			d.pos++
		}
	}
	return nil, false, d.fail("unterminated string")
}

// escape passes over an escape. Half a surrogate pair stands for no character; encoding/json would make one up.
func (d *decoder) escape() error {
	r, n := codeUnit(d.data[d.pos:])
	if n > 0 && utf16.IsSurrogate(r) {
		low, m := codeUnit(d.data[d.pos+n:])
		if m == 0 || utf16.DecodeRune(r, low) == utf8.RuneError {
			return d.fail("half a surrogate pair")
		}
		n += m
	}
	d.pos = min(d.pos+max(n, 2), len(d.data))
	return nil
}

// codeUnit reads \uXXXX from the front of b, and returns 0, 0 where there is none.
func codeUnit(b []byte) (rune, int) {
	const size = len(`\u0000`)
	if len(b) < size || b[0] != '\\' || b[1] != 'u' {
		return 0, 0
	}
	r, err := strconv.ParseUint(string(b[2:size]), 16, 16)
	if err != nil {
		return 0, 0
	}
	return rune(r), size
}

// integer decodes a number that is a plain integer: no fraction, no exponent, no leading zero, no minus zero.
func (d *decoder) integer(v reflect.Value) error {
	start := d.pos
	digits := string(d.token())
	if digits != "0" && strings.HasPrefix(strings.TrimPrefix(digits, "-"), "0") {
		return d.failAt(start, "not an integer, or spelled with a needless zero")
	}
	if v.CanInt() {
		n, err := strconv.ParseInt(digits, 10, v.Type().Bits())
		v.SetInt(n)
		return d.failIf(err, start)
	}
	n, err := strconv.ParseUint(digits, 10, v.Type().Bits())
	v.SetUint(n)
	return d.failIf(err, start)
}

// token passes over a number or a literal and returns it.
func (d *decoder) token() []byte {
	start := d.pos
	for ; d.pos < len(d.data); d.pos++ {
		switch d.data[d.pos] {
		case ' ', '\t', '\r', '\n', ',', ']', '}':
			return d.data[start:d.pos]
		}
	}
	return d.data[start:]
}

// next skips white space and returns the byte there, or 0 at the end.
func (d *decoder) next() byte {
	for ; d.pos < len(d.data); d.pos++ {
		switch c := d.data[d.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// Error says what is wrong where in a document.
type Error struct {
	Path   string // as in files[3].size; empty for the document itself
	Offset int    // in bytes
	What   string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s (byte %d)", e.What, e.Offset)
	}
	return fmt.Sprintf("%s: %s (byte %d)", e.Path, e.What, e.Offset)
}

func (d *decoder) fail(what string) error { return d.failAt(d.pos, what) }

func (d *decoder) failAt(offset int, what string) error { return &Error{Offset: offset, What: what} }

func (d *decoder) failIf(err error, offset int) error {
	if err == nil {
		return nil
	}
	return d.failAt(offset, cut(err.Error()))
}

// within puts an element in front of an error's path.
func within(element string, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	path := element
	switch {
	case e.Path == "", strings.HasPrefix(e.Path, "["):
		path += e.Path
	default:
		path += "." + e.Path
	}
	return &Error{path, e.Offset, e.What}
}

// cut bounds what a message quotes of the document.
func cut(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// name makes a key fit for a message: bounded, and quoted where it is not a plain word.
func name(key []byte) string {
	const most = 64
	if len(key) > most {
		key = append(key[:most:most], "..."...)
	}
	if quoted := strconv.Quote(string(key)); quoted[1:len(quoted)-1] != string(key) {
		return quoted
	}
	return string(key)
}
