package identity

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Limits of STS (AssumeRole in the API reference).
const (
	maxPolicy     = 2048 // characters of an inline session policy
	maxTags       = 50
	maxTagKey     = 128
	maxTagValue   = 256
	maxSession    = 12 * time.Hour
	maxExternalID = 1224
)

var externalIDPattern = regexp.MustCompile(`^[\w+=,.@:/-]{2,}$`)

// check reports every fault of the configuration at once, so that nobody mends them one start at a time.
func (c *Config) check() error {
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if c.RoleARN != "" {
		checkRole(add, "the role of the web identity", c.RoleARN)
	}
	if c.SessionName != "" && !sessionNameOK(c.SessionName) {
		add("session name %q is not 2 to 64 characters of letters, digits and _+=,.@-", c.SessionName)
	}
	if c.Duration < 0 || c.Duration > maxSession {
		add("a session of %s is longer than the 12 hours that AWS grants", c.Duration)
	}
	for i, hop := range c.RoleChain {
		hop.check(func(format string, args ...any) { add("hop %d: "+format, append([]any{i + 1}, args...)...) })
	}
	if (c.Static.AccessKeyID == "") != (c.Static.SecretAccessKey == "") {
		add("of the static key, only one of access key id and secret access key is set (from %s)", c.Static.From)
	}
	c.SessionPolicy.check(add)
	c.PodIdentity.check(add)
	if len(faults) == 0 {
		return nil
	}
	return fault.New(fault.Usage, "correct the identity settings", "identity: %s", strings.Join(faults, "; "))
}

type addFault func(format string, args ...any)

func checkRole(add addFault, what, role string) {
	parsed, err := arn.Parse(role)
	if err != nil || parsed.Service != "iam" || !strings.HasPrefix(parsed.Resource, "role/") {
		add("%s, %q, is not the ARN of a role (arn:aws:iam::123456789012:role/NAME)", what, role)
	}
}

func (h Hop) check(add addFault) {
	checkRole(add, "the role", h.RoleARN)
	if h.ExternalID != "" && (len(h.ExternalID) > maxExternalID || !externalIDPattern.MatchString(h.ExternalID)) {
		add("the external id is not 2 to 1224 characters of letters, digits and _+=,.@:/-")
	}
	if h.SessionName != "" && !sessionNameOK(h.SessionName) {
		add("session name %q is not 2 to 64 characters of letters, digits and _+=,.@-", h.SessionName)
	}
	if h.SourceIdentity != "" && !sessionNameOK(h.SourceIdentity) {
		add("source identity %q is not 2 to 64 characters of letters, digits and _+=,.@-", h.SourceIdentity)
	}
	if h.Duration < 0 || h.Duration > maxSession {
		add("a session of %s is longer than the 12 hours that AWS grants", h.Duration)
	}
	h.checkTags(add)
}

func (h Hop) checkTags(add addFault) {
	if len(h.Tags) > maxTags {
		add("%d session tags, the limit is %d", len(h.Tags), maxTags)
	}
	for k, v := range h.Tags {
		if k == "" || len(k) > maxTagKey || len(v) > maxTagValue {
			add("session tag %q: the key takes 1 to %d characters, the value up to %d", k, maxTagKey, maxTagValue)
		}
	}
	for _, k := range h.TransitiveTags {
		if _, ok := h.Tags[k]; !ok {
			add("transitive tag %q is not among the session tags", k)
		}
	}
}

func (p SessionPolicy) check(add addFault) {
	switch {
	case p.JSON == "":
		if p.Required {
			add("the required session policy is empty")
		}
	case len(p.JSON) > maxPolicy && p.Required:
		add("the session policy has %d characters, AWS takes %d", len(p.JSON), maxPolicy)
	case !json.Valid([]byte(p.JSON)):
		add("the session policy is not JSON")
	}
}

// agents are the addresses where http is as good as https: they do not leave the node (ECS, EKS Pod Identity).
var agents = []netip.Addr{
	netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"), netip.MustParseAddr("fd00:ec2::23"),
}

func (p PodIdentity) check(add addFault) {
	if p.URI == "" {
		return
	}
	u, err := url.Parse(p.URI)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		add("the container credentials URI is not a URL")
		return
	}
	if u.Scheme == "http" && !local(u.Hostname()) {
		add("container credentials over http from %s: only loopback and the node's own agents may be asked without TLS",
			u.Hostname())
	}
}

// local reports whether a host is loopback or an agent of the node.
func local(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && slices.Contains(agents, addr) || loopback(host)
}

// loopback does not resolve names: what they resolve to at the next request may be something else.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}
