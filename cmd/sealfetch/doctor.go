package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sealfetch/sealfetch"
	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/fetch/identity"
	"github.com/sealfetch/sealfetch/internal/fault"
	"github.com/sealfetch/sealfetch/internal/target"
	"github.com/sealfetch/sealfetch/keybroker"
	"github.com/sealfetch/sealfetch/model"
)

// doctor walks the road of a load, one check a line, and goes on after a failure as far as that makes sense.
type doctor struct {
	s        *settings
	out      io.Writer
	uri      *fetch.URI
	dir      string
	envelope *model.Envelope
	first    error // the first failure decides the exit code
}

func setupDoctor(s *settings) runner {
	s.readFlags()
	s.storeFlags()
	dir := s.flags.String("destination", "/mnt/models", "`DIR` that models will go to")
	s.flags.BoolVar(&s.destination.allowDisk, "allow-disk", false, "accept a destination that is not tmpfs")
	return func(ctx context.Context, args []string, out io.Writer) error {
		d := &doctor{s: s, out: out, dir: *dir}
		if len(args) > 0 {
			uri, err := s.oneURI(args)
			if err != nil {
				return err
			}
			d.uri = &uri
		}
		return d.examine(ctx)
	}
}

func (d *doctor) examine(ctx context.Context) error {
	d.token(ctx)
	d.identity(ctx)
	d.model(ctx)
	d.key(ctx)
	d.destination()
	if d.first != nil {
		return fmt.Errorf("the first thing to mend: %w", d.first)
	}
	return nil
}

func (d *doctor) ok(what, format string, args ...any) { d.line("ok", what, format, args...) }

func (d *doctor) skipped(what, format string, args ...any) { d.line("skipped", what, format, args...) }

func (d *doctor) failed(what string, err error) {
	if d.first == nil {
		d.first = err
	}
	d.line("failed", what, "%s", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintf(d.out, "%30s hint: %s\n", "", oneLine(hint))
	}
}

func (d *doctor) line(state, what, format string, args ...any) {
	fmt.Fprintf(d.out, "%-8s %-20s %s\n", state, what, oneLine(fmt.Sprintf(format, args...)))
}

// token shows what the web identity token says, and whether its issuer can be reached from here.
func (d *doctor) token(ctx context.Context) {
	const what = "web identity token"
	provider, err := d.tokens()
	if err == nil && provider == nil {
		d.skipped(what, "neither a token file nor an OIDC issuer is set")
		return
	}
	text := ""
	if err == nil {
		text, err = provider.Token(ctx)
	}
	var claims identity.Claims
	if err == nil {
		claims, err = identity.ParseClaims(text)
	}
	switch {
	case err != nil:
		d.failed(what, err)
		return
	case !claims.Expires.IsZero() && time.Now().After(claims.Expires):
		d.failed(what, fault.New(fault.Identity, "check what renews it, and the clock of the node", "expired at %s", claims.Expires.UTC().Format(time.RFC3339)))
	default:
		d.ok(what, "iss %s, sub %s, aud %s, exp %s", claims.Issuer, claims.Subject, strings.Join(claims.Audience, " "), claims.Expires.UTC().Format(time.RFC3339))
	}
	d.issuer(ctx, claims.Issuer)
}

func (d *doctor) tokens() (identity.TokenProvider, error) {
	if file := d.s.store.identity.webIdentityTokenFile; file != "" {
		return identity.TokenFile(file), nil
	}
	return d.s.oidcTokens()
}

// issuer asks for the discovery document. AWS fetches it, not this machine: its absence here proves nothing.
func (d *doctor) issuer(ctx context.Context, issuer string) {
	const what = "issuer discovery"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := d.discover(ctx, issuer)
	if err == nil {
		d.ok(what, "%s answers", issuer)
		return
	}
	d.skipped(what, "%s does not answer from here (%v), and need not: AWS must reach it. In Kubernetes, the ClusterRoleBinding of "+
		"ClusterRole system:service-account-issuer-discovery to group system:unauthenticated opens it, or host both documents in a public bucket", issuer, err)
}

func (d *doctor) discover(ctx context.Context, issuer string) error {
	client, err := d.s.httpClient(nil)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return errors.New("its URL is not valid")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var document struct {
		Issuer string `json:"issuer"`
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&document); err != nil || document.Issuer != issuer {
		return errors.New("its document names another issuer")
	}
	return nil
}

