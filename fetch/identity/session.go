package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	smithymiddleware "github.com/aws/smithy-go/middleware"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const (
	actionWebIdentity = "sts:AssumeRoleWithWebIdentity"
	actionAssumeRole  = "sts:AssumeRole"
	// maxChained is all that AWS grants a role assumed by a role; asking for more is refused.
	maxChained = time.Hour
)

// session is what both ways into a role share: who is asked, for what, and what came of it.
type session struct {
	cfg      *Config
	client   *sts.Client
	hop      int
	action   string
	roleARN  string
	name     string
	policy   SessionPolicy
	tooLarge atomic.Bool // the policy did not fit, and is not sent any more
}

// granted is the part of the answer that both calls share.
type granted struct {
	creds          *types.Credentials
	user           *types.AssumedRoleUser
	sourceIdentity *string
	packed         *int32
	metadata       smithymiddleware.Metadata
}

// inline is the session policy to send; nil for none.
func (s *session) inline() *string {
	if s.policy.JSON == "" || s.tooLarge.Load() {
		return nil
	}
	return &s.policy.JSON
}

// assume makes the call, once more without the session policy where that was too large and may be left out.
func (s *session) assume(ctx context.Context, call func(context.Context) (granted, error)) (granted, error) {
	g, err := call(ctx)
	var large *types.PackedPolicyTooLargeException
	if !errors.As(err, &large) || s.inline() == nil || s.policy.Required {
		return g, err
	}
	s.tooLarge.Store(true)
	s.cfg.log().Warn("PackedPolicyTooLarge: the session policy does not fit beside the role's session tags; going on "+
		"with all permissions of the role", "role", s.roleARN, "aws", large.ErrorMessage())
	return call(ctx)
}

// finish turns an answer into credentials and reports who has been assumed.
func (s *session) finish(g granted, claims Claims) (aws.Credentials, error) {
	if g.creds == nil || g.user == nil {
		return aws.Credentials{}, fault.New(fault.Identity, "check that the STS endpoint is one",
			"%s on %s: the answer holds no credentials", s.action, s.roleARN)
	}
	expires := aws.ToTime(g.creds.Expiration)
	if now := s.cfg.Now(); !expires.After(now) {
		return aws.Credentials{}, fault.New(fault.Identity, cureClock,
			"%s on %s: credentials granted just now ended %s ago by this machine's clock", s.action, s.roleARN,
			now.Sub(expires).Round(time.Second))
	}
	a := s.assumed(g, claims)
	a.Expires = expires
	if s.cfg.OnAssumed != nil {
		s.cfg.OnAssumed(a)
	}
	return aws.Credentials{
		AccessKeyID:     aws.ToString(g.creds.AccessKeyId),
		SecretAccessKey: aws.ToString(g.creds.SecretAccessKey),
		SessionToken:    aws.ToString(g.creds.SessionToken),
		Source:          s.action,
		CanExpire:       true,
		Expires:         expires,
		AccountID:       a.AccountID,
	}, nil
}

func (s *session) assumed(g granted, claims Claims) Assumed {
	requestID, _ := middleware.GetRequestIDMetadata(g.metadata)
	arn := aws.ToString(g.user.Arn)
	a := Assumed{
		Hop: s.hop, Action: s.action, RoleARN: s.roleARN, AssumedRoleARN: arn,
		AssumedRoleID: aws.ToString(g.user.AssumedRoleId),
		AccountID:     accountOf(arn), SessionName: s.name, SourceIdentity: aws.ToString(g.sourceIdentity),
		Issuer: claims.Issuer, Subject: claims.Subject, Audience: strings.Join(claims.Audience, " "),
		RequestID: requestID, PolicySize: int(aws.ToInt32(g.packed)), SessionPolicy: "none",
	}
	switch {
	case s.inline() != nil:
		a.SessionPolicy = "sent"
	case s.policy.JSON != "":
		a.SessionPolicy = "dropped"
	}
	return a
}

// webIdentity exchanges a token for a role's session.
type webIdentity struct {
	session
	tokens TokenProvider
}

