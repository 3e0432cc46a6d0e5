//go:build e2e

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// versitygw is the S3 server, pinned: a program of its own, so no dependency of this module.
const versitygw = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

const (
	accessKey = "AKIAE2ESEALFETCH0000"
	secretKey = "e2e-secret-access-key-of-nobody"
	region    = "us-east-1"
	bucket    = "models"
)

// s3Server is a running versitygw. Its objects are files below dir, where a test can do what a hostile store does.
type s3Server struct {
	url, dir string
}

// startS3 builds and starts the server and makes the bucket.
func startS3(t *testing.T) s3Server {
	t.Helper()
	gateway := install(t, versitygw)
	s := s3Server{dir: t.TempDir()}
	address := freeAddress(t)
	s.url = "http://" + address
	log, err := os.Create(filepath.Join(t.TempDir(), "versitygw.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(gateway, "-p", address, "-a", accessKey, "-s", secretKey, "--region", region, "posix", s.dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	s.await(t, address, log.Name())
	client := s3.New(s3.Options{BaseEndpoint: aws.String(s.url), Region: region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")})
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s s3Server) await(t *testing.T, address, log string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
	}
	text, _ := os.ReadFile(log)
	t.Fatalf("the server does not answer:\n%s", text)
}

// env is what KServe gives the init container for a secret with an s3-endpoint annotation, key and all.
func (s s3Server) env(extra ...string) []string {
	return append([]string{
		"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey,
		"S3_USE_HTTPS=0", "S3_ENDPOINT=" + strings.TrimPrefix(s.url, "http://"), "AWS_ENDPOINT_URL=" + s.url,
		"AWS_DEFAULT_REGION=" + region, "S3_VERIFY_SSL=1", "S3_USER_VIRTUAL_BUCKET=false", "HF_HUB_ENABLE_HF_TRANSFER=1",
	}, extra...)
}

// object is the file that holds an object.
func (s s3Server) object(key string) string {
	return filepath.Join(s.dir, bucket, filepath.FromSlash(key))
}

// install builds a program from the module proxy and returns its path.
func install(t *testing.T, module string) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.Command("go", "install", module)
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go install %s: %v\n%s", module, err, out)
	}
	path, _, _ := strings.Cut(module, "@")
	return filepath.Join(bin, filepath.Base(path))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
