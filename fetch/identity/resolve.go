package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const (
	stsTimeout  = 20 * time.Second // of one attempt
	stsAttempts = 3
	stsBackoff  = 250 * time.Millisecond // the pause is random, up to twice this, then four times
	stepTimeout = 90 * time.Second       // of all attempts of a step
)

// resolve builds the chain: the first step, then one step for each hop.
func resolve(ctx context.Context, cfg *Config) (*Provider, string, error) {
	source, why, err := cfg.source()
	if err != nil {
		return nil, "", err
	}
	p := &Provider{cfg: cfg}
	if source == Unsigned {
		if len(cfg.RoleChain) > 0 {
			return nil, "", fault.New(fault.Usage, "drop one of the two",
				"anonymous access and a role chain exclude one another")
		}
		return p, why, nil
	}
	if err := p.build(ctx, source); err != nil {
		return nil, "", err
	}
	for _, hop := range cfg.RoleChain {
		why += ", then " + hop.RoleARN
	}
	return p, why, nil
}

func (p *Provider) build(ctx context.Context, source Source) error {
	client, err := p.cfg.httpClient()
	if err != nil {
		return err
	}
	p.cfg.HTTPClient = client
	first, err := p.first(ctx, source)
	if err != nil {
		return err
	}
	p.steps = append(p.steps, first)
	for i := range p.cfg.RoleChain {
		p.steps = append(p.steps, p.cfg.hopStep(i, source, p.steps[len(p.steps)-1]))
	}
	return p.cfg.checkPolicyTaken(source)
}

// checkPolicyTaken refuses, or mentions, a session policy that no role takes.
func (c *Config) checkPolicyTaken(source Source) error {
	switch {
	case c.SessionPolicy.JSON == "" || len(c.RoleChain) > 0 || source == WebIdentity || source == OIDC:
		return nil
	case c.SessionPolicy.Required:
		return fault.New(fault.Usage, "assume a role (--role-arn), or drop the policy",
			"the session policy can take no effect: credentials from %s are used as they are", source)
	default:
		c.log().Info("no role is assumed, so no session policy narrows the credentials", "source", string(source))
		return nil
	}
}

// source decides on the first step and says why.
func (c *Config) source() (Source, string, error) {
	configured := c.configured()
	if c.Source != Auto {
		if c.Source != Shared && c.Source != InstanceRole && !slices.Contains(configured, c.Source) {
			return "", "", fault.New(fault.Usage, "set what it needs, or choose another",
				"identity source %q is demanded but not configured", string(c.Source))
		}
		return c.Source, c.name(c.Source) + ", as demanded", nil
	}
	source := Shared
	if len(configured) > 0 {
		source = configured[0]
	}
	why := c.name(source)
	if source == StaticKeys && slices.Contains(configured, WebIdentity) {
		c.log().Warn("a static key wins over web identity, as in every AWS SDK: remove it if it is left over", "key",
			c.Static.masked(), "unused_role", c.RoleARN, "unused_token_file", c.WebIdentityTokenFile)
	}
	if len(configured) > 1 {
		var rest []string
		for _, s := range configured[1:] {
			rest = append(rest, c.name(s))
		}
		why += " (configured but not used: " + strings.Join(rest, "; ") + ")"
	}
	return source, why, nil
}

// configured lists the sources for which there are settings, in the order of Auto.
func (c *Config) configured() []Source {
	var list []Source
	for _, s := range []struct {
		source Source
		ok     bool
	}{
		{Unsigned, c.Anonymous},
		{OIDC, c.TokenProvider != nil && c.RoleARN != "" && (c.WebIdentityTokenFile == "" || c.Source == OIDC)},
		{StaticKeys, c.Static.AccessKeyID != "" && c.Static.SecretAccessKey != ""},
		{WebIdentity, c.WebIdentityTokenFile != "" && c.RoleARN != ""},
		{Pod, c.PodIdentity.URI != ""},
		{Shared, c.Profile != ""},
	} {
		if s.ok {
			list = append(list, s.source)
		}
	}
	return list
}

// name describes a source with its settings.
func (c *Config) name(s Source) string {
	switch s {
	case Unsigned:
		return "unsigned requests"
	case StaticKeys:
		return "static " + c.Static.masked()
	case WebIdentity:
		return fmt.Sprintf("web identity token %s for %s", c.WebIdentityTokenFile, c.RoleARN)
	case OIDC:
		return fmt.Sprintf("token of %s for %s", describe(c.TokenProvider), c.RoleARN)
	case Pod:
		return "pod identity from " + c.PodIdentity.URI
	case InstanceRole:
		return "the node's instance role"
	case Shared:
		if c.Profile != "" {
			return "profile " + c.Profile + " of the shared AWS configuration"
		}
		return "the shared AWS configuration"
	default:
		return string(s)
	}
}

