package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Op is what was being done when a service answered with an error. Only Action is required.
type Op struct {
	Action   string // "s3:GetObject", "kms:Decrypt", "sts:AssumeRole"
	Resource string // the object's URI, the key's or the role's ARN
	Region   string // of the client
	Owner    string // the account that was expected to own the bucket; empty for any

	Claims     *Claims // of the web identity token that was sent; nil for none
	From       string  // the identity that asked for a role
	ExternalID bool    // an external id was sent
}

// Diagnose turns an error of an AWS service, or of the way to it, into one with a kind, a cause, the request's id and a
// cure. The end of the context and nil are returned as they are, and errors that carry a kind already without the SDK's
// wrappers. The SDK's error stays in the chain of a new one; what is printed is one line.
func Diagnose(err error, op Op) error {
	var f *fault.Error
	switch {
	case errors.As(err, &f) && wrappedBySDK(err):
		return f
	case err == nil, f != nil, errors.Is(err, context.Canceled):
		return err
	}
	a := answerOf(err)
	if a.code == "" {
		return unanswered(err, op)
	}
	r := a.rule(op)
	fill := op.replacer(a)
	said := &diagnosis{err: err, text: op.Action + on(op.Resource) + ": " + fill.Replace(r.cause) + " (" + a.String() +
		")"}
	return fault.New(r.kind, fill.Replace(r.cure), "%w", said)
}

func wrappedBySDK(err error) bool {
	var op *smithy.OperationError
	return errors.As(err, &op)
}

// classed reports whether an error carries a kind already.
func classed(err error) bool {
	var f *fault.Error
	return errors.As(err, &f)
}

// diagnosis prints a short text in place of the SDK's long one, which stays in the chain.
type diagnosis struct {
	text string
	err  error
}

func (d *diagnosis) Error() string { return d.text }
func (d *diagnosis) Unwrap() error { return d.err }

func on(resource string) string {
	if resource == "" {
		return ""
	}
	return " on " + resource
}

// answer is what a service said.
type answer struct {
	code      string
	message   string
	status    int
	requestID string
	region    string // where S3 says the bucket is
}

func answerOf(err error) answer {
	var a answer
	var api smithy.APIError
	if errors.As(err, &api) {
		a.code, a.message = api.ErrorCode(), oneLine(api.ErrorMessage())
	}
	var status interface{ HTTPStatusCode() int }
	if errors.As(err, &status) {
		a.status = status.HTTPStatusCode()
	}
	if a.code == "" && a.status != 0 {
		a.code = fmt.Sprintf("HTTP %d", a.status)
	}
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		a.region = resp.Response.Header.Get("x-amz-bucket-region")
	}
	var withID *awshttp.ResponseError
	if errors.As(err, &withID) {
		a.requestID = withID.ServiceRequestID()
	}
	return a
}

// String is what AWS support asks for.
func (a answer) String() string {
	words := a.code
	if a.message != "" && a.message != a.code {
		words += ": " + a.message
	}
	if a.requestID != "" {
		words += ", request " + a.requestID
	}
	return words
}

// maxMessage bounds, in bytes, what a service can put into logs and the termination message.
const maxMessage = 400

// oneLine keeps a server from forging log lines.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return strings.TrimSpace(s)
}

// replacer fills the placeholders of a rule.
func (op Op) replacer(a answer) *strings.Replacer {
	c := op.Claims
	if c == nil {
		c = &Claims{}
	}
	external := "sends no external id; its trust policy may demand one (--external-id)"
	if op.ExternalID {
		external = "sends an external id; it must be the one in the trust policy"
	}
	return strings.NewReplacer(
		"{role}", op.Resource, "{resource}", op.Resource, "{region}", or(op.Region, "the client's region"), "{owner}",
		op.Owner,
		"{bucket-region}", or(a.region, "another region"), "{right-region}", or(a.region, "the bucket's region"),
		"{from}", or(op.From, "the identity before"),
		"{external}", external,
		"{iss}", oneLine(or(c.Issuer, "no issuer")), "{sub}", oneLine(or(c.Subject, "no subject")),
		"{aud}", oneLine(c.audience()), "{exp}", expiry(c.Expires), "{action}", op.Action,
	)
}

