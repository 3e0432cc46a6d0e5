package identity

// SessionPolicy is the inline policy that narrows a session to less than its role.
type SessionPolicy struct {
	// JSON is the policy; empty for none. At most 2,048 characters.
	JSON string
	// Required turns the fallback off: a policy that AWS finds too large is then an error, not a warning.
	Required bool
}
