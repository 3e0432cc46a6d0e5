package main

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
)

const envPrefix = "SEALFETCH_"

// environment is the process environment as it was at the start.
type environment map[string]string

// poison are variables that the AWS SDK would apply to every service or client it makes. They are meant for S3 alone
// (KServe sets AWS_ENDPOINT_URL from the s3-endpoint annotation), are read here, and are taken out of the process.
var poison = []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"}

func takeEnvironment() environment {
	e := environment{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		e[name] = value
	}
	for _, name := range poison {
		_ = os.Unsetenv(name)
	}
	return e
}

// envName is the variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// checkNames refuses a SEALFETCH_ variable that no flag has: a misspelt setting must not be a silent one. Those that
// Kubernetes makes for Services called sealfetch or sealfetch-… pass.
func (e environment) checkNames(known map[string]bool) error {
	var unknown []string
	for name := range e {
		if strings.HasPrefix(name, envPrefix) && !known[name] && !fromService(name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return fault.New(fault.Usage, "correct or remove it; `sealfetch COMMAND --help` lists the settings",
		"unknown setting %s", strings.Join(unknown, ", "))
}

// serviceLink is the end of a variable that Kubernetes makes for a Service in the pod's namespace. No setting ends so.
var serviceLink = regexp.MustCompile(`_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// fromService reports whether Kubernetes makes the variable, for a Service named sealfetch or sealfetch-….
func fromService(name string) bool { return serviceLink.MatchString(name) }

// aliases are the variables of AWS and of KServe that stand for a flag, the first one set wins. They rank below the
// flag's own variable.
var aliases = map[string][]string{
	"s3-endpoint":             {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"},
	"s3-region":               {"AWS_DEFAULT_REGION", "AWS_REGION"},
	"s3-virtual-host":         {"S3_USER_VIRTUAL_BUCKET"},
	"s3-accelerate":           {"S3_USE_ACCELERATE"},
	"s3-dual-stack":           {"AWS_USE_DUALSTACK_ENDPOINT"},
	"s3-fips":                 {"AWS_USE_FIPS_ENDPOINT"},
	"anonymous":               {"awsAnonymousCredential"},
	"tls-verify":              {"S3_VERIFY_SSL"},
	"ca-bundle":               {"AWS_CA_BUNDLE"},
	"connect-timeout":         {"S3_CONNECT_TIMEOUT"},
	"stall-timeout":           {"S3_READ_TIMEOUT"},
	"attempts":                {"S3_MAX_ATTEMPTS"},
	"web-identity-role-arn":   {"AWS_ROLE_ARN"},
	"web-identity-token-file": {"AWS_WEB_IDENTITY_TOKEN_FILE"},
	"role-session-name":       {"AWS_ROLE_SESSION_NAME"},
	"sts-endpoint":            {"AWS_ENDPOINT_URL_STS"},
	"kms-endpoint":            {"AWS_ENDPOINT_URL_KMS"},
}

// contents are the flags that name a file and have a twin variable with the file's content, since a
// ClusterStorageContainer has no volumes.
var contents = map[string]string{
	"trust-key":               "SEALFETCH_TRUST_KEY_JWK",
	"trust-signer":            "SEALFETCH_TRUST_SIGNER_PEM",
	"ca-bundle":               "SEALFETCH_CA_BUNDLE_PEM",
	"session-policy":          "SEALFETCH_SESSION_POLICY_JSON",
	"oidc-ca":                 "SEALFETCH_OIDC_CA_PEM",
	"oidc-client-secret-file": "SEALFETCH_OIDC_CLIENT_SECRET",
	"oidc-client-key-file":    "SEALFETCH_OIDC_CLIENT_KEY",
}

// lookup returns the value of a flag in the environment, and the variable it is from. An empty variable is one that is not
// set: that is what an optional key of a ConfigMap may leave.
func (e environment) lookup(flag string) (value, name string, ok bool) {
	for _, name := range append([]string{envName(flag)}, aliases[flag]...) {
		if value := e[name]; value != "" {
			return value, name, true
		}
	}
	return "", "", false
}

// applyStorageSpec lays KServe's storage-spec over the variables of the same meaning, as KServe's own initializer does.
func (e environment) applyStorageSpec() error {
	spec, err := identity.ParseStorageSpec(e["STORAGE_CONFIG"], e["STORAGE_OVERRIDE_CONFIG"])
	if err != nil {
		return err
	}
	for name, value := range map[string]*string{"AWS_ENDPOINT_URL_S3": spec.EndpointURL, "AWS_DEFAULT_REGION": spec.Region,
		"AWS_ACCESS_KEY_ID": spec.AccessKeyID, "AWS_SECRET_ACCESS_KEY": spec.SecretAccessKey, "AWS_CA_BUNDLE": spec.CABundle,
		"S3_VERIFY_SSL": spec.VerifySSL, "awsAnonymousCredential": spec.Anonymous} {
		if value != nil {
			e[name] = *value
		}
	}
	return nil
}

// caBundleOfCluster is where KServe mounts the cluster's CA bundle, if it does.
func (e environment) caBundleOfCluster() string {
	if e["CA_BUNDLE_CONFIGMAP_NAME"] == "" && e["AWS_CA_BUNDLE_CONFIGMAP"] == "" {
		return ""
	}
	dir := e["CA_BUNDLE_VOLUME_MOUNT_POINT"]
	if dir == "" {
		dir = "/etc/ssl/custom-certs"
	}
	return dir + "/cabundle.crt"
}
