package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/audit"
)

// appID names the program in the user agent of every request to AWS.
const appID = "sealfetch"

// identitySettings are how AWS credentials are had. Keys come from the environment alone.
type identitySettings struct {
	webIdentityRole       string
	webIdentityTokenFile  string
	sessionName           string
	stsEndpoint           string
	allowInstanceMetadata bool
}

func (s *settings) identityFlags() {
	i, f := &s.store.identity, s.flags
	f.StringVar(&i.webIdentityRole, "web-identity-role-arn", "", "`ARN` of the role that the web identity token is exchanged for")
	f.StringVar(&i.webIdentityTokenFile, "web-identity-token-file", "", "`FILE` with the pod's projected service-account token")
	f.StringVar(&i.sessionName, "role-session-name", "", "`NAME` of the role session in audit logs")
	f.StringVar(&i.stsEndpoint, "sts-endpoint", "", "`URL` of STS itself; default AWS's in the region")
	f.BoolVar(&i.allowInstanceMetadata, "allow-instance-metadata", false, "permit the credentials of the node's own role, which are not the pod's")
}

// credentials finds the credentials for S3 as the AWS SDKs do, except that the node's instance metadata is not asked
// without --allow-instance-metadata.
func (s *settings) credentials(ctx context.Context, ca []byte) (aws.CredentialsProvider, error) {
	env, t := s.program.env, s.store
	i := t.identity
	provider, explanation, err := identity.Credentials(ctx, identity.Config{
		Region: t.region, STSEndpoint: i.stsEndpoint, UseFIPS: t.fips, UseDualStack: t.dualStack,
		RoleARN: i.webIdentityRole, WebIdentityTokenFile: i.webIdentityTokenFile, SessionName: i.sessionName,
		Static: identity.Static{AccessKeyID: env["AWS_ACCESS_KEY_ID"], SecretAccessKey: env["AWS_SECRET_ACCESS_KEY"],
			SessionToken: env["AWS_SESSION_TOKEN"], From: "AWS_ACCESS_KEY_ID"},
		PodIdentity: identity.PodIdentity{URI: env["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
			TokenFile: env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"], Token: env["AWS_CONTAINER_AUTHORIZATION_TOKEN"]},
		Profile: env["AWS_PROFILE"], Anonymous: t.anonymous, AllowInstanceMetadata: i.allowInstanceMetadata,
		CABundle: ca, AppID: appID, Logger: s.log, OnAssumed: s.auditAssumed,
	})
	if err != nil {
		return nil, err
	}
	s.log.Debug("credentials", "source", explanation)
	return provider, nil
}

func (s *settings) auditAssumed(a identity.Assumed) {
	s.audit.IdentityAssumed(context.Background(), audit.IdentityAssumed{Hop: a.Hop, RoleARN: a.RoleARN,
		AssumedRoleID: a.AssumedRoleID, RequestID: a.RequestID})
}
