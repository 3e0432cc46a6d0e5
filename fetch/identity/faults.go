package identity

// Op is what was being done when a service answered with an error.
type Op struct {
	Action   string // "s3:GetObject", "kms:Decrypt", "sts:AssumeRole"
	Resource string // the object's URI, the key's or the role's ARN
	Region   string // of the client
	Owner    string // the account that was expected to own the bucket; empty for any
}

// Diagnose turns an error of an AWS service into one with a kind, a cause, the request's id and a cure. Errors that
// carry a kind already, and nil, are returned as they are.
func Diagnose(err error, op Op) error { return err }
