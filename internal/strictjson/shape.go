package strictjson

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// kind is what JSON a Go type stands for.
type kind uint8

const (
	object kind = iota
	mapping
	array
	text
	parsed // a string for encoding.TextUnmarshaler
	integer
	float
	boolean
)

var kindNames = [...]string{"an object", "an object", "an array", "a string", "a string", "an integer", "a number",
	"a boolean"}

// shape is a Go type as the decoder sees it.
type shape struct {
	kind   kind
	elem   *shape  // array, mapping
	fields []field // object
}

type field struct {
	name     string
	index    int // in the struct
	optional bool
	shape    *shape
}

// maxFields is how many fields the decoder can tick off.
const maxFields = 64

// find returns the index of the field called key, or -1. Names are compared as they are spelled: no case folding, no
// escapes.
func (s *shape) find(key []byte, guess int) int {
	if guess < len(s.fields) && s.fields[guess].name == string(key) {
		return guess
	}
	return slices.IndexFunc(s.fields, func(f field) bool { return f.name == string(key) })
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// shapeOf translates a type. The outer types end recursion: a recursive type has no bounded depth.
func shapeOf(t reflect.Type, outer []reflect.Type) (*shape, error) {
	if slices.Contains(outer, t) {
		return nil, fmt.Errorf("%v is recursive", t)
	}
	outer = append(outer, t)
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return &shape{kind: parsed}, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem(), outer)
	case reflect.Struct:
		return structShape(t, outer)
	case reflect.Slice:
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
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if f.Anonymous || name == "" || len(s.fields) == maxFields {
			return nil, fmt.Errorf("%v.%s: embedded, without a name in its tag, or one of too many", t, f.Name)
		}
		elem, err := shapeOf(f.Type, outer)
		if err != nil {
			return nil, err
		}
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		s.fields = append(s.fields, field{name, i, optional, elem})
	}
	return s, nil
}
