package main

import (
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// policySettings are those of the policy generator. It sends no request.
type policySettings struct {
	way        string
	request    policy.Request
	subject    string
	account    string
	namespace  string
	pcrs, keys list
}

func setupPolicy(s *settings) runner {
	p, f := new(policySettings), s.flags
	r := &p.request
	f.StringVar(&p.way, "way", "both", "direct: bucket and key name the loader's role; chain: it assumes a role of the owner; or both")
	f.StringVar(&r.LoaderRole, "loader-role", "", "`ARN` of the role that the pod's web identity token is exchanged for")
	f.StringVar(&r.OwnerRole, "owner-role", "", "`ARN` of the role in the owner's account, for the chain")
	f.StringVar(&r.OwnerAccount, "owner-account", "", "`ID` of the account that owns bucket and keys; default that of the role or key")
	f.StringVar(&r.Issuer, "issuer", "", "`URL` of the cluster's OIDC issuer, as the token's iss says")
	f.StringVar(&p.namespace, "namespace", "default", "`NAMESPACE` of the predictor's ServiceAccount")
	f.StringVar(&p.account, "service-account", "default", "`NAME` of the predictor's ServiceAccount")
	f.StringVar(&p.subject, "subject", "", "`SUB` of the token; default system:serviceaccount:NAMESPACE:NAME")
	f.StringVar(&r.Audience, "audience", "", "`AUD` of the token; default sts.amazonaws.com")
	f.StringVar(&r.ExternalID, "external-id", "", "`ID` demanded of the chain's hop")
	f.BoolVar(&r.SourceIdentity, "source-identity-set", false, "the hop sets a source identity")
	f.BoolVar(&r.SessionTags, "session-tags-set", false, "the hop passes session tags")
	f.StringVar(&r.ModelName, "model", "", "`NAME` of the model, to bind the keys to it")
	f.StringVar(&r.Publisher, "publisher", "", "`ARN` of the role that seals models")
	f.Var(&p.keys, "key", "`ARN` of a KMS key or alias that wraps the model's key; repeatable")
	f.Var(&p.pcrs, "pcr", "`N=HEX`, a NitroTPM PCR (SHA-384) that a machine must show; repeatable")
	return func(_ context.Context, args []string, out io.Writer) error {
		uri, err := s.oneURI(args)
		if err != nil {
			return err
		}
		return p.print(uri, out)
	}
}

func (p *policySettings) print(uri fetch.URI, out io.Writer) error {
	if uri.Scheme != "s3" {
		return fault.New(fault.Usage, "give sealed+s3://bucket/prefix", "policies are for models in S3")
	}
	r := p.request
	r.Model = policy.Model{Bucket: uri.Host, Prefix: uri.Path, Keys: p.keys}
	r.Subject = orElse(p.subject, "system:serviceaccount:"+p.namespace+":"+p.account)
	var err error
	if r.PCRs, err = parsePCRs(p.pcrs); err != nil {
		return err
	}
	plans, ok := map[string][]func(policy.Request) (*policy.Plan, error){
		"direct": {policy.Direct}, "chain": {policy.Chain}, "both": {policy.Direct, policy.Chain}}[p.way]
	if !ok {
		return fault.New(fault.Usage, "direct, chain and both are known", "--way %q is unknown", p.way)
	}
	for _, make := range plans {
		plan, err := make(r)
		if err != nil {
			return err
		}
		if _, err := plan.WriteTo(out); err != nil {
			return err
		}
	}
	return nil
}

// parsePCRs reads N=HEX.
func parsePCRs(all []string) (map[int]string, error) {
	pcrs := map[int]string{}
	for _, pcr := range all {
		number, value, ok := strings.Cut(pcr, "=")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			return nil, fault.New(fault.Usage, "the form is N=HEX, as in 4=9f…", "--pcr %q is not a PCR", pcr)
		}
		pcrs[n] = strings.ToLower(value)
	}
	return pcrs, nil
}
