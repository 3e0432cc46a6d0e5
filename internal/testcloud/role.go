package testcloud

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

// RoleSpec describes a role. Policies are JSON documents.
type RoleSpec struct {
	Name   string // may have a path, as in "team/loader"
	Trust  string // who may assume it
	Policy string // what it may do; empty means nothing
	// MaxSession is the longest session, 1 to 12 hours. Zero means 1 hour.
	MaxSession time.Duration
}

// Role is an IAM role. It is safe for concurrent use.
type Role struct {
	ARN        string
	Account    *Account
	ID         string // "AROA..."
	maxSession time.Duration

	mu       sync.Mutex
	trust    *iam.Policy
	policies []*iam.Policy
}

var roleName = regexp.MustCompile(`^([\x21-\x7e]+/)?[\w+=,.@-]{1,64}$`)

// NewRole makes a role, or replaces the one of that name.
func (a *Account) NewRole(spec RoleSpec) (*Role, error) {
	if spec.MaxSession == 0 {
		spec.MaxSession = time.Hour
	}
	if !roleName.MatchString(spec.Name) || spec.MaxSession < time.Hour || spec.MaxSession > 12*time.Hour {
		return nil, fmt.Errorf("role %q with sessions of %v", spec.Name, spec.MaxSession)
	}
	r := &Role{
		ARN: "arn:aws:iam::" + a.ID + ":role/" + spec.Name, Account: a, ID: "AROA" + randomID(17),
		maxSession: spec.MaxSession,
	}
	if err := r.SetTrust(spec.Trust); err != nil {
		return nil, err
	}
	if spec.Policy != "" {
		if err := r.SetPolicy(spec.Policy); err != nil {
			return nil, err
		}
	}
	a.cloud.mu.Lock()
	defer a.cloud.mu.Unlock()
	a.roles[spec.Name] = r
	return r, nil
}

// SetTrust replaces the trust policy.
func (r *Role) SetTrust(document string) error {
	trust, err := iam.Parse(iam.Trust, document)
	if err != nil {
		return fmt.Errorf("trust policy of %s: %w", r.ARN, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trust = trust
	return nil
}

// SetPolicy replaces what the role may do, for sessions that exist already too.
func (r *Role) SetPolicy(document string) error {
	policy, err := iam.Parse(iam.Identity, document)
	if err != nil {
		return fmt.Errorf("policy of %s: %w", r.ARN, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policies = []*iam.Policy{policy}
	return nil
}

func (r *Role) identityPolicies() []*iam.Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policies
}

func (r *Role) trustPolicy() *iam.Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trust
}

// name is the role's name without its path, as session ARNs have it.
func (r *Role) name() string { return r.ARN[strings.LastIndexByte(r.ARN, '/')+1:] }

// TrustIssuer registers an OIDC issuer as an identity provider of the account, for tokens with one of these audiences
// (client ids), and returns the provider's ARN. AWS demands https of an issuer; this cloud takes http too, as
// everything here is on loopback.
func (a *Account) TrustIssuer(issuerURL string, clientIDs ...string) string {
	a.cloud.mu.Lock()
	defer a.cloud.mu.Unlock()
	a.providers[issuerURL] = clientIDs
	return "arn:aws:iam::" + a.ID + ":oidc-provider/" + withoutScheme(issuerURL)
}

// withoutScheme is an issuer's name in ARNs and condition keys.
func withoutScheme(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	return rest
}

// clientIDs returns the audiences registered for an issuer, and whether it is registered.
func (a *Account) clientIDs(issuerURL string) ([]string, bool) {
	a.cloud.mu.Lock()
	defer a.cloud.mu.Unlock()
	ids, ok := a.providers[issuerURL]
	return ids, ok
}

// findRole returns the role of an ARN, or nil.
func (c *Cloud) findRole(arn string) *Role {
	fields := strings.SplitN(arn, ":", 6)
	if len(fields) != 6 || !strings.HasPrefix(fields[5], "role/") {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.accounts[fields[4]]; a != nil {
		if r := a.roles[strings.TrimPrefix(fields[5], "role/")]; r != nil && r.ARN == arn {
			return r
		}
	}
	return nil
}
