// Package policy writes AWS policies for reading one model: the inline policy that narrows a session to it, and the
// documents that an administrator pastes to let a loader in another account reach it.
//
// It knows models as a place in a bucket and the keys that may open them. Nothing here is sent anywhere.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

const version = "2012-10-17" // of the policy language

// Document is a policy.
type Document struct {
	Version   string
	Statement []Statement
}

// Statement is one statement of a policy. Empty fields are left out.
type Statement struct {
	Sid       string    `json:",omitempty"`
	Effect    string    // Allow
	Principal Principal `json:",omitempty"`
	Action    Values
	Resource  Values    `json:",omitempty"`
	Condition Condition `json:",omitempty"`
}

// Principal maps a kind (AWS, Federated) to a principal.
type Principal map[string]string

// Condition maps an operator to condition keys and their values.
type Condition map[string]map[string]Values

// Values is a list of which JSON shows a single value without brackets, as people write policies.
type Values []string

// MarshalJSON leaves out the brackets around one value.
func (v Values) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return json.Marshal(v[0])
	}
	return json.Marshal([]string(v))
}

// UnmarshalJSON takes a value with or without brackets.
func (v *Values) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*v = Values{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(v))
}

func allow(sid string, actions, resources []string, condition Condition) Statement {
	return Statement{Sid: sid, Effect: "Allow", Action: actions, Resource: resources, Condition: condition}
}

// Compact returns the document in as few characters as JSON allows.
func (d Document) Compact() string { return strings.TrimSpace(string(d.encode(""))) }

// Indented returns the document for people.
func (d Document) Indented() string { return string(d.encode("  ")) }

func (d Document) encode(indent string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(d); err != nil { // strings and lists of strings always encode
		panic("policy: " + err.Error())
	}
	return b.Bytes()
}

// Model is what is to be readable.
type Model struct {
	// Bucket is a bucket's name, or the ARN of an access point or multi-region access point. For a session, it may be
	// empty where there are keys: the model is not in S3.
	Bucket string
	// Prefix of the model in it, without a slash at either end; empty for the whole bucket.
	Prefix string
	// List is for models that are found by listing: a sealed model is not.
	List bool
	// Write is for publishing: objects are created, never overwritten, and those of a failed run removed.
	Write bool
	// Keys that may open the model: ARNs of KMS keys or aliases, with * and ? as wildcards. Others are left out.
	Keys []string
	// WrapKeys are keys that the model's key is to be wrapped under, in the same form.
	WrapKeys []string
	// Partition of the bucket where it is a name; empty for "aws".
	Partition string
}

// Check reports what makes a model unfit for a policy.
func (m Model) Check() error {
	switch {
	case m.Bucket == "" || strings.ContainsAny(m.Bucket, "*?$ \t\n"):
		return errors.New("the bucket is neither a name nor an ARN")
	case strings.HasPrefix(m.Prefix, "/") || strings.HasSuffix(m.Prefix, "/"):
		return errors.New("the prefix has a slash at its end")
	}
	if !strings.HasPrefix(m.Bucket, "arn:") {
		return nil
	}
	if a, err := arn.Parse(m.Bucket); err != nil || a.Service != "s3" || !strings.HasPrefix(a.Resource, "accesspoint") {
		return errors.New("the bucket's ARN is not that of an access point")
	}
	return nil
}

// Session is the least that a session needs to read or publish some models, as an inline session policy.
func Session(models ...Model) (string, error) {
	d := Document{Version: version}
	for _, m := range models {
		if m.Bucket != "" || len(m.Keys)+len(m.WrapKeys) == 0 {
			if err := m.Check(); err != nil {
				return "", err
			}
			d.Statement = append(append(d.Statement, m.objectAccess()...), m.managedKey())
		}
		d.Statement = append(d.Statement, m.keyAccess("", nil)...)
		d.Statement = append(d.Statement, keyAccess("", "kms:Encrypt", m.WrapKeys, nil)...)
	}
	d.Statement = distinct(d.Statement)
	for i := range d.Statement {
		d.Statement[i].Sid = "" // every character counts
	}
	return d.Compact(), nil
}

// distinct leaves out statements that say the same again, which several models of one owner do.
func distinct(all []Statement) (kept []Statement) {
	for _, s := range all {
		if !slices.ContainsFunc(kept, func(k Statement) bool { return reflect.DeepEqual(k, s) }) {
			kept = append(kept, s)
		}
	}
	return kept
}

