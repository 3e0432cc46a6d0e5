// Package oidcprovider gets tokens by client credentials from an OpenID Connect issuer that others wrote:
// oidc-provider, a certified one, from npm.
//
// The tests have the build tag e2e, since they install what they need, Node.js aside:
// go test -tags e2e ./e2e/oidcprovider
package oidcprovider
