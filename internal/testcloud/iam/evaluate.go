package iam

import (
	"fmt"
	"slices"
	"strings"
)

// Context holds the values of condition keys, by name in lower case. Set keeps the case right.
type Context map[string][]string

// Set gives a key its values; the name may have any case.
func (c Context) Set(key string, values ...string) { c[strings.ToLower(key)] = values }

// Principal is who asks. The zero Principal is anonymous.
type Principal struct {
	Account   string // id of the account the principal belongs to
	ARN       string // of the root user, the user, or the assumed-role session
	RoleARN   string // of the role behind an assumed-role session; empty for others
	Federated string // ARN of the OIDC provider, for a web identity that is not a session yet
	Service   string // such as "pods.eks.amazonaws.com", where a service of AWS acts
}

// Request is what is asked.
type Request struct {
	Principal Principal
	Action    string // such as "s3:GetObject"
	Resource  string // ARN of the bucket, object or key
	Owner     string // account id the resource belongs to
	Context   Context
}

// Policies are all policies that bear on a request.
type Policies struct {
	Identity []*Policy // of the caller's role or user; none allows nothing
	Session  *Policy   // nil where the session has none
	Resource *Policy   // bucket, key or trust policy; nil where there is none
	// ResourceDecides says that the resource's policy must allow, even within an account: true of KMS keys and of
	// role trust policies, false of buckets.
	ResourceDecides bool
}

// Decision is the outcome. Reason says why not, in AWS's words; Problems lists conditions that could not be evaluated,
// which is the fault of the test and not of the client.
type Decision struct {
	Allowed  bool
	Reason   string
	Problems []string
}

// grant is how directly a resource's policy allows the principal.
type grant int

const (
	noGrant      grant = iota
	toAccount          // to the account, which passes it on by identity policies
	toPrincipal        // to the role, the user, the provider or everybody
	toSessionARN       // to the very session
)

// Evaluate decides a request. An explicit Deny wins. Across accounts both sides must allow; within an account either
// does, unless the resource's policy decides.
func Evaluate(r Request, p Policies) Decision {
	e := evaluation{Request: r, context: withPrincipal(r)}
	identityAllows := false
	for _, policy := range p.Identity {
		identityAllows = e.allowedBy(policy, "an identity-based policy") > noGrant || identityAllows
	}
	sessionAllows := p.Session == nil || e.allowedBy(p.Session, "a session policy") > noGrant
	resource := e.allowedBy(p.Resource, "a resource-based policy")
	d := Decision{Problems: e.problems}
	switch {
	case e.denied != "":
		d.Reason = "with an explicit deny in " + e.denied
	case len(e.problems) > 0:
		d.Reason = "because a condition cannot be evaluated"
	case r.Principal.Account == "" && resource < toPrincipal, e.crosses() && resource == noGrant,
		p.ResourceDecides && resource == noGrant:
		d.Reason = fmt.Sprintf("because no resource-based policy allows the %s action", r.Action)
	case r.Principal.Account == "", !e.crosses() && resource == toSessionARN:
		d.Allowed = true
	case !sessionAllows:
		d.Reason = fmt.Sprintf("because no session policy allows the %s action", r.Action)
	case !identityAllows && (e.crosses() || resource < toPrincipal):
		d.Reason = fmt.Sprintf("because no identity-based policy allows the %s action", r.Action)
	default:
		d.Allowed = true
	}
	return d
}

func withPrincipal(r Request) Context {
	ctx := Context{}
	for key, values := range r.Context {
		ctx.Set(key, values...)
	}
	if p := r.Principal; p.Account != "" {
		ctx.Set("aws:PrincipalAccount", p.Account)
		ctx.Set("aws:PrincipalArn", p.ARN)
		if p.RoleARN != "" {
			ctx.Set("aws:PrincipalArn", p.RoleARN)
		}
	}
	return ctx
}

// evaluation collects what the policies say.
type evaluation struct {
	Request
	context  Context
	denied   string // where the explicit deny is; empty for none
	problems []string
}

func (e *evaluation) crosses() bool { return e.Principal.Account != e.Owner }

// allowedBy goes through a policy's statements, notes a Deny, and returns the most direct grant.
func (e *evaluation) allowedBy(p *Policy, where string) grant {
	best := noGrant
	if p == nil {
		return best
	}
	for _, s := range p.statements {
		g := toPrincipal
		if p.kind != Identity {
			g = e.names(s.principals)
		}
		if g == noGrant || !s.covers(e.Action, e.Resource, p.kind) || !e.conditionsHold(s) {
			continue
		}
		if s.deny {
			e.denied = where
			continue
		}
		best = max(best, g)
	}
	return best
}

func (s statement) covers(action, resource string, kind Kind) bool {
	isAction := func(pattern string) bool { return Match(strings.ToLower(pattern), strings.ToLower(action)) }
	isResource := func(pattern string) bool { return Match(pattern, resource) }
	return listed(s.actions, s.notActions, isAction) &&
		(kind == Trust || listed(s.resources, s.notResources, isResource))
}

// listed evaluates an element and its Not form, of which a statement has one.
func listed(in, notIn []string, match func(string) bool) bool {
	if len(in) > 0 {
		return slices.ContainsFunc(in, match)
	}
	return !slices.ContainsFunc(notIn, match)
}

// conditionsHold evaluates all conditions of a statement: a problem is noted even where another condition fails.
func (e *evaluation) conditionsHold(s statement) bool {
	all := true
	for _, c := range s.conditions {
		ok, problem := c.holds(e.context)
		if problem != "" {
			e.problems = append(e.problems, fmt.Sprintf("statement %q: %s", s.sid, problem))
		}
		all = all && ok
	}
	return all
}

// names returns how directly a Principal element names the caller.
func (e *evaluation) names(principals []principal) grant {
	best := noGrant
	for _, p := range principals {
		best = max(best, e.named(p))
	}
	return best
}

func (e *evaluation) named(p principal) grant {
	who := e.Principal
	switch {
	case p.kind == "Federated" && p.name == who.Federated, p.kind == "Service" && p.name == who.Service:
		return toPrincipal
	case p.kind != "AWS", who.Federated != "", who.Service != "":
		return noGrant
	case p.name == "*":
		return toPrincipal
	case who.Account == "":
	case p.name == who.RoleARN:
		return toPrincipal
	case p.name == who.Account, p.name == "arn:aws:iam::"+who.Account+":root":
		return toAccount
	case p.name == who.ARN:
		if who.RoleARN != "" {
			return toSessionARN
		}
		return toPrincipal
	}
	return noGrant
}
