// Package identity turns what a pod is given (a projected service-account token, a pod identity, an issuer's client
// credentials, static keys) into AWS credentials, through any number of roles in other accounts, and says at each step
// who it has become and why a step was refused.
//
// Everything it does is in its Config: it reads no environment of its own. The one exception is the shared AWS
// configuration of a person at a terminal (profiles, single sign-on), which the SDK reads when nothing else is
// configured. The instance metadata service is never asked unless the Config says so, because credentials of the node
// are not the pod's.
package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// Config is every setting of the way to credentials. The zero value finds a person's shared AWS configuration.
type Config struct {
	// Source names the first step; Auto, the zero value, takes the first of its documented order that is configured.
	Source Source

	// Region of the STS endpoint. Empty: the default region of the first role's partition.
	Region string
	// STSEndpoint is the URL of STS itself; empty for AWS's regional one. An endpoint of S3 is never used in its place.
	STSEndpoint  string
	UseFIPS      bool
	UseDualStack bool

	// RoleARN is the role that a web identity token is exchanged for: in the pod's own account, or directly in the
	// account that owns the model.
	RoleARN string
	// WebIdentityTokenFile is a projected token, read again for every exchange because the kubelet rotates it.
	WebIdentityTokenFile string
	// TokenProvider is asked for tokens where there is no token file; nil for none. See NewOIDC.
	TokenProvider TokenProvider
	// RoleChain is assumed hop by hop after the first step, in order.
	RoleChain []Hop

	// SessionName is how the other account's audit log calls this session, 2 to 64 characters of [\w+=,.@-]; see
	// SessionName. Hops without a name of their own use it. Empty: "sealfetch".
	SessionName string
	// Duration of the web identity session. Zero: one hour, or the role's own limit where that is shorter.
	Duration time.Duration
	// SessionPolicy narrows the last role's session. Sessions on the way to it are then narrowed to taking the next
	// step.
	SessionPolicy SessionPolicy

	// Static is a long-lived key or a ready-made session; zero for none.
	Static Static
	// PodIdentity is EKS Pod Identity or another container credentials endpoint; zero for none.
	PodIdentity PodIdentity
	// Profile of the shared AWS configuration; empty for the default one.
	Profile string
	// Anonymous sends unsigned requests, for public buckets.
	Anonymous bool
	// AllowInstanceMetadata permits credentials of the node's instance role when nothing else is configured.
	AllowInstanceMetadata bool

	// CABundle is PEM of the only authorities trusted for STS; nil for the system's.
	CABundle []byte
	// HTTPClient replaces the client made from CABundle; nil for none.
	HTTPClient aws.HTTPClient
	// AppID goes into the user agent of every request, so that the audit log of each account names the program.
	AppID string

	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Logger receives warnings; nil discards them.
	Logger *slog.Logger
	// OnAssumed is called after each role is assumed, at renewal too; nil for none. It must not block.
	OnAssumed func(Assumed)
}

// Source names where the first credentials come from.
type Source string

// The sources. Auto takes the first one that is configured, in the order of these constants. That is the order of the
// AWS SDKs, in which a static key wins over web identity: a warning then names the key. A token provider with a role
// and no token file is not something that a pod is given unasked, so it comes before keys that may be left over.
const (
	Auto         Source = ""
	Unsigned     Source = "anonymous"
	OIDC         Source = "oidc" // TokenProvider and RoleARN
	StaticKeys   Source = "static"
	WebIdentity  Source = "web-identity" // WebIdentityTokenFile and RoleARN
	Pod          Source = "pod-identity"
	Shared       Source = "profile"
	InstanceRole Source = "instance-metadata" // never without AllowInstanceMetadata
)

// SessionPolicy is the inline policy that narrows a session to less than its role.
type SessionPolicy struct {
	// JSON is the policy; empty for none. At most 2,048 characters.
	JSON string
	// Required turns the fallback off: a policy that AWS finds too large, or that no role takes, is then an error.
	Required bool
}

