package main

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/audit"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
)

// appID names the program in the user agent of every request to AWS.
const appID = "sealfetch"

// identitySettings are how AWS credentials are had. Keys come from the environment alone.
type identitySettings struct {
	source                string
	webIdentityRole       string
	webIdentityTokenFile  string
	roles                 list
	externalIDs           list
	sessionName           string
	sourceIdentity        string
	tags, transitiveTags  list
	duration              time.Duration
	sessionPolicy         string
	stsEndpoint           string
	stsRegion             string
	kmsEndpoint           string
	allowInstanceMetadata bool
	oidc                  oidcSettings
}

// oidcSettings are a client of an OpenID Connect issuer, such as Keycloak.
type oidcSettings struct {
	issuer, clientID, secretFile, keyFile, audience, ca string
	scopes, bearerHosts                                 list
}

func (s *settings) identityFlags() {
	i, f := &s.store.identity, s.flags
	f.StringVar(&i.source, "identity", "auto", "`SOURCE` of the first credentials: auto, anonymous, oidc, static, web-identity, pod-identity, profile or instance-metadata")
	f.StringVar(&i.webIdentityRole, "web-identity-role-arn", "", "`ARN` of the role that the web identity token is exchanged for")
	f.StringVar(&i.webIdentityTokenFile, "web-identity-token-file", "", "`FILE` with the pod's projected service-account token")
	f.Var(&i.roles, "role-arn", "`ARN` of a role to assume after the first credentials; repeatable: the chain, in order")
	f.Var(&i.externalIDs, "external-id", "external `ID` for the chain: one for all hops, or one for each; repeatable")
	f.StringVar(&i.sessionName, "role-session-name", "", "`NAME` of the role sessions in audit logs; default made of namespace and pod")
	f.StringVar(&i.sourceIdentity, "source-identity", "", "`NAME` that stays with the sessions through the whole chain")
	f.Var(&i.tags, "session-tag", "`KEY=VALUE` that the chain's sessions carry; repeatable")
	f.Var(&i.transitiveTags, "transitive-tag", "`KEY` of a session tag that later hops inherit; repeatable")
	f.DurationVar(&i.duration, "role-duration", 0, "how long sessions last; default 1h, which is also the most that a chained one can")
	f.StringVar(&i.sessionPolicy, "session-policy", "auto", "auto: narrow the session to this model and its keys; off; or a `FILE` with a policy of your own")
	f.StringVar(&i.stsEndpoint, "sts-endpoint", "", "`URL` of STS itself; default AWS's in the region")
	f.StringVar(&i.stsRegion, "sts-region", "", "`REGION` of STS; default the bucket's")
	f.StringVar(&i.kmsEndpoint, "kms-endpoint", "", "`URL` of KMS itself, for every region; default AWS's in the key's region")
	f.BoolVar(&i.allowInstanceMetadata, "allow-instance-metadata", false, "permit the credentials of the node's own role, which are not the pod's")
	o := &i.oidc
	f.StringVar(&o.issuer, "oidc-issuer", "", "`URL` of an OpenID Connect issuer whose client credentials give the web identity token")
	f.StringVar(&o.clientID, "oidc-client-id", "", "`ID` of the client")
	f.StringVar(&o.secretFile, "oidc-client-secret-file", "", "`FILE` with the client's secret, read again at each use")
	f.StringVar(&o.keyFile, "oidc-client-key-file", "", "`FILE` with the client's private key (JWK or PEM), for private_key_jwt")
	f.StringVar(&o.audience, "oidc-audience", "", "`AUDIENCE` to ask the token for; default sts.amazonaws.com")
	f.Var(&o.scopes, "oidc-scope", "`SCOPE` to ask for; repeatable")
	f.Var(&o.bearerHosts, "oidc-bearer", "`HOST` of an https store that is sent the token, too, as bearer; set --oidc-audience to what it expects; repeatable")
	f.StringVar(&o.ca, "oidc-ca", "", "`FILE` with PEM certificates of the issuer's authorities; beside those of --ca-bundle and the system's")
}

// credentials makes the one provider of a command, for S3 and KMS alike. Its sessions are narrowed to the command's
// models.
func (s *settings) credentials(ctx context.Context) (*identity.Provider, error) {
	s.once.Do(func() { s.provider, s.providerErr = s.newProvider(ctx) })
	return s.provider, s.providerErr
}

