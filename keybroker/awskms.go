package keybroker

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/sealfetch/sealfetch/attest"
	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/secret"
	"github.com/sealfetch/sealfetch/keybroker/cms"
)

const (
	// recipientBits is the size of the ephemeral key that KMS encrypts to.
	recipientBits = 3072

	maxBlob     = 6144 // bytes of a ciphertext of KMS, its own limit
	kmsAttempts = 5    // of one request, with the SDK's backoff between them: some 20 s in all
)

// The encryption context of a wrap. KMS authenticates it, writes it to CloudTrail in clear, and key policies may depend
// on it; it keeps a wrap from being passed off as that of another model or version under the same key.
const (
	contextModel   = "sealfetch:model"
	contextVersion = "sealfetch:version"
)

func encryptionContext(model string, version uint64) map[string]string {
	return map[string]string{contextModel: model, contextVersion: strconv.FormatUint(version, 10)}
}

// KMSConfig is how KMS is reached. One configuration serves keys of all regions and accounts.
type KMSConfig struct {
	Credentials  aws.CredentialsProvider // required
	HTTPClient   kms.HTTPClient          // nil: the SDK's own
	Endpoint     string                  // URL for every region; empty: AWS's for the key's region
	UseFIPS      bool
	UseDualStack bool
	AppID        string      // goes into the user agent
	Retryer      aws.Retryer // nil: five attempts of an operation
}

func (c KMSConfig) client() (*kms.Client, error) {
	if c.Credentials == nil {
		return nil, fault.New(fault.Identity, "configure credentials for KMS", "no credentials for KMS")
	}
	options := kms.Options{
		Credentials: c.Credentials, HTTPClient: c.HTTPClient, AppID: c.AppID, Retryer: c.Retryer,
		Region: "us-east-1", // a placeholder: every call names the region of its key
	}
	if c.Endpoint != "" {
		options.BaseEndpoint = aws.String(c.Endpoint)
	}
	if c.UseFIPS {
		options.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
	}
	if c.UseDualStack {
		options.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateEnabled
	}
	if options.Retryer == nil {
		options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = kmsAttempts })
	}
	return kms.New(options), nil
}

// in has a call go to the region of its key.
func (k keyARN) in(o *kms.Options) { o.Region = k.region }

// EvidencePolicy says what a KMS broker sends beside its credentials. The zero value decides nothing and is refused.
type EvidencePolicy struct {
	attester attest.Attester
	decided  bool
}

// RequireEvidence has every release carry evidence, so that KMS answers to the machine's own key and to nobody else.
// The attester must make Nitro attestation documents.
func RequireEvidence(a attest.Attester) EvidencePolicy { return EvidencePolicy{a, a != nil} }

// WithoutEvidenceUnsafe has releases rest on credentials alone: whoever holds them gets the key, on any machine, and
// AWS sends it in the clear inside TLS.
func WithoutEvidenceUnsafe() EvidencePolicy { return EvidencePolicy{nil, true} }

// KMS is the Broker of all keys that AWS KMS holds. The owner's account may be another than the caller's.
type KMS struct {
	client   *kms.Client
	evidence EvidencePolicy
	newKey   func() (*rsa.PrivateKey, error) // for one reply
}

// NewKMS makes a broker. It sends nothing.
func NewKMS(c KMSConfig, evidence EvidencePolicy) (*KMS, error) {
	if !evidence.decided {
		return nil, fault.New(fault.Usage, "name an attester, or none in so many words",
			"it is not decided whether keys of KMS need evidence")
	}
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	return &KMS{client, evidence, newRecipientKey}, nil
}

func newRecipientKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, recipientBits) }

// Holds reports whether the wrap is one of KMS.
func (k *KMS) Holds(w Wrap) bool { return w.Type == TypeKMS }

