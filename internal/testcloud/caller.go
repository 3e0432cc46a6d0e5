package testcloud

import (
	"maps"
	"strings"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

// Caller is the authenticated sender of a request. The zero Caller is anonymous.
type Caller struct {
	Account     string // account id
	ARN         string // of the user or the assumed-role session
	UserID      string // for a session, "role id:session name"
	AccessKeyID string

	cloud    *Cloud
	identity []*iam.Policy // of a user; a session has its role's
	session  *session      // nil for a user
}

// session is what distinguishes an assumed-role session from its role.
type session struct {
	role           *Role
	name           string
	policy         *iam.Policy // nil for none
	tags           map[string]string
	transitive     []string // keys of the tags that a next session inherits
	sourceIdentity string
}

// Anonymous reports whether the request carried no signature.
func (c *Caller) Anonymous() bool { return c.Account == "" }

// SourceIdentity is that of an assumed-role session; empty where none is set.
func (c *Caller) SourceIdentity() string {
	if c.session == nil {
		return ""
	}
	return c.session.sourceIdentity
}

// Tags are the session tags.
func (c *Caller) Tags() map[string]string {
	if c.session == nil {
		return nil
	}
	return maps.Clone(c.session.tags)
}

// Evaluate decides whether the caller may do what r says. It fills in r.Principal and the context keys that describe
// the caller. resource is the policy of bucket, key or role; decides says that it must allow even within an account
// (see iam.Policies). A condition that cannot be evaluated fails the test.
func (c *Caller) Evaluate(r iam.Request, resource *iam.Policy, decides bool) iam.Decision {
	r.Principal = iam.Principal{Account: c.Account, ARN: c.ARN}
	p := iam.Policies{Identity: c.identity, Resource: resource, ResourceDecides: decides}
	ctx := iam.Context{}
	maps.Copy(ctx, r.Context)
	r.Context = ctx
	if c.Account != "" {
		ctx.Set("aws:userid", c.UserID)
		ctx.Set("aws:PrincipalType", "User")
	}
	if s := c.session; s != nil {
		r.Principal.RoleARN = s.role.ARN
		p.Identity, p.Session = s.role.identityPolicies(), s.policy
		ctx.Set("aws:PrincipalType", "AssumedRole")
		if s.sourceIdentity != "" {
			ctx.Set("aws:SourceIdentity", s.sourceIdentity)
		}
		for name, value := range s.tags {
			ctx.Set("aws:PrincipalTag/"+name, value)
		}
	}
	d := iam.Evaluate(r, p)
	if c.cloud != nil {
		c.cloud.report(r, d)
	}
	return d
}

// report tells the test of policies that could not be evaluated.
func (c *Cloud) report(r iam.Request, d iam.Decision) {
	for _, problem := range d.Problems {
		c.opts.Errorf("test cloud: %s on %s is denied: %s", r.Action, r.Resource, problem)
	}
}

// inherited are the tags that a next session of this caller gets by itself.
func (c *Caller) inherited() map[string]string {
	tags := map[string]string{}
	if c.session != nil {
		for _, key := range c.session.transitive {
			tags[key] = c.session.tags[key]
		}
	}
	return tags
}

// hasTag looks a key up as AWS does, whatever its case.
func hasTag(tags map[string]string, key string) bool {
	for k := range tags {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}
