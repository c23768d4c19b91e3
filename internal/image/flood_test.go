package image

import (
	"archive/tar"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"banger/internal/fault"
)

// flood answers without an end, and counts what it sent.
func flood(w http.ResponseWriter, r *http.Request, status int, sent *atomic.Int64) {
	w.WriteHeader(status)
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for r.Context().Err() == nil {
		if sent.Add(int64(len(chunk))) > 1<<30 {
			return
		}
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// TestAnswersAreBounded checks that a registry cannot fill the memory: each answer but a layer ends
// at a bound, also behind a redirect, and as a token or an error.
func TestAnswersAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name     string
		at       func(r *http.Request) bool
		status   int
		redirect bool
		token    bool
		harmless bool // only the status counts
	}{
		{name: "ping", at: pathHas("/v2/$"), harmless: true},
		{name: "manifest", at: pathHas("/manifests/")},
		{name: "manifest behind a redirect", at: pathHas("/manifests/"), redirect: true},
		{name: "configuration", at: pathHas("/blobs/")},
		{name: "configuration behind a redirect", at: pathHas("/blobs/"), redirect: true},
		{name: "token", at: pathHas("/token"), token: true},
		{name: "error", at: pathHas("/manifests/"), status: http.StatusInternalServerError},
		{name: "denial", at: pathHas("/manifests/"), status: http.StatusForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHub(t)
			ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a", typ: tar.TypeDir})))
			var sent atomic.Int64
			h.disturb = func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case tt.token && !strings.HasPrefix(r.URL.Path, "/token"):
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, h.URL))
					w.WriteHeader(http.StatusUnauthorized)
				case tt.redirect && tt.at(r):
					http.Redirect(w, r, h.URL+"/elsewhere", http.StatusTemporaryRedirect)
				case tt.at(r), r.URL.Path == "/elsewhere":
					flood(w, r, max(tt.status, http.StatusOK), &sent)
				default:
					return false
				}
				return true
			}
			_, err := newStore(t, Options{}).Pull(t.Context(), ref, PullOptions{}, nil)
			if tt.harmless != (err == nil) || err != nil && !strings.Contains(err.Error(), ref) {
				t.Errorf("got %v; want an error that names the image, unless it is harmless (%v)", err, tt.harmless)
			}
			// Sockets hold megabytes that banger has not read, and banger asks again after errors.
			if n := sent.Load(); n < 1 || n > 8*(maxDocument+8<<20) {
				t.Errorf("the registry could send %d bytes", n)
			}
		})
	}
}

func pathHas(part string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		if exact, ok := strings.CutSuffix(part, "$"); ok {
			return r.URL.Path == exact
		}
		return strings.Contains(r.URL.Path, part)
	}
}

// TestManyValues checks that a small document whose values take much memory is refused, from a
// registry and from an archive.
func TestManyValues(t *testing.T) {
	many := strings.Repeat("{},", maxValues) + "{}"
	h := newHub(t)
	ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a", typ: tar.TypeDir})))
	h.disturb = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		fmt.Fprintf(w, `{"schemaVersion":2,"layers":[%s]}`, many)
		return true
	}
	s := newStore(t, Options{})
	_, err := s.Pull(t.Context(), ref, PullOptions{}, nil)
	wantTooMany(t, "a registry", err)
	for format, files := range map[string][]file{
		"docker archive": {{name: "manifest.json", body: "[" + many + "]"}},
		"OCI layout":     {{name: "oci-layout", body: "{}"}, {name: "index.json", body: `{"manifests":[` + many + `]}`}},
	} {
		archive := filepath.Join(t.TempDir(), "archive.tar")
		if err := os.WriteFile(archive, makeTar(t, files...), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Import(t.Context(), archive, ImportOptions{}, nil)
		wantTooMany(t, format, err)
	}
}

func wantTooMany(t *testing.T, what string, err error) {
	t.Helper()
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "the number of values in") {
		t.Errorf("%s: got %v, want an error that names the number of values", what, err)
	}
}

// TestArchiveNames checks that the names of an image archive's files are bounded together.
func TestArchiveNames(t *testing.T) {
	for what, entry := range map[string]file{
		"names":   {name: strings.Repeat("n", 900<<10)},
		"targets": {name: "l", typ: tar.TypeSymlink, link: strings.Repeat("t", 900<<10)},
	} {
		archive := filepath.Join(t.TempDir(), "archive.tar")
		files := []file{{name: "manifest.json", body: "[]"}, entry, entry, entry, entry, entry}
		if err := os.WriteFile(archive, makeTar(t, files...), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := newStore(t, Options{}).Import(t.Context(), archive, ImportOptions{}, nil)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "the names of the archive's files") {
			t.Errorf("%s: got %v, want an error that names the bound", what, err)
		}
	}
}

// TestLargeLayer checks that the bound of documents does not hold for layers, also behind a
// redirect to another place.
func TestLargeLayer(t *testing.T) {
	body := make([]byte, 2*maxDocument)
	rand.Read(body)
	for _, redirect := range []bool{false, true} {
		h := newHub(t)
		ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a", body: string(body)})))
		h.disturb = func(w http.ResponseWriter, r *http.Request) bool {
			place, moved := strings.CutPrefix(r.URL.Path, "/elsewhere")
			switch {
			case moved:
				r.URL.Path = place
			case redirect && strings.Contains(r.URL.Path, "/blobs/"):
				http.Redirect(w, r, h.URL+"/elsewhere"+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		}
		if _, err := newStore(t, Options{}).Pull(t.Context(), ref, PullOptions{}, nil); err != nil {
			t.Errorf("with a redirect %v: %v", redirect, err)
		}
	}
}
