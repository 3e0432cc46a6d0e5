package iam

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// condition is one key of one operator of a Condition element.
type condition struct {
	operator string // without prefix and suffix
	key      string // in lower case
	values   []string
	ifExists bool
	set      string // "forallvalues", "foranyvalue" or empty
}

// compare tells whether a context value satisfies a policy value.
type compare func(have, want string) bool

// operator returns the comparison behind an operator's name, and whether the name negates it.
func operator(name string) (op compare, negated, known bool) {
	switch name {
	case "StringEquals":
		return func(a, b string) bool { return a == b }, false, true
	case "StringEqualsIgnoreCase":
		return strings.EqualFold, false, true
	case "StringLike":
		return func(a, b string) bool { return Match(b, a) }, false, true
	case "ArnLike", "ArnEquals":
		return matchARN, false, true
	case "Bool":
		return func(a, b string) bool { return strings.EqualFold(a, b) }, false, true
	case "NumericEquals":
		return numeric(func(a, b float64) bool { return a == b }), false, true
	case "NumericLessThan":
		return numeric(func(a, b float64) bool { return a < b }), false, true
	case "NumericLessThanEquals":
		return numeric(func(a, b float64) bool { return a <= b }), false, true
	case "NumericGreaterThan":
		return numeric(func(a, b float64) bool { return a > b }), false, true
	case "NumericGreaterThanEquals":
		return numeric(func(a, b float64) bool { return a >= b }), false, true
	}
	if slices.Contains(negatives, name) {
		op, _, _ = operator(strings.Replace(name, "Not", "", 1))
		return op, true, true
	}
	return nil, false, false
}

// negatives are the operators that hold where their positive form does not.
var negatives = []string{
	"StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike", "ArnNotLike", "ArnNotEquals", "NumericNotEquals",
}

// unsupported are operators of AWS that this package does not evaluate. A statement with one is kept and denies.
var unsupported = []string{
	"BinaryEquals", "IpAddress", "NotIpAddress", "DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals",
	"DateGreaterThan", "DateGreaterThanEquals",
}

func numeric(op func(a, b float64) bool) compare {
	return func(have, want string) bool {
		a, errA := strconv.ParseFloat(have, 64)
		b, errB := strconv.ParseFloat(want, 64)
		return errA == nil && errB == nil && op(a, b)
	}
}

// matchARN compares the six fields of an ARN one by one, so that a * does not cross a colon; the last takes the rest.
func matchARN(have, want string) bool {
	h, w := strings.SplitN(have, ":", 6), strings.SplitN(want, ":", 6)
	if len(h) != 6 || len(w) != 6 {
		return false
	}
	for i := range h {
		if !Match(w[i], h[i]) {
			return false
		}
	}
	return true
}

func parseConditions(raw map[string]map[string]oneOrMany[scalar]) ([]condition, error) {
	var all []condition
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		c := condition{operator: name}
		if set, rest, ok := strings.Cut(name, ":"); ok {
			c.set, c.operator = strings.ToLower(set), rest
		}
		c.operator, c.ifExists = strings.CutSuffix(c.operator, "IfExists")
		_, _, known := operator(c.operator)
		switch {
		case !known && c.operator != "Null" && !slices.Contains(unsupported, c.operator):
			return nil, fmt.Errorf("condition operator %q", name)
		case c.set != "" && c.set != "forallvalues" && c.set != "foranyvalue":
			return nil, fmt.Errorf("condition operator %q", name)
		}
		for _, key := range slices.Sorted(maps.Keys(raw[name])) {
			one := c
			one.key = strings.ToLower(key)
			for _, v := range raw[name][key] {
				one.values = append(one.values, string(v))
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// holds evaluates the condition. A problem is a condition that cannot be evaluated.
func (c condition) holds(ctx Context) (ok bool, problem string) {
	have, present := ctx[c.key]
	present = present && len(have) > 0
	if c.operator == "Null" {
		return len(c.values) == 1 && strings.EqualFold(c.values[0], strconv.FormatBool(!present)), ""
	}
	op, negated, known := operator(c.operator)
	if !known {
		return false, fmt.Sprintf("condition operator %s on %s is not supported", c.operator, c.key)
	}
	one := func(value string) bool {
		found := slices.ContainsFunc(c.values, func(want string) bool { return op(value, want) })
		return found != negated
	}
	switch {
	case !present:
		return c.ifExists || negated && c.set == "" || c.set == "forallvalues", ""
	case c.set == "forallvalues", c.set == "" && negated:
		return !slices.ContainsFunc(have, func(v string) bool { return !one(v) }), ""
	}
	return slices.ContainsFunc(have, one), ""
}
