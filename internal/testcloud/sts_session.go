package testcloud

import (
	"bytes"
	"compress/flate"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

const (
	maxSessionPolicy = 2048 // characters
	maxSessionTags   = 50

	// defaultPackedLimit is how many bytes policy and tags of a session may take in the form this cloud packs them
	// in. What AWS packs them into is not published.
	defaultPackedLimit = 1024
)

// assumption is what a request to assume a role asks for.
type assumption struct {
	roleARN        string
	name           string
	duration       time.Duration
	policyText     string
	policy         *iam.Policy
	tags           map[string]string // of the request, and after inherit of the calling session too
	transitive     []string
	requested      []string // keys of the request's own tags
	sourceIdentity string
}

func validationError(format string, args ...any) *Error {
	return refuse(400, "ValidationError", fmt.Sprintf(format, args...))
}

func constraint(name, value, rule string) *Error {
	return validationError("1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s",
		value, name, rule)
}

// rule is a constraint of the API reference; lengths are in characters.
type rule struct {
	pattern     *regexp.Regexp
	least, most int
}

var rules = map[string]rule{
	"RoleSessionName": {regexp.MustCompile(`^[\w+=,.@-]*$`), 2, 64},
	"SourceIdentity":  {regexp.MustCompile(`^[\w+=,.@-]*$`), 2, 64},
	"ExternalId":      {regexp.MustCompile(`^[\w+=,.@:\/-]*$`), 2, 1224},
	"RoleArn":         {regexp.MustCompile(`^arn:aws:iam::[0-9]{12}:role/.+$`), 20, 2048},
	"Tag key":         {regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]+$`), 1, 128},
	"Tag value":       {regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`), 0, 256},
}

func checkRule(name, value string) *Error {
	r, member := rules[name], strings.ToLower(name[:1])+name[1:]
	switch n := utf8.RuneCountInString(value); {
	case n < r.least:
		return constraint(member, value, fmt.Sprintf("Member must have length greater than or equal to %d", r.least))
	case n > r.most:
		return constraint(member, value, fmt.Sprintf("Member must have length less than or equal to %d", r.most))
	case !r.pattern.MatchString(value):
		return constraint(member, value, "Member must satisfy regular expression pattern: "+r.pattern.String())
	}
	return nil
}

// parameters reads what AssumeRole and AssumeRoleWithWebIdentity have in common. Parameters that neither the API nor
// this cloud knows are refused: a client that needs them would be tested against nothing.
func (c *stsCall) parameters(more ...string) (*assumption, *Error) {
	known := append([]string{
		"Action", "Version", "RoleArn", "RoleSessionName", "DurationSeconds", "Policy", "SourceIdentity",
	}, more...)
	for name, values := range c.form {
		member := strings.HasPrefix(name, "Tags.member.") || strings.HasPrefix(name, "TransitiveTagKeys.member.")
		if len(values) != 1 || !slices.Contains(known, name) && !member {
			return nil, validationError("parameter %s is unknown here or repeated", name)
		}
	}
	a := &assumption{
		roleARN: c.form.Get("RoleArn"), name: c.form.Get("RoleSessionName"),
		sourceIdentity: c.form.Get("SourceIdentity"), policyText: c.form.Get("Policy"), duration: time.Hour,
	}
	for name, value := range map[string]string{
		"RoleArn": a.roleARN, "RoleSessionName": a.name,
		"SourceIdentity": a.sourceIdentity, "ExternalId": c.form.Get("ExternalId"),
	} {
		optional := name == "SourceIdentity" || name == "ExternalId"
		if value == "" && optional && !c.form.Has(name) {
			continue
		}
		if err := checkRule(name, value); err != nil {
			return nil, err
		}
	}
	if err := a.readDuration(c.form.Get("DurationSeconds")); err != nil {
		return nil, err
	}
	if err := a.readTags(c.form); err != nil {
		return nil, err
	}
	return a, a.readPolicy()
}

func (a *assumption) readDuration(text string) *Error {
	if text == "" {
		return nil
	}
	seconds, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return constraint("durationSeconds", text, "Member must be an integer")
	case seconds < 900:
		return constraint("durationSeconds", text, "Member must have value greater than or equal to 900")
	case seconds > 43200:
		return constraint("durationSeconds", text, "Member must have value less than or equal to 43200")
	}
	a.duration = time.Duration(seconds) * time.Second
	return nil
}

func (a *assumption) readPolicy() *Error {
	switch {
	case a.policyText == "":
		return nil
	case utf8.RuneCountInString(a.policyText) > maxSessionPolicy:
		return constraint("policy", "...", "Member must have length less than or equal to 2048")
	}
	var err error
	if a.policy, err = iam.Parse(iam.Identity, a.policyText); err != nil {
		return refuse(400, "MalformedPolicyDocument", err.Error())
	}
	return nil
}

// readTags reads Tags.member.N.Key and .Value and TransitiveTagKeys.member.N, N counting from 1.
func (a *assumption) readTags(form url.Values) *Error {
	a.tags = map[string]string{}
	for n := 1; form.Has(fmt.Sprintf("Tags.member.%d.Key", n)); n++ {
		prefix := fmt.Sprintf("Tags.member.%d.", n)
		if err := a.addTag(form.Get(prefix+"Key"), form.Get(prefix+"Value")); err != nil {
			return err
		}
	}
	for n := 1; form.Has(fmt.Sprintf("TransitiveTagKeys.member.%d", n)); n++ {
		if err := a.addTransitive(form.Get(fmt.Sprintf("TransitiveTagKeys.member.%d", n))); err != nil {
			return err
		}
	}
	return nil
}

