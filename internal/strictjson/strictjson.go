// Package strictjson decodes JSON of which every byte may be hostile.
//
// Two readers of one document must not see two models in it. encoding/json alone would let them: it takes the last of
// two equal keys, folds the case of names, reads null as "leave it", and replaces what is not UTF-8. Unmarshal refuses
// all of these, besides unknown fields, absent ones, trailing bytes, and numbers that are not plain integers where
// integers are meant.
//
// The check is one pass over the bytes, directed by the Go type, before encoding/json allocates anything: a document of
// ten million empty elements fails at its first. encoding/json then decodes the same bytes, so that syntax and
// conversion have one judge.
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

// Unmarshal decodes data into what v points to. Struct fields are required unless tagged omitempty or omitzero; such an
// optional field, if present, is not the empty string. Nothing in v is to be used after an error.
//
// It supports structs without embedding, slices, maps with string keys, strings, integers, floats, booleans, pointers
// and implementations of encoding.TextUnmarshaler. Other types are an error for every document.
func Unmarshal(data []byte, v any) error {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return fmt.Errorf("decoding into a %T, not a pointer", v)
	}
	s, err := shapeOf(t.Elem(), nil)
	if err != nil {
		return err
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	w := walker{data: data}
	if err := w.value(s); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// kind is what JSON a Go type stands for.
type kind uint8

const (
	object kind = iota
	mapping
	array
	text
	integer
	float
	boolean
)

// shape is a Go type as the walker sees it.
type shape struct {
	kind   kind
	elem   *shape  // array, mapping
	fields []field // object, in the order of the struct
	want   uint64  // object: bits of the required fields
}

type field struct {
	name     string
	optional bool
	shape    *shape
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// shapeOf translates a type. The outer types end recursion: a recursive type has no bounded depth.
func shapeOf(t reflect.Type, outer []reflect.Type) (*shape, error) {
	for _, o := range outer {
		if o == t {
			return nil, fmt.Errorf("%v is recursive", t)
		}
	}
	outer = append(outer, t)
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return &shape{kind: text}, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem(), outer)
	case reflect.Struct:
		return structShape(t, outer)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &shape{kind: text}, nil
		}
		elem, err := shapeOf(t.Elem(), outer)
		return &shape{kind: array, elem: elem}, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return nil, fmt.Errorf("%v has keys that are not strings", t)
		}
		elem, err := shapeOf(t.Elem(), outer)
		return &shape{kind: mapping, elem: elem}, err
	}
	return scalarShape(t)
}

func scalarShape(t reflect.Type) (*shape, error) {
	switch t.Kind() {
	case reflect.String:
		return &shape{kind: text}, nil
	case reflect.Bool:
		return &shape{kind: boolean}, nil
	case reflect.Float32, reflect.Float64:
		return &shape{kind: float}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &shape{kind: integer}, nil
	}
	return nil, fmt.Errorf("%v is not supported", t)
}

func structShape(t reflect.Type, outer []reflect.Type) (*shape, error) {
	s := &shape{kind: object}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if f.Anonymous || name == "" || len(s.fields) == 64 {
			return nil, fmt.Errorf("%v.%s: fields need a name in their tag, and a struct has at most 64", t, f.Name)
		}
		elem, err := shapeOf(f.Type, outer)
		if err != nil {
			return nil, err
		}
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		if !optional {
			s.want |= 1 << len(s.fields)
		}
		s.fields = append(s.fields, field{name, optional, elem})
	}
	return s, nil
}

// walker passes over a document. It follows the structure exactly and leaves the spelling of numbers, literals and
// strings to encoding/json, except where that is lax.
type walker struct {
	data []byte
	pos  int
}

// value passes over one value of shape s.
func (w *walker) value(s *shape) error {
	switch c := w.next(); {
	case c == 'n':
		return w.fail("null")
	case s.kind == object && c == '{':
		return w.object(s)
	case s.kind == mapping && c == '{':
		return w.mapping(s)
	case s.kind == array && c == '[':
		return w.array(s)
	case s.kind == text && c == '"':
		_, err := w.text()
		return err
	case s.kind == integer && (c == '-' || '0' <= c && c <= '9'):
		return w.integer()
	case s.kind == float && (c == '-' || '0' <= c && c <= '9'), s.kind == boolean && (c == 't' || c == 'f'):
		w.token()
		return nil
	}
	return w.fail("not " + [...]string{"an object", "an object", "an array", "a string", "an integer", "a number", "a boolean"}[s.kind])
}

// object passes over an object whose keys are the fields of a struct.
func (w *walker) object(s *shape) error {
	var seen uint64
	guess := 0 // fields mostly come in the order of the struct
	err := w.members(func(key []byte) error {
		i := s.find(key, guess)
		switch {
		case i < 0:
			return w.fail("unknown field")
		case seen&(1<<i) != 0:
			return w.fail("duplicate field")
		case s.fields[i].optional && bytes.HasPrefix(w.rest(), []byte(`""`)):
			return w.fail("empty; an optional field is left out instead")
		}
		seen |= 1 << i
		guess = i + 1
		return w.value(s.fields[i].shape)
	})
	if err != nil {
		return err
	}
	for i, f := range s.fields {
		if s.want&^seen&(1<<i) != 0 {
			return w.fail(fmt.Sprintf("no field %q", f.name))
		}
	}
	return nil
}

