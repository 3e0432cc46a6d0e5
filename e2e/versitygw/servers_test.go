//go:build e2e && linux

package versitygw

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sealfetch/sealfetch/internal/testcloud/oidc"
)

const (
	rootKey    = "AKIAE2ESEALFETCH0000"
	rootSecret = "e2e-secret-access-key-of-nobody"
	region     = "us-east-1"
	bucket     = "acme-models"
	stsURL     = "http://127.0.0.1:7078"
	s3URL      = "http://127.0.0.1:7077"
	account    = "000000000000" // the one that versitygw has
)

// startIssuer serves an OIDC issuer under its name and returns it with the file of its authority and its thumbprint.
func startIssuer(t *testing.T) (issuer *oidc.Issuer, caFile, thumbprint string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: issuerName}, DNSNames: []string{issuerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	listener, err := tls.Listen("tcp", issuerAddress+":443",
		&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	issuer = oidc.New(nil)
	issuer.SetURL("https://" + issuerName)
	server := &http.Server{Handler: issuer}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	sum := sha1.Sum(der) // AWS's thumbprints are SHA-1
	return issuer, caFile, hex.EncodeToString(sum[:])
}

// startGateway starts versitygw's IAM and STS, and its S3 in front of a directory.
func startGateway(t *testing.T, caFile string) {
	t.Helper()
	dir := t.TempDir()
	objects, socket := filepath.Join(dir, "objects"), filepath.Join(dir, "private.sock")
	for _, d := range []string{objects, filepath.Join(dir, "iam")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root := []string{"-a", rootKey, "-s", rootSecret, "--region", region}
	start(t, "127.0.0.1:7078", []string{"SSL_CERT_FILE=" + caFile},
		append([]string{"-p", "127.0.0.1:7078"}, append(root, "iam", "--dir", filepath.Join(dir, "iam"),
			"--private-ports", socket)...)...)
	start(t, "127.0.0.1:7077", nil,
		append([]string{"-p", "127.0.0.1:7077"}, append(root, "--iam-standalone-endpoint", socket, "posix",
			objects)...)...)
	client := rootS3()
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		t.Fatal(err)
	}
}

func rootS3() *s3.Client {
	return s3.New(s3.Options{BaseEndpoint: aws.String(s3URL), Region: region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(rootKey, rootSecret, "")})
}

func start(t *testing.T, address string, env []string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(program("versitygw"), args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("versitygw %s:\n%s", address, log.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
	}
	t.Fatalf("nothing answers at %s", address)
}

// iam makes a signed call of the IAM API.
func iam(t *testing.T, action string, form url.Values) {
	t.Helper()
	form.Set("Action", action)
	form.Set("Version", "2010-05-08")
	body := form.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, stsURL+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	key := aws.Credentials{AccessKeyID: rootKey, SecretAccessKey: rootSecret}
	if err := v4.NewSigner().SignHTTP(t.Context(), key, req, hex.EncodeToString(sum[:]), "iam", region,
		time.Now()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s\n%s", action, resp.Status, answer)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
