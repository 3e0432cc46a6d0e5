package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	maxToken    = 20_000 // bytes, as STS has it
	maxDocument = 1 << 20
)

// compact is the JWS compact serialization. The JOSE library forgives white space, STS does not.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Algorithms are those of the tokens that STS accepts.
var Algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512}

// Errors of Verify, which callers answer differently.
var (
	ErrMalformed   = errors.New("not a signed JWT")
	ErrIssuer      = errors.New("issuer not trusted")
	ErrUnreachable = errors.New("issuer not reachable")
	ErrNoKey       = errors.New("no verification key")
	ErrSignature   = errors.New("signature invalid")
	ErrExpired     = errors.New("expired")
	ErrNotYet      = errors.New("not valid yet")
)

// Verified are the claims of a token whose signature and times are good. Audience is left to the caller.
type Verified struct {
	jwt.Claims
	AuthorizedParty string         // azp
	All             map[string]any // every claim
}

// Verify checks a token against the keys that its issuer publishes. trusted says whether an issuer's URL may be asked:
// nothing is fetched for others.
func Verify(ctx context.Context, client *http.Client, token string, trusted func(issuer string) bool, now time.Time) (
	*Verified, error) {
	if len(token) > maxToken || !compact.MatchString(token) {
		return nil, ErrMalformed
	}
	parsed, err := jwt.ParseSigned(token, Algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var unverified jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&unverified); err != nil || unverified.Issuer == "" {
		return nil, fmt.Errorf("%w: no iss claim", ErrMalformed)
	}
	if !trusted(unverified.Issuer) {
		return nil, fmt.Errorf("%w: %s", ErrIssuer, unverified.Issuer)
	}
	keys, err := publishedKeys(ctx, client, unverified.Issuer)
	if err != nil {
		return nil, err
	}
	v := &Verified{}
	if err := checkSignature(parsed, keys, v); err != nil {
		return nil, err
	}
	v.AuthorizedParty, _ = v.All["azp"].(string)
	return v, checkTimes(v.Claims, now)
}

func checkSignature(token *jwt.JSONWebToken, keys jose.JSONWebKeySet, v *Verified) error {
	header := token.Headers[0]
	found := keys.Key(header.KeyID)
	if len(found) == 0 {
		return fmt.Errorf("%w: kid %q", ErrNoKey, header.KeyID)
	}
	for _, key := range found {
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if token.Claims(key, &v.Claims, &v.All) == nil {
			return nil
		}
	}
	return ErrSignature
}

func checkTimes(c jwt.Claims, now time.Time) error {
	switch {
	case c.Expiry == nil || c.IssuedAt == nil || c.Subject == "":
		return fmt.Errorf("%w: exp, iat or sub is missing", ErrMalformed)
	case !now.Before(c.Expiry.Time()):
		return fmt.Errorf("%w: current date/time %d must be before the expiration date/time %d",
			ErrExpired, now.Unix(), *c.Expiry)
	case c.NotBefore != nil && now.Before(c.NotBefore.Time()), c.IssuedAt.Time().After(now.Add(time.Minute)):
		return ErrNotYet
	}
	return nil
}

// publishedKeys goes the way of OpenID Connect Discovery 1.0: the document at the issuer, then its jwks_uri.
func publishedKeys(ctx context.Context, client *http.Client, issuer string) (jose.JSONWebKeySet, error) {
	var document struct {
		Issuer  string `json:"issuer"`
		KeysURI string `json:"jwks_uri"`
	}
	var keys jose.JSONWebKeySet
	if err := fetch(ctx, client, issuer+"/.well-known/openid-configuration", &document); err != nil {
		return keys, err
	}
	if document.Issuer != issuer {
		return keys, fmt.Errorf("%w: the discovery document is for %q", ErrNoKey, document.Issuer)
	}
	return keys, fetch(ctx, client, document.KeysURI, &keys)
}

// fetch tells an issuer that cannot be reached, or fails itself, from one that answers something else.
func fetch(ctx context.Context, client *http.Client, url string, v any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode >= http.StatusInternalServerError:
		return fmt.Errorf("%w: %s answers %s", ErrUnreachable, url, answer.Status)
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: %s answers %s", ErrNoKey, url, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxDocument)).Decode(v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoKey, url, err)
	}
	return nil
}
