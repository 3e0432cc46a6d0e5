package kms

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
	"github.com/sealfetch/sealfetch/internal/testcloud/sigv4"
)

const (
	maxPlaintext = 4096 // bytes
	keySpec      = "SYMMETRIC_DEFAULT"
)

// input has the fields of all operations. A field that is not listed is refused.
type input struct {
	KeyID               string `json:"KeyId"`
	Plaintext           []byte
	CiphertextBlob      []byte
	EncryptionContext   map[string]string
	EncryptionAlgorithm string
	KeySpec             string
	DryRun              bool
	DryRunModifiers     []string
	Recipient           *struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
}

// call is one request on its way.
type call struct {
	kms    *KMS
	record Record

	caller    *testcloud.Caller
	region    string
	in        input
	recipient *rsa.PublicKey // nil without one
	claims    *verify.Claims // of the recipient
	key       *Key
}

func (c *call) serve(r *http.Request) (Reply, *testcloud.Error) {
	op, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if !ok || r.Method != http.MethodPost || r.URL.Path != "/" {
		return nil, fail(http.StatusNotFound, "UnknownOperationException", "")
	}
	c.record.Op = op
	if failure := c.throttled(); failure != nil {
		return nil, failure
	}
	if failure := c.authenticate(r); failure != nil {
		return nil, failure
	}
	c.record.KeyID, c.record.DryRun = c.in.KeyID, c.in.DryRun
	c.record.EncryptionContext = maps.Clone(c.in.EncryptionContext)
	operations := map[string]func() (Reply, *testcloud.Error){
		"Encrypt": c.encrypt, "Decrypt": c.decrypt, "GenerateDataKey": c.generateDataKey, "DescribeKey": c.describeKey,
	}
	run, ok := operations[op]
	if !ok {
		return nil, fail(http.StatusBadRequest, "UnknownOperationException", "")
	}
	return run()
}

func (c *call) throttled() *testcloud.Error {
	c.kms.mu.Lock()
	defer c.kms.mu.Unlock()
	if c.kms.throttle == 0 {
		return nil
	}
	c.kms.throttle--
	return fail(http.StatusBadRequest, "ThrottlingException", "You have exceeded the rate at which you may call KMS.")
}

// authenticate checks the signature and reads the body.
func (c *call) authenticate(r *http.Request) *testcloud.Error {
	caller, body, failure := c.kms.cloud.Authenticate(r, "kms")
	if failure != nil {
		return failure
	}
	signature, err := sigv4.Parse(r)
	if err != nil || signature == nil {
		return fail(http.StatusBadRequest, "IncompleteSignatureException", "")
	}
	c.caller, c.region, c.record.Caller = caller, signature.Region, caller.ARN
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c.in); err != nil {
		return fail(http.StatusBadRequest, "SerializationException", err.Error())
	}
	return nil
}

func invalid(format string, args ...any) *testcloud.Error {
	return fail(http.StatusBadRequest, "ValidationException", fmt.Sprintf(format, args...))
}

// find resolves the key, or the alias, that the request names.
func (c *call) find(arn string) *testcloud.Error {
	if arn == "" {
		return invalid("KeyId is required")
	}
	c.kms.mu.Lock()
	defer c.kms.mu.Unlock()
	c.key = c.kms.keys[arn]
	if c.key != nil && c.key.region == c.region {
		return nil
	}
	if fields := strings.Split(arn, ":"); len(fields) == 6 && fields[4] == c.caller.Account {
		return fail(http.StatusBadRequest, "NotFoundException", fmt.Sprintf("Key '%s' does not exist", arn))
	}
	return c.denied("because the resource does not exist in this Region, no resource-based policies allow access, " +
		"or a resource-based policy explicitly denies access")
}

func (c *call) denied(reason string) *testcloud.Error {
	return fail(http.StatusBadRequest, "AccessDeniedException", fmt.Sprintf(
		"User: %s is not authorized to perform: kms:%s on this resource %s", c.caller.ARN, c.record.Op, reason))
}

// permit evaluates the key policy with the others.
func (c *call) permit() *testcloud.Error {
	c.kms.mu.Lock()
	policy := c.key.policy
	c.kms.mu.Unlock()
	d := c.caller.Evaluate(iam.Request{
		Action: "kms:" + c.record.Op, Resource: c.key.ARN, Owner: c.key.account, Context: c.context(),
	}, policy, true)
	if !d.Allowed {
		return c.denied(d.Reason)
	}
	return nil
}

func (key *Key) currentState() State {
	key.kms.mu.Lock()
	defer key.kms.mu.Unlock()
	return key.state
}

// usable looks at the key's state, and then whether this is only a dry run.
func (c *call) usable() *testcloud.Error {
	switch state := c.key.currentState(); {
	case state == Disabled:
		return fail(http.StatusBadRequest, "DisabledException", c.key.ARN+" is disabled.")
	case state == PendingDeletion:
		return fail(http.StatusBadRequest, "KMSInvalidStateException", c.key.ARN+" is pending deletion.")
	case c.in.DryRun:
		return fail(http.StatusPreconditionFailed, "DryRunOperationException",
			"The request would have succeeded, but the DryRun option is set.")
	default:
		return nil
	}
}

