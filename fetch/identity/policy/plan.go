package policy

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// Request is what a Plan is made from.
type Request struct {
	Model Model

	// LoaderRole is the ARN of the role that the pod's web identity token is exchanged for, in the loader's account.
	LoaderRole string
	// OwnerRole is the ARN of the role in the owner's account; for the chain only.
	OwnerRole string
	// OwnerAccount owns bucket and keys, twelve digits. Empty: that of OwnerRole, or of the first key.
	OwnerAccount string

	Issuer   string // of the web identity token, as its iss says
	Subject  string // system:serviceaccount:NAMESPACE:NAME
	Audience string // empty: sts.amazonaws.com

	ExternalID     string // demanded of the hop; for the chain only
	SourceIdentity bool   // the hop sets one
	SessionTags    bool   // the hop passes tags

	// ModelName binds the keys to one model by the encryption context of its wraps; empty for any.
	ModelName string
	// PCRs that a NitroTPM has to show before a key is released, as hex of SHA-384, by number. Empty: any
	// machine with the role's credentials is given the key, and the plan warns of it.
	PCRs map[int]string
	// Publisher is the ARN of the role that seals models; empty: whom the owner's account lets.
	Publisher string
}

// Plan is everything that has to be set up for one way across accounts.
type Plan struct {
	Title    string
	Parts    []Part
	Warnings []string // why the plan is weaker than it could be
}

// Part is one document and where it goes.
type Part struct {
	Name    string // file name without its end: "bucket-policy"
	Account string // where it is set
	Where   string // what it is attached to, for people
	Document
}

// Direct has the bucket's and the key's own policies name the loader's role. No role of the owner is assumed.
func Direct(r Request) (*Plan, error) {
	if err := r.check(false); err != nil {
		return nil, err
	}
	loader, owner := account(r.LoaderRole), r.owner()
	bucket := document(r.Model.objectAccess()...)
	for i := range bucket.Statement {
		bucket.Statement[i].Principal = Principal{"AWS": r.LoaderRole}
	}
	p := &Plan{Title: "Direct grant: bucket and key policies name the loader's role", Warnings: r.warnings()}
	p.add("loader-trust-policy", loader, "trust policy of role "+r.LoaderRole, r.webIdentityTrust())
	p.add("loader-role-policy", loader, "inline policy of role "+r.LoaderRole, r.permissions())
	p.add("bucket-policy", owner, "policy of bucket "+r.Model.Bucket, bucket)
	p.addKeyPolicy(r, r.LoaderRole)
	return p, nil
}

// Chain has the loader's role assume a role of the owner, which alone may read. The bucket needs no policy of its own.
func Chain(r Request) (*Plan, error) {
	if err := r.check(true); err != nil {
		return nil, err
	}
	loader, owner := account(r.LoaderRole), r.owner()
	hop := document(allow("AssumeOwnerRole", r.hopActions(), []string{r.OwnerRole}, nil))
	p := &Plan{Title: "Role chain: the loader's role assumes a role of the owner", Warnings: r.warnings()}
	if r.ExternalID == "" {
		p.Warnings = append(p.Warnings, "no external id: whoever may use the loader's role may use the owner's; where "+
			"one loader role serves several tenants, set an external id for each")
	}
	p.add("loader-trust-policy", loader, "trust policy of role "+r.LoaderRole, r.webIdentityTrust())
	p.add("loader-role-policy", loader, "inline policy of role "+r.LoaderRole, hop)
	p.add("owner-trust-policy", owner, "trust policy of role "+r.OwnerRole, r.hopTrust())
	p.add("owner-role-policy", owner, "inline policy of role "+r.OwnerRole, r.permissions())
	p.addKeyPolicy(r, r.OwnerRole)
	return p, nil
}

// permissions are what the role needs that reads the model.
func (r Request) permissions() Document {
	keys := r.Model.keyAccess("UnwrapKey", nil)
	return document(append(r.Model.objectAccess(), keys...)...)
}

