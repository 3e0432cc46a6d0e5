package testcloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const (
	podIdentityService = "pods.eks.amazonaws.com" // audience of the pod's token and principal of the trust policy
	podIdentityCluster = "test"
	podIdentitySession = 6 * time.Hour
)

// NewIssuer serves an OIDC issuer whose URL ends in path, which is empty or begins with a slash. It lives by the
// cloud's clock. No account trusts it yet: see Account.TrustIssuer.
func (c *Cloud) NewIssuer(path string) (*oidc.Issuer, error) {
	i := oidc.New(c.Now)
	url, err := c.Serve(i)
	if err != nil {
		return nil, err
	}
	i.SetURL(url + path)
	return i, nil
}

// PodIdentityAgent stands in for the EKS Pod Identity agent of a node and the EKS Auth service behind it.
// It is safe for concurrent use.
type PodIdentityAgent struct {
	cloud  *Cloud
	issuer *oidc.Issuer
	url    string

	mu    sync.Mutex
	roles map[string]*Role // by the subject of the token
}

// NewPodIdentityAgent serves an agent that takes the service-account tokens of one issuer.
func (c *Cloud) NewPodIdentityAgent(issuer *oidc.Issuer) (*PodIdentityAgent, error) {
	a := &PodIdentityAgent{cloud: c, issuer: issuer, roles: map[string]*Role{}}
	var err error
	a.url, err = c.Serve(a)
	return a, err
}

// URL is what AWS_CONTAINER_CREDENTIALS_FULL_URI has in a pod.
func (a *PodIdentityAgent) URL() string { return a.url + "/v1/credentials" }

// Associate gives a role to a service account. The role's trust policy must allow sts:AssumeRole and sts:TagSession to
// the service pods.eks.amazonaws.com.
func (a *PodIdentityAgent) Associate(namespace, serviceAccount string, role *Role) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roles["system:serviceaccount:"+namespace+":"+serviceAccount] = role
}

// ServeHTTP answers one request for credentials.
func (a *PodIdentityAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	keys, failure := a.credentials(r)
	if failure != nil {
		text := fmt.Sprintf("[%s]: (%s): %s, fault: client", a.cloud.requestID(), failure.Code, failure.Message)
		http.Error(w, text, failure.Status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(keys)
}

// agentCredentials is the agent's answer, which the SDKs' container credential providers read.
type agentCredentials struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	AccountID       string `json:"AccountId"`
	Expiration      string
}

func (a *PodIdentityAgent) credentials(r *http.Request) (*agentCredentials, *Error) {
	if r.Method != http.MethodGet || r.URL.Path != "/v1/credentials" {
		return nil, refuse(404, "NotFound", "no such path")
	}
	token, failure := a.verify(r)
	if failure != nil {
		return nil, failure
	}
	a.mu.Lock()
	role := a.roles[token.Subject]
	a.mu.Unlock()
	if role == nil {
		return nil, refuse(404, "ResourceNotFoundException", "no association found for this service account")
	}
	session := podSession(token)
	for _, action := range session.actions("sts:AssumeRole") {
		request := iam.Request{
			Principal: iam.Principal{Service: podIdentityService}, Action: action,
			Resource: role.ARN, Owner: role.Account.ID, Context: session.context(),
		}
		d := iam.Evaluate(request, iam.Policies{Resource: role.trustPolicy(), ResourceDecides: true})
		if a.cloud.report(request, d); !d.Allowed {
			return nil, refuse(403, "AccessDeniedException",
				"Unauthorized Exception! EKS does not have permissions to assume the associated role")
		}
	}
	keys, caller := a.cloud.assume(role, session)
	return &agentCredentials{
		AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey, Token: keys.SessionToken,
		AccountID: caller.Account, Expiration: keys.Expires.UTC().Format(time.RFC3339),
	}, nil
}

func (a *PodIdentityAgent) verify(r *http.Request) (*oidc.Verified, *Error) {
	ctx, cancel := context.WithTimeout(r.Context(), issuerTimeout)
	defer cancel()
	trusted := func(issuer string) bool { return issuer == a.issuer.URL() }
	token, err := oidc.Verify(ctx, a.cloud.sts.client, r.Header.Get("Authorization"), trusted, a.cloud.Now())
	switch {
	case errors.Is(err, oidc.ErrExpired):
		return nil, refuse(400, "ExpiredTokenException", "Token expired")
	case err != nil || !token.Audience.Contains(podIdentityService):
		return nil, refuse(400, "InvalidTokenException", "The token included in the request is invalid")
	}
	return token, nil
}

// podSession is the session that EKS makes: named after cluster and pod, with tags that pass on to further roles.
func podSession(token *oidc.Verified) *assumption {
	a := &assumption{duration: podIdentitySession, tags: map[string]string{"eks-cluster-name": podIdentityCluster}}
	if fields := strings.Split(token.Subject, ":"); len(fields) == 4 {
		a.tags["kubernetes-namespace"], a.tags["kubernetes-service-account"] = fields[2], fields[3]
	}
	pod := "pod"
	if k8s, ok := token.All["kubernetes.io"].(map[string]any); ok {
		if p, ok := k8s["pod"].(map[string]any); ok {
			pod, _ = p["name"].(string)
			a.tags["kubernetes-pod-name"] = pod
		}
	}
	for key := range a.tags {
		a.transitive = append(a.transitive, key)
	}
	name := "eks-" + podIdentityCluster + "-" + pod + "-" + randomID(36)
	a.name = name[:min(len(name), 64)]
	return a
}
