package image

import (
	"archive/tar"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"banger/internal/fault"
)

// TestPlainHTTP checks that no traffic leaves this machine unencrypted.
func TestPlainHTTP(t *testing.T) {
	h := newHub(t)
	for _, tt := range []struct {
		name string
		url  string
		from string // the registry that the user named
		ok   bool
	}{
		{"loopback for loopback", h.URL, "127.0.0.1:5000", true},
		{"private address", "http://10.0.0.1:5000/v2/", "10.0.0.1:5000", false},
		{"name", "http://registry.local/v2/", "registry.local", false},
		{"sent to our own services", h.URL, "registry.test", false},
		{"sent away by loopback", "http://192.0.2.1/", "localhost:5000", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg, err := name.NewRegistry(tt.from)
			if err != nil {
				t.Fatal(err)
			}
			host, _, _ := strings.Cut(reg.RegistryStr(), ":")
			g := guard{next: http.DefaultTransport, loopback: isLoopback(host)}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := g.RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != tt.ok || err != nil && fault.KindOf(err) != fault.Unsupported {
				t.Errorf("got %v, want success to be %v", err, tt.ok)
			}
		})
	}
}

func TestPullWithCredentials(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a", typ: tar.TypeDir})))
	h.disturb = func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, _ := r.BasicAuth(); user == "ann" && pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := newStore(t, Options{})
	if _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); fault.KindOf(err) != fault.Denied || !strings.Contains(fault.HintOf(err), "docker login") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
	auth := authn.FromConfig(authn.AuthConfig{Username: "ann", Password: "secret"})
	s.opts.Keychain = authn.NewMultiKeychain(keychain{auth})
	if _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); err != nil {
		t.Error(err)
	}
	s.opts.Keychain = authn.DefaultKeychain
	config := fmt.Sprintf(`{"auths":{%q:{"username":"ann","password":"secret"}}}`, h.host)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); err != nil {
		t.Errorf("logging in with docker's configuration: %v", err)
	}
}

type keychain struct{ auth authn.Authenticator }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) { return k.auth, nil }
