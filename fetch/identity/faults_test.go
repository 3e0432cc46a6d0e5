package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// awsError is what the SDK makes of an answer.
func awsError(status int, code, message string, header ...string) error {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	resp := &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status, Header: h}},
		Err:      &smithy.GenericAPIError{Code: code, Message: message},
	}
	return &smithy.OperationError{ServiceID: "S", OperationName: "O", Err: &awshttp.ResponseError{ResponseError: resp,
		RequestID: "REQ1"}}
}

// TestErrorsToldApart is the table of what goes wrong, with the words AWS uses for it.
func TestErrorsToldApart(t *testing.T) {
	claims := &Claims{Issuer: "https://oidc.example/id/1", Subject: "system:serviceaccount:ml:loader",
		Audience: []string{"vault"},
		Expires:  time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	web := Op{Action: actionWebIdentity, Resource: loaderRole, Region: "eu-central-1", Claims: claims}
	hop := Op{Action: actionAssumeRole, Resource: ownerRole, From: "web identity, " + loaderRole}
	withID := hop
	withID.ExternalID = true
	get := Op{Action: "s3:GetObject", Resource: "s3://models/llama/envelope.json", Region: "eu-central-1"}
	owned := get
	owned.Owner = "222222222222"
	kms := Op{Action: "kms:Decrypt", Resource: "arn:aws:kms:eu-central-1:222222222222:key/k", Region: "eu-central-1"}
	const user = "User: arn:aws:sts::111111111111:assumed-role/loader/s is not authorized to perform: "
	for _, tt := range []struct {
		name          string
		op            Op
		err           error
		kind          fault.Kind
		cause, remedy string
	}{
		{"wrong audience", web, awsError(400, "InvalidIdentityToken", "Incorrect token audience"), fault.Identity,
			"wrong audience: the token is for vault", "sts.amazonaws.com"},
		{"expired token", web, awsError(400, "ExpiredTokenException",
			"Token expired: current date/time 1740387458 must be before the expiration date/time 1740319004"),
			fault.Identity, "the token expired at 2026-11-22T10:00:00Z", "renews it"},
		{"issuer not trusted", web, awsError(400, "InvalidIdentityToken",
			"No OpenIDConnect provider found in your account for https://oidc.example/id/1"),
			fault.Identity, "does not know the issuer https://oidc.example/id/1",
			"create an IAM OIDC provider for https://oidc.example/id/1"},
		{"issuer unreachable", web, awsError(400, "InvalidIdentityToken", "Couldn't retrieve verification key from "+
			"your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements"),
			fault.Identity, "could not fetch the keys", "openid-configuration"},
		{"issuer down", web, awsError(400, "IDPCommunicationError", "x"), fault.Transient, "could not reach the issuer",
			"outside the cluster"},
		{"issuer certificate", web, awsError(400, "InvalidIdentityToken",
			"OpenIDConnect provider's HTTPS certificate doesn't match configured thumbprint"),
			fault.Identity, "certificate of the issuer", "thumbprint list"},
		{"bad signature of token", web, awsError(400, "InvalidIdentityToken",
			"The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"),
			fault.Identity, "is not valid", "published keys"},
		{"rejected claim", web, awsError(403, "IDPRejectedClaim", "x"), fault.Identity, "rejects the token", "revoked"},
		{"trust policy refuses sub, or role missing", web, awsError(403, "AccessDenied",
			"Not authorized to perform sts:AssumeRoleWithWebIdentity"),
			fault.Identity, "trust policy refuses sub system:serviceaccount:ml:loader with aud vault",
			"trust policy of " + loaderRole},
		{"tags of web identity", web, awsError(403, "AccessDenied", "Not authorized to perform sts:TagSession"),
			fault.Identity, "session tags", "sts:TagSession"},
		{"region not active", web, awsError(403, "RegionDisabledException", "STS is not activated in this region"),
			fault.Identity,
			"not active in region eu-central-1", "--sts-region"},
		{"bad role", web, awsError(400, "ValidationError", "Request ARN is invalid"), fault.Identity, "invalid",
			"role's ARN"},
		{"too long", web, awsError(400, "ValidationError",
			"The requested DurationSeconds exceeds the MaxSessionDuration set for this role."),
			fault.Identity, "longer than the role allows", "MaxSessionDuration of " + loaderRole},
		{"session policy too large", web, awsError(400, "PackedPolicyTooLarge",
			"Packed policy consumes 118% of allotted space"), fault.Identity,
			"too large together", "--session-policy off"},
		{"malformed policy", web, awsError(400, "MalformedPolicyDocument", "x"), fault.Identity, "not a valid policy",
			"--session-policy"},

		{"hop refused", hop, awsError(403, "AccessDenied", user+"sts:AssumeRole on resource: "+ownerRole),
			fault.Identity,
			"hop refused: web identity, " + loaderRole + " is not trusted",
			"sends no external id; its trust policy may demand one"},
		{"hop refused with external id", withID, awsError(403, "AccessDenied",
			user+"sts:AssumeRole on resource: "+ownerRole), fault.Identity,
			"hop refused", "it must be the one in the trust policy"},
		{"hop not permitted", hop, awsError(403, "AccessDenied", user+"sts:AssumeRole on resource: "+ownerRole+" "+
			"because no identity-based policy allows the sts:AssumeRole action"),
			fault.Identity, "has no permission to assume", "allow sts:AssumeRole on " + ownerRole},
		{"hop may not tag", hop, awsError(403, "AccessDenied", user+"sts:TagSession on resource: "+ownerRole),
			fault.Identity, "session tags", "sts:TagSession"},
		{"hop may not name", hop, awsError(403, "AccessDenied", user+"sts:SetSourceIdentity on resource: "+ownerRole),
			fault.Identity, "source identity", "sts:SetSourceIdentity"},
		{"hop against session policy", hop, awsError(403, "AccessDenied",
			user+"sts:AssumeRole on resource: "+ownerRole+" because no session policy allows the sts:AssumeRole "+
				"action"),
			fault.Identity, "refused by the session policy", "widen"},
		{"hop against organization", hop, awsError(403, "AccessDenied",
			user+"sts:AssumeRole with an explicit deny in a service control policy"),
			fault.Identity, "service control policy", "sts:AssumeRole"},
		{"chained too long", hop, awsError(400, "ValidationError",
			"The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"),
			fault.Identity, "longer than the role allows", "shorter session"},
		{"clock slow", hop, awsError(403, "SignatureDoesNotMatch",
			"Signature expired: 20261122T100000Z is now earlier than 20261122T101500Z"), fault.Identity,
			"clock of this machine is slow", "chrony"},
		{"clock fast", hop, awsError(403, "SignatureDoesNotMatch",
			"Signature not yet current: 20261122T110000Z is still later than 20261122T101500Z"), fault.Identity,
			"clock of this machine is fast", "chrony"},
		{"deleted key", hop, awsError(403, "InvalidClientTokenId",
			"The security token included in the request is invalid"), fault.Identity,
			"does not know the access key", "deleted"},

		{"session policy too tight", get, awsError(403, "AccessDenied",
			user+`s3:GetObject on resource: "arn:aws:s3:::m/k" because no session policy allows the s3:GetObject action`),
			fault.Access, "session policy is too tight", "--session-policy"},
		{"bucket policy", get, awsError(403, "AccessDenied",
			user+"s3:GetObject because no resource-based policy allows the s3:GetObject action"), fault.Access,
			"bucket's policy does not let", "bucket policy"},
		{"role policy", get, awsError(403, "AccessDenied",
			user+"s3:GetObject because no identity-based policy allows the s3:GetObject action"), fault.Access,
			"role's own policy", "s3:GetObject on s3://models/llama/envelope.json"},
		{"denied", get, awsError(403, "AccessDenied", user+"s3:GetObject with an explicit deny in a resource-based "+
			"policy"), fault.Access, "a policy denies it", "Deny"},
		{"denied on key, not object", get, awsError(403, "AccessDenied", user+"kms:Decrypt on resource: "+
			"arn:aws:kms:eu-central-1:222222222222:key/k because no resource-based policy allows the kms:Decrypt "+
			"action"),
			fault.Access, "but not the key", "kms:Decrypt on the bucket's SSE-KMS key"},
		{"another owner", owned, awsError(403, "AccessDenied", "Access Denied"), fault.Access,
			"does not belong to account 222222222222", "--expected-bucket-owner"},
		{"access denied", get, awsError(403, "AccessDenied", "Access Denied"), fault.Access, "listing is not allowed",
			"SSE-KMS"},
		{"access denied to HEAD", get, awsError(403, "Forbidden", "Forbidden"), fault.Access, "listing is not allowed",
			"SSE-KMS"},
		{"wrong region", get, awsError(301, "PermanentRedirect", "x", "x-amz-bucket-region", "us-west-2"), fault.Access,
			"the bucket is in us-west-2, the client in eu-central-1", "--s3-region to us-west-2"},
		{"wrong region for HEAD", get, awsError(301, "MovedPermanently", "x", "x-amz-bucket-region", "us-west-2"),
			fault.Access, "us-west-2", "--s3-region"},
		{"no object", get, awsError(404, "NoSuchKey", "The specified key does not exist."), fault.Access,
			"no such object", "path"},
		{"no bucket", get, awsError(404, "NoSuchBucket", "x"), fault.Access, "no such bucket", "endpoint"},
		{"changed", get, awsError(412, "PreconditionFailed", "x"), fault.Access, "changed while it was read",
			"new prefix"},
		{"clock skew", get, awsError(403, "RequestTimeTooSkewed",
			"The difference between the request time and the current time is too large."),
			fault.Identity, "clock of this machine is wrong", "chrony"},
		{"expired session", get, awsError(400, "ExpiredToken", "The provided token has expired."), fault.Identity,
			"credentials have expired", "web identity"},
		{"wrong secret", get, awsError(403, "SignatureDoesNotMatch", "The request signature we calculated does not "+
			"match"), fault.Identity, "signature does not match", "secret access key"},
		{"throttled", get, awsError(503, "SlowDown", "Please reduce your request rate."), fault.Transient,
			"too many requests", "--connections"},
		{"in trouble", get, awsError(500, "InternalError", "x"), fault.Transient, "in trouble", "start again"},
		{"unknown", get, awsError(418, "Teapot", "x"), fault.Access, "refused (Teapot: x, request REQ1)",
			"S3 API reference"},

		{"key policy", kms, awsError(400, "AccessDeniedException",
			user+"kms:Decrypt on resource: x because no resource-based policy allows the kms:Decrypt action"),
			fault.Refused,
			"conditions are not met", "PCRs"},
		{"key against role", kms, awsError(400, "AccessDeniedException",
			user+"kms:Decrypt because no identity-based policy allows the kms:Decrypt action"), fault.Refused,
			"role's own policy", "kms:Decrypt on arn:aws:kms"},
		{"key against session policy", kms, awsError(400, "AccessDeniedException",
			user+"kms:Decrypt because no session policy allows the kms:Decrypt action"), fault.Refused,
			"too tight for the key", "--trust-key"},
		{"key denied", kms, awsError(400, "AccessDeniedException",
			"The ciphertext refers to a customer master key that does not exist"), fault.Refused, "no such key",
			"both must"},
		{"key disabled", kms, awsError(400, "DisabledException", "x"), fault.Refused, "disabled", "enable"},
		{"key absent", kms, awsError(400, "NotFoundException", "x"), fault.Refused,
			"no such key in region eu-central-1", "ARN"},
		{"wrong context", kms, awsError(400, "InvalidCiphertextException", ""), fault.KeyUnusable,
			"not made with this key, model and version", "rewrap"},
		{"KMS in trouble", kms, awsError(500, "KMSInternalException", ""), fault.Transient, "KMS is in trouble",
			"start again"},
		{"unknown of KMS", kms, awsError(400, "Odd", ""), fault.Refused, "refused", "KMS API"},
		{"unknown of STS", hop, awsError(400, "Odd", ""), fault.Identity, "refused", "STS API"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Diagnose(tt.err, tt.op)
			if got := fault.Of(err); got != tt.kind {
				t.Errorf("kind %d, want %d: %v", got, tt.kind, err)
			}
			if !strings.Contains(err.Error(), tt.cause) {
				t.Errorf("cause %q lacks %q", err, tt.cause)
			}
			if hint := fault.Hint(err); !strings.Contains(hint, tt.remedy) {
				t.Errorf("cure %q lacks %q", hint, tt.remedy)
			}
			for _, want := range []string{tt.op.Action, tt.op.Resource, "REQ1"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
			if text := err.Error() + fault.Hint(err); strings.ContainsAny(text, "{}\n") {
				t.Errorf("unfilled or broken text %q", text)
			}
			if !errors.Is(err, tt.err) {
				t.Error("the SDK's error is not in the chain")
			}
		})
	}
}

// TestEveryRuleHasCauseAndCure: a row nobody fills in would print an empty sentence.
func TestEveryRuleHasCauseAndCure(t *testing.T) {
	for _, r := range rules {
		if r.cause == "" || r.cure == "" || r.kind == fault.Internal || r.says != strings.ToLower(r.says) {
			t.Errorf("incomplete rule %+v", r)
		}
	}
}

func TestDiagnoseWithoutAnswer(t *testing.T) {
	classed := fault.New(fault.Usage, "", "x")
	if Diagnose(nil, Op{}) != nil || Diagnose(classed, Op{}) != classed || !errors.Is(Diagnose(context.Canceled, Op{}),
		context.Canceled) ||
		fault.Of(Diagnose(context.Canceled, Op{})) != fault.Internal {
		t.Error("nil, classed errors and cancellation are not left alone")
	}
	op := Op{Action: "sts:AssumeRole", Resource: ownerRole}
	wrapped := &smithy.OperationError{ServiceID: "S3", OperationName: "GetObject", Err: fmt.Errorf("get identity: %w",
		classed)}
	if got := Diagnose(wrapped, op); got != classed {
		t.Errorf("a step's own error keeps the SDK's wrappers: %v", got)
	}
	send := func(err error) error {
		return &smithy.OperationError{ServiceID: "STS", OperationName: "AssumeRole",
			Err: &smithyhttp.RequestSendError{Err: err}}
	}
	for _, tt := range []struct {
		err    error
		op     Op
		kind   fault.Kind
		remedy string
	}{
		{send(errors.New("dial tcp: connection refused")), op, fault.Transient, "NetworkPolicies"},
		{send(x509.UnknownAuthorityError{}), op, fault.Identity, "AWS_CA_BUNDLE"},
		{send(errors.New("i/o timeout")), Op{Action: "pod-identity:GetCredentials"}, fault.Transient, "169.254.170.23"},
		{errors.New("the SSO session has expired"), Op{Action: "aws-config:GetCredentials"}, fault.Identity,
			"aws sso login"},
		{context.DeadlineExceeded, op, fault.Transient, "NetworkPolicies"},
		{errors.New("resolve endpoint: endpoint rule error, A custom endpoint cannot be combined with FIPS"), op,
			fault.Usage, "exclude one another"},
	} {
		err := Diagnose(tt.err, tt.op)
		if fault.Of(err) != tt.kind || !strings.Contains(fault.Hint(err), tt.remedy) || !errors.Is(err, tt.err) {
			t.Errorf("%v: %v (%s)", tt.err, err, fault.Hint(err))
		}
		if strings.Contains(err.Error(), "operation error") {
			t.Errorf("%v repeats the SDK's wrappers", err)
		}
	}
}

// TestHostileMessage: what a server answers neither breaks lines nor fills the log.
func TestHostileMessage(t *testing.T) {
	message := "Access Denied\nlevel=ERROR forged\x1b[31m\xff" + strings.Repeat("x", 10000)
	err := Diagnose(awsError(403, "AccessDenied", message), Op{Action: "s3:GetObject", Resource: "s3://b/k"})
	if text := err.Error(); strings.ContainsAny(text, "\n\x1b") || !utf8.ValidString(text) || len(text) > 700 ||
		!strings.Contains(text, "Access Denied level=ERROR forged") {
		t.Errorf("message of %d bytes: %.300q", len(text), text)
	}
	claims := &Claims{Subject: "a\nb" + strings.Repeat("y", 10000)}
	err = Diagnose(awsError(403, "AccessDenied", "x"), Op{Action: actionWebIdentity, Resource: loaderRole,
		Claims: claims})
	if text := fmt.Sprint(err, fault.Hint(err)); strings.Contains(text, "\n") || len(text) > 2000 {
		t.Errorf("claims make a message of %d bytes", len(text))
	}
}

func TestExpired(t *testing.T) {
	head := awsError(400, "BadRequest", "")
	var resp *smithyhttp.ResponseError
	errors.As(head, &resp)
	resp.Response.Request = &http.Request{Method: http.MethodHead}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("ExpiredToken"), false},
		{awsError(400, "ExpiredToken", ""), true},
		{fmt.Errorf("part 3: %w", awsError(403, "ExpiredTokenException", "")), true},
		{Diagnose(awsError(400, "ExpiredToken", ""), Op{Action: "s3:GetObject"}), true},
		{awsError(400, "BadRequest", ""), false},
		{awsError(403, "AccessDenied", ""), false},
		{head, true},
	} {
		if got := Expired(tt.err); got != tt.want {
			t.Errorf("Expired(%v) = %v", tt.err, got)
		}
	}
}