// context has the condition keys of KMS.
func (c *call) context() iam.Context {
	ctx := iam.Context{}
	for name, value := range c.in.EncryptionContext {
		ctx.Set("kms:EncryptionContext:"+name, value)
	}
	if len(c.in.EncryptionContext) > 0 {
		ctx.Set("kms:EncryptionContextKeys", slices.Sorted(maps.Keys(c.in.EncryptionContext))...)
	}
	if strings.Contains(c.in.KeyID, ":alias/") {
		ctx.Set("kms:RequestAlias", c.in.KeyID[strings.Index(c.in.KeyID, ":alias/")+1:])
	}
	if c.claims == nil {
		return ctx
	}
	prefix := "kms:RecipientAttestation:NitroTPMPCR"
	if c.claims.Source == verify.Enclave {
		prefix = "kms:RecipientAttestation:PCR"
		ctx.Set("kms:RecipientAttestation:ImageSha384", hex.EncodeToString(c.claims.PCRs[0]))
	}
	for index, value := range c.claims.PCRs {
		ctx.Set(fmt.Sprintf("%s%d", prefix, index), hex.EncodeToString(value))
	}
	return ctx
}

// readRecipient verifies the attestation document, whose public key the answer goes to.
func (c *call) readRecipient() *testcloud.Error {
	r := c.in.Recipient
	if r == nil {
		return nil
	}
	if r.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		return invalid("KeyEncryptionAlgorithm must be RSAES_OAEP_SHA_256")
	}
	if c.kms.verifier == nil {
		return invalid("this KMS knows no attestation root")
	}
	claims, err := c.kms.verifier.Verify(r.AttestationDocument, c.kms.cloud.Now())
	if err != nil {
		return invalid("The attestation document is invalid: %v", err)
	}
	public, err := x509.ParsePKIXPublicKey(claims.PublicKey)
	key, ok := public.(*rsa.PublicKey)
	if err != nil || !ok || key.N.BitLen() < 2048 || key.N.BitLen() > 4096 {
		return invalid("The attestation document has no RSA public key of 2048 to 4096 bits")
	}
	c.claims, c.recipient, c.record.ModuleID = claims, key, claims.ModuleID
	return nil
}

// give answers with a plaintext: in the clear, or to the recipient and in no other way.
func (c *call) give(reply Reply, plaintext []byte) (Reply, *testcloud.Error) {
	if c.recipient == nil {
		reply["Plaintext"] = plaintext
		return reply, nil
	}
	envelope, err := Envelope(c.recipient, plaintext)
	if err != nil {
		return nil, fail(http.StatusInternalServerError, "KMSInternalException", err.Error())
	}
	reply["CiphertextForRecipient"] = envelope
	return reply, nil
}

func (c *call) encrypt() (Reply, *testcloud.Error) {
	if n := len(c.in.Plaintext); n == 0 || n > maxPlaintext {
		return nil, invalid("Plaintext has %d bytes", n)
	}
	if failure := c.allowed(c.in.KeyID); failure != nil {
		return nil, failure
	}
	return Reply{
		"KeyId": c.key.ARN, "CiphertextBlob": c.key.seal(c.in.Plaintext, c.in.EncryptionContext),
		"EncryptionAlgorithm": keySpec,
	}, nil
}

// allowed finds the key and asks whether the request may use it.
func (c *call) allowed(arn string) *testcloud.Error {
	if failure := c.readRecipient(); failure != nil {
		return failure
	}
	if failure := c.find(arn); failure != nil {
		return failure
	}
	if failure := c.permit(); failure != nil {
		return failure
	}
	return c.usable()
}

func (c *call) decrypt() (Reply, *testcloud.Error) {
	ignore := c.in.DryRun && slices.Contains(c.in.DryRunModifiers, "IGNORE_CIPHERTEXT")
	if ignore {
		return nil, c.allowed(c.in.KeyID)
	}
	maker, ok := madeWith(c.in.CiphertextBlob)
	if !ok {
		return nil, fail(http.StatusBadRequest, "InvalidCiphertextException", "")
	}
	asked := c.in.KeyID
	if asked == "" {
		asked = maker
	}
	if failure := c.allowed(asked); failure != nil {
		return nil, failure
	}
	if c.key.ARN != maker {
		return nil, fail(http.StatusBadRequest, "IncorrectKeyException",
			"The key ID in the request does not identify a CMK that can perform this operation.")
	}
	plaintext, ok := c.key.open(c.in.CiphertextBlob, c.in.EncryptionContext)
	if !ok {
		return nil, fail(http.StatusBadRequest, "InvalidCiphertextException", "")
	}
	return c.give(Reply{"KeyId": c.key.ARN, "EncryptionAlgorithm": keySpec}, plaintext)
}

func (c *call) generateDataKey() (Reply, *testcloud.Error) {
	if c.in.KeySpec != "AES_256" {
		return nil, invalid("KeySpec must be AES_256")
	}
	if failure := c.allowed(c.in.KeyID); failure != nil {
		return nil, failure
	}
	plaintext := make([]byte, 32)
	rand.Read(plaintext)
	return c.give(Reply{
		"KeyId": c.key.ARN, "CiphertextBlob": c.key.seal(plaintext, c.in.EncryptionContext),
	}, plaintext)
}

func (c *call) describeKey() (Reply, *testcloud.Error) {
	if failure := c.find(c.in.KeyID); failure != nil {
		return nil, failure
	}
	if failure := c.permit(); failure != nil {
		return nil, failure
	}
	state := c.key.currentState() // describing works in every one
	return Reply{"KeyMetadata": map[string]any{
		"Arn": c.key.ARN, "KeyId": c.key.ARN[strings.LastIndexByte(c.key.ARN, '/')+1:], "AWSAccountId": c.key.account,
		"Enabled": state == Enabled, "KeyState": state, "KeySpec": keySpec, "KeyUsage": "ENCRYPT_DECRYPT",
		"KeyManager": "CUSTOMER", "MultiRegion": false,
	}}, nil
}