// Hop is one AssumeRole of a chain.
type Hop struct {
	RoleARN        string
	ExternalID     string // the secret handshake of the role's trust policy; empty for none
	SessionName    string // empty: Config.SessionName
	SourceIdentity string // persists through all later hops; empty for none
	Tags           map[string]string
	TransitiveTags []string      // keys of Tags that later hops inherit
	Duration       time.Duration // zero: one hour, which is also all that AWS grants a chained role
}

// Static is an access key. Printing one shows the key's id, masked, and nothing else.
type Static struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	From            string // where it was found, for messages: "AWS_ACCESS_KEY_ID", "STORAGE_CONFIG"
}

// PodIdentity is a container credentials endpoint. Printing one shows its URI and nothing else.
type PodIdentity struct {
	URI       string // AWS_CONTAINER_CREDENTIALS_FULL_URI; https, or http to loopback and the agents' addresses
	TokenFile string // AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, read again for every request
	Token     string // AWS_CONTAINER_AUTHORIZATION_TOKEN, where there is no file
}

// Format prints where the key came from and which it is.
func (s Static) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.masked()) }

// MarshalJSON is Format's, for loggers that encode.
func (s Static) MarshalJSON() ([]byte, error) { return json.Marshal(s.masked()) }

func (s Static) masked() string {
	if s.AccessKeyID == "" {
		return "no key"
	}
	return fmt.Sprintf("key …%s from %s", s.AccessKeyID[max(0, len(s.AccessKeyID)-4):], cmp.Or(s.From,
		"the configuration"))
}

// Format prints the URI.
func (p PodIdentity) Format(f fmt.State, _ rune) { fmt.Fprint(f, p.URI) }

// MarshalJSON is Format's, for loggers that encode.
func (p PodIdentity) MarshalJSON() ([]byte, error) { return json.Marshal(p.URI) }

// Assumed says what a role session was granted. It holds nothing secret.
type Assumed struct {
	Hop            int    // 0 for the web identity, then the place in the role chain
	Action         string // "sts:AssumeRoleWithWebIdentity" or "sts:AssumeRole"
	RoleARN        string
	AssumedRoleARN string
	AssumedRoleID  string
	AccountID      string
	SessionName    string
	SourceIdentity string
	Issuer         string // of the web identity token
	Subject        string // of the web identity token
	Audience       string // of the web identity token
	RequestID      string
	PolicySize     int    // per cent of the packed size that AWS allows; 0 where none was sent
	SessionPolicy  string // "none", "sent", or "dropped" where it was too large
	Expires        time.Time
}

// Credentials returns the provider that a Config describes, and a sentence on which source was taken and why. Files of
// the shared AWS configuration may be read; no request is made. Errors are of kind fault.Usage or fault.Identity.
func Credentials(ctx context.Context, cfg Config) (*Provider, string, error) {
	if err := cfg.check(); err != nil {
		return nil, "", err
	}
	cfg.fill()
	return resolve(ctx, &cfg)
}

func (c *Config) fill() {
	if c.Now == nil {
		c.Now = time.Now
	}
	c.SessionName = cmp.Or(c.SessionName, "sealfetch")
	if len(c.SessionPolicy.JSON) > maxPolicy { // check has refused it where it is required
		c.log().Warn("the session policy is longer than AWS takes; going on with all permissions of the role", "limit",
			maxPolicy)
		c.SessionPolicy = SessionPolicy{}
	}
}

// region is STS's: where none is set, the one in the first role's partition that always exists.
func (c *Config) region() string {
	if c.Region != "" {
		return c.Region
	}
	role := c.RoleARN
	if role == "" && len(c.RoleChain) > 0 {
		role = c.RoleChain[0].RoleARN
	}
	parsed, _ := arn.Parse(role)
	switch parsed.Partition {
	case "aws-cn":
		return "cn-north-1"
	case "aws-us-gov":
		return "us-gov-west-1"
	default:
		return "us-east-1"
	}
}

func (c *Config) log() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}