func (w *webIdentity) retrieve(ctx context.Context) (aws.Credentials, error) {
	token, claims, err := w.token(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	g, err := w.exchange(ctx, token)
	if tokenRefused(err) {
		// The token may have been replaced in the meantime, or its issuer knows that it is over before it is.
		w.tokens.Invalidate()
		next, nextClaims, again := w.token(ctx)
		if again == nil && next != token {
			claims = nextClaims
			g, err = w.exchange(ctx, next)
		}
	}
	if err != nil {
		return aws.Credentials{}, Diagnose(err, Op{Action: w.action, Resource: w.roleARN, Region: w.cfg.region(),
			Claims: &claims})
	}
	return w.finish(g, claims)
}

// token gets a token and checks its shape, because STS says only "invalid" to one with a stray line in it.
func (w *webIdentity) token(ctx context.Context) (string, Claims, error) {
	token, err := w.tokens.Token(ctx)
	if err != nil {
		return "", Claims{}, err
	}
	claims, err := ParseClaims(token)
	if err != nil {
		cure := tokenCure
		if _, file := w.tokens.(TokenFile); !file {
			cure = "AWS takes JSON web tokens alone: have the issuer give this client those, and no opaque ones"
		}
		return "", Claims{}, fault.New(fault.Identity, cure, "malformed web identity token from %s: %w",
			describe(w.tokens), err)
	}
	return token, claims, nil
}

func (w *webIdentity) exchange(ctx context.Context, token string) (granted, error) {
	return w.assume(ctx, func(ctx context.Context) (granted, error) {
		out, err := w.client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
			RoleArn:          &w.roleARN,
			RoleSessionName:  &w.name,
			WebIdentityToken: &token,
			Policy:           w.inline(),
			DurationSeconds:  seconds(w.cfg.Duration),
		})
		if err != nil {
			return granted{}, err
		}
		//lint:ignore SA1019 the field that replaces it is not sent everywhere yet
		return granted{out.Credentials, out.AssumedRoleUser, out.SourceIdentity, out.PackedPolicySize,
			out.ResultMetadata}, nil
	})
}

// tokenRefused reports whether STS found fault with the token itself.
func tokenRefused(err error) bool {
	var expired *types.ExpiredTokenException
	var invalid *types.InvalidIdentityTokenException
	return errors.As(err, &expired) || errors.As(err, &invalid)
}

// assumeRole goes from one identity to a role.
type assumeRole struct {
	session
	hop  Hop
	from step
}

func (a *assumeRole) retrieve(ctx context.Context) (aws.Credentials, error) {
	g, err := a.call(ctx)
	if Expired(err) {
		a.from.invalidate()
		g, err = a.call(ctx)
	}
	if err != nil {
		op := Op{Action: a.action, Resource: a.roleARN, Region: a.cfg.region(), From: a.from.name,
			ExternalID: a.hop.ExternalID != ""}
		return aws.Credentials{}, Diagnose(err, op)
	}
	return a.finish(g, Claims{})
}

func (a *assumeRole) call(ctx context.Context) (granted, error) {
	return a.assume(ctx, func(ctx context.Context) (granted, error) {
		out, err := a.client.AssumeRole(ctx, &sts.AssumeRoleInput{
			RoleArn:           &a.roleARN,
			RoleSessionName:   &a.name,
			ExternalId:        optional(a.hop.ExternalID),
			SourceIdentity:    optional(a.hop.SourceIdentity),
			Tags:              tags(a.hop.Tags),
			TransitiveTagKeys: a.hop.TransitiveTags,
			Policy:            a.inline(),
			DurationSeconds:   seconds(a.hop.Duration),
		})
		if err != nil {
			return granted{}, err
		}
		//lint:ignore SA1019 the field that replaces it is not sent everywhere yet
		return granted{out.Credentials, out.AssumedRoleUser, out.SourceIdentity, out.PackedPolicySize,
			out.ResultMetadata}, nil
	})
}

func tags(m map[string]string) []types.Tag {
	var list []types.Tag
	for k, v := range m {
		list = append(list, types.Tag{Key: &k, Value: &v})
	}
	slices.SortFunc(list, func(a, b types.Tag) int { return strings.Compare(*a.Key, *b.Key) })
	return list
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// seconds is nil for a zero duration: STS then grants one hour.
func seconds(d time.Duration) *int32 {
	if d == 0 {
		return nil
	}
	return aws.Int32(int32(d / time.Second))
}

// accountOf is the fifth field of an ARN.
func accountOf(arn string) string {
	if fields := strings.SplitN(arn, ":", 6); len(fields) == 6 {
		return fields[4]
	}
	return ""
}

// describe names a token provider for messages.
func describe(t TokenProvider) string {
	switch t := t.(type) {
	case TokenFile:
		return string(t)
	case fmt.Stringer:
		return t.String()
	default:
		return "the token provider"
	}
}