func (p *Provider) first(ctx context.Context, source Source) (step, error) {
	c := p.cfg
	switch source {
	case StaticKeys:
		static := credentials.NewStaticCredentialsProvider(c.Static.AccessKeyID, c.Static.SecretAccessKey,
			c.Static.SessionToken)
		s := c.step(c.name(source), static.Retrieve)
		s.fixed = true
		return s, nil
	case WebIdentity:
		return c.webIdentityStep(TokenFile(c.WebIdentityTokenFile)), nil
	case OIDC:
		return c.webIdentityStep(c.TokenProvider), nil
	case Pod:
		return c.podStep(), nil
	case Shared:
		return c.sharedStep(ctx)
	case InstanceRole:
		return c.instanceStep()
	default:
		return step{}, fault.New(fault.Usage, "use one of anonymous, oidc, static, web-identity, pod-identity, "+
			"profile, instance-metadata", "unknown identity source %q", string(source))
	}
}

// step makes a cached step of a way to get credentials.
func (c *Config) step(name string, retrieve func(context.Context) (aws.Credentials, error)) step {
	fetch := func(ctx context.Context) (aws.Credentials, time.Time, error) {
		ctx, cancel := context.WithTimeout(ctx, stepTimeout)
		defer cancel()
		creds, err := retrieve(ctx)
		return creds, ends(creds), detached(err)
	}
	warn := func(err error) {
		c.log().Warn("renewing credentials failed; going on with those that are still good", "identity", name,
			"error", err)
	}
	return step{name: name, creds: newCache(c.Now, fetch, warn)}
}

// detached cuts the SDK's error off a classed one. Each step has its own attempts: the client of the next step, of S3
// or of KMS must not take the error for that of its own request and multiply them.
func detached(err error) error {
	if !classed(err) {
		return err
	}
	return fault.New(fault.Of(err), fault.Hint(err), "%s", err.Error())
}

func (c *Config) webIdentityStep(tokens TokenProvider) step {
	w := &webIdentity{tokens: tokens, session: session{
		cfg: c, client: c.sts(nil), action: actionWebIdentity, roleARN: c.RoleARN, name: c.SessionName,
		policy: c.policyOf(-1),
	}}
	return c.step("web identity, "+c.RoleARN, w.retrieve)
}

// hopStep is the step of RoleChain[i], taken from the identity of the step before it.
func (c *Config) hopStep(i int, source Source, from step) step {
	hop := c.RoleChain[i]
	if chained := i > 0 || source != StaticKeys || c.Static.SessionToken != ""; chained && hop.Duration > maxChained {
		c.log().Info("cut to the one hour that AWS grants a chained role", "role", hop.RoleARN,
			"asked", hop.Duration.String())
		hop.Duration = maxChained
	}
	if hop.SessionName == "" {
		hop.SessionName = c.SessionName
	}
	a := &assumeRole{hop: hop, from: from, session: session{
		cfg: c, client: c.sts(from.creds), hop: i + 1, action: actionAssumeRole, roleARN: hop.RoleARN,
		name:   hop.SessionName,
		policy: c.policyOf(i),
	}}
	return c.step(fmt.Sprintf("hop %d, %s", i+1, hop.RoleARN), a.retrieve)
}

// policyOf is the session policy for RoleChain[i], and for the web identity role with -1. Sessions that only lead to
// the next role may do nothing but assume it.
func (c *Config) policyOf(i int) SessionPolicy {
	switch {
	case c.SessionPolicy.JSON == "":
		return SessionPolicy{}
	case i+1 == len(c.RoleChain):
		return c.SessionPolicy
	default:
		return SessionPolicy{JSON: fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",`+
			`"Action":["sts:AssumeRole","sts:SetSourceIdentity","sts:TagSession"],"Resource":%q}]}`,
			c.RoleChain[i+1].RoleARN)}
	}
}

// sts makes a client of STS that signs with the given credentials; nil leaves requests unsigned. It is built by hand,
// because a client made from the shared configuration would send role chains to the endpoint that is meant for S3.
func (c *Config) sts(creds *cache[aws.Credentials]) *sts.Client {
	options := sts.Options{Region: c.region(), HTTPClient: c.HTTPClient, AppID: c.AppID, Retryer: stsRetryer(),
		Logger: logging.Nop{}}
	if creds != nil {
		options.Credentials = aws.CredentialsProviderFunc(creds.get)
	}
	if c.STSEndpoint != "" {
		options.BaseEndpoint = &c.STSEndpoint
	}
	if c.UseFIPS {
		options.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
	}
	if c.UseDualStack {
		options.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateEnabled
	}
	return sts.New(options)
}

// stsRetryer differs from the SDK's in two cases. STS says "invalid token" also when it could not reach the issuer:
// that is tried again. A certificate that nobody trusts now is trusted in no second either.
func stsRetryer() aws.Retryer {
	retryable := func(err error) aws.Ternary {
		switch {
		case untrusted(err):
			return aws.FalseTernary
		case tokenRefused(err) && strings.Contains(err.Error(), "retrieve verification key"):
			return aws.TrueTernary
		default:
			return aws.UnknownTernary
		}
	}
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = stsAttempts
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			return rand.N(stsBackoff << attempt), nil
		})
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
	})
}

