// Package iam evaluates AWS policies for the test cloud: identity, session, resource and trust policies, within an
// account and across accounts.
//
// The rules are those of the IAM user guide ("Policy evaluation logic", "IAM JSON policy elements reference"), without
// organizations and permissions boundaries. What the package does not know it refuses, loudly: a test must never pass
// because a condition was skipped.
package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Policy is a parsed policy document. It never changes and is safe for concurrent use.
type Policy struct {
	kind       Kind
	statements []statement
}

// Kind is where a policy hangs, which decides what its statements must and must not contain.
type Kind int

// The kinds of policy.
const (
	Identity Kind = iota // of a role, or of a session: Resource, no Principal
	Resource             // of a bucket or key: Principal and Resource
	Trust                // of a role: Principal, no Resource
)

type statement struct {
	sid          string
	deny         bool
	principals   []principal
	actions      []string
	notActions   []string
	resources    []string
	notResources []string
	conditions   []condition
}

// principal is one entry of a Principal element.
type principal struct {
	kind string // AWS, Federated or Service
	name string
}

// document is the JSON of a policy.
type document struct {
	Version   string
	ID        string `json:"Id"`
	Statement oneOrMany[rawStatement]
}

type rawStatement struct {
	Sid          string
	Effect       string
	Principal    json.RawMessage
	NotPrincipal json.RawMessage
	Action       oneOrMany[string]
	NotAction    oneOrMany[string]
	Resource     oneOrMany[string]
	NotResource  oneOrMany[string]
	Condition    map[string]map[string]oneOrMany[scalar]
}

// oneOrMany is a JSON value or a list of them.
type oneOrMany[T any] []T

// UnmarshalJSON reads either form, and refuses fields it does not know.
func (l *oneOrMany[T]) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return strict(data, (*[]T)(l))
	}
	*l = make([]T, 1)
	return strict(data, &(*l)[0])
}

// scalar is a string, a number or a boolean, as text.
type scalar string

// UnmarshalJSON takes the text of the value.
func (s *scalar) UnmarshalJSON(data []byte) error {
	if data[0] != '"' {
		*s = scalar(data)
		if data[0] == '{' || data[0] == '[' || string(data) == "null" {
			return errors.New("a condition's value is a string, number or boolean")
		}
		return nil
	}
	return json.Unmarshal(data, (*string)(s))
}

func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

// Parse reads a policy document and refuses whatever AWS would refuse, and beyond that NotPrincipal and policy
// variables, which this package cannot evaluate.
func Parse(kind Kind, text string) (*Policy, error) {
	var d document
	if err := strict([]byte(text), &d); err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	if d.Version != "2012-10-17" && d.Version != "2008-10-17" {
		return nil, fmt.Errorf("policy version %q", d.Version)
	}
	if len(d.Statement) == 0 {
		return nil, errors.New("policy without a statement")
	}
	if strings.Contains(text, "${") {
		return nil, errors.New("policy variables are not supported")
	}
	p := &Policy{kind: kind}
	for i, raw := range d.Statement {
		s, err := raw.parse(kind)
		if err != nil {
			return nil, fmt.Errorf("statement %d: %w", i, err)
		}
		p.statements = append(p.statements, s)
	}
	return p, nil
}

// MustParse is Parse for a policy that is part of a test: it panics.
func MustParse(kind Kind, text string) *Policy {
	p, err := Parse(kind, text)
	if err != nil {
		panic("iam: " + err.Error())
	}
	return p
}

// FullAccess is the identity policy that allows everything, as an account's root user has it.
func FullAccess() *Policy {
	return &Policy{statements: []statement{{actions: []string{"*"}, resources: []string{"*"}}}}
}

// Resources lists the Resource and NotResource patterns of all statements.
func (p *Policy) Resources() []string {
	var all []string
	for _, s := range p.statements {
		all = append(append(all, s.resources...), s.notResources...)
	}
	return all
}

func (r rawStatement) parse(kind Kind) (statement, error) {
	s := statement{
		sid: r.Sid, deny: r.Effect == "Deny", actions: r.Action, notActions: r.NotAction,
		resources: r.Resource, notResources: r.NotResource,
	}
	wantPrincipal, wantResource := kind != Identity, kind != Trust
	switch {
	case r.Effect != "Allow" && r.Effect != "Deny":
		return s, fmt.Errorf("effect %q", r.Effect)
	case (len(r.Action) == 0) == (len(r.NotAction) == 0):
		return s, errors.New("exactly one of Action and NotAction is needed")
	case wantResource && (len(r.Resource) == 0) == (len(r.NotResource) == 0):
		return s, errors.New("exactly one of Resource and NotResource is needed")
	case !wantResource && len(r.Resource)+len(r.NotResource) > 0:
		return s, errors.New("a trust policy has no Resource")
	case r.NotPrincipal != nil:
		return s, errors.New("NotPrincipal is not supported")
	case wantPrincipal != (r.Principal != nil):
		return s, fmt.Errorf("principal given: %v, wanted: %v", r.Principal != nil, wantPrincipal)
	}
	if err := checkActions(append(slices.Clone(r.Action), r.NotAction...)); err != nil {
		return s, err
	}
	if err := checkResources(append(slices.Clone(r.Resource), r.NotResource...)); err != nil {
		return s, err
	}
	var err error
	if wantPrincipal {
		if s.principals, err = parsePrincipals(r.Principal); err != nil {
			return s, err
		}
	}
	s.conditions, err = parseConditions(r.Condition)
	return s, err
}

func checkActions(actions []string) error {
	for _, a := range actions {
		service, name, _ := strings.Cut(a, ":")
		if a != "*" && (service == "" || name == "") {
			return fmt.Errorf("action %q", a)
		}
	}
	return nil
}

func checkResources(resources []string) error {
	for _, r := range resources {
		if r != "*" && (!strings.HasPrefix(r, "arn:") || strings.Count(r, ":") < 5) {
			return fmt.Errorf("resource %q is not an ARN", r)
		}
	}
	return nil
}

var awsPrincipal = regexp.MustCompile(`^(\*|[0-9]{12}|arn:aws:iam::[0-9]{12}:(root|user/[^*?]+|role/[^*?]+)|` +
	`arn:aws:sts::[0-9]{12}:assumed-role/[^*?/]+/[^*?/]+)$`)

func parsePrincipals(raw json.RawMessage) ([]principal, error) {
	if string(raw) == `"*"` {
		return []principal{{"AWS", "*"}}, nil
	}
	var byKind map[string]oneOrMany[string]
	if err := strict(raw, &byKind); err != nil {
		return nil, fmt.Errorf("principal: %w", err)
	}
	var all []principal
	for kind, names := range byKind {
		for _, name := range names {
			switch {
			case kind != "AWS" && kind != "Federated" && kind != "Service":
				return nil, fmt.Errorf("principals of kind %q are not supported", kind)
			case name == "", kind == "AWS" && !awsPrincipal.MatchString(name):
				return nil, fmt.Errorf("principal %q", name)
			}
			all = append(all, principal{kind, name})
		}
	}
	if len(all) == 0 {
		return nil, errors.New("empty Principal")
	}
	return all, nil
}
