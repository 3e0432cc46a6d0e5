package main_test

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// store is a test cloud with one bucket, "models".
type store struct {
	cloud  *testcloud.Cloud
	bucket *testcloud.Bucket
	keys   testcloud.Credentials
}

func newStore(t testing.TB, options testcloud.Options) *store {
	t.Helper()
	cloud := testcloud.Start(t, options)
	account := cloud.Account(scriptAccount)
	return &store{cloud, account.NewBucket("models", scriptRegion), account.NewAccessKey()}
}

// configure sets what KServe and its users set for an S3 of their own.
func (s *store) configure(box *sandbox) {
	maps.Copy(box.env, map[string]string{
		"AWS_ENDPOINT_URL": s.cloud.S3URL(), "AWS_DEFAULT_REGION": scriptRegion,
		"AWS_ACCESS_KEY_ID": s.keys.AccessKeyID, "AWS_SECRET_ACCESS_KEY": s.keys.SecretAccessKey,
	})
	if strings.HasPrefix(s.cloud.S3URL(), "https:") {
		ca := filepath.Join(box.dir, "ca.pem")
		if err := os.WriteFile(ca, s.cloud.CAPEM(), 0o644); err != nil {
			box.t.Fatal(err)
		}
		box.env["AWS_CA_BUNDLE"] = ca
	}
}

// upload puts the files below a directory under a prefix.
func (s *store) upload(t testing.TB, dir, prefix string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		s.bucket.Put(path.Join(prefix, name), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// put stores objects under a prefix.
func (s *store) put(prefix string, objects map[string][]byte) {
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		s.bucket.Put(path.Join(prefix, name), objects[name])
	}
}