// Release asks KMS to decrypt the wrap: always under the key that the wrap names, with the encryption context of model
// and version, and to an ephemeral key in fresh evidence unless the policy is without. The reply is held to all of
// that.
func (k *KMS) Release(ctx context.Context, r Request) (*Release, error) {
	key, err := parseKeyARN(r.Wrap.Key)
	if err != nil {
		return nil, err
	}
	input, err := decryptInput(key, r)
	if err != nil {
		return nil, err
	}
	to, err := k.recipient(ctx, input)
	if err != nil {
		return nil, err
	}
	reply, err := k.client.Decrypt(ctx, input, key.in)
	if err != nil {
		return nil, to.explain(err, "kms:Decrypt", key)
	}
	defer clear(reply.Plaintext)
	release := &Release{Assurance: AssuranceNone, Attester: "none"}
	release.RequestID, _ = middleware.GetRequestIDMetadata(reply.ResultMetadata)
	if err := key.answeredBy(aws.ToString(reply.KeyId)); err != nil {
		return nil, suspect(release.RequestID, key, "%w", err)
	}
	release.KeyID = *reply.KeyId
	if to != nil {
		release.Assurance, release.Attester, release.ModuleID = AssuranceMeasuredBoot, to.attester, to.document.ModuleID
	}
	release.MDK, err = to.open(reply, key, release.RequestID)
	if err != nil {
		return nil, err
	}
	return release, nil
}

func decryptInput(key keyARN, r Request) (*kms.DecryptInput, error) {
	blob, err := base64.RawURLEncoding.Strict().DecodeString(r.Wrap.Ciphertext)
	if err != nil || len(blob) == 0 || len(blob) > maxBlob {
		return nil, fault.New(fault.KeyUnusable, "rewrap the model", "the wrap of %s is no ciphertext of KMS", key)
	}
	return &kms.DecryptInput{
		CiphertextBlob: blob, KeyId: aws.String(key.String()), EncryptionContext: encryptionContext(r.Model, r.Version),
	}, nil
}

// recipient is whom a reply must be encrypted to: a key made for one call, vouched for by a document. The nil recipient
// is that of a call without evidence. Of the private key no copy is wiped, which crypto/rsa has no way to do; it opens
// this one reply and is dropped.
type recipient struct {
	key      *rsa.PrivateKey
	document *verify.Document // unverified: for messages and the audit record
	attester string
}

