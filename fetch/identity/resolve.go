package identity

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
)

func resolve(context.Context, Config) (*Provider, string, error) {
	return &Provider{anonymous: true, inner: aws.AnonymousCredentials{}}, "", nil
}
