package testcloud

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const issuerTimeout = 5 * time.Second

// assumeWithWebIdentity is AssumeRoleWithWebIdentity: no signature, but a token whose issuer the role's account trusts.
func (c *stsCall) assumeWithWebIdentity() (any, *Error) {
	a, err := c.parameters("WebIdentityToken", "ProviderId")
	if err != nil {
		return nil, err
	}
	if a.requested != nil || a.sourceIdentity != "" {
		return nil, validationError("tags and source identity of a web identity come from its token")
	}
	account := c.sts.cloud.accountOf(a.roleARN)
	if account == nil {
		return nil, notAuthorized("sts:AssumeRoleWithWebIdentity")
	}
	token, audience, err := c.verifyToken(account)
	if err != nil {
		return nil, err
	}
	if err := a.readClaims(token.All); err != nil {
		return nil, err
	}
	role := c.sts.cloud.findRole(a.roleARN)
	for _, action := range a.actions("sts:AssumeRoleWithWebIdentity") {
		if role == nil || !c.trusts(role, action, a, token, audience) {
			return nil, notAuthorized(action)
		}
	}
	result, err := c.session(a, role)
	if err != nil {
		return nil, err
	}
	result.SubjectFromWebIdentityToken, result.Provider = token.Subject, providerARN(account, token.Issuer)
	result.Audience = strings.Join(audience, " ")
	return result, nil
}

func notAuthorized(action string) *Error {
	return refuse(403, "AccessDenied", "Not authorized to perform "+action)
}

// accountOf returns the account that an ARN names, or nil.
func (c *Cloud) accountOf(arn string) *Account {
	fields := strings.SplitN(arn, ":", 6)
	if len(fields) != 6 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.accounts[fields[4]]
}

func providerARN(a *Account, issuer string) string {
	return "arn:aws:iam::" + a.ID + ":oidc-provider/" + withoutScheme(issuer)
}

// verifyToken checks the token and returns the audience that policies see: azp where the token has one, else aud.
func (c *stsCall) verifyToken(account *Account) (*oidc.Verified, []string, *Error) {
	ctx, cancel := context.WithTimeout(c.r.Context(), issuerTimeout)
	defer cancel()
	trusted := func(issuer string) bool {
		_, ok := account.clientIDs(issuer)
		return ok
	}
	token, err := oidc.Verify(ctx, c.sts.client, c.form.Get("WebIdentityToken"), trusted, c.sts.cloud.Now())
	if err != nil {
		return nil, nil, tokenError(err)
	}
	audience := []string(token.Audience)
	if token.AuthorizedParty != "" {
		audience = []string{token.AuthorizedParty}
	}
	ids, _ := account.clientIDs(token.Issuer)
	if !slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(ids, a) }) {
		return nil, nil, refuse(400, "InvalidIdentityToken", "Incorrect token audience")
	}
	return token, audience, nil
}

// tokenError words a refusal as STS does.
func tokenError(err error) *Error {
	refusal := &Error{Status: 400, Code: "InvalidIdentityToken"}
	switch {
	case errors.Is(err, oidc.ErrExpired):
		_, dates, _ := strings.Cut(err.Error(), "expired: ")
		return refuse(400, "ExpiredTokenException", "Token expired: "+dates)
	case errors.Is(err, oidc.ErrUnreachable):
		return refuse(400, "IDPCommunicationError", "An error occurred contacting the identity provider")
	case errors.Is(err, oidc.ErrIssuer):
		refusal.Message = "No OpenIDConnect provider found in your account for " +
			strings.TrimPrefix(err.Error(), oidc.ErrIssuer.Error()+": ")
	case errors.Is(err, oidc.ErrNoKey):
		refusal.Message = "Couldn't retrieve verification key from your identity provider, " +
			"please reference AssumeRoleWithWebIdentity documentation for requirements"
	case errors.Is(err, oidc.ErrSignature):
		refusal.Message = "The signature of the ID Token could not be verified"
	case errors.Is(err, oidc.ErrNotYet):
		refusal.Message = "Token is not valid yet"
	default:
		refusal.Message = "The ID Token provided is not a valid JWT. " +
			"(You may see this error if you sent an Access Token)"
	}
	return refusal
}

// readClaims takes session tags and source identity from the token, where AWS looks for them ("Passing session tags
// using AssumeRoleWithWebIdentity" in the IAM user guide).
func (a *assumption) readClaims(claims map[string]any) *Error {
	a.sourceIdentity, _ = claims["https://aws.amazon.com/source_identity"].(string)
	if a.sourceIdentity != "" {
		if err := checkRule("SourceIdentity", a.sourceIdentity); err != nil {
			return err
		}
	}
	var tags struct {
		Principal  map[string][]string `json:"principal_tags"`
		Transitive []string            `json:"transitive_tag_keys"`
	}
	claim, err := json.Marshal(claims["https://aws.amazon.com/tags"])
	if err == nil {
		err = json.Unmarshal(claim, &tags)
	}
	if err != nil {
		return refuse(400, "InvalidIdentityToken", "The tags claim cannot be read")
	}
	for key, values := range tags.Principal {
		if len(values) != 1 {
			return refuse(400, "InvalidIdentityToken", "A tag has one value")
		}
		if err := a.addTag(key, values[0]); err != nil {
			return err
		}
	}
	for _, key := range tags.Transitive {
		if err := a.addTransitive(key); err != nil {
			return err
		}
	}
	return nil
}

// trusts evaluates the role's trust policy for a web identity.
func (c *stsCall) trusts(role *Role, action string, a *assumption, token *oidc.Verified, audience []string) bool {
	provider, ctx := withoutScheme(token.Issuer), a.context()
	ctx.Set(provider+":sub", token.Subject)
	ctx.Set(provider+":aud", audience...)
	ctx.Set(provider+":oaud", token.Audience...)
	if amr, ok := token.All["amr"].([]any); ok {
		var methods []string
		for _, m := range amr {
			if text, ok := m.(string); ok {
				methods = append(methods, text)
			}
		}
		ctx.Set(provider+":amr", methods...)
	}
	request := iam.Request{
		Principal: iam.Principal{Federated: providerARN(role.Account, token.Issuer)},
		Action:    action, Resource: role.ARN, Owner: role.Account.ID, Context: ctx,
	}
	d := iam.Evaluate(request, iam.Policies{Resource: role.trustPolicy(), ResourceDecides: true})
	c.sts.cloud.report(request, d)
	return d.Allowed
}
