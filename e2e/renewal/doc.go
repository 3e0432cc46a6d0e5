// Package renewal lets the release binary download for ten minutes with credentials that end each minute: a role chain
// into another account, whose two sessions are renewed on the way, with not one part refused.
//
// The test has the build tag e2e for the time it takes: go test -tags e2e -timeout 15m ./e2e/renewal
package renewal
