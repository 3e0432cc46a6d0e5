//go:build e2e

package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/internal/testcloud"
	"github.com/sealfetch/sealfetch/internal/testcloud/nitrotpm"
)

var documents = flag.String("documents", "", "`DIR` with the files of realDocuments; default: they are downloaded")

// realDocuments were signed by AWS and published by others, who hold the rights in them: they are fetched, not copied.
var realDocuments = []struct {
	name, url, sha256 string
	document          func([]byte) ([]byte, error) // takes the document out of the file
	at                string                       // when it was made
	source, module    string
}{
	{
		name: "NitroTPM",
		url: "https://raw.githubusercontent.com/lockboot/vaportpm/eb643add961b72c8aa43a7674ff824d9db02646b/" +
			"crates/vaportpm-verify/test-nitro-fixture.json",
		sha256:   "65aa4ca935fbd80b751ed94e957f9fa036e3adff9ae7c6d10989228e154eb310",
		document: inFixture, at: "2026-02-03T10:13:00Z",
		source: "nitrotpm", module: "i-01cfb383223e42522-tpm0000000000000000",
	},
	{
		name: "Nitro Enclave",
		url: "https://raw.githubusercontent.com/Dstack-TEE/dstack/312dc605ebaaf93372534ffb135ea011533d28e9/" +
			"dstack/nsm-qvl/tests/nitro_attestation.bin",
		sha256:   "a2040f3c5e329b3d8cbb6fc4811e50d88ee809d8a2ceff36a295d292d12dd74b",
		document: inFrame, at: "2025-12-25T13:16:00Z",
		source: "nitro-enclave", module: "i-0827e799ec9232d44-enc019b55a68bd2ed4b",
	},
}

// inFixture finds the document in vaportpm's JSON.
func inFixture(data []byte) ([]byte, error) {
	var fixture struct {
		Attestation struct {
			Nitro struct{ Document string }
		}
	}
	if err := json.Unmarshal(data, &fixture); err != nil {
		return nil, err
	}
	return hex.DecodeString(fixture.Attestation.Nitro.Document)
}

// inFrame finds the document in dstack's frame: after 4 bytes, and before 151.
func inFrame(data []byte) ([]byte, error) {
	if len(data) < 200 || !bytes.HasPrefix(data[4:], []byte{0x84, 0x44}) {
		return nil, fmt.Errorf("no document in %d bytes", len(data))
	}
	return data[4 : len(data)-151], nil
}

// TestRealDocuments verifies documents of AWS's own signer under AWS's own root, at their time: a NitroTPM's and an
// enclave's. With another bit or at another time they are refused.
func TestRealDocuments(t *testing.T) {
	for _, d := range realDocuments {
		t.Run(d.name, func(t *testing.T) {
			document, err := d.document(fetched(t, d.url, d.sha256))
			if err != nil {
				t.Fatal(err)
			}
			s := newSandbox(t)
			verify := func(document []byte, args ...string) result {
				if err := os.WriteFile(filepath.Join(s.dir, "evidence"), document, 0o600); err != nil {
					t.Fatal(err)
				}
				return s.run(append(append([]string{"verify-evidence"}, args...), "evidence")...)
			}
			r := verify(document, "--at", d.at)
			r.want(t, 0)
			for _, line := range []string{"genuine: signed under AWS's root 641a0321a3e244efe456463195d606317ed7cdcc3c1756e0",
				"source     " + d.source + "\n", "module id  " + d.module + "\n", "signed by  CN=aws.nitro-enclaves,"} {
				if !strings.Contains(r.stdout, line) {
					t.Errorf("no %q in\n%s", line, r.stdout)
				}
			}
			verify(document).want(t, 13, "certificate has expired")
			for _, at := range []int{len(document) / 8, len(document) / 2, len(document) - 1} {
				verify(flipped(document, at), "--at", d.at).want(t, 13)
			}
		})
	}
}

// fetched returns a file of the directory, or downloads it.
func fetched(t *testing.T, url, sum string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(*documents, path.Base(url)))
	if *documents == "" {
		data, err = download(url)
	}
	if err != nil {
		t.Skip(err)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != sum {
		t.Fatalf("%s has changed: its SHA-256 is %s", url, got)
	}
	return data
}

func download(url string) ([]byte, error) {
	client := http.Client{Timeout: 30 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// TestTPMNeverAnswers waits until patience is at its end.
func TestTPMNeverAnswers(t *testing.T) {
	v := newVault(t, nitrotpm.Options{})
	v.tpm.HangOn(nitrotpm.CommandNSM)
	r := v.refuses(13, `did not answer command 0x20000001 \(the Nitro attestation request\) in time`)
	r.want(t, 13, "hint: the TPM or what emulates it is stuck")
	v.notReleased(r)
}

// TestHungTPM: a TPM that never answers does not hold the run after a signal.
func TestHungTPM(t *testing.T) {
	v := newVault(t, nitrotpm.Options{})
	v.tpm.HangOn(nitrotpm.CommandNSM)
	p := v.start("evidence", "--attester", "nitrotpm")
	await(t, "request to the TPM", func() bool { return slices.Contains(v.tpm.Commands(), nitrotpm.CommandNSM) })
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.wait().want(t, 143)
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %s to end", took)
	}
}

// TestServicesThatNeverAnswer take a connection and a request, and then nothing happens.
func TestServicesThatNeverAnswer(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server would not notice that the client is gone
		<-r.Context().Done()
	}))
	t.Cleanup(silent.Close)
	t.Run("STS", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, testcloud.Options{})
		s.env["AWS_ENDPOINT_URL_STS"] = silent.URL
		s.refused(s.patiently("init", "--attempts", "1", siteURI, s.dest()), 20, "sts:AssumeRoleWithWebIdentity")
	})
	t.Run("KMS", func(t *testing.T) {
		t.Parallel()
		v := newVault(t, nitrotpm.Options{})
		v.grantAnyMachine()
		v.env["AWS_ENDPOINT_URL_KMS"] = silent.URL
		v.refused(v.patiently("init", siteURI, v.dest()), 20, "kms:Decrypt")
	})
	t.Run("issuer", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, testcloud.Options{})
		secretFile(t, s)
		s.env["SEALFETCH_OIDC_ISSUER"] = silent.URL
		s.refused(s.patiently("init", "--attempts", "1", siteURI, s.dest()), 20, "OIDC request to")
	})
}

// patiently runs what takes longer than other tests wait.
func (s *site) patiently(args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir, cmd.Env, cmd.Stderr = s.dir, []string{}, &stderr
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	begun := time.Now()
	err := cmd.Run()
	s.t.Logf("it took %s", time.Since(begun).Round(time.Second))
	return result{args: args, code: exitCode(err), stderr: stderr.String()}
}

// TestKMSNeverRecovers from throttling.
func TestKMSNeverRecovers(t *testing.T) {
	v := newVault(t, nitrotpm.Options{})
	v.grantAnyMachine()
	v.kms.Throttle(1000)
	v.notReleased(v.refuses(20, "ThrottlingException"))
	if n := len(v.decrypts()); n != 5 {
		t.Errorf("%d attempts, want 5", n)
	}
	p := v.start("init", siteURI, v.dest())
	await(t, "request to KMS", func() bool { return len(v.decrypts()) > 5 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	v.refused(p.wait(), 143, "stopped by signal")
	if left := v.tpm.Commands(); slices.Contains(left, nitrotpm.CommandNSM) {
		t.Error("the TPM was asked although --attester is none")
	}
}
