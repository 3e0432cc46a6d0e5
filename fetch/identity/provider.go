package identity

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Provider is an aws.CredentialsProvider at the end of a chain of sessions, each cached and renewed on its own.
// It is safe for concurrent use.
type Provider struct {
	steps []step // the first step, then one for each hop; none for anonymous access
	cfg   *Config
}

// step is one identity on the way.
type step struct {
	name  string // for people: "web identity, arn:aws:iam::…:role/loader"
	creds *cache[aws.Credentials]
	fixed bool   // a static key or session: there is nothing to renew
	drop  func() // drops what lies behind creds too; nil for nothing
}

var _ aws.CredentialsProvider = (*Provider)(nil)

// Retrieve returns the last identity's credentials, valid for a while yet. Its errors are of kind fault.Identity,
// fault.Usage or fault.Transient.
func (p *Provider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if len(p.steps) == 0 {
		return aws.AnonymousCredentials{}.Retrieve(ctx)
	}
	return p.steps[len(p.steps)-1].creds.get(ctx)
}

// Renew reports whether a service's error means that the credentials it saw had expired and that there will be others:
// then the cached ones are dropped, and the same request can be sent again. Credentials fetched within the last seconds
// are kept, so that a burst of refusals costs one renewal.
func (p *Provider) Renew(err error) bool {
	if len(p.steps) == 0 || !Expired(err) {
		return false
	}
	last := p.steps[len(p.steps)-1]
	last.invalidate()
	return !last.fixed
}

func (s step) invalidate() {
	if s.drop != nil {
		s.drop()
	}
	s.creds.invalidate()
}

// Anonymous reports whether requests are to be sent unsigned.
func (p *Provider) Anonymous() bool { return len(p.steps) == 0 }

// IsCredentialsProvider lets the SDK see that a provider is anonymous, so that it leaves requests unsigned.
func (p *Provider) IsCredentialsProvider(target aws.CredentialsProvider) bool {
	switch target.(type) {
	case *aws.AnonymousCredentials, aws.AnonymousCredentials:
		return p.Anonymous()
	case *Provider:
		return true
	default:
		return false
	}
}

// Retryer adds to base that a request refused for expired credentials is tried again with new ones. The SDK signs each
// attempt anew, with what Retrieve returns then.
func (p *Provider) Retryer(base aws.Retryer) aws.Retryer {
	if v2, ok := base.(aws.RetryerV2); ok {
		return renewingV2{v2, p}
	}
	return renewing{base, p}
}

type renewing struct {
	aws.Retryer
	provider *Provider
}

// IsErrorRetryable is the one place where the SDK shows the error of an attempt before the next attempt.
func (r renewing) IsErrorRetryable(err error) bool {
	return r.provider.Renew(err) || r.Retryer.IsErrorRetryable(err)
}

type renewingV2 struct {
	aws.RetryerV2
	provider *Provider
}

// IsErrorRetryable is renewing's.
func (r renewingV2) IsErrorRetryable(err error) bool {
	return r.provider.Renew(err) || r.RetryerV2.IsErrorRetryable(err)
}

// Expired reports whether a service refused a request because the credentials that signed it had expired. An answer to
// a HEAD request has no body to say so: there it reports whether that is possible.
func Expired(err error) bool {
	var api smithy.APIError
	if errors.As(err, &api) && slices.Contains(expired, api.ErrorCode()) {
		return true
	}
	var resp *smithyhttp.ResponseError
	return errors.As(err, &resp) && resp.HTTPStatusCode() == http.StatusBadRequest && method(resp) == http.MethodHead
}

func method(resp *smithyhttp.ResponseError) string {
	if resp.Response == nil || resp.Response.Response == nil || resp.Response.Request == nil {
		return ""
	}
	return resp.Response.Request.Method
}

// ends is when credentials end, as the cache wants it.
func ends(c aws.Credentials) time.Time {
	if !c.CanExpire {
		return time.Time{}
	}
	return c.Expires
}
