package testcloud

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud/iam"
	"github.com/sealfetch/sealfetch/internal/testcloud/sigv4"
)

// maxSkew is how far a request's time may be from the cloud's.
const maxSkew = 15 * time.Minute

// Account is an AWS account of the test cloud.
type Account struct {
	ID    string // twelve digits
	cloud *Cloud

	roles     map[string]*Role    // by name; the cloud's mutex guards both maps
	providers map[string][]string // client ids that an OIDC issuer's tokens may be for, by the issuer's URL
}

// Credentials sign requests. SessionToken and Expires are zero for an access key that lasts.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expires         time.Time
}

// credential is an access key as the cloud keeps it.
type credential struct {
	Credentials
	caller Caller
}

var accountID = regexp.MustCompile(`^[0-9]{12}$`)

// Account returns the account with this id of twelve digits, and creates it at first sight.
// Any other id is a mistake in the test and panics.
func (c *Cloud) Account(id string) *Account {
	if !accountID.MatchString(id) {
		panic("testcloud: an account id has twelve digits, not " + id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.accounts[id]
	if !ok {
		a = &Account{ID: id, cloud: c, roles: map[string]*Role{}, providers: map[string][]string{}}
		c.accounts[id] = a
	}
	return a
}

// NewAccessKey makes a key of the account's user "admin", who may do all that the account may.
func (a *Account) NewAccessKey() Credentials {
	return a.cloud.issue(Credentials{AccessKeyID: "AKIA" + randomID(16)}, a.admin())
}

// NewSession makes temporary credentials of the same user, as GetSessionToken does, that end a lifetime from now.
func (a *Account) NewSession(lifetime time.Duration) Credentials {
	return a.cloud.issue(a.cloud.temporary(lifetime), a.admin())
}

func (a *Account) admin() Caller {
	return Caller{
		Account: a.ID, ARN: "arn:aws:iam::" + a.ID + ":user/admin", UserID: "AIDA" + a.ID + "TEST",
		cloud: a.cloud, identity: []*iam.Policy{iam.FullAccess()},
	}
}

func (c *Cloud) temporary(lifetime time.Duration) Credentials {
	ends := c.Now().Add(lifetime).Truncate(time.Second) // what the client is told has no fractions
	return Credentials{AccessKeyID: "ASIA" + randomID(16), SessionToken: randomID(64), Expires: ends}
}

func (c *Cloud) issue(keys Credentials, caller Caller) Credentials {
	keys.SecretAccessKey = randomID(40)
	caller.AccessKeyID = keys.AccessKeyID
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[keys.AccessKeyID] = &credential{Credentials: keys, caller: caller}
	return keys
}

// Revoke forgets an access key: requests signed with it fail from now on.
func (c *Cloud) Revoke(accessKeyID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, accessKeyID)
}

// randomID returns n characters of the alphabet AWS uses in its ids.
func randomID(n int) string { return (rand.Text() + rand.Text() + rand.Text())[:n] }

// Authenticate verifies the SigV4 signature of a request to any service but S3 and returns its sender and its body,
// which it reads whole (at most 1 MiB) and returns even where the signature is refused. A request without a signature
// is refused. Errors carry the codes of the service: "sts" has those of the query protocol, any other those of JSON.
func (c *Cloud) Authenticate(r *http.Request, service string) (*Caller, []byte, *Error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, nil, refuse(400, "IncompleteBody", err.Error())
	}
	hash := sha256.Sum256(body)
	cred, _, failure := c.authenticate(r, service, hex.EncodeToString(hash[:]))
	switch {
	case failure != nil:
		return nil, body, failure.in(service)
	case cred == nil:
		return nil, body, refuse(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	return &cred.caller, body, nil
}

// authenticate returns a nil credential for an unsigned request.
func (c *Cloud) authenticate(r *http.Request, service, payloadHash string) (*credential, *sigv4.Signature, *Error) {
	sig, err := sigv4.Parse(r)
	switch {
	case err != nil:
		return nil, nil, refuse(400, "AuthorizationHeaderMalformed", err.Error())
	case sig == nil:
		return nil, nil, nil
	case sig.Service != service:
		return nil, nil, refuse(400, "AuthorizationHeaderMalformed",
			fmt.Sprintf("The authorization header is malformed; incorrect service %q", sig.Service))
	}
	c.mu.Lock()
	cred, ok := c.keys[sig.AccessKeyID]
	c.mu.Unlock()
	if !ok {
		return nil, nil, refuse(403, "InvalidAccessKeyId",
			"The AWS Access Key Id you provided does not exist in our records.")
	}
	now := c.Now()
	if skew := now.Sub(sig.Time); !sig.Presigned && (skew > maxSkew || skew < -maxSkew) {
		return nil, nil, refuse(403, "RequestTimeTooSkewed",
			"The difference between the request time and the current time is too large.")
	}
	if err := sig.Verify(r, payloadHash, cred.SecretAccessKey, now); err != nil {
		return nil, nil, signatureError(err)
	}
	return cred, sig, c.checkToken(cred, sig)
}

func signatureError(err error) *Error {
	if errors.Is(err, sigv4.ErrUnsignedHeader) || errors.Is(err, sigv4.ErrExpired) {
		return refuse(403, "AccessDenied", err.Error())
	}
	return refuse(403, "SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided. "+
			"Check your key and signing method.")
}

func (c *Cloud) checkToken(cred *credential, sig *sigv4.Signature) *Error {
	switch {
	case sig.SecurityToken != cred.SessionToken:
		return refuse(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
	case !cred.Expires.IsZero() && !c.Now().Before(cred.Expires):
		return refuse(400, "ExpiredToken", "The provided token has expired.")
	}
	return nil
}
