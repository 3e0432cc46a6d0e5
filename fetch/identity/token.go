package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// maxTokenSize is in bytes: what STS takes (AssumeRoleWithWebIdentity, WebIdentityToken).
const maxTokenSize = 20000

// TokenProvider hands out tokens of an identity provider. Implementations are safe for concurrent use.
type TokenProvider interface {
	// Token returns a token that has not expired; its errors are of kind fault.Identity or fault.Transient.
	Token(context.Context) (string, error)
	// Invalidate says that a service refused the last token: the next one is to be a new one.
	Invalidate()
}

// TokenFile is the token provider of a file that something else keeps current: the kubelet, for a projected token.
type TokenFile string

var _ TokenProvider = TokenFile("")

// Token reads the file anew and returns its content without surrounding space.
func (f TokenFile) Token(context.Context) (string, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return "", fault.New(fault.Identity, "mount a projected service account token there: on EKS annotate the "+
			"ServiceAccount with eks.amazonaws.com/role-arn and recreate the pod", "no web identity token: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxTokenSize+1))
	if err != nil {
		return "", fault.New(fault.Identity, "", "reading the web identity token: %w", err)
	}
	if len(b) > maxTokenSize {
		return "", fault.New(fault.Identity, tokenCure, "web identity token %s is larger than %d bytes", f,
			maxTokenSize)
	}
	return strings.TrimSpace(string(b)), nil
}

// Invalidate has nothing to do: every Token is read anew.
func (TokenFile) Invalidate() {}

const tokenCure = "the file must hold one JSON web token and nothing else (no log line, no second token)"

// Claims are what a web identity token says of itself. Its signature is not checked: they serve to explain what STS
// answers, and to decide nothing.
type Claims struct {
	Issuer   string
	Subject  string
	Audience []string
	Party    string    // azp; where it is set, AWS takes it for the audience
	Expires  time.Time // zero where the token does not say
}

// ParseClaims checks that a token has the shape of a signed JSON web token (RFC 7519, compact serialization) and
// returns its claims. Errors tell what is wrong without repeating any of the token.
func ParseClaims(token string) (Claims, error) {
	parts := strings.Split(token, ".")
	switch {
	case token == "":
		return Claims{}, errors.New("it is empty")
	case strings.ContainsAny(token, " \t\r\n"):
		return Claims{}, errors.New("there is white space inside it")
	case len(parts) != 3:
		return Claims{}, fmt.Errorf("it has %d parts between dots, not 3", len(parts))
	case parts[2] == "":
		return Claims{}, errors.New("it has no signature")
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	if err := decodePart(parts[0], &header); err != nil {
		return Claims{}, fmt.Errorf("its header: %w", err)
	}
	if header.Algorithm == "" || strings.EqualFold(header.Algorithm, "none") {
		return Claims{}, errors.New("its header names no signature algorithm")
	}
	var body claimsJSON
	if err := decodePart(parts[1], &body); err != nil {
		return Claims{}, fmt.Errorf("its claims: %w", err)
	}
	return body.claims(), nil
}

type claimsJSON struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Party    string   `json:"azp"`
	Expires  float64  `json:"exp"`
}

// maxDate is the last second of the year 9999: no later date can be printed.
const maxDate = 253402300799

func (c claimsJSON) claims() Claims {
	claims := Claims{Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, Party: c.Party}
	if c.Expires > 0 && c.Expires <= maxDate {
		claims.Expires = time.Unix(int64(c.Expires), 0)
	}
	return claims
}

// audience is a string or a list of them (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON takes both forms.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return errors.New("aud is neither a string nor a list of strings")
	}
	*a = many
	return nil
}

// decodePart never puts content of a token into its error.
func decodePart(part string, into any) error {
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return errors.New("not base64url")
	}
	if err := json.Unmarshal(b, into); err != nil {
		return errors.New("not the JSON object of a web token")
	}
	return nil
}
