package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealfetch/sealfetch/fetch/identity/policy"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

// The cast: the model's owner and whoever runs it have an AWS account each.
const (
	ownerAccount  = "111122223333"
	loaderAccount = "444455556666"
	region        = "eu-central-1"
	bucket        = "models"
	loaderRole    = "arn:aws:iam::" + loaderAccount + ":role/predictor"
	ownerRole     = "arn:aws:iam::" + ownerAccount + ":role/model-reader"
	externalID    = "acme-7"
	subject       = "system:serviceaccount:inference:llama"
	audience      = "sts.amazonaws.com"
)

// world is the cloud and the machine of the demo. All of it is simulated and checks what the real one checks:
// signatures, tokens, trust policies, session policies, the attestation document, the conditions of the key policy.
type world struct {
	cloud  *testcloud.Cloud
	bucket *testcloud.Bucket
	kms    *kms.KMS
	key    *kms.Key
	tpm    *nitrotpm.TPM
	socket *nitrotpm.Server
	issuer *oidc.Issuer
	tokens string   // directory of the projected token
	token  string   // file
	owner  []string // environment of the model's owner
	pod    []string // environment of the predictor's init container
}

func newWorld(dir string) (w *world, err error) {
	w = &world{}
	if w.cloud, err = testcloud.New(testcloud.Options{}); err != nil {
		return nil, err
	}
	for _, step := range []func(string) error{w.bootMachine, w.openAccounts, w.grantAccess, w.startPod} {
		if err := step(dir); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *world) close() {
	if w.socket != nil {
		w.socket.Close()
	}
	w.cloud.Close()
}

// bootMachine starts the simulated NitroTPM of the node, and a KMS that trusts the simulation's root alone.
func (w *world) bootMachine(dir string) error {
	authority, err := nitrotpm.NewAuthority(w.cloud.Now)
	if err != nil {
		return err
	}
	if w.tpm, err = nitrotpm.New(nitrotpm.Options{Authority: authority}); err != nil {
		return err
	}
	if w.socket, err = w.tpm.Serve("unix", filepath.Join(dir, "tpm.sock")); err != nil {
		return err
	}
	w.kms, err = kms.New(w.cloud, kms.Options{Roots: [][32]byte{authority.RootSHA256()}})
	return err
}

// openAccounts makes the owner's bucket and key, and the issuer of the loader's cluster.
func (w *world) openAccounts(string) (err error) {
	owner := w.cloud.Account(ownerAccount)
	w.bucket = owner.NewBucket(bucket, region)
	open := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"}]}`, ownerAccount)
	if w.key, err = w.kms.CreateKey(owner, region, open); err != nil {
		return err
	}
	root := owner.NewAccessKey()
	w.owner = append(w.endpoints(), "AWS_ACCESS_KEY_ID="+root.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+root.SecretAccessKey)
	w.issuer, err = w.cloud.NewIssuer("")
	if err != nil {
		return err
	}
	w.cloud.Account(loaderAccount).TrustIssuer(w.issuer.URL(), audience)
	return nil
}

// grantAccess installs what `sealfetch policy` prints for this cast, the key policy with the machine's PCRs included.
func (w *world) grantAccess(string) error {
	plan, err := policy.Chain(policy.Request{
		Model:      policy.Model{Bucket: bucket, Prefix: "acme", Keys: []string{w.key.ARN}},
		LoaderRole: loaderRole, OwnerRole: ownerRole, OwnerAccount: ownerAccount, ExternalID: externalID,
		Issuer: strings.Replace(w.issuer.URL(), "http:", "https:", 1), Subject: subject, ModelName: modelName,
		PCRs: map[int]string{4: fmt.Sprintf("%x", w.tpm.PCR(4)), 12: fmt.Sprintf("%x", w.tpm.PCR(12))},
	})
	if err != nil {
		return err
	}
	documents := map[string]string{}
	for _, part := range plan.Parts {
		documents[part.Name] = part.Compact()
	}
	if _, err := w.cloud.Account(loaderAccount).NewRole(testcloud.RoleSpec{Name: "predictor",
		Trust: documents["loader-trust-policy"], Policy: documents["loader-role-policy"]}); err != nil {
		return err
	}
	if _, err := w.cloud.Account(ownerAccount).NewRole(testcloud.RoleSpec{Name: "model-reader",
		Trust: documents["owner-trust-policy"], Policy: documents["owner-role-policy"]}); err != nil {
		return err
	}
	return w.key.SetPolicy(documents["key-policy"])
}

// startPod gives the init container what EKS's and KServe's webhooks inject, and the settings of a ClusterStorageContainer.
func (w *world) startPod(dir string) (err error) {
	w.tokens = filepath.Join(dir, "token")
	if err = os.Mkdir(w.tokens, 0o700); err != nil {
		return err
	}
	if w.token, err = oidc.WriteProjected(w.tokens, w.mint(subject)); err != nil {
		return err
	}
	w.pod = append(w.endpoints(),
		"AWS_ROLE_ARN="+loaderRole, // from the ServiceAccount's annotation
		"AWS_WEB_IDENTITY_TOKEN_FILE="+w.token,
		"SEALFETCH_ROLE_ARN="+ownerRole, // from the ClusterStorageContainer
		"SEALFETCH_EXTERNAL_ID="+externalID,
		"SEALFETCH_TRUST_KEY="+w.key.ARN,
		"SEALFETCH_ATTESTER=nitrotpm",
		"SEALFETCH_TPM="+w.socket.Device(),
		"POD_NAMESPACE=inference", "HOSTNAME=llama-predictor-7d9f",
	)
	return nil
}

// endpoints lead to the demo's cloud; in AWS there are none to set. KServe sets AWS_ENDPOINT_URL, for S3.
func (w *world) endpoints() []string {
	return []string{"AWS_ENDPOINT_URL=" + w.cloud.S3URL(), "AWS_ENDPOINT_URL_STS=" + w.cloud.STSURL(),
		"AWS_ENDPOINT_URL_KMS=" + w.kms.URL(), "AWS_DEFAULT_REGION=" + region,
		"S3_USE_HTTPS=0", "S3_VERIFY_SSL=1", "S3_USER_VIRTUAL_BUCKET=false", "HF_HUB_ENABLE_HF_TRANSFER=1"}
}

func (w *world) mint(sub string) string {
	return w.issuer.Mint(oidc.Claims{Subject: sub, Audience: []string{audience}})
}

// become replaces the pod's token by that of another service account.
func (w *world) become(sub string) error {
	_, err := oidc.WriteProjected(w.tokens, w.mint(sub))
	return err
}