// recipient collects evidence for a fresh key and puts it into the request.
func (k *KMS) recipient(ctx context.Context, input *kms.DecryptInput) (*recipient, error) {
	attester := k.evidence.attester
	if attester == nil {
		return nil, nil
	}
	key, err := k.newKey()
	if err != nil {
		return nil, fmt.Errorf("making a key for the reply of KMS: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("making a key for the reply of KMS: %w", err)
	}
	evidence, err := attester.Collect(ctx, attest.Binding{PublicKey: spki})
	if err != nil {
		return nil, err
	}
	document, err := verify.Parse(evidence.Blob)
	if err != nil {
		return nil, fault.New(fault.Evidence, "choose an attester that KMS understands: nitrotpm or nsm",
			"evidence of %s is no attestation document of Nitro: %w", attester.Type(), err)
	}
	if !bytes.Equal(document.PublicKey, spki) { // KMS would encrypt to whomever an old document speaks for
		return nil, fault.New(fault.Evidence, "look for what answers in the place of the machine's own TPM",
			"evidence of %s does not carry the key that was made for this call: it is an older document, or another's",
			attester.Type())
	}
	input.Recipient = &types.RecipientInfo{
		AttestationDocument: evidence.Blob, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
	}
	return &recipient{key, document, attester.Type()}, nil
}

// open takes the key out of a reply. It refuses one that is not for the recipient: in the clear although a recipient
// was named, the key has passed through other hands, whoever sent it.
func (to *recipient) open(reply *kms.DecryptOutput, key keyARN, requestID string) (mdk *secret.Key, err error) {
	switch {
	case to == nil && len(reply.CiphertextForRecipient) != 0:
		return nil, suspect(requestID, key, "the reply is encrypted to a recipient although none was named")
	case to == nil:
		mdk, err = take(reply.Plaintext)
	case len(reply.Plaintext) != 0:
		return nil, suspect(requestID, key, "the reply has the key in the clear instead of encrypted to this machine")
	case len(reply.CiphertextForRecipient) == 0:
		return nil, suspect(requestID, key, "the reply has no key encrypted to this machine")
	default:
		mdk, err = cms.Open(reply.CiphertextForRecipient, to.key)
	}
	if err != nil {
		return nil, unusable(requestID, key, "%w", err)
	}
	if n := len(mdk.Bytes()); n != KeySize {
		mdk.Wipe()
		return nil, unusable(requestID, key, "the wrap holds %d bytes, not %d", n, KeySize)
	}
	return mdk, nil
}

// take is secret.Take for a reply that may hold nothing.
func take(plaintext []byte) (*secret.Key, error) {
	if len(plaintext) == 0 {
		return nil, fmt.Errorf("the reply has no key")
	}
	return secret.Take(plaintext)
}

// Preflight asks KMS whether a release would be allowed, evidence included, without having it. Where the request has no
// ciphertext, KMS judges key, identity, evidence and encryption context alone. Nil means yes.
func (k *KMS) Preflight(ctx context.Context, r Request) error {
	key, err := parseKeyARN(r.Wrap.Key)
	if err != nil {
		return err
	}
	input := &kms.DecryptInput{
		KeyId: aws.String(key.String()), EncryptionContext: encryptionContext(r.Model, r.Version),
		DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	}
	if r.Wrap.Ciphertext != "" {
		if input, err = decryptInput(key, r); err != nil {
			return err
		}
	}
	input.DryRun = aws.Bool(true)
	to, err := k.recipient(ctx, input)
	if err != nil {
		return err
	}
	reply, err := k.client.Decrypt(ctx, input, key.in)
	if err == nil {
		clear(reply.Plaintext)
		return suspect("", key, "a dry run was answered with a key")
	}
	if wouldSucceed(err) {
		return nil
	}
	return to.explain(err, "kms:Decrypt", key)
}

// KMSWrapper wraps keys under one key of KMS, for publishing. It needs no evidence.
type KMSWrapper struct {
	client *kms.Client
	key    keyARN
}

// NewKMSWrapper takes the ARN of a key or an alias, which goes into the wrap as it is given.
func NewKMSWrapper(c KMSConfig, key string) (*KMSWrapper, error) {
	parsed, err := parseKeyARN(key)
	if err != nil {
		return nil, err
	}
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	return &KMSWrapper{client, parsed}, nil
}

// Wrap implements Wrapper.
func (w *KMSWrapper) Wrap(ctx context.Context, mdk *secret.Key, model string, version uint64) (Wrap, error) {
	reply, err := w.client.Encrypt(ctx, &kms.EncryptInput{
		KeyId: aws.String(w.key.String()), Plaintext: mdk.Bytes(), EncryptionContext: encryptionContext(model, version),
	}, w.key.in)
	if err != nil {
		return Wrap{}, explainKMS(err, "kms:Encrypt", w.key)
	}
	requestID, _ := middleware.GetRequestIDMetadata(reply.ResultMetadata)
	if err := w.key.answeredBy(aws.ToString(reply.KeyId)); err != nil {
		return Wrap{}, suspect(requestID, w.key, "%w", err)
	}
	if n := len(reply.CiphertextBlob); n == 0 || n > maxBlob {
		return Wrap{}, unusable(requestID, w.key, "the reply has a ciphertext of %d bytes", n)
	}
	return Wrap{
		Type: TypeKMS, Key: w.key.String(), Ciphertext: base64.RawURLEncoding.EncodeToString(reply.CiphertextBlob),
	}, nil
}

// Preflight asks KMS whether Wrap would be allowed, without doing it. Nil means yes.
func (w *KMSWrapper) Preflight(ctx context.Context, model string, version uint64) error {
	_, err := w.client.Encrypt(ctx, &kms.EncryptInput{
		KeyId: aws.String(w.key.String()), Plaintext: make([]byte, KeySize),
		EncryptionContext: encryptionContext(model, version), DryRun: aws.Bool(true),
	}, w.key.in)
	switch {
	case err == nil:
		return suspect("", w.key, "a dry run was answered with a ciphertext")
	case wouldSucceed(err):
		return nil
	default:
		return explainKMS(err, "kms:Encrypt", w.key)
	}
}
