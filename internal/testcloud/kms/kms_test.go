package kms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/kms"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
	"github.com/sealfetch/sealfetch/keybroker/cms"
)

const (
	account = "111111111111"
	region  = "us-west-2"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// everything lets the account do all.
const everything = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"},
	"Action": "kms:*", "Resource": "*"}}`

func start(t *testing.T, opts kms.Options) (*kms.KMS, *kms.Key, *sdk.Client) {
	t.Helper()
	cloud := testcloud.Start(t, testcloud.Options{})
	k, err := kms.New(cloud, opts)
	check(t, err)
	key, err := k.CreateKey(cloud.Account(account), region, everything)
	check(t, err)
	c := cloud.Account(account).NewAccessKey()
	return k, key, sdk.New(sdk.Options{
		Region: region, BaseEndpoint: aws.String(k.URL()), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
	})
}

// wantCode checks the code of a refusal; empty means none.
func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if code == "" && err != nil || code != "" && (!errors.As(err, &api) || api.ErrorCode() != code) {
		t.Errorf("%s: %v, want %q", what, err, code)
	}
}

func TestDescribeKey(t *testing.T) {
	_, key, client := start(t, kms.Options{})
	for state, enabled := range map[kms.State]bool{kms.Enabled: true, kms.Disabled: false} {
		key.SetState(state)
		reply, err := client.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key.ARN})
		check(t, err)
		m := reply.KeyMetadata
		if *m.Arn != key.ARN || m.Enabled != enabled || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt {
			t.Errorf("%s: %+v", state, m)
		}
	}
	_, err := client.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: aws.String(key.ARN + "0")})
	wantCode(t, "no such key", err, "NotFoundException")
}

func TestDataKeys(t *testing.T) {
	_, key, client := start(t, kms.Options{})
	context := map[string]string{"a": "1", "b": "2"}
	made, err := client.GenerateDataKey(t.Context(), &sdk.GenerateDataKeyInput{
		KeyId: &key.ARN, KeySpec: types.DataKeySpecAes256, EncryptionContext: context,
	})
	check(t, err)
	for name, test := range map[string]struct {
		context map[string]string
		code    string
	}{
		"same":        {context, ""},
		"none":        {nil, "InvalidCiphertextException"},
		"one missing": {map[string]string{"a": "1"}, "InvalidCiphertextException"},
		"run on":      {map[string]string{"a": "1b", "": "2"}, "InvalidCiphertextException"},
	} {
		// Without KeyId: KMS knows the key from the ciphertext.
		reply, err := client.Decrypt(t.Context(), &sdk.DecryptInput{
			CiphertextBlob: made.CiphertextBlob, EncryptionContext: test.context,
		})
		wantCode(t, name, err, test.code)
		if err == nil && !bytes.Equal(reply.Plaintext, made.Plaintext) {
			t.Errorf("%s: another key", name)
		}
	}
	spoilt := bytes.Clone(made.CiphertextBlob)
	spoilt[len(spoilt)-1] ^= 1
	_, err = client.Decrypt(t.Context(), &sdk.DecryptInput{CiphertextBlob: spoilt, EncryptionContext: context})
	wantCode(t, "spoilt", err, "InvalidCiphertextException")
}

func TestRefusals(t *testing.T) {
	_, key, client := start(t, kms.Options{})
	_, err := client.ListKeys(t.Context(), &sdk.ListKeysInput{})
	wantCode(t, "an operation that is not there", err, "UnknownOperationException")
	_, err = client.Encrypt(t.Context(), &sdk.EncryptInput{
		KeyId: &key.ARN, Plaintext: []byte("x"), GrantTokens: []string{"t"},
	})
	wantCode(t, "a field that is not there", err, "SerializationException")
	_, err = client.Encrypt(t.Context(), &sdk.EncryptInput{KeyId: &key.ARN, Plaintext: make([]byte, 4097)})
	wantCode(t, "too long", err, "ValidationException")
	for name, c := range map[string]aws.CredentialsProvider{
		"anonymous": aws.AnonymousCredentials{}, "stranger": credentials.NewStaticCredentialsProvider("AKIA", "x", ""),
	} {
		_, err = client.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key.ARN},
			func(o *sdk.Options) { o.Credentials = c })
		if err == nil {
			t.Errorf("%s was let in", name)
		}
	}
	_, err = client.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key.ARN},
		func(o *sdk.Options) { o.Region = "us-east-1" })
	wantCode(t, "another region", err, "NotFoundException")
}

// TestEnclave has a document of an enclave satisfy the conditions for enclaves, and not those for NitroTPM.
func TestEnclave(t *testing.T) {
	authority, err := nitrotpm.NewAuthority(time.Now)
	check(t, err)
	k, key, client := start(t, kms.Options{Roots: [][32]byte{authority.RootSHA256()}})
	pcrs := map[int][]byte{0: bytes.Repeat([]byte{1}, 48), 8: bytes.Repeat([]byte{8}, 48)}
	signer, err := authority.Signer("i-1-enc1")
	check(t, err)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	check(t, err)
	document, err := signer.Sign(nitrotpm.Document{
		ModuleID: "i-1-enc1", Timestamp: time.Now(), PCRs: pcrs, PCRField: "pcrs", PublicKey: spki,
	})
	check(t, err)
	for condition, code := range map[string]string{
		fmt.Sprintf(`"kms:RecipientAttestation:PCR8": "%x"`, pcrs[8]):         "",
		fmt.Sprintf(`"kms:RecipientAttestation:ImageSha384": "%x"`, pcrs[0]):  "",
		fmt.Sprintf(`"kms:RecipientAttestation:NitroTPMPCR8": "%x"`, pcrs[8]): "AccessDeniedException",
	} {
		check(t, key.SetPolicy(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"},
			"Action": "kms:*", "Resource": "*", "Condition": {"StringEqualsIgnoreCase": {`+condition+`}}}}`))
		reply, err := client.GenerateDataKey(t.Context(), &sdk.GenerateDataKeyInput{
			KeyId: &key.ARN, KeySpec: types.DataKeySpecAes256, Recipient: &types.RecipientInfo{
				AttestationDocument: document, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
			},
		})
		wantCode(t, condition, err, code)
		if err != nil {
			continue
		}
		if len(reply.Plaintext) != 0 {
			t.Error("plaintext beside a recipient")
		}
		opened, err := cms.Open(reply.CiphertextForRecipient, private)
		check(t, err)
		opened.Wipe()
	}
	records := k.Records()
	if len(records) != 3 || records[0].ModuleID != "i-1-enc1" || records[0].Caller == "" {
		t.Errorf("records %+v", records)
	}
}