// identity says who each step of the chain is, and what the sessions are narrowed to.
func (d *doctor) identity(ctx context.Context) {
	if d.uri != nil && d.uri.Scheme != "s3" && !d.s.trustsKMS() {
		d.skipped("identity", "the model is not in S3, and no key is in KMS")
		return
	}
	provider, err := d.s.credentials(ctx)
	if err != nil {
		d.failed("identity", err)
		return
	}
	if provider.Anonymous() {
		d.ok("identity", "anonymous: requests are not signed")
		return
	}
	for i, caller := range provider.Callers(ctx) {
		what := fmt.Sprintf("identity, step %d", i+1)
		if caller.Err != nil {
			d.failed(what, caller.Err)
			continue
		}
		d.ok(what, "%s is %s", caller.Step, caller.ARN)
	}
	if policy, err := d.s.sessionPolicy(); err == nil && policy.JSON != "" {
		d.ok("session policy", "%s", policy.JSON)
	}
}

// regional is a source that knows where it is.
type regional interface {
	Region(context.Context) (string, error)
}

// model finds the bucket and reads the envelope, which is also held against the policy.
func (d *doctor) model(ctx context.Context) {
	if d.uri == nil {
		d.skipped("model", "no URI is given")
		return
	}
	reader, wipe, err := d.s.reader(ctx)
	if err != nil {
		d.failed("settings", err)
		return
	}
	defer wipe()
	d.region(ctx, reader)
	reader.Brokers = nil // the envelope alone
	found, err := sealfetch.Inspect(ctx, *d.uri, reader)
	if err != nil {
		d.failed("envelope", err)
		return
	}
	d.envelope = found.Envelope
	d.ok("envelope", "%s version %d, %d bytes, mdk-id %s", d.envelope.Model, d.envelope.Version, d.envelope.ModelSize, d.envelope.MDKID)
}

func (d *doctor) region(ctx context.Context, reader sealfetch.Reader) {
	source, err := reader.Open(ctx, *d.uri)
	if err != nil {
		d.failed("source", err)
		return
	}
	defer source.Close()
	bucket, ok := source.(regional)
	if !ok {
		return
	}
	region, err := bucket.Region(ctx)
	switch {
	case err != nil:
		d.failed("bucket", err)
	case d.s.store.region != "" && region != d.s.store.region:
		d.ok("bucket", "%s is in %s, not in %s as configured: found by itself, at the cost of a request", d.uri.Host, region, d.s.store.region)
	default:
		d.ok("bucket", "%s is in %s", d.uri.Host, region)
	}
}

// preflight is a broker that can say whether it would release a key, without releasing it.
type preflight interface {
	Preflight(context.Context, keybroker.Request) error
}

// key asks every trusted broker whether it would release the model's key.
func (d *doctor) key(ctx context.Context) {
	if d.envelope == nil {
		d.skipped("key", "no envelope was read")
		return
	}
	brokers, wipe, err := d.s.brokers(ctx)
	if err != nil {
		d.failed("key", err)
		return
	}
	defer wipe()
	asked := false
	for _, w := range d.envelope.Wraps {
		wrap := keybroker.Wrap(w)
		for _, broker := range brokers {
			if p, ok := broker.(preflight); ok && broker.Holds(wrap) {
				asked = true
				d.tryKey(ctx, p, keybroker.Request{Wrap: wrap, Model: d.envelope.Model, Version: d.envelope.Version})
			}
		}
	}
	if !asked {
		d.failed("key", fault.New(fault.Format, "list one of the envelope's keys with --trust-key", "none of the model's keys is trusted"))
	}
}

func (d *doctor) tryKey(ctx context.Context, p preflight, r keybroker.Request) {
	if err := p.Preflight(ctx, r); err != nil {
		d.failed("key", err)
		return
	}
	d.ok("key", "%s would be released", r.Wrap.Name())
}

// destination checks filesystem and room.
func (d *doctor) destination() {
	if _, err := os.Stat(d.dir); errors.Is(err, os.ErrNotExist) {
		d.skipped("destination", "%s does not exist on this machine", d.dir)
		return
	}
	t, err := target.Open(d.dir, target.Options{AllowDisk: d.s.destination.allowDisk})
	if err != nil {
		d.failed("destination", err)
		return
	}
	defer t.Close()
	need := target.Need{Files: 1}
	if d.envelope != nil {
		need.Bytes = d.envelope.ModelSize
	}
	if err := t.Room(need); err != nil {
		d.failed("destination", err)
		return
	}
	d.ok("destination", "%s is in memory, with room for %d bytes in mount and memory limit", d.dir, need.Bytes)
}