// audience is what AWS compares with the trust policy.
func (c *Claims) audience() string {
	if c.Party != "" {
		return c.Party + " (its azp, which AWS takes for the audience)"
	}
	return or(strings.Join(c.Audience, ", "), "none")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func expiry(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// rule is a row of the table that tells errors apart. An empty condition holds for everything.
type rule struct {
	action string   // the action, or the service with its colon
	codes  []string // one of them is the error code
	says   string   // is in the message, whatever the case
	status int      // of the HTTP answer
	owner  bool     // an owner of the bucket was expected
	kind   fault.Kind
	cause  string
	cure   string
}

func (r rule) matches(op Op, a answer) bool {
	return (r.action == op.Action || strings.HasSuffix(r.action, ":") && strings.HasPrefix(op.Action, r.action) ||
		r.action == "") &&
		(r.codes == nil || slices.Contains(r.codes, a.code)) &&
		strings.Contains(strings.ToLower(a.message), r.says) &&
		(r.status == 0 || r.status == a.status) &&
		(!r.owner || op.Owner != "")
}

// rule is the first that matches; one always does.
func (a answer) rule(op Op) rule {
	for _, r := range rules {
		if r.matches(op, a) {
			return r
		}
	}
	return otherwise(op.Action, a.status)
}

// otherwise classes what the table does not know by whom the service blames.
func otherwise(action string, status int) rule {
	switch {
	case status >= http.StatusInternalServerError:
		return rule{kind: fault.Transient, cause: "the service is in trouble", cure: cureLater}
	case strings.HasPrefix(action, "s3:"):
		return rule{kind: fault.Access, cause: "refused", cure: "look the error code up in the S3 API reference"}
	case strings.HasPrefix(action, "kms:"):
		return rule{kind: fault.Refused, cause: "refused", cure: "look the error code up in the KMS API reference"}
	case strings.HasPrefix(action, "pod-identity:"):
		return rule{kind: fault.Identity, cause: "the agent refuses",
			cure: "check that the ServiceAccount has a pod identity association and that its role trusts " +
				"pods.eks.amazonaws.com, then recreate the pod"}
	default:
		return rule{kind: fault.Identity, cause: "refused", cure: "look the error code up in the STS API reference"}
	}
}

// unanswered classes an error without an answer: the network, TLS, or a source of credentials that is not AWS's API.
func unanswered(err error, op Op) error {
	short := &diagnosis{err: err, text: op.Action + on(op.Resource) + ": " + oneLine(innermost(err).Error())}
	switch {
	case untrusted(err):
		return fault.New(fault.Identity, "give the authority's certificate with AWS_CA_BUNDLE, or check what answers "+
			"at that address", "%w", short)
	case strings.Contains(short.text, "endpoint rule error"): // in no SDK type: FIPS with an endpoint of one's own
		return fault.New(fault.Usage, "drop one of the settings that exclude one another: endpoint, FIPS, dual-stack "+
			"and acceleration", "%w", short)
	case strings.HasPrefix(op.Action, "pod-identity:"):
		return fault.New(fault.Transient, "check that the EKS Pod Identity agent runs on the node, and that "+
			"NetworkPolicies let the pod reach 169.254.170.23 port 80", "%w", short)
	case strings.HasPrefix(op.Action, "aws-config:"):
		return fault.New(fault.Identity, "log in again (aws sso login), or check the profile", "%w", short)
	default:
		return fault.New(fault.Transient, "check DNS, NetworkPolicies, proxies and VPC endpoints between the pod and "+
			"the service's endpoint", "%w", short)
	}
}

// untrusted reports whether TLS failed for the server's certificate.
func untrusted(err error) bool {
	var authority x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	return errors.As(err, &authority) || errors.As(err, &verify)
}

// innermost strips the SDK's wrappers, which repeat the operation and the whole URL.
func innermost(err error) error {
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) {
		return send.Err
	}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
