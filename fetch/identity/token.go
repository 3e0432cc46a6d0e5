package identity

import "context"

// TokenProvider hands out JSON web tokens. Implementations are safe for concurrent use.
type TokenProvider interface {
	// Token returns a token that has not expired; its errors are of kind fault.Identity or fault.Transient.
	Token(context.Context) (string, error)
	// Invalidate says that a service refused the last token: the next one is to be a new one.
	Invalidate()
}
