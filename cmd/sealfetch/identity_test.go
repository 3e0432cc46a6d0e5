package main_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealfetch/sealfetch/internal/testcloud"
)

// refusing is a service that notes what it is asked and denies it.
type refusing struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func newRefusing(t *testing.T) *refusing {
	s := new(refusing)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		s.mu.Lock()
		s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.PostForm.Get("Action")))
		s.mu.Unlock()
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>` +
			`<Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>` +
			`<RequestId>11111111-2222-3333-4444-555555555555</RequestId></ErrorResponse>`))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *refusing) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// TestEndpointIsForS3Alone: KServe's AWS_ENDPOINT_URL, which the SDK would apply to every service, must not send the pod's
// token to the object store.
func TestEndpointIsForS3Alone(t *testing.T) {
	t.Parallel()
	s, sts, box := newStore(t, testcloud.Options{}), newRefusing(t), newSandbox(t)
	use(t, manyFiles).give(box)
	s.configure(box)
	delete(box.env, "AWS_ACCESS_KEY_ID")
	delete(box.env, "AWS_SECRET_ACCESS_KEY")
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnktY2FuYXJ5LWNhbmFyeSJ9.c2lnbmF0dXJl"
	if err := os.WriteFile(filepath.Join(box.dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	box.secrets = append(box.secrets, token)
	box.env["AWS_ROLE_ARN"] = "arn:aws:iam::111122223333:role/loader"
	box.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = filepath.Join(box.dir, "token")
	box.env["AWS_ENDPOINT_URL_STS"] = sts.URL
	dest := filepath.Join(box.shm, "model")
	box.run("init", "--log-level", "debug", "sealed+s3://models/m", dest).want(t, 10, "AccessDenied", "11111111-2222")
	wantNothing(t, dest)
	if asked := sts.requests(); len(asked) == 0 || !strings.Contains(asked[0], "AssumeRoleWithWebIdentity") {
		t.Errorf("STS was asked %q", asked)
	}
	if n := len(s.cloud.S3Requests()); n > 0 {
		t.Errorf("S3 got %d requests", n)
	}
}

// TestNodeIsNotAsked: without credentials of its own, a pod must not act as the node it runs on.
func TestNodeIsNotAsked(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{false, true} {
		s, node, box := newStore(t, testcloud.Options{}), newRefusing(t), newSandbox(t)
		use(t, manyFiles).give(box)
		s.configure(box)
		delete(box.env, "AWS_ACCESS_KEY_ID")
		delete(box.env, "AWS_SECRET_ACCESS_KEY")
		box.env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = node.URL
		args := []string{"init", "sealed+s3://models/m", filepath.Join(box.shm, "model")}
		if allowed {
			args = append(args, "--allow-instance-metadata")
		}
		box.run(args...).want(t, 10)
		if asked := node.requests(); (len(asked) > 0) != allowed {
			t.Errorf("allowed %v: the node was asked %q", allowed, asked)
		}
	}
}