// objectAccess allows the objects, and their listing where that is needed.
func (m Model) objectAccess() []Statement {
	actions := []string{"s3:GetObject", "s3:GetObjectVersion"}
	if m.Write {
		actions = append(actions, "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject")
	}
	list := []Statement{allow("ReadModel", actions, m.allObjects(), nil)}
	if m.List {
		s := allow("ListModel", []string{"s3:ListBucket"}, []string{m.bucketARN()}, nil)
		if m.Prefix != "" {
			s.Condition = Condition{"StringLike": {"s3:prefix": {literal(m.Prefix), literal(m.Prefix) + "/*"}}}
		}
		list = append(list, s)
	}
	return list
}

func (m Model) allObjects() []string {
	if m.Prefix == "" {
		return m.objects("*")
	}
	objects := m.objects("/*")
	if m.List {
		objects = append(objects, m.objects("")...) // the URI may name one object
	}
	return objects
}

// objects are the ARNs of the objects under the prefix.
func (m Model) objects(tail string) []string {
	path := literal(m.Prefix) + tail
	if !m.accessPoint() {
		return []string{m.bucketARN() + "/" + path}
	}
	arns := []string{m.Bucket + "/object/" + path}
	if strings.HasSuffix(m.Bucket, ".mrap") {
		// A multi-region access point passes requests on to buckets, whose permission is asked as well.
		arns = append(arns, "arn:"+m.partition()+":s3:::*/"+path)
	}
	return arns
}

func (m Model) accessPoint() bool { return strings.HasPrefix(m.Bucket, "arn:") }

func (m Model) bucketARN() string {
	if m.accessPoint() {
		return m.Bucket
	}
	return "arn:" + m.partition() + ":s3:::" + m.Bucket
}

func (m Model) partition() string {
	if a, err := arn.Parse(m.Bucket); err == nil {
		return a.Partition
	}
	if m.Partition == "" {
		return "aws"
	}
	return m.Partition
}

// managedKey lets S3, and nobody else, use whatever key the bucket itself is encrypted with for these objects: which
// key that is, only the bucket knows. With bucket keys the context names the bucket, else the object.
func (m Model) managedKey() Statement {
	condition := Condition{"StringLike": {"kms:ViaService": {"s3.*"}}}
	if !m.accessPoint() {
		condition["StringLike"]["kms:EncryptionContext:aws:s3:arn"] = append([]string{m.bucketARN()}, m.allObjects()...)
	}
	actions := []string{"kms:Decrypt"}
	if m.Write {
		actions = append(actions, "kms:GenerateDataKey")
	}
	return allow("UseBucketEncryption", actions, []string{"*"}, condition)
}

// keyAccess allows to open the model's key under a condition.
func (m Model) keyAccess(sid string, condition Condition) []Statement {
	return keyAccess(sid, "kms:Decrypt", m.Keys, condition)
}

// keyAccess allows an action on keys. An alias is no resource: it is a condition on the request.
func keyAccess(sid, action string, arns []string, condition Condition) []Statement {
	var keys []string
	var list []Statement
	actions := []string{action}
	for _, key := range arns {
		a, err := arn.Parse(key)
		if err != nil || a.Service != "kms" {
			continue
		}
		key = plain(key)
		name, alias := strings.CutPrefix(a.Resource, "alias/")
		if !alias {
			keys = append(keys, key)
			continue
		}
		byAlias := condition.with("StringLike", "kms:RequestAlias", plain("alias/"+name))
		list = append(list, allow(sid, actions, []string{strings.TrimSuffix(key, plain("alias/"+name)) + "key/*"},
			byAlias))
	}
	if len(keys) > 0 {
		slices.Sort(keys)
		list = append([]Statement{allow(sid, actions, slices.Compact(keys), condition)}, list...)
	}
	return list
}

// with returns a copy of a condition with one more key.
func (c Condition) with(operator, key string, values ...string) Condition {
	out := Condition{}
	for op, keys := range c {
		out[op] = map[string]Values{}
		for k, v := range keys {
			out[op][k] = v
		}
	}
	if out[operator] == nil {
		out[operator] = map[string]Values{}
	}
	out[operator][key] = values
	return out
}

// literal keeps characters of an object's key from being wildcards or variables of the policy language.
func literal(s string) string {
	return strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}").Replace(s)
}

// plain widens what a glob can say and a policy cannot: a character class becomes a wildcard.
func plain(glob string) string {
	before, rest, found := strings.Cut(glob, "[")
	if !found {
		return glob
	}
	_, after, closed := strings.Cut(rest, "]")
	if !closed {
		return before + "*"
	}
	return before + "?" + plain(after)
}