func (a *assumption) addTag(key, value string) *Error {
	if err := checkRule("Tag key", key); err != nil {
		return err
	}
	if err := checkRule("Tag value", value); err != nil {
		return err
	}
	switch {
	case hasTag(a.tags, key):
		return validationError("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
	case len(a.tags) == maxSessionTags:
		return constraint("tags", "...", "Member must have length less than or equal to 50")
	}
	a.tags[key] = value
	a.requested = append(a.requested, key)
	return nil
}

func (a *assumption) addTransitive(key string) *Error {
	if _, ok := a.tags[key]; !ok {
		return validationError("The specified transitive tag key must be included in the requested tags.")
	}
	a.transitive = append(a.transitive, key)
	return nil
}

// inherit adds what passes from the calling session to the next one by itself. The request's own tags stay as they are.
func (a *assumption) inherit(caller *Caller) {
	for key, value := range caller.inherited() {
		if !hasTag(a.tags, key) {
			a.tags[key] = value
			a.transitive = append(a.transitive, key)
		}
	}
	if a.sourceIdentity == "" {
		a.sourceIdentity = caller.SourceIdentity()
	}
}

// actions are those that must be allowed: the one asked for, and those that tags and source identity take.
func (a *assumption) actions(action string) []string {
	all := []string{action}
	if len(a.tags) > 0 {
		all = append(all, "sts:TagSession")
	}
	if a.sourceIdentity != "" {
		all = append(all, "sts:SetSourceIdentity")
	}
	return all
}

// context are the condition keys that describe the request.
func (a *assumption) context() iam.Context {
	ctx := iam.Context{}
	ctx.Set("sts:RoleSessionName", a.name)
	if a.sourceIdentity != "" {
		ctx.Set("sts:SourceIdentity", a.sourceIdentity)
	}
	if len(a.tags) > 0 {
		ctx.Set("aws:TagKeys", slices.Sorted(maps.Keys(a.tags))...)
	}
	for key, value := range a.tags {
		ctx.Set("aws:RequestTag/"+key, value)
	}
	if len(a.transitive) > 0 {
		ctx.Set("sts:TransitiveTagKeys", a.transitive...)
	}
	return ctx
}

// packedSize is how much of the limit policy and tags take, in percent. Zero means that there are none.
func (a *assumption) packedSize(limit int) int {
	if a.policyText == "" && len(a.tags) == 0 {
		return 0
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		panic("testcloud: " + err.Error())
	}
	fmt.Fprint(w, a.policyText)
	for _, key := range slices.Sorted(maps.Keys(a.tags)) {
		fmt.Fprintf(w, "%s=%s;", key, a.tags[key])
	}
	w.Close()
	return max(packed.Len()*100/limit, 1)
}

// Parts of the answers, with the element names of the API.
type (
	sessionCredentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string }
	assumedRoleUser    struct{ AssumedRoleId, Arn string }
	assumeRoleResult   struct {
		SubjectFromWebIdentityToken string `xml:",omitempty"`
		Audience                    string `xml:",omitempty"`
		Provider                    string `xml:",omitempty"`
		AssumedRoleUser             assumedRoleUser
		Credentials                 sessionCredentials
		PackedPolicySize            int    `xml:",omitempty"`
		SourceIdentity              string `xml:",omitempty"`
	}
)

// session issues the credentials, once everything has been allowed.
func (c *stsCall) session(a *assumption, role *Role) (*assumeRoleResult, *Error) {
	if a.duration > role.maxSession {
		return nil, validationError("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	packed := a.packedSize(c.sts.cloud.opts.PackedLimit)
	if packed > 100 {
		return nil, refuse(400, "PackedPolicyTooLarge",
			fmt.Sprintf("Packed policy consumes %d%% of allotted space, please use smaller policy.", packed))
	}
	keys, caller := c.sts.cloud.assume(role, a)
	return &assumeRoleResult{
		AssumedRoleUser: assumedRoleUser{caller.UserID, caller.ARN},
		Credentials: sessionCredentials{
			keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, keys.Expires.UTC().Format(time.RFC3339),
		},
		PackedPolicySize: packed, SourceIdentity: a.sourceIdentity,
	}, nil
}

// assume issues the credentials of a new session.
func (c *Cloud) assume(role *Role, a *assumption) (Credentials, Caller) {
	lifetime := a.duration
	if d := time.Duration(c.lifetime.Load()); d > 0 {
		lifetime = d
	}
	caller := Caller{
		Account: role.Account.ID, UserID: role.ID + ":" + a.name, cloud: c,
		ARN: "arn:aws:sts::" + role.Account.ID + ":assumed-role/" + role.name() + "/" + a.name,
		session: &session{
			role: role, name: a.name, policy: a.policy,
			tags: a.tags, transitive: a.transitive, sourceIdentity: a.sourceIdentity,
		},
	}
	return c.issue(c.temporary(lifetime), caller), caller
}