// httpClient is the client for STS: HTTPClient, or one that trusts CABundle alone.
func (c *Config) httpClient() (aws.HTTPClient, error) {
	if c.HTTPClient != nil {
		return c.HTTPClient, nil
	}
	client := awshttp.NewBuildableClient().WithTimeout(stsTimeout)
	if c.CABundle == nil {
		return client, nil
	}
	roots, err := pool(c.CABundle)
	if err != nil {
		return nil, err
	}
	return client.WithTransportOptions(func(t *http.Transport) { t.TLSClientConfig.RootCAs = roots }), nil
}

func pool(bundle []byte) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, fault.New(fault.Usage, "give a PEM file of certificate authorities",
			"the CA bundle holds no certificate")
	}
	return roots, nil
}

// podStep asks the node's agent. Its address is link-local or loopback: a proxy has no place between.
func (c *Config) podStep() step {
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if c.CABundle != nil {
		transport.TLSClientConfig.RootCAs, _ = pool(c.CABundle) // checked by httpClient
	}
	client := &http.Client{Transport: transport, Timeout: stsTimeout}
	return c.step(c.name(Pod), func(ctx context.Context) (aws.Credentials, error) {
		token, err := c.PodIdentity.token()
		if err != nil {
			return aws.Credentials{}, err
		}
		creds, err := endpointcreds.New(c.PodIdentity.URI, func(o *endpointcreds.Options) {
			o.HTTPClient, o.AuthorizationToken = client, token
		}).Retrieve(ctx)
		if err != nil {
			return creds, Diagnose(err, Op{Action: "pod-identity:GetCredentials", Resource: c.PodIdentity.URI})
		}
		return creds, nil
	})
}

func (p PodIdentity) token() (string, error) {
	if p.TokenFile == "" {
		return p.Token, nil
	}
	b, err := os.ReadFile(p.TokenFile)
	if err != nil {
		return "", fault.New(fault.Identity, "check the pod identity association and recreate the pod",
			"no pod identity token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// sharedStep is a person's profile, single sign-on or credential process, or the instance role where that is allowed.
func (c *Config) sharedStep(ctx context.Context) (step, error) {
	loaded, err := config.LoadDefaultConfig(ctx, c.sharedOptions()...)
	if err != nil {
		return step{}, fault.New(fault.Usage, "check ~/.aws/config and the profile's name",
			"reading the shared AWS configuration: %w", err)
	}
	behind, ok := loaded.Credentials.(*aws.CredentialsCache)
	if !ok || slices.Contains(behind.ProviderSources(), aws.CredentialSourceIMDS) && !c.AllowInstanceMetadata {
		return step{}, c.noCredentials()
	}
	s := c.step(c.name(Shared), func(ctx context.Context) (aws.Credentials, error) {
		creds, err := behind.Retrieve(ctx)
		if err != nil {
			return creds, Diagnose(err, Op{Action: "aws-config:GetCredentials", Resource: c.name(Shared)})
		}
		return creds, nil
	})
	s.drop = behind.Invalidate
	return s, nil
}

func (c *Config) sharedOptions() []func(*config.LoadOptions) error {
	metadata := imds.ClientDisabled
	if c.AllowInstanceMetadata {
		metadata = imds.ClientEnabled
	}
	options := []func(*config.LoadOptions) error{
		config.WithEC2IMDSClientEnableState(metadata), config.WithHTTPClient(c.HTTPClient), config.WithAppID(c.AppID),
		config.WithLogger(logging.Nop{}), config.WithDefaultsMode(aws.DefaultsModeStandard),
		// The window has to be the SDK's own: the cache around it cannot make the one behind it renew.
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) {
			o.ExpiryWindow, o.ExpiryWindowJitterFrac = maxWindow, 0.5
		}),
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(c.Profile))
	}
	return options
}

func (c *Config) instanceStep() (step, error) {
	if !c.AllowInstanceMetadata {
		return step{}, c.noCredentials()
	}
	provider := ec2rolecreds.New()
	return c.step(c.name(InstanceRole), func(ctx context.Context) (aws.Credentials, error) {
		creds, err := provider.Retrieve(ctx)
		if err != nil {
			return creds, Diagnose(err, Op{Action: "instance-metadata:GetCredentials", Resource: "the node"})
		}
		return creds, nil
	}), nil
}

func (c *Config) noCredentials() error {
	var have []string
	if c.WebIdentityTokenFile != "" {
		have = append(have, "a web identity token file without a role")
	}
	if c.RoleARN != "" {
		have = append(have, "a role without a web identity token file")
	}
	found := ""
	if len(have) > 0 {
		found = " (there is " + strings.Join(have, " and ") + ")"
	}
	return fault.New(fault.Identity, "annotate the ServiceAccount with eks.amazonaws.com/role-arn, associate a pod "+
		"identity, or set awsAnonymousCredential for a public bucket; the node's own role is used only with "+
		"--allow-instance-metadata",
		"no AWS credentials are configured%s", found)
}