func document(statements ...Statement) Document {
	return Document{Version: version, Statement: statements}
}

func (p *Plan) add(name, account, where string, d Document) {
	p.Parts = append(p.Parts, Part{Name: name, Account: account, Where: where, Document: d})
}

// webIdentityTrust lets one service account in, and nobody else of the issuer.
func (r Request) webIdentityTrust() Document {
	provider := strings.TrimPrefix(r.Issuer, "https://")
	loader, _ := arn.Parse(r.LoaderRole)
	s := allow("OneServiceAccount", []string{"sts:AssumeRoleWithWebIdentity"}, nil, Condition{"StringEquals": {
		provider + ":aud": {r.audience()},
		provider + ":sub": {r.Subject},
	}})
	s.Principal = Principal{
		"Federated": fmt.Sprintf("arn:%s:iam::%s:oidc-provider/%s", loader.Partition, loader.AccountID, provider),
	}
	return document(s)
}

func (r Request) audience() string {
	if r.Audience == "" {
		return "sts.amazonaws.com"
	}
	return r.Audience
}

func (r Request) hopTrust() Document {
	s := allow("LoaderRole", r.hopActions(), nil, nil)
	s.Principal = Principal{"AWS": r.LoaderRole}
	if r.ExternalID == "" {
		return document(s)
	}
	// AWS documents the external id as a key of AssumeRole alone; the other actions get a statement without it.
	s.Action = []string{"sts:AssumeRole"}
	s.Condition = Condition{"StringEquals": {"sts:ExternalId": {r.ExternalID}}}
	if others := r.hopActions()[1:]; len(others) > 0 {
		rest := allow("LoaderRoleSession", others, nil, nil)
		rest.Principal = s.Principal
		return document(s, rest)
	}
	return document(s)
}

func (r Request) hopActions() []string {
	actions := []string{"sts:AssumeRole"}
	if r.SourceIdentity {
		actions = append(actions, "sts:SetSourceIdentity")
	}
	if r.SessionTags {
		actions = append(actions, "sts:TagSession")
	}
	return actions
}

// administration is what managing a key takes. It leaves out using it, and grants, which no condition on evidence
// reaches. Whoever may put a key policy may still write themselves a better one: that is the owner's trust to give.
var administration = []string{
	"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey",
	"kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListAliases", "kms:ListGrants",
	"kms:ListKeyPolicies", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion",
	"kms:TagResource", "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
}

// addKeyPolicy adds a complete key policy, because one statement that allows kms:* without a condition, as the
// console's default does, lets everything around the conditions of all others.
func (p *Plan) addKeyPolicy(r Request, reader string) {
	if len(r.Model.keyAccess("", nil)) == 0 {
		return
	}
	a, _ := arn.Parse(reader)
	root := Principal{"AWS": fmt.Sprintf("arn:%s:iam::%s:root", a.Partition, r.owner())}
	publisher := root
	if r.Publisher != "" {
		publisher = Principal{"AWS": r.Publisher}
	}
	statements := []Statement{
		allow("Administration", administration, []string{"*"}, nil),
		allow("Publish", []string{"kms:Encrypt"}, []string{"*"}, r.contextCondition()),
		allow("Release", []string{"kms:Decrypt"}, []string{"*"}, r.releaseCondition()),
	}
	for i, principal := range []Principal{root, publisher, {"AWS": reader}} {
		statements[i].Principal = principal
	}
	p.add("key-policy", r.owner(), "policy of each key: "+strings.Join(r.Model.Keys, ", "), document(statements...))
}

func (r Request) contextCondition() Condition {
	if r.ModelName == "" {
		return nil
	}
	return Condition{}.with("StringEquals", "kms:EncryptionContext:sealfetch:model", r.ModelName)
}

func (r Request) releaseCondition() Condition {
	c := r.contextCondition()
	for number, digest := range r.PCRs {
		c = c.with("StringEqualsIgnoreCase", "kms:RecipientAttestation:NitroTPMPCR"+strconv.Itoa(number),
			strings.ToLower(digest))
	}
	return c
}

