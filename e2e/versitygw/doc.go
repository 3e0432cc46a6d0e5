// Package versitygw runs the release binary against an IAM, STS and S3 that others wrote: versitygw, with an OIDC
// issuer whose tokens it really checks.
//
// versitygw asks an issuer only over https, on port 443, at an address that is neither loopback nor private. So the
// tests run in namespaces of their own, where an address from TEST-NET-2 (RFC 5737) is up and /etc/hosts knows the
// issuer: no packet leaves the machine, and no right is needed beyond unprivileged user namespaces.
//
// The tests have the build tag e2e, since they install what they need: go test -tags e2e ./e2e/versitygw
package versitygw
