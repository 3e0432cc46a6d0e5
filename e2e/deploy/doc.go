// Package deploy checks the manifests in deploy/ without a cluster: they build, every field is one that Kubernetes or
// KServe knows, and what KServe users trip over is right. It is a module of its own for the Kubernetes types.
package deploy
