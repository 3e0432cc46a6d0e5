package fetch_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealfetch/sealfetch/fetch"
	"github.com/sealfetch/sealfetch/internal/fault"
)

// countedTokens hands out token-1 until it is told that this is refused, then token-2, and so on.
type countedTokens struct{ refused int }

func (c *countedTokens) Token(context.Context) (string, error) {
	return fmt.Sprintf("token-%d", c.refused+1), nil
}

func (c *countedTokens) Invalidate() { c.refused++ }

// TestBearer: an https store gets the token, a refused one is renewed once, and a token goes to no other host.
func TestBearer(t *testing.T) {
	var elsewhere []string
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
		fmt.Fprint(w, "{}")
	}))
	defer other.Close()
	var asked []string
	store := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Authorization"))
		switch {
		case strings.HasPrefix(r.URL.Path, "/moved/"):
			http.Redirect(w, r, other.URL+"/", http.StatusFound) // another port of the same address
		case strings.HasPrefix(r.URL.Path, "/away/"):
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/", http.StatusFound)
		case r.Header.Get("Authorization") != "Bearer token-2":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fmt.Fprint(w, "{}")
		}
	}))
	defer store.Close()
	transport := store.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true // two servers with a certificate each; names are not the point
	retry := fetch.Retry{Attempts: 1, Base: time.Millisecond, Cap: time.Millisecond, Stall: time.Minute}
	host := strings.TrimPrefix(store.URL, "https://")
	get := func(path string, opener fetch.Opener) error {
		if opener.BearerHosts == nil {
			opener.BearerHosts = []string{host}
		}
		source, err := opener.Source(t.Context(), fetch.URI{Scheme: "https", Host: host, Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		_, _, err = fetch.ReadAll(t.Context(), source, "envelope.json", 100, retry)
		return err
	}
	if err := get("/m", fetch.Opener{Transport: transport, Bearer: &countedTokens{}}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(asked, ","); got != "Bearer token-1,Bearer token-2" {
		t.Errorf("the store was asked with %q", got)
	}
	if err := get("/m", fetch.Opener{Transport: transport, Bearer: &countedTokens{refused: 5}}); fault.Of(err) != fault.Access {
		t.Errorf("a token that stays refused: %v", err)
	}
	if err := get("/m", fetch.Opener{Transport: transport}); fault.Of(err) != fault.Access {
		t.Errorf("no token: %v", err)
	}
	asked = nil
	if err := get("/m", fetch.Opener{Transport: transport, Bearer: &countedTokens{}, BearerHosts: []string{"store.example"}}); fault.Of(err) != fault.Access || strings.Join(asked, "") != "" {
		t.Errorf("a host that is not listed: %v, and it saw %q", err, asked)
	}
	for _, path := range []string{"/moved", "/away"} {
		elsewhere = nil
		err := get(path, fetch.Opener{Transport: transport, Bearer: &countedTokens{}})
		if err != nil || len(elsewhere) != 1 || elsewhere[0] != "" {
			t.Errorf("redirected by %s: %v, the other host saw %q", path, err, elsewhere)
		}
	}
}
