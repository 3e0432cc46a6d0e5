package fetch

import (
	"context"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	smithymw "github.com/aws/smithy-go/middleware"

	"github.com/sealfetch/sealfetch/fetch/identity"
)

// Opener makes sources and stores with one configuration and one pool of connections.
type Opener struct {
	S3        func(ctx context.Context, u URI) (S3Config, error) // asked once for each S3 URI, nil where none is used
	Transport *http.Transport
	Bearer    identity.TokenProvider // tokens for https stores (RFC 6750); nil = requests carry none
	// BearerHosts are the hosts, with their port where a URI has one, that get the token. Whoever may write a URI must
	// not be able to have it sent to a host of theirs.
	BearerHosts []string
}

// Source opens the place of a model for reading. No request is sent for S3 and https.
func (o Opener) Source(ctx context.Context, u URI) (Source, error) {
	switch u.Scheme {
	case "s3":
		config, err := o.S3(ctx, u)
		if err != nil {
			return nil, err
		}
		return openS3(u, config, o.Transport), nil
	case "https":
		if !slices.Contains(o.BearerHosts, u.Host) {
			o.Bearer = nil
		}
		return openHTTP(u, o.Transport, o.Bearer), nil
	default:
		source, err := openFiles(u)
		if err != nil {
			return nil, err
		}
		return source, nil
	}
}

// Store opens the place of a model for publishing; u is from ParseDestination.
func (o Opener) Store(ctx context.Context, u URI) (Store, error) {
	if u.Scheme == "s3" {
		config, err := o.S3(ctx, u)
		if err != nil {
			return nil, err
		}
		return openS3(u, config, o.Transport), nil
	}
	store, err := createFiles(u)
	if err != nil {
		return nil, err
	}
	return store, nil
}

func awsRequestID(metadata smithymw.Metadata) (string, bool) {
	return middleware.GetRequestIDMetadata(metadata)
}