// warnings name what the plan leaves open.
func (r Request) warnings() []string {
	var w []string
	has := func(pcr int) bool { _, ok := r.PCRs[pcr]; return ok }
	switch {
	case len(r.Model.keyAccess("", nil)) == 0:
		w = append(w, "no KMS key is named: the plan covers the bucket alone")
	case len(r.PCRs) == 0:
		w = append(w, "the key's Release statement has no attestation condition: any machine with the role's "+
			"credentials is given the key; bind it with PCR 7, or PCRs 4 and 12")
	case has(4) && !has(12):
		w = append(w, "PCR 4 without PCR 12 can be got around with a kernel command line from outside the image: bind "+
			"PCR 12 too")
	case !has(4) && !has(7):
		w = append(w, "none of the bound PCRs measures what boots: bind PCR 7, or PCRs 4 and 12")
	}
	if r.ModelName == "" && len(r.Model.Keys) > 0 {
		w = append(w, "the keys are not bound to one model: whoever may use them may open every model wrapped with "+
			"them")
	}
	for _, key := range r.Model.Keys {
		if strings.ContainsAny(key, "*?[") {
			w = append(w, "key pattern "+key+" lets in more than one key: name the key")
		}
	}
	return w
}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	subjectPattern = regexp.MustCompile(`^[^\s*?$]+$`)
)

// owner is the account of bucket and keys.
func (r Request) owner() string {
	if r.OwnerAccount != "" {
		return r.OwnerAccount
	}
	if r.OwnerRole != "" {
		return account(r.OwnerRole)
	}
	for _, key := range r.Model.Keys {
		if id := account(key); accountPattern.MatchString(id) {
			return id
		}
	}
	return ""
}

func account(s string) string {
	a, _ := arn.Parse(s)
	return a.AccountID
}

// check reports every fault of a request at once.
func (r Request) check(chain bool) error {
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if err := r.Model.Check(); err != nil {
		add("%v", err)
	}
	r.checkRoles(add, chain)
	u, err := url.Parse(r.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.HasSuffix(r.Issuer, "/") {
		add("the issuer %q is not an https URL without a slash at its end", r.Issuer)
	}
	if !subjectPattern.MatchString(r.Subject) {
		add("the subject %q is not one service account (system:serviceaccount:NAMESPACE:NAME)", r.Subject)
	}
	for number, digest := range r.PCRs {
		if raw, err := hex.DecodeString(digest); number < 0 || number > 23 || err != nil || len(raw) != 48 {
			add("PCR %d is not a number from 0 to 23 with a SHA-384 digest in hex", number)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	slices.Sort(faults)
	return fault.New(fault.Usage, "correct the flags of sealfetch policy", "policy: %s", strings.Join(faults, "; "))
}

func (r Request) checkRoles(add func(string, ...any), chain bool) {
	roles := map[string]string{"loader": r.LoaderRole}
	if chain {
		roles["owner"] = r.OwnerRole
	}
	if r.Publisher != "" {
		roles["publisher"] = r.Publisher
	}
	for whose, role := range roles {
		a, err := arn.Parse(role)
		if err != nil || a.Service != "iam" || !accountPattern.MatchString(a.AccountID) ||
			!strings.HasPrefix(a.Resource, "role/") || strings.ContainsAny(role, "*?$ ") {
			add("the %s role %q is not the ARN of one role", whose, role)
		}
	}
	if !accountPattern.MatchString(r.owner()) {
		add("the owner's account is not known: name its role, a key or its twelve digits")
	}
}

// WriteTo prints a plan for people to read and paste from: each document under a line that says where it goes.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", p.Title)
	for _, warning := range p.Warnings {
		fmt.Fprintf(&b, "# WARNING: %s\n", warning)
	}
	for i, part := range p.Parts {
		fmt.Fprintf(&b, "\n# %d. %s.json: account %s, %s\n%s", i+1, part.Name, part.Account, part.Where,
			part.Indented())
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}
