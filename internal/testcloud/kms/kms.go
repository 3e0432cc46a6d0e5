// Package kms is a stand-in for AWS KMS in the test cloud, strict enough that a wrong client fails.
//
// It verifies the signature of every request, keeps keys with states and policies in several accounts, authenticates
// the encryption context, and gives keys to an attested recipient only after it has verified the attestation document:
// its COSE signature, its chain to the configured root, its age. The PCRs of the document are condition keys of the key
// policy. Answers to recipients are CMS in BER of indefinite length, as the real ones are.
//
// Sources: AWS KMS API reference (JSON 1.1 protocol, target prefix TrentService) and developer guide, "Condition keys
// for attested platforms".
package kms

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealfetch/sealfetch/attest/verify"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
)

// maxDocumentAge is how old an attestation document may be.
const maxDocumentAge = 5 * time.Minute

// Options say what the stand-in is like. The zero value knows no root and so no recipient.
type Options struct {
	// Roots are the SHA-256 fingerprints of the roots of attestation documents.
	Roots [][32]byte
}

// Reply is what goes back for a request that succeeded, by the API's field names.
type Reply map[string]any

// Record is one request as CloudTrail would keep it.
type Record struct {
	Op                string
	Caller            string // ARN
	KeyID             string // as the request names it
	EncryptionContext map[string]string
	ModuleID          string // of the attestation document; empty without one
	DryRun            bool
	Error             string // code; empty for success
}

// KMS is a running stand-in. It is safe for concurrent use.
type KMS struct {
	cloud    *testcloud.Cloud
	verifier *verify.Verifier // nil without roots
	url      string

	mu       sync.Mutex
	keys     map[string]*Key // by ARN, of keys and aliases
	records  []Record
	throttle int
	onReply  func(op string, reply Reply)
	requests int
}

// New adds a KMS to a cloud. It serves all regions and accounts at one endpoint.
func New(cloud *testcloud.Cloud, opts Options) (*KMS, error) {
	k := &KMS{cloud: cloud, keys: map[string]*Key{}}
	var err error
	if len(opts.Roots) > 0 {
		if k.verifier, err = verify.New(maxDocumentAge, opts.Roots...); err != nil {
			return nil, err
		}
	}
	k.url, err = cloud.Serve(k)
	return k, err
}

// URL is the endpoint.
func (k *KMS) URL() string { return k.url }

// Throttle answers the next n requests with ThrottlingException.
func (k *KMS) Throttle(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.throttle = n
}

// OnReply lets a test spoil replies: hook may change, add and delete fields. Nil ends it.
func (k *KMS) OnReply(hook func(op string, reply Reply)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.onReply = hook
}

// Records lists the requests so far, the throttled ones too.
func (k *KMS) Records() []Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.records)
}

// State is what a key can be used for.
type State string

// The states that are told apart.
const (
	Enabled         State = "Enabled"
	Disabled        State = "Disabled"
	PendingDeletion State = "PendingDeletion"
)

// Key is a symmetric encryption key.
type Key struct {
	ARN string

	kms      *KMS
	account  string
	region   string
	material [32]byte
	state    State
	policy   *iam.Policy
}

// CreateKey makes a key in an account and region. Its policy is a JSON document.
func (k *KMS) CreateKey(account *testcloud.Account, region, policy string) (*Key, error) {
	parsed, err := iam.Parse(iam.Resource, policy)
	if err != nil {
		return nil, fmt.Errorf("key policy: %w", err)
	}
	id := strings.ToLower(rand.Text())
	key := &Key{
		ARN: fmt.Sprintf("arn:aws:kms:%s:%s:key/%s-%s", region, account.ID, id[:8], id[8:20]),
		kms: k, account: account.ID, region: region, state: Enabled, policy: parsed,
	}
	rand.Read(key.material[:])
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[key.ARN] = key
	return key, nil
}

// SetState changes what the key can be used for.
func (key *Key) SetState(s State) {
	key.kms.mu.Lock()
	defer key.kms.mu.Unlock()
	key.state = s
}

// SetPolicy replaces the key policy.
func (key *Key) SetPolicy(document string) error {
	parsed, err := iam.Parse(iam.Resource, document)
	if err != nil {
		return fmt.Errorf("key policy: %w", err)
	}
	key.kms.mu.Lock()
	defer key.kms.mu.Unlock()
	key.policy = parsed
	return nil
}

// Alias gives the key another name in its account and region, taken from another key if need be, and returns its ARN.
func (key *Key) Alias(name string) string {
	arn := fmt.Sprintf("arn:aws:kms:%s:%s:alias/%s", key.region, key.account, name)
	key.kms.mu.Lock()
	defer key.kms.mu.Unlock()
	key.kms.keys[arn] = key
	return arn
}

// fail makes an error of the JSON protocol.
func fail(status int, code, message string) *testcloud.Error {
	return &testcloud.Error{Status: status, Code: code, Message: message}
}

// ServeHTTP answers one request.
func (k *KMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.requests++
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", k.requests)
	k.mu.Unlock()
	c := &call{kms: k, record: Record{}}
	reply, failure := c.serve(r)
	if failure != nil {
		c.record.Error = failure.Code
	}
	k.mu.Lock()
	k.records = append(k.records, c.record)
	hook := k.onReply
	k.mu.Unlock()

	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", id)
	if failure != nil {
		w.WriteHeader(failure.Status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": failure.Code, "message": failure.Message})
		return
	}
	if hook != nil {
		hook(c.record.Op, reply)
	}
	_ = json.NewEncoder(w).Encode(reply)
}
