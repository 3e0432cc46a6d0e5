package identity

import "github.com/sealfetch/sealfetch/internal/fault"

const (
	cureClock = "set the node's clock (chrony, systemd-timesyncd); AWS refuses requests more than 5 minutes off"
	cureLater = "start again; if it persists, look at the AWS Health Dashboard"
	cureSSE   = "allow {action} and kms:Decrypt on the bucket's SSE-KMS key, in the role's policy and, across " +
		"accounts, in the key policy too"
)

// Codes that several services use for the same thing.
var (
	denied = []string{"AccessDenied", "AccessDeniedException", "Forbidden", "AllAccessDisabled"}
	badKey = []string{"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidToken",
		"MissingAuthenticationToken"}
	badSign   = []string{"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"}
	throttled = []string{"Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "SlowDown",
		"TooManyRequestsException", "RequestThrottled", "LimitExceededException"}
	expired = []string{"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)

// rules tells the errors of AWS apart; the first row that matches counts. Messages are matched where AWS uses one code
// for several causes; all of them have been seen in the wild, and a row that no longer matches falls through to one
// that says less, never to one that says something else.
var rules = []rule{
	// What a trust policy has to allow beside the role itself.
	{action: "sts:", codes: denied, says: "sts:tagsession", kind: fault.Identity,
		cause: "this session may not pass session tags",
		cure: "allow sts:TagSession in the trust policy of {role}, and on a hop in the policy of the role before it " +
			"too"},
	{action: "sts:", codes: denied, says: "sts:setsourceidentity", kind: fault.Identity,
		cause: "this session may not set a source identity",
		cure: "allow sts:SetSourceIdentity in the trust policy of {role}, and on a hop in the policy of the role " +
			"before it too"},

	// Web identity: the token.
	{action: actionWebIdentity, says: "audience", codes: []string{"InvalidIdentityToken"}, kind: fault.Identity,
		cause: "wrong audience: the token is for {aud}",
		cure: "project the token with audience sts.amazonaws.com, or add its audience to the OIDC provider in the " +
			"role's account"},
	{action: actionWebIdentity, says: "no openidconnect provider", kind: fault.Identity,
		cause: "the role's account does not know the issuer {iss}",
		cure: "create an IAM OIDC provider for {iss} in the account of {role}, with the token's audience as client " +
			"id"},
	{action: actionWebIdentity, says: "verification key", kind: fault.Identity,
		cause: "AWS could not fetch the keys of the issuer {iss}, or the one that signed is not among them",
		cure: "make {iss}/.well-known/openid-configuration and its jwks_uri reachable from the internet over https, " +
			"or host both documents in a public bucket; they must list the keys that the issuer signs with now"},
	{action: actionWebIdentity, codes: []string{"IDPCommunicationError"}, kind: fault.Transient,
		cause: "AWS could not reach the issuer {iss}",
		cure:  "check that the issuer answers from outside the cluster, then start again"},
	{action: actionWebIdentity, says: "thumbprint", kind: fault.Identity,
		cause: "the certificate of the issuer {iss} is not the one pinned in the role's account",
		cure:  "update the thumbprint list of the IAM OIDC provider for {iss}"},
	{action: actionWebIdentity, codes: expired, kind: fault.Identity,
		cause: "the token expired at {exp}",
		cure: "check that something renews it (the kubelet does for projected tokens, not for Secrets) and that the " +
			"clock of the node is right"},
	{action: actionWebIdentity, codes: []string{"InvalidIdentityToken"}, kind: fault.Identity,
		cause: "the token is not valid: iss {iss}, sub {sub}, aud {aud}",
		cure: "check that audience and issuer are registered in the role's account, that the issuer's published keys " +
			"are those it signs with, and that the token is an ID or projected token"},
	{action: actionWebIdentity, codes: []string{"IDPRejectedClaim"}, kind: fault.Identity,
		cause: "the issuer {iss} rejects the token", cure: "check whether the token was revoked"},
	{action: actionWebIdentity, codes: denied, kind: fault.Identity,
		cause: "the trust policy refuses sub {sub} with aud {aud} from {iss}, or there is no such role",
		cure: "compare the Condition of the trust policy of {role} with sub and aud, its Federated principal with " +
			"the issuer, and the role's name with the annotation"},

	// The session, for web identity and hops alike.
	{action: "sts:", codes: []string{"PackedPolicyTooLarge", "PackedPolicyTooLargeException"}, kind: fault.Identity,
		cause: "the session policy and tags are too large together",
		cure:  "shorten the session policy or the session tags, or set --session-policy off"},
	{action: "sts:", codes: []string{"MalformedPolicyDocument", "MalformedPolicyDocumentException"},
		kind:  fault.Identity,
		cause: "the session policy is not a valid policy", cure: "correct the policy given with --session-policy"},
	{action: "sts:", codes: []string{"RegionDisabledException", "RegionDisabled"}, kind: fault.Identity,
		cause: "STS is not active in region {region} for the role's account",
		cure:  "activate STS in {region} in the account settings of IAM, or set --sts-region to an active one"},
	{action: "sts:", codes: []string{"ValidationError", "ValidationException"}, says: "durationseconds",
		kind:  fault.Identity,
		cause: "the session is asked to last longer than the role allows, or less than 15 minutes",
		cure:  "ask for a shorter session, or raise MaxSessionDuration of {role}"},
	{action: "sts:", codes: []string{"ValidationError", "ValidationException"}, kind: fault.Identity,
		cause: "STS takes a setting for invalid", cure: "check the role's ARN, the session name and the session tags"},

	// Hops.
	{action: actionAssumeRole, codes: denied, says: "no identity-based policy allows", kind: fault.Identity,
		cause: "hop refused: {from} has no permission to assume the role",
		cure:  "allow sts:AssumeRole on {role} in the policy of the role before it"},
	{action: actionAssumeRole, codes: denied, says: "no session policy allows", kind: fault.Identity,
		cause: "hop refused by the session policy of {from}",
		cure:  "widen the session policy, or set --session-policy off"},
	{action: actionAssumeRole, codes: denied, says: "service control policy", kind: fault.Identity,
		cause: "hop refused by a service control policy of the organization",
		cure:  "have the policy allow sts:AssumeRole on {role}"},
	{action: actionAssumeRole, codes: denied, kind: fault.Identity,
		cause: "hop refused: {from} is not trusted, or there is no such role",
		cure: "name the role before it as principal in the trust policy of {role} and allow it sts:AssumeRole there " +
			"and in its own policy; this hop {external}"},

	// Any signed request.
	{codes: []string{"RequestTimeTooSkewed", "RequestInTheFuture"}, kind: fault.Identity,
		cause: "the clock of this machine is wrong", cure: cureClock},
	{codes: badSign, says: "signature expired", kind: fault.Identity, cause: "the clock of this machine is slow",
		cure: cureClock},
	{codes: badSign, says: "signature not yet current", kind: fault.Identity,
		cause: "the clock of this machine is fast", cure: cureClock},
	{codes: badSign, kind: fault.Identity, cause: "the signature does not match",
		cure: "check the secret access key, and that no proxy rewrites requests"},
	{codes: expired, kind: fault.Identity, cause: "the credentials have expired",
		cure: "renew the static session, or use web identity, which is renewed by itself"},
	{codes: badKey, kind: fault.Identity, cause: "AWS does not know the access key",
		cure: "check whether the key was deleted, belongs to another partition, or lacks its session token"},
	{codes: []string{"OptInRequired", "NotSignedUp"}, kind: fault.Identity,
		cause: "the account has not enabled region {region}",
		cure:  "enable the region in the account, or use another"},
	{codes: throttled, kind: fault.Transient, cause: "too many requests",
		cure: "lower --connections, or start fewer pods at once"},

	// S3.
	{action: "s3:", codes: denied, says: "kms:", kind: fault.Access,
		cause: "the object may be read, but not the key that S3 encrypted it with", cure: cureSSE},
	{action: "s3:", codes: denied, says: "no session policy allows", kind: fault.Access,
		cause: "the session policy is too tight", cure: "widen the policy given with --session-policy, or set it to " +
			"auto or off"},
	{action: "s3:", codes: denied, says: "no resource-based policy allows", kind: fault.Access,
		cause: "the bucket's policy does not let this identity in",
		cure:  "allow {action} to the role in the bucket policy; across accounts both sides must allow it"},
	{action: "s3:", codes: denied, says: "no identity-based policy allows", kind: fault.Access,
		cause: "the role's own policy does not allow it", cure: "allow {action} on {resource} in the role's policy"},
	{action: "s3:", codes: denied, says: "explicit deny", kind: fault.Access,
		cause: "a policy denies it", cure: "find the Deny that the message names: bucket policy, role, organization " +
			"or VPC endpoint"},
	{action: "s3:", codes: denied, owner: true, kind: fault.Access,
		cause: "access denied, or the bucket does not belong to account {owner}",
		cure: "check --expected-bucket-owner, then that bucket policy and role allow {action}, and kms:Decrypt where " +
			"the bucket uses SSE-KMS"},
	{action: "s3:", codes: denied, kind: fault.Access,
		cause: "access denied, or there is no such object and listing is not allowed",
		cure:  "check that bucket policy and role allow {action}, and kms:Decrypt where the bucket uses SSE-KMS"},
	{action: "s3:", codes: []string{"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed",
		"MovedPermanently",
		"IllegalLocationConstraintException", "BucketRegionError"}, kind: fault.Access,
		cause: "wrong region: the bucket is in {bucket-region}, the client in {region}",
		cure:  "set --s3-region to {right-region}"},
	{action: "s3:", status: 301, kind: fault.Access,
		cause: "wrong region: the bucket is in {bucket-region}, the client in {region}",
		cure:  "set --s3-region to {right-region}"},
	{action: "s3:", codes: []string{"NoSuchKey", "NotFound", "NoSuchVersion"}, kind: fault.Access,
		cause: "there is no such object", cure: "check the URI's path and version"},
	{action: "s3:", codes: []string{"NoSuchBucket", "NoSuchAccessPoint"}, kind: fault.Access,
		cause: "there is no such bucket", cure: "check the URI's bucket and the endpoint"},
	{action: "s3:", codes: []string{"PreconditionFailed"}, kind: fault.Access,
		cause: "the object has changed while it was read",
		cure:  "start again; publish new versions under a new prefix"},
	{action: "s3:", codes: []string{"KMS.DisabledException", "KMS.KMSInvalidStateException", "KMS.NotFoundException"},
		kind: fault.Access, cause: "the key that S3 encrypted the object with cannot be used",
		cure: "enable that key, or restore it"},

	// KMS.
	{action: "kms:", codes: denied, says: "no session policy allows", kind: fault.Refused,
		cause: "the session policy is too tight for the key",
		cure:  "list the key with --trust-key, or set --session-policy off"},
	{action: "kms:", codes: denied, says: "no resource-based policy allows", kind: fault.Refused,
		cause: "the key policy does not let this identity in, or its conditions are not met",
		cure: "allow {action} to the role in the key policy of {resource}, and compare its conditions (PCRs, " +
			"encryption context) with what was sent: --attester none sends no PCRs"},
	{action: "kms:", codes: denied, says: "no identity-based policy allows", kind: fault.Refused,
		cause: "the role's own policy does not allow the key",
		cure:  "allow {action} on {resource} in the role's policy"},
	{action: "kms:", codes: denied, kind: fault.Refused,
		cause: "the key policy or the role does not allow it, or there is no such key",
		cure:  "allow {action} on {resource} in the key policy and the role's policy; across accounts both must"},
	{action: "kms:", codes: []string{"NotFoundException"}, kind: fault.Refused,
		cause: "there is no such key in region {region}", cure: "check the key's ARN and region"},
	{action: "kms:", codes: []string{"DisabledException", "KMSInvalidStateException"}, kind: fault.Refused,
		cause: "the key is disabled or being deleted", cure: "enable the key, or cancel its deletion"},
	{action: "kms:", codes: []string{"InvalidCiphertextException", "IncorrectKeyException", "InvalidKeyUsageException"},
		kind: fault.KeyUnusable, cause: "the wrapped key was not made with this key, model and version",
		cure: "run sealfetch rewrap with the key that the envelope names"},
	{action: "kms:", codes: []string{"DependencyTimeoutException", "KMSInternalException", "KeyUnavailableException"},
		kind: fault.Transient, cause: "KMS is in trouble", cure: cureLater},
}
