// Package e2e runs the release binary against servers and runtimes that others wrote: an S3 server, a container runtime.
//
// Its tests have the build tag e2e, since they install what they need. `make e2e-s3` and `make e2e-runc` run them.
package e2e