// find returns the index of the field called key, or -1. Names are compared as they are spelled: no case folding, no
// escapes.
func (s *shape) find(key []byte, guess int) int {
	if guess < len(s.fields) && s.fields[guess].name == string(key) {
		return guess
	}
	for i := range s.fields {
		if s.fields[i].name == string(key) {
			return i
		}
	}
	return -1
}

// mapping passes over an object whose keys are free.
func (w *walker) mapping(s *shape) error {
	seen := make(map[string]bool)
	return w.members(func(key []byte) error {
		switch {
		case bytes.IndexByte(key, '\\') >= 0: // it could equal another key that is spelled plainly
			return w.fail("escape in a key")
		case seen[string(key)]:
			return w.fail("duplicate key")
		}
		seen[string(key)] = true
		return w.value(s.elem)
	})
}

// members passes over an object; it calls visit at each value. Errors name the key.
func (w *walker) members(visit func(key []byte) error) error {
	w.pos++ // {
	for first := true; ; first = false {
		switch c := w.next(); {
		case c == '}':
			w.pos++
			return nil
		case !first && c == ',':
			w.pos++
		case !first:
			return w.fail("neither , nor }")
		}
		if w.next() != '"' {
			return w.fail("not a key")
		}
		key, err := w.text()
		if err != nil {
			return err
		}
		if w.next() != ':' {
			return w.fail("no colon behind a key")
		}
		w.pos++
		w.next()
		if err := visit(key); err != nil {
			return within(name(key), err)
		}
	}
}

// array passes over an array. Errors name the index.
func (w *walker) array(s *shape) error {
	w.pos++ // [
	for i := 0; ; i++ {
		switch c := w.next(); {
		case c == ']':
			w.pos++
			return nil
		case i > 0 && c == ',':
			w.pos++
		case i > 0:
			return w.fail("neither , nor ]")
		}
		if err := w.value(s.elem); err != nil {
			return within(fmt.Sprintf("[%d]", i), err)
		}
	}
}

// text passes over a string and returns what stands between its quotes, escapes as they are.
func (w *walker) text() ([]byte, error) {
	w.pos++ // "
	start := w.pos
	for {
		n := bytes.IndexByte(w.data[w.pos:], '"')
		if n < 0 {
			return nil, w.fail("unterminated string")
		}
		escape := bytes.IndexByte(w.data[w.pos:w.pos+n], '\\')
		if escape < 0 {
			w.pos += n + 1
			return w.data[start : w.pos-1], nil
		}
		w.pos += escape
		if err := w.escape(); err != nil {
			return nil, err
		}
	}
}

// escape passes over an escape. Half a surrogate pair stands for no character; encoding/json would make one up.
func (w *walker) escape() error {
	r, n := codeUnit(w.rest())
	if n > 0 && utf16.IsSurrogate(r) {
		low, m := codeUnit(w.data[w.pos+n:])
		if m == 0 || utf16.DecodeRune(r, low) == utf8.RuneError {
			return w.fail("half a surrogate pair")
		}
		n += m
	}
	w.pos = min(w.pos+max(n, 2), len(w.data))
	return nil
}

// codeUnit reads \uXXXX from the front of b, and returns 0, 0 where there is none.
func codeUnit(b []byte) (rune, int) {
	const size = len(`\u0000`)
	if len(b) < size || b[0] != '\\' || b[1] != 'u' {
		return 0, 0
	}
	var r rune
	for _, c := range b[2:size] {
		digit := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
		if digit < 0 {
			return 0, 0
		}
		r = r<<4 | rune(digit)
	}
	return r, size
}

// integer passes over a number that is a plain integer: no fraction, no exponent, no minus zero.
func (w *walker) integer() error {
	start := w.pos
	w.token()
	digits := bytes.TrimPrefix(w.data[start:w.pos], []byte("-"))
	for _, c := range digits {
		if c < '0' || c > '9' {
			return w.fail("not an integer")
		}
	}
	if w.data[start] == '-' && bytes.HasPrefix(digits, []byte("0")) {
		return w.fail("minus zero")
	}
	return nil
}

// token passes over a number or a literal.
func (w *walker) token() {
	for w.pos < len(w.data) && !bytes.ContainsRune([]byte(" \t\r\n,]}"), rune(w.data[w.pos])) {
		w.pos++
	}
}

// next skips white space and returns the byte there, or 0 at the end.
func (w *walker) next() byte {
	for ; w.pos < len(w.data); w.pos++ {
		switch c := w.data[w.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

func (w *walker) rest() []byte { return w.data[w.pos:] }

func (w *walker) fail(what string) error { return &Error{Offset: w.pos, What: what} }

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
