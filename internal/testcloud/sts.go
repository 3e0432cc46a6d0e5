package testcloud

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

const (
	stsVersion = "2011-06-15"
	stsXML     = "https://sts.amazonaws.com/doc/2011-06-15/"
	maxSTSBody = 1 << 20
)

// stsService answers the Security Token Service ("AWS Security Token Service API reference") for all accounts, in every
// region.
type stsService struct {
	cloud  *Cloud
	url    string
	client *http.Client // to issuers
	log    requestLog
	faults faults
}

// stsCall is one request on its way through.
type stsCall struct {
	*Request
	sts    *stsService
	w      http.ResponseWriter
	r      *http.Request
	form   url.Values
	fault  Fault
	caller *Caller // nil for a web identity
}

// STSURL is the STS endpoint, scheme and address.
func (c *Cloud) STSURL() string { return c.sts.url }

// SetCredentialLifetime makes STS and Pod Identity issue credentials that last this long whatever was asked for, and
// say so. Zero ends it.
func (c *Cloud) SetCredentialLifetime(d time.Duration) { c.lifetime.Store(int64(d)) }

// ServeHTTP answers one request and logs it.
func (s *stsService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &stsCall{sts: s, w: w, r: r, Request: &Request{
		ID: s.cloud.requestID(), Time: s.cloud.Now(), Method: r.Method,
		UserAgent: r.UserAgent(), Header: r.Header.Clone(),
	}}
	s.log.begin()
	defer func() { s.log.add(*c.Request) }()
	err := c.readForm()
	if c.fault = s.faults.of(c.Request); !delay(r.Context(), c.fault.Latency) {
		panic(http.ErrAbortHandler)
	}
	var result any
	if err == nil {
		err = c.fault.Error
	}
	if err == nil {
		result, err = c.run()
	}
	if c.fault.LoseAnswer {
		reset(w)
	}
	c.answer(result, err)
}

func (c *stsCall) readForm() *Error {
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxSTSBody))
	if err != nil {
		return refuse(400, "IncompleteBody", err.Error())
	}
	c.r.Body = io.NopCloser(bytes.NewReader(body)) // for the signature
	c.BytesIn = int64(len(body))
	if c.form, err = url.ParseQuery(string(body)); err != nil || c.Method != http.MethodPost {
		return refuse(400, "MalformedInput", "a form is to be posted")
	}
	c.Op, c.Params = c.form.Get("Action"), maps.Clone(c.form)
	c.Params.Del("WebIdentityToken")
	if c.form.Get("Version") != stsVersion {
		return refuse(400, "InvalidAction", "Could not find operation "+c.Op+" for version")
	}
	return nil
}

func (c *stsCall) run() (any, *Error) {
	if c.Op == "AssumeRoleWithWebIdentity" {
		return c.assumeWithWebIdentity()
	}
	caller, _, err := c.sts.cloud.Authenticate(c.r, "sts")
	if err != nil {
		return nil, err
	}
	c.caller = caller
	c.AccessKeyID, c.Account, c.Principal = caller.AccessKeyID, caller.Account, caller.ARN
	switch c.Op {
	case "AssumeRole":
		return c.assumeRole()
	case "GetCallerIdentity":
		type GetCallerIdentityResult struct{ Arn, UserId, Account string }
		return GetCallerIdentityResult{caller.ARN, caller.UserID, caller.Account}, nil
	}
	return nil, refuse(400, "InvalidAction", "Could not find operation "+c.Op+" for version "+stsVersion)
}

// answer sends the result or the error in the query protocol's XML.
func (c *stsCall) answer(result any, failure *Error) {
	var body bytes.Buffer
	if failure != nil {
		c.Status, c.Code = failure.Status, failure.Code
		type description struct{ Type, Code, Message string }
		kind := "Sender"
		if failure.Status >= http.StatusInternalServerError {
			kind = "Receiver"
		}
		encode(&body, "ErrorResponse", description{kind, failure.Code, failure.Message}, "Error", c.ID)
	} else {
		c.Status = http.StatusOK
		encode(&body, c.Op+"Response", result, c.Op+"Result", c.ID)
	}
	c.w.Header().Set("X-Amzn-RequestId", c.ID)
	c.w.Header().Set("Content-Type", "text/xml")
	c.w.WriteHeader(c.Status)
	n, _ := c.w.Write(body.Bytes())
	c.BytesOut = int64(n)
}

// encode writes <outer><inner>v</inner>request id</outer>.
func encode(w io.Writer, outer string, v any, inner, id string) {
	e := xml.NewEncoder(w)
	start := xml.StartElement{
		Name: xml.Name{Local: outer}, Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: stsXML}},
	}
	metadata := any(id)
	name := "RequestId"
	if outer != "ErrorResponse" {
		name, metadata = "ResponseMetadata", struct{ RequestId string }{id}
	}
	for _, err := range []error{
		e.EncodeToken(start), e.EncodeElement(v, xml.StartElement{Name: xml.Name{Local: inner}}),
		e.EncodeElement(metadata, xml.StartElement{Name: xml.Name{Local: name}}), e.EncodeToken(start.End()), e.Flush(),
	} {
		if err != nil {
			panic(fmt.Sprintf("testcloud: encoding %T: %v", v, err))
		}
	}
}

// assumeRole is AssumeRole: the caller's policies and the role's trust policy both have a say.
func (c *stsCall) assumeRole() (any, *Error) {
	a, err := c.parameters("ExternalId", "SerialNumber", "TokenCode")
	if err != nil {
		return nil, err
	}
	role := c.sts.cloud.findRole(a.roleARN)
	if err := c.checkInherited(a); err != nil {
		return nil, err
	}
	a.inherit(c.caller)
	for _, action := range a.actions("sts:AssumeRole") {
		if err := c.authorize(action, a, role); err != nil {
			return nil, err
		}
	}
	if c.caller.session != nil && a.duration > time.Hour {
		return nil, validationError("The requested DurationSeconds exceeds the 1 hour session limit " +
			"for roles assumed by role chaining")
	}
	return c.session(a, role)
}

// checkInherited refuses what a chained session cannot change.
func (c *stsCall) checkInherited(a *assumption) *Error {
	inherited := c.caller.inherited()
	for key := range a.tags {
		if hasTag(inherited, key) {
			return validationError("One of the specified transitive tag keys can't be set because it conflicts " +
				"with a transitive tag key from the calling session.")
		}
	}
	if have := c.caller.SourceIdentity(); have != "" && a.sourceIdentity != "" && a.sourceIdentity != have {
		return c.denied("sts:SetSourceIdentity", a.roleARN, "")
	}
	return nil
}

func (c *stsCall) authorize(action string, a *assumption, role *Role) *Error {
	if role == nil {
		return c.denied(action, a.roleARN, "")
	}
	ctx := a.context()
	if id := c.form.Get("ExternalId"); id != "" {
		ctx.Set("sts:ExternalId", id)
	}
	d := c.caller.Evaluate(iam.Request{
		Action: action, Resource: role.ARN, Owner: role.Account.ID, Context: ctx,
	}, role.trustPolicy(), true)
	if d.Allowed {
		return nil
	}
	reason := d.Reason
	if strings.Contains(reason, "resource-based") {
		reason = "" // AWS does not tell what a trust policy lacks
	}
	return c.denied(action, role.ARN, reason)
}

func (c *stsCall) denied(action, resource, reason string) *Error {
	message := fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s", c.caller.ARN, action, resource)
	return refuse(403, "AccessDenied", strings.TrimSpace(message+" "+reason))
}
