package testcloud

import (
	"net/http"
	"strings"
)

// Error is an AWS error as it goes over the wire.
type Error struct {
	Status  int    // HTTP status
	Code    string // such as "NoSuchKey"
	Message string
	Detail  map[string]string // further XML elements of S3's error body; may be nil
	Header  http.Header       // further headers; may be nil
}

func refuse(status int, code, message string) *Error {
	return &Error{Status: status, Code: code, Message: message}
}

// Error returns code and message.
func (e *Error) Error() string { return strings.TrimSpace(e.Code + ": " + e.Message) }

// What services other than S3 say of bad credentials.
const (
	badToken     = "The security token included in the request is invalid."
	expiredToken = "The security token included in the request is expired"
	badTime      = "Signature expired or not yet current"
)

// in words an error of authentication, which is S3's, as another service does.
func (e *Error) in(service string) *Error {
	query := service == "sts"
	choose := func(status int, queryCode, jsonCode, message string) *Error {
		if query {
			return refuse(status, queryCode, message)
		}
		return refuse(http.StatusBadRequest, jsonCode, message)
	}
	switch e.Code {
	case "AuthorizationHeaderMalformed":
		return choose(400, "IncompleteSignature", "IncompleteSignatureException", e.Message)
	case "InvalidAccessKeyId", "InvalidToken":
		return choose(403, "InvalidClientTokenId", "UnrecognizedClientException", badToken)
	case "ExpiredToken":
		return choose(403, "ExpiredToken", "ExpiredTokenException", expiredToken)
	case "SignatureDoesNotMatch":
		return choose(403, "SignatureDoesNotMatch", "InvalidSignatureException", e.Message)
	case "RequestTimeTooSkewed":
		return choose(403, "SignatureDoesNotMatch", "InvalidSignatureException", badTime)
	}
	return e
}
