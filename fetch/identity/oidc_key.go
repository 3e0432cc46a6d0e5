package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sealfetch/sealfetch/internal/fault"
)

const assertionLife = time.Minute

// keyAuth is private_key_jwt (OpenID Connect Core 1.0, section 9; RFC 7523).
type keyAuth struct {
	id, issuer string
	signer     jose.Signer
	now        func() time.Time
}

func newKeyAuth(cfg OIDCConfig) (clientAuth, error) {
	key, err := parsePrivateKey(cfg.PrivateKey)
	if err == nil {
		var signer jose.Signer
		if signer, err = newSigner(key); err == nil {
			return keyAuth{id: cfg.ClientID, issuer: cfg.Issuer, signer: signer, now: cfg.Now}, nil
		}
	}
	return nil, fault.New(fault.Usage, "give a PKCS #8 PEM or JWK private key: RSA, P-256, P-384 or Ed25519",
		"OIDC client key: %w", err)
}

// assertion are the claims of RFC 7523, section 3. The audience is one string and the issuer's name, so that the
// assertion is of use to nobody else.
type assertion struct {
	Issuer   string           `json:"iss"`
	Subject  string           `json:"sub"`
	Audience string           `json:"aud"`
	ID       string           `json:"jti"`
	IssuedAt *jwt.NumericDate `json:"iat"`
	Expires  *jwt.NumericDate `json:"exp"`
}

func (k keyAuth) authenticate(_ metadata, form url.Values, _ http.Header) error {
	now := k.now()
	signed, err := jwt.Signed(k.signer).Claims(assertion{
		Issuer: k.id, Subject: k.id, Audience: k.issuer, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), Expires: jwt.NewNumericDate(now.Add(assertionLife)),
	}).Serialize()
	if err != nil {
		return fault.New(fault.Internal, "", "signing the OIDC client assertion: %w", err)
	}
	form.Set("client_id", k.id)
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", signed)
	return nil
}

// parsePrivateKey never repeats any of the key in its error.
func parsePrivateKey(b []byte) (jose.JSONWebKey, error) {
	if block, _ := pem.Decode(b); block != nil {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return jose.JSONWebKey{}, errors.New("the PEM block is not a PKCS #8 key")
		}
		return jose.JSONWebKey{Key: key}, nil
	}
	var key jose.JSONWebKey
	if json.Unmarshal(b, &key) != nil || key.IsPublic() || !key.Valid() {
		return jose.JSONWebKey{}, errors.New("neither PEM nor a private JWK")
	}
	return key, nil
}

// newSigner signs with the key's id only where the key comes with one: an issuer refuses an id that it does not know,
// and finds the key of a client by itself without one.
func newSigner(key jose.JSONWebKey) (jose.Signer, error) {
	var alg jose.SignatureAlgorithm
	switch k := key.Key.(type) {
	case *rsa.PrivateKey:
		alg = jose.RS256
	case *ecdsa.PrivateKey:
		switch k.Curve.Params().BitSize {
		case 256:
			alg = jose.ES256
		case 384:
			alg = jose.ES384
		}
	case ed25519.PrivateKey:
		alg = jose.EdDSA
	}
	if alg == "" {
		return nil, errors.New("a kind of key that issuers do not take")
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
}
