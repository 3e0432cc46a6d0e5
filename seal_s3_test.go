package sealfetch_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/keybroker"
)

// s3Store opens a prefix of a bucket of a test cloud.
func s3Store(t *testing.T, cloud *testcloud.Cloud) (fetch.Store, *testcloud.Bucket) {
	t.Helper()
	owner := cloud.Account("111122223333")
	bucket, key := owner.NewBucket("models", "eu-central-1"), owner.NewAccessKey()
	provider, _, err := identity.Credentials(t.Context(), identity.Config{
		Static: identity.Static{AccessKeyID: key.AccessKeyID, SecretAccessKey: key.SecretAccessKey}})
	if err != nil {
		t.Fatal(err)
	}
	opener := fetch.Opener{Transport: http.DefaultTransport.(*http.Transport).Clone(), S3: func(context.Context, fetch.URI) (fetch.S3Config, error) {
		return fetch.S3Config{Credentials: provider, Region: "eu-central-1", Endpoint: cloud.S3URL(), PathStyle: true}, nil
	}}
	store, err := opener.Store(t.Context(), fetch.URI{Scheme: "s3", Host: "models", Path: "m"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store, bucket
}

func sealInto(t *testing.T, store fetch.Store) error {
	t.Helper()
	src := t.TempDir()
	big := make([]byte, 12<<20) // three parts
	rand.Read(big)
	for name, data := range map[string][]byte{"config.json": []byte("{}"), "model.bin": big} {
		if err := os.WriteFile(filepath.Join(src, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := sealfetch.Seal(t.Context(), sealfetch.SealJob{Dir: src, Model: "acme/x", Version: 1, Store: store,
		Wrappers: []keybroker.Wrapper{localKey(t)}, Created: time.Now(), Limits: fetch.PublishLimits{Connections: 2, PartSize: 5 << 20}})
	return err
}

// TestLostAnswers: an answer that never arrives makes the SDK ask again, and meet what its first attempt made. That is
// no other publication, and must not be taken for one.
func TestLostAnswers(t *testing.T) {
	for _, lost := range []testcloud.Rule{
		{Op: "PutObject", Key: "m/envelope.json", Times: 1},
		{Op: "PutObject", Key: "m/data/*", Times: 1},
		{Op: "CompleteMultipartUpload", Times: 1},
	} {
		t.Run(lost.Op+" "+lost.Key, func(t *testing.T) {
			cloud := testcloud.Start(t, testcloud.Options{})
			store, bucket := s3Store(t, cloud)
			lost.Fault = testcloud.Fault{LoseAnswer: true}
			injected := cloud.Inject(lost)
			if err := sealInto(t, store); err != nil {
				t.Fatal(err)
			}
			if injected.Hits() != 1 {
				t.Fatal("no answer was lost")
			}
			if got := bucket.Keys(); len(got) != 4 {
				t.Errorf("objects: %q", got)
			}
		})
	}
}

// TestFailedPublicationIsTakenBack: whatever fails, nothing stays, the upload in parts included.
func TestFailedPublicationIsTakenBack(t *testing.T) {
	for _, failing := range []testcloud.Rule{
		{Op: "PutObject", Key: "m/envelope.json"},
		{Op: "PutObject", Key: "m/manifest.enc"},
		{Op: "UploadPart", Skip: 1},
	} {
		t.Run(failing.Op+" "+failing.Key, func(t *testing.T) {
			cloud := testcloud.Start(t, testcloud.Options{})
			store, bucket := s3Store(t, cloud)
			failing.Fault = testcloud.Fault{Error: &testcloud.Error{Status: 403, Code: "AccessDenied", Message: "Access Denied"}}
			cloud.Inject(failing)
			err := sealInto(t, store)
			if fault.Of(err) != fault.Access {
				t.Fatalf("error %v, want kind Access", err)
			}
			if got := bucket.Keys(); len(got) != 0 || bucket.Uploads() != 0 {
				t.Errorf("left behind: %q and %d uploads", got, bucket.Uploads())
			}
		})
	}
}