// identityOnce is the provider, made with its first use.
type identityOnce struct {
	once        sync.Once
	provider    *identity.Provider
	providerErr error
}

func (s *settings) newProvider(ctx context.Context) (*identity.Provider, error) {
	config, err := s.identityConfig()
	if err != nil {
		return nil, err
	}
	provider, explanation, err := identity.Credentials(ctx, config)
	if err != nil {
		return nil, err
	}
	s.log.Debug("credentials", "source", explanation)
	return provider, nil
}

func (s *settings) identityConfig() (c identity.Config, err error) {
	env, t := s.program.env, s.store
	i := t.identity
	c = identity.Config{
		Source: identity.Source(strings.TrimPrefix(i.source, "auto")),
		Region: orElse(i.stsRegion, t.region), STSEndpoint: i.stsEndpoint, UseFIPS: t.fips, UseDualStack: t.dualStack,
		RoleARN: i.webIdentityRole, WebIdentityTokenFile: i.webIdentityTokenFile, Duration: i.duration,
		SessionName: orElse(i.sessionName, s.sessionName()),
		Static: identity.Static{AccessKeyID: env["AWS_ACCESS_KEY_ID"], SecretAccessKey: env["AWS_SECRET_ACCESS_KEY"],
			SessionToken: env["AWS_SESSION_TOKEN"], From: env.keyFrom()},
		PodIdentity: identity.PodIdentity{URI: env["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
			TokenFile: env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"], Token: env["AWS_CONTAINER_AUTHORIZATION_TOKEN"]},
		Profile: env["AWS_PROFILE"], Anonymous: t.anonymous, AllowInstanceMetadata: i.allowInstanceMetadata,
		AppID: appID, Logger: s.log, OnAssumed: s.auditAssumed,
	}
	client, err := s.httpClient(nil)
	if err != nil {
		return c, err
	}
	c.HTTPClient = client
	if c.RoleChain, err = i.chain(); err != nil {
		return c, err
	}
	if c.SessionPolicy, err = s.sessionPolicy(); err != nil {
		return c, err
	}
	c.TokenProvider, err = s.oidcTokens()
	return c, err
}

// keyFrom names where the static key was found: storage-spec has been laid over the variables by now.
func (e environment) keyFrom() string {
	spec, err := identity.ParseStorageSpec(e["STORAGE_CONFIG"], e["STORAGE_OVERRIDE_CONFIG"])
	if err == nil && spec.AccessKeyID != nil {
		return "STORAGE_CONFIG"
	}
	return "AWS_ACCESS_KEY_ID"
}

// httpClient makes a client for services other than S3: certificates are always checked, and no redirect is followed.
func (s *settings) httpClient(moreCA []byte) (*http.Client, error) {
	ca, err := s.caBundle()
	if err != nil {
		return nil, err
	}
	if moreCA != nil {
		ca = append(append(ca, '\n'), moreCA...)
	}
	transport, err := fetch.NewTransport(fetch.HTTPConfig{CA: ca, ConnectTimeout: s.store.connectTimeout, Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return nil, err
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, CheckRedirect: noRedirect, Timeout: serviceTimeout}, nil
}

// serviceTimeout is for one request to STS, KMS or an issuer, whose answers are small.
const serviceTimeout = 20 * time.Second

// chain makes the hops after the first credentials.
func (i identitySettings) chain() ([]identity.Hop, error) {
	if n := len(i.externalIDs); n > 1 && n != len(i.roles) {
		return nil, fault.New(fault.Usage, "give one for all hops or one for each", "%d --external-id for %d --role-arn", n, len(i.roles))
	}
	tags := map[string]string{}
	for _, tag := range i.tags {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" {
			return nil, fault.New(fault.Usage, "the form is KEY=VALUE", "--session-tag %q has no key and value", tag)
		}
		tags[key] = value
	}
	hops := make([]identity.Hop, len(i.roles))
	for n, role := range i.roles {
		hops[n] = identity.Hop{RoleARN: role, SourceIdentity: i.sourceIdentity, Duration: i.duration}
		if n == 0 {
			hops[n].Tags, hops[n].TransitiveTags = tags, i.transitiveTags
		}
		if len(i.externalIDs) > 0 {
			hops[n].ExternalID = i.externalIDs[min(n, len(i.externalIDs)-1)]
		}
	}
	return hops, nil
}

// sessionPolicy narrows sessions to the models of this command.
func (s *settings) sessionPolicy() (p identity.SessionPolicy, err error) {
	switch choice := s.store.identity.sessionPolicy; choice {
	case "off":
		return p, nil
	case "auto":
		if s.program.env[contents["session-policy"]] == "" {
			p.JSON, err = s.generatedPolicy()
			return p, err
		}
		choice = ""
		fallthrough
	default:
		text, err := s.content("session-policy", strings.TrimPrefix(choice, "auto"), 16<<10)
		return identity.SessionPolicy{JSON: string(text), Required: true}, err
	}
}

func (s *settings) generatedPolicy() (string, error) {
	var models []policy.Model
	for _, m := range s.scope {
		allowed := policy.Model{Keys: s.reading.trustKeys, WrapKeys: m.wrapKeys(), Partition: s.store.identity.partition()}
		switch {
		case m.uri.Scheme == "s3":
			allowed.Bucket, allowed.Prefix, allowed.Write = m.uri.Host, m.uri.Path, m.write
			models = append(models, allowed)
		case s.trustsKMS() || len(allowed.WrapKeys) > 0: // the keys alone
			models = append(models, allowed)
		}
	}
	if len(models) == 0 {
		return "", nil
	}
	return policy.Session(models...)
}

// scoped is a model that the command is about to read or to publish.
type scoped struct {
	uri   fetch.URI
	write bool
	wraps list // --wrap
}

// wrapKeys are the KMS keys among the wraps.
func (m scoped) wrapKeys() (keys []string) {
	for _, wrap := range m.wraps {
		if key, ok := strings.CutPrefix(wrap, wrapKMSPrefix); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// partition is that of the role whose session is narrowed: aws, aws-cn, aws-us-gov.
func (i identitySettings) partition() string {
	role := i.webIdentityRole
	if len(i.roles) > 0 {
		role = i.roles[len(i.roles)-1]
	}
	parsed, _ := arn.Parse(role)
	return parsed.Partition
}

// oidcTokens makes the token provider of the issuer, or nil where none is set.
func (s *settings) oidcTokens() (identity.TokenProvider, error) {
	o := s.store.identity.oidc
	if o.issuer == "" {
		return nil, nil
	}
	c := identity.OIDCConfig{Issuer: o.issuer, ClientID: o.clientID, ClientSecretFile: o.secretFile,
		Audience: orElse(o.audience, "sts.amazonaws.com"), Scopes: o.scopes,
		Warn: func(err error) { s.log.Warn("the OIDC token could not be renewed yet", "cause", err.Error()) }}
	own, err := s.content("oidc-ca", o.ca, maxCABundle)
	if err != nil {
		return nil, err
	}
	if c.HTTPClient, err = s.httpClient(own); err != nil {
		return nil, err
	}
	if c.PrivateKey, err = s.content("oidc-client-key-file", o.keyFile, 64<<10); err != nil {
		return nil, err
	}
	if value := s.program.env[contents["oidc-client-secret-file"]]; value != "" && o.secretFile == "" {
		if c.ClientSecret, err = secret.Take([]byte(value)); err != nil {
			return nil, err
		}
	}
	tokens, err := identity.NewOIDC(c)
	if err != nil {
		return nil, err
	}
	return tokens, nil
}

// namespaceFile is where Kubernetes puts the pod's namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// sessionName names the pod to whoever reads the other account's audit log. The pod's name ends in a random suffix.
func (s *settings) sessionName() string {
	env := s.program.env
	namespace := env["POD_NAMESPACE"]
	if namespace == "" {
		if data, err := os.ReadFile(namespaceFile); err == nil {
			namespace = strings.TrimSpace(string(data))
		}
	}
	return identity.SessionName("sealfetch", namespace, orElse(env["POD_NAME"], env["HOSTNAME"]))
}

func (s *settings) auditAssumed(a identity.Assumed) {
	s.audit.IdentityAssumed(context.Background(), audit.IdentityAssumed{Hop: a.Hop, RoleARN: a.RoleARN,
		AssumedRoleID: a.AssumedRoleID, RequestID: a.RequestID})
}
