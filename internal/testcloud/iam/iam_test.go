package iam_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

const (
	home   = "111122223333"
	abroad = "444455556666"
	object = "arn:aws:s3:::models/llm/data/00000"
)

// session is an assumed-role session of the home account.
var session = iam.Principal{
	Account: home, ARN: "arn:aws:sts::" + home + ":assumed-role/loader/pod",
	RoleARN: "arn:aws:iam::" + home + ":role/loader",
}

func identity(statement string) *iam.Policy {
	return iam.MustParse(iam.Identity, `{"Version":"2012-10-17","Statement":`+statement+`}`)
}

func resource(statement string) *iam.Policy {
	return iam.MustParse(iam.Resource, `{"Version":"2012-10-17","Statement":`+statement+`}`)
}

func TestWhoMustAllow(t *testing.T) {
	read := identity(`{"Effect":"Allow","Action":"s3:Get*","Resource":"arn:aws:s3:::models/llm/*"}`)
	other := identity(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::models/other/*"}`)
	denies := identity(`[{"Effect":"Allow","Action":"*","Resource":"*"},
		{"Effect":"Deny","Action":"s3:GetObject","Resource":"*"}]`)
	to := func(principal string) *iam.Policy {
		return resource(`{"Effect":"Allow","Principal":` + principal + `,"Action":["s3:GetObject"],
			"Resource":"arn:aws:s3:::models/*"}`)
	}
	role, everybody := to(`{"AWS":"arn:aws:iam::111122223333:role/loader"}`), to(`"*"`)
	account, byID := to(`{"AWS":"arn:aws:iam::111122223333:root"}`), to(`{"AWS":["111122223333"]}`)
	thisSession := to(`{"AWS":"arn:aws:sts::111122223333:assumed-role/loader/pod"}`)
	otherSession := to(`{"AWS":"arn:aws:sts::111122223333:assumed-role/loader/other"}`)
	denyAll := resource(`{"Effect":"Deny","Principal":{"AWS":"111122223333"},"Action":"s3:*","Resource":"*"}`)
	for _, test := range []struct {
		name      string
		owner     string
		principal iam.Principal
		identity  *iam.Policy
		session   *iam.Policy
		resource  *iam.Policy
		decides   bool // the resource's policy must allow
		reason    string
	}{
		{name: "same account, nothing", owner: home, reason: "no identity-based policy"},
		{name: "same account, identity", owner: home, identity: read},
		{name: "same account, other identity", owner: home, identity: other, reason: "no identity-based policy"},
		{name: "same account, role named", owner: home, resource: role},
		{name: "same account, everybody", owner: home, resource: everybody},
		{name: "same account, account named", owner: home, resource: account, reason: "no identity-based policy"},
		{name: "same account, account named and identity", owner: home, resource: byID, identity: read},
		{name: "session policy narrows the identity", owner: home, identity: read, session: other,
			reason: "no session policy"},
		{name: "session policy alone gives nothing", owner: home, session: read, reason: "no identity-based policy"},
		{name: "session policy narrows the role named", owner: home, resource: role, session: other,
			reason: "no session policy"},
		{name: "session named is not narrowed", owner: home, resource: thisSession, session: other},
		{name: "other session named", owner: home, resource: otherSession, reason: "no identity-based policy"},
		{name: "identity denies", owner: home, identity: denies, resource: role,
			reason: "explicit deny in an identity-based"},
		{name: "session denies", owner: home, identity: read, session: denies, reason: "explicit deny in a session"},
		{name: "resource denies", owner: home, identity: read, resource: denyAll,
			reason: "explicit deny in a resource-based"},
		{name: "key, identity alone", owner: home, identity: read, decides: true, reason: "no resource-based policy"},
		{name: "key, account and identity", owner: home, identity: read, resource: account, decides: true},
		{name: "key, account alone", owner: home, resource: account, decides: true, reason: "no identity-based policy"},
		{name: "key, role named", owner: home, resource: role, decides: true},
		{name: "abroad, identity alone", owner: abroad, identity: read, reason: "no resource-based policy"},
		{name: "abroad, role named alone", owner: abroad, resource: role, reason: "no identity-based policy"},
		{name: "abroad, session named alone", owner: abroad, resource: thisSession, reason: "no identity-based policy"},
		{name: "abroad, both", owner: abroad, resource: role, identity: read},
		{name: "abroad, both by account", owner: abroad, resource: account, identity: read},
		{name: "abroad, session policy narrows", owner: abroad, resource: role, identity: read, session: other,
			reason: "no session policy"},
		{name: "abroad, session named, session policy narrows", owner: abroad, resource: thisSession, identity: read,
			session: other, reason: "no session policy"},
		{name: "anonymous, nothing", owner: home, principal: anonymous, reason: "no resource-based policy"},
		{name: "anonymous, everybody", owner: home, principal: anonymous, resource: everybody},
		{name: "anonymous, account", owner: home, principal: anonymous, resource: account,
			reason: "no resource-based policy"},
		{name: "root user abroad", owner: abroad, principal: root, identity: iam.FullAccess(), resource: account},
		{name: "root user, role named", owner: abroad, principal: root, identity: iam.FullAccess(), resource: role,
			reason: "no resource-based policy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			who := session
			switch test.principal.ARN {
			case root.ARN:
				who = root
			case anonymous.ARN:
				who = iam.Principal{}
			}
			p := iam.Policies{Session: test.session, Resource: test.resource, ResourceDecides: test.decides}
			if test.identity != nil {
				p.Identity = []*iam.Policy{test.identity}
			}
			got := iam.Evaluate(iam.Request{Principal: who, Action: "s3:GetObject", Resource: object, Owner: test.owner}, p)
			if got.Allowed != (test.reason == "") || !strings.Contains(got.Reason, test.reason) || got.Problems != nil {
				t.Errorf("got %+v, want %q", got, test.reason)
			}
		})
	}
}

var (
	root      = iam.Principal{Account: home, ARN: "arn:aws:iam::" + home + ":root"}
	anonymous = iam.Principal{ARN: "anonymous"} // stands for the zero Principal in the table
)

func TestConditions(t *testing.T) {
	ctx := iam.Context{}
	ctx.Set("s3:prefix", "llm/data/")
	ctx.Set("s3:max-keys", "100")
	ctx.Set("aws:SecureTransport", "true")
	ctx.Set("kms:EncryptionContext:Model", "llm")
	ctx.Set("kms:RecipientAttestation:NitroTPMPCR4", "ab12")
	ctx.Set("aws:TagKeys", "team", "env")
	for condition, want := range map[string]bool{
		`{}`: true,
		`{"StringEquals":{"S3:Prefix":"llm/data/"}}`:                                        true,
		`{"StringEquals":{"s3:prefix":["x","llm/data/"]}}`:                                  true,
		`{"StringEquals":{"s3:prefix":"LLM/data/"}}`:                                        false,
		`{"StringEqualsIgnoreCase":{"s3:prefix":"LLM/data/"}}`:                              true,
		`{"StringNotEquals":{"s3:prefix":"x"}}`:                                             true,
		`{"StringNotEquals":{"s3:prefix":["x","llm/data/"]}}`:                               false,
		`{"StringLike":{"s3:prefix":"llm/*"}}`:                                              true,
		`{"StringLike":{"s3:prefix":"ll?/d*a/"}}`:                                           true,
		`{"StringLike":{"s3:prefix":"lm/*"}}`:                                               false,
		`{"StringNotLike":{"s3:prefix":"llm/*"}}`:                                           false,
		`{"StringEquals":{"absent":"x"}}`:                                                   false,
		`{"StringNotEquals":{"absent":"x"}}`:                                                true,
		`{"StringEqualsIfExists":{"absent":"x"}}`:                                           true,
		`{"StringEqualsIfExists":{"s3:prefix":"x"}}`:                                        false,
		`{"Null":{"absent":"true"}}`:                                                        true,
		`{"Null":{"absent":false}}`:                                                         false,
		`{"Null":{"s3:prefix":"false"}}`:                                                    true,
		`{"NumericLessThan":{"s3:max-keys":101}}`:                                           true,
		`{"NumericLessThan":{"s3:max-keys":"100"}}`:                                         false,
		`{"NumericLessThanEquals":{"s3:max-keys":"100"}}`:                                   true,
		`{"NumericLessThan":{"s3:prefix":"100"}}`:                                           false,
		`{"Bool":{"aws:SecureTransport":true}}`:                                             true,
		`{"Bool":{"aws:SecureTransport":"false"}}`:                                          false,
		`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/load*"}}`:                      true,
		`{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/x"}}`:             false,
		`{"ArnLike":{"aws:PrincipalArn":"arn:*:role/loader"}}`:                              false,
		`{"StringEquals":{"aws:PrincipalAccount":"111122223333"}}`:                          true,
		`{"StringEquals":{"kms:EncryptionContext:model":"llm"}}`:                            true,
		`{"StringEquals":{"kms:EncryptionContext:model":"other"}}`:                          false,
		`{"StringEquals":{"KMS:RecipientAttestation:nitroTPMPCR4":"ab12"}}`:                 true,
		`{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:NitroTPMPCR4":"AB12"}}`:       true,
		`{"StringEquals":{"kms:RecipientAttestation:NitroTPMPCR12":"ab12"}}`:                false,
		`{"ForAllValues:StringEquals":{"aws:TagKeys":["team","env","x"]}}`:                  true,
		`{"ForAllValues:StringEquals":{"aws:TagKeys":["team"]}}`:                            false,
		`{"ForAllValues:StringEquals":{"absent":["team"]}}`:                                 true,
		`{"ForAnyValue:StringEquals":{"aws:TagKeys":["team"]}}`:                             true,
		`{"ForAnyValue:StringEquals":{"absent":["team"]}}`:                                  false,
		`{"ForAnyValue:StringLike":{"aws:TagKeys":["x*"]}}`:                                 false,
		`{"StringEquals":{"s3:prefix":"llm/data/"},"Bool":{"aws:SecureTransport":"false"}}`: false,
		`{"StringEquals":{"s3:prefix":"llm/data/","s3:max-keys":"1"}}`:                      false,
	} {
		policy := identity(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":` + condition + `}`)
		got := iam.Evaluate(iam.Request{Principal: session, Action: "s3:ListBucket", Owner: home, Context: ctx},
			iam.Policies{Identity: []*iam.Policy{policy}})
		if got.Allowed != want || got.Problems != nil {
			t.Errorf("%s: %+v", condition, got)
		}
	}
}

func TestUnsupportedOperatorDeniesLoudly(t *testing.T) {
	policy := identity(`[{"Effect":"Allow","Action":"*","Resource":"*"},
		{"Sid":"net","Effect":"Deny","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}]`)
	got := iam.Evaluate(iam.Request{Principal: session, Action: "s3:GetObject", Resource: object, Owner: home},
		iam.Policies{Identity: []*iam.Policy{policy}})
	if got.Allowed || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], `"net": condition operator IpAddress`) {
		t.Errorf("got %+v", got)
	}
}

func TestWebIdentityTrust(t *testing.T) {
	provider := "arn:aws:iam::111122223333:oidc-provider/oidc.example"
	trust := iam.MustParse(iam.Trust, `{"Version":"2012-10-17","Statement":{"Effect":"Allow",
		"Principal":{"Federated":"`+provider+`"},"Action":"sts:AssumeRoleWithWebIdentity",
		"Condition":{"StringEquals":{"oidc.example:sub":"system:serviceaccount:ns:sa"}}}}`)
	open := iam.MustParse(iam.Trust,
		`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"*"}}`)
	ask := func(federated, sub string, policy *iam.Policy) bool {
		ctx := iam.Context{}
		ctx.Set("oidc.example:sub", sub)
		return iam.Evaluate(iam.Request{
			Principal: iam.Principal{Federated: federated}, Action: "sts:AssumeRoleWithWebIdentity", Owner: home, Context: ctx,
		}, iam.Policies{Resource: policy, ResourceDecides: true}).Allowed
	}
	sub := "system:serviceaccount:ns:sa"
	if !ask(provider, sub, trust) || ask(provider, sub+"2", trust) || ask(provider+"/x", sub, trust) ||
		ask(provider, sub, open) {
		t.Error("the trust policy is not followed")
	}
}

func TestParseRefuses(t *testing.T) {
	one := func(more string) string {
		return `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject"` + more + `}}`
	}
	version := func(v string) string { return strings.Replace(one(`,"Resource":"*"`), "2012-10-17", v, 1) }
	for _, test := range []struct {
		kind iam.Kind
		text string
		says string
	}{
		{iam.Identity, ``, "EOF"},
		{iam.Identity, `{}`, "version"},
		{iam.Identity, version("2020-01-01"), "version"},
		{iam.Identity, `{"Version":"2012-10-17","Statement":[]}`, "without a statement"},
		{iam.Identity, strings.Replace(version("2012-10-17"), "Allow", "allow", 1), "effect"},
		{iam.Identity, strings.Replace(version("2012-10-17"), "s3:", "", 1), `action "GetObject"`},
		{iam.Identity, version("2012-10-17") + " {}", "more than one JSON value"},
		{iam.Identity, one(``), "Resource and NotResource"},
		{iam.Identity, one(`,"Resource":"models"`), "not an ARN"},
		{iam.Identity, one(`,"Resource":"*","Principal":"*"`), "principal given"},
		{iam.Identity, one(`,"Resource":"*","Resources":"*"`), "unknown field"},
		{iam.Identity, one(`,"NotAction":"s3:*","Resource":"*"`), "Action and NotAction"},
		{iam.Identity, one(`,"Resource":"*","Condition":{"StringIs":{"a":"b"}}`), "condition operator"},
		{iam.Identity, one(`,"Resource":"*","Condition":{"BoolNot":{"a":"b"}}`), "condition operator"},
		{iam.Identity, one(`,"Resource":"*","Condition":{"Bool":{"a":{}}}`), "value"},
		{iam.Identity, one(`,"Resource":"arn:aws:s3:::b/${aws:userid}"`), "variables"},
		{iam.Resource, one(`,"Resource":"*"`), "principal given"},
		{iam.Resource, one(`,"Resource":"*","NotPrincipal":"*"`), "NotPrincipal"},
		{iam.Resource, one(`,"Resource":"*","Principal":{"AWS":"arn:aws:iam::1:root"}`), "principal"},
		{iam.Resource, one(`,"Resource":"*","Principal":{"AWS":"arn:aws:iam::*:root"}`), "principal"},
		{iam.Resource, one(`,"Resource":"*","Principal":{"CanonicalUser":"x"}`), "CanonicalUser"},
		{iam.Resource, one(`,"Resource":"*","Principal":{}`), "empty Principal"},
		{iam.Trust, one(`,"Resource":"*","Principal":"*"`), "no Resource"},
	} {
		if _, err := iam.Parse(test.kind, test.text); !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%s: %v, want %q", test.text, err, test.says)
		}
	}
	for kind, text := range map[iam.Kind]string{
		iam.Identity: version("2008-10-17"),
		iam.Resource: one(`,"Resource":"*","Principal":"*"`),
		iam.Trust:    one(`,"Principal":"*"`),
	} {
		if _, err := iam.Parse(kind, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "a/b:c", true},
		{"a*c", "abbc", true}, {"a*c", "abcd", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"*.bin", "a/b.bin", true}, {"a*b*c", "aXbYbc", true}, {"a**", "a", true},
		{strings.Repeat("a*", 50) + "b", strings.Repeat("a", 5000), false},
	} {
		if iam.Match(test.pattern, test.s) != test.want {
			t.Errorf("Match(%.20q, %.20q) is not %v", test.pattern, test.s, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*","Principal":{"AWS":"*"}}}`)
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","NotAction":["s3:*"],"NotResource":["*"],
		"Condition":{"ForAnyValue:StringLikeIfExists":{"aws:TagKeys":["a*",1,true]}}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []iam.Kind{iam.Identity, iam.Resource, iam.Trust} {
			p, err := iam.Parse(kind, text)
			if err != nil {
				continue
			}
			iam.Evaluate(iam.Request{Principal: session, Action: "s3:GetObject", Resource: object, Owner: home},
				iam.Policies{Identity: []*iam.Policy{p}, Resource: p, Session: p})
		}
	})
}
