package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/internal/fault"
	"banger/internal/step"
)

// hub is a real registry on loopback that counts requests and can disturb them.
type hub struct {
	*httptest.Server
	host  string
	blobs atomic.Int64 // downloads of blobs
	// disturb may answer a request itself, and reports whether it did; may be nil.
	disturb func(http.ResponseWriter, *http.Request) bool
	// Blobs wait until hold is closed; may be nil.
	hold chan struct{}
}

func newHub(t testing.TB) *hub {
	t.Helper()
	h := &hub{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			h.blobs.Add(1)
			if h.hold != nil {
				select {
				case <-h.hold:
				case <-r.Context().Done():
					return
				}
			}
		}
		if h.disturb != nil && h.disturb(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	h.host = strings.TrimPrefix(h.URL, "http://")
	return h
}

func tarLayer(t testing.TB, files ...file) v1.Layer {
	t.Helper()
	data := makeTar(t, files...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// makeImage makes an image for this machine.
func makeImage(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = runtime.GOOS, runtime.GOARCH
	c.Config = v1.Config{Env: []string{"A=b"}, WorkingDir: "/w", User: "1000:1000", Entrypoint: []string{"/e"}, Cmd: []string{"c"}}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func (h *hub) push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(h.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

func TestPull(t *testing.T) {
	requireTool(t, "debugfs")
	h := newHub(t)
	base := tarLayer(t, file{name: "etc/os-release", body: "base"}, file{name: "old", body: "x"})
	img := makeImage(t, base, tarLayer(t, file{name: "bin/tool", body: "tool", mode: 0o755}, file{name: ".wh.old"}))
	ref := h.push(t, "team/app:1", img)
	s := newStore(t, Options{})
	var events []step.Event
	got, err := s.Pull(t.Context(), ref, PullOptions{}, func(e step.Event) { events = append(events, e) })
	if err != nil {
		t.Fatal(err)
	}
	id, _ := img.ConfigName()
	digest, _ := img.Digest()
	if got.ID != id.Hex || got.Digest != digest.String() || got.Source != "registry" || len(got.Names) != 1 || got.Names[0] != ref {
		t.Errorf("image %+v; want id %s, digest %s, name %s", got, id, digest, ref)
	}
	if c := got.Config; c.Env[0] != "A=b" || c.WorkingDir != "/w" || c.User != "1000:1000" || c.Entrypoint[0] != "/e" || c.Cmd[0] != "c" {
		t.Errorf("the configuration is %+v", c)
	}
	fsck(t, got.Path)
	if body := cat(t, got.Path, "/bin/tool"); body != "tool" {
		t.Errorf("/bin/tool holds %q", body)
	}
	if st := look(t, got.Path, "/old"); st != "(none)" {
		t.Errorf("/old was removed by a later layer, but is there: %q", st)
	}
	layers := 0
	for _, e := range events {
		if strings.HasPrefix(e.Step, "pull/layer") && e.Phase == step.Done {
			layers++
		}
	}
	if layers != 2 {
		t.Errorf("%d layers were reported, want 2: %v", layers, events)
	}
	nothingLeft(t, s)

	t.Run("again", func(t *testing.T) {
		before := h.blobs.Load()
		again, err := s.Pull(t.Context(), ref, PullOptions{}, nil)
		if err != nil || again.ID != got.ID || h.blobs.Load() > before+1 { // the configuration
			t.Errorf("image %s, %v, %d blobs; want the same without fetching layers", again.ID, err, h.blobs.Load()-before)
		}
	})
	t.Run("one that shares a layer", func(t *testing.T) {
		ref := h.push(t, "team/other:1", makeImage(t, base, tarLayer(t, file{name: "other", body: "x"})))
		before := h.blobs.Load()
		if _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		if n := h.blobs.Load() - before; n != 2 { // the configuration and the new layer
			t.Errorf("%d blobs were fetched, want 2", n)
		}
	})
	t.Run("under a second name", func(t *testing.T) {
		other := h.push(t, "a/first:1", img)
		for _, name := range []string{other, ref} {
			for _, ifMissing := range []bool{false, true} {
				if again, err := s.Pull(t.Context(), name, PullOptions{IfMissing: ifMissing}, nil); err != nil || len(again.Names) != 2 || again.Names[0] != name {
					t.Errorf("names %q, %v; want %s first", again.Names, err, name)
				}
			}
		}
	})
	t.Run("without the registry", func(t *testing.T) {
		h.Close()
		if img, err := s.Pull(t.Context(), ref, PullOptions{IfMissing: true}, nil); err != nil || img.ID != got.ID {
			t.Errorf("IfMissing of a known name: got %s, %v", img.ID, err)
		}
		if _, err := s.Pull(t.Context(), ref, PullOptions{}, nil); fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
			t.Errorf("IfMissing of an unknown name: got %v, hint %q", err, fault.HintOf(err))
		}
	})
}

func TestPullMovedTag(t *testing.T) {
	h := newHub(t)
	s := newStore(t, Options{})
	one := makeImage(t, tarLayer(t, file{name: "v", body: "1"}))
	ref := h.push(t, "app:latest", one)
	first, err := s.Pull(t.Context(), ref, PullOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.push(t, "app:latest", makeImage(t, tarLayer(t, file{name: "v", body: "2"})))
	second, err := s.Pull(t.Context(), ref, PullOptions{}, nil)
	if err != nil || second.ID == first.ID {
		t.Fatalf("image %s, %v; want another than before", second.ID, err)
	}
	old, err := s.Get(first.ID)
	if err != nil || len(old.Names) != 0 {
		t.Errorf("the old image is %+v, %v; want it without a name", old, err)
	}
	byDigest := h.host + "/app@" + first.Digest
	if img, err := s.Pull(t.Context(), byDigest, PullOptions{}, nil); err != nil || img.ID != first.ID {
		t.Errorf("pulling by digest: got %s, %v; want %s", img.ID, err, first.ID)
	}
}

func TestPullShared(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a", body: "x"})))
	h.hold = make(chan struct{})
	dir := t.TempDir()
	// These are like two daemons.
	stores := []*Store{openStore(t, dir, Options{}), openStore(t, dir, Options{})}
	first, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		ctx := t.Context()
		if i == 0 {
			ctx = first
		}
		wg.Go(func() {
			_, errs[i] = stores[i%2].Pull(ctx, ref, PullOptions{}, nil)
		})
	}
	for waiting(stores...) < len(errs) {
		runtime.Gosched()
	}
	giveUp()
	close(h.hold)
	wg.Wait()
	for i, err := range errs {
		if want := (map[bool]fault.Kind{true: fault.Canceled})[i == 0]; err != nil && fault.KindOf(err) != want {
			t.Errorf("pull %d: %v", i, err)
		}
	}
	// Each store asks for the configuration, and only one of them for the layer.
	if n := h.blobs.Load(); n > 4 {
		t.Errorf("%d blobs were fetched, want each once", n)
	}
	nothingLeft(t, stores[0])
}

// waiting counts the callers that share work.
func waiting(stores ...*Store) int {
	n := 0
	for _, s := range stores {
		s.flights.mu.Lock()
		for _, fl := range s.flights.flying {
			fl.mu.Lock()
			n += len(fl.waiting)
			fl.mu.Unlock()
		}
		s.flights.mu.Unlock()
	}
	return n
}

func TestPullRefused(t *testing.T) {
	h := newHub(t)
	layer := tarLayer(t, file{name: "a", body: strings.Repeat("x", 10_000)})
	good := makeImage(t, layer)
	config := func(change func(*v1.ConfigFile)) v1.Image {
		c, _ := good.ConfigFile()
		c = c.DeepCopy()
		change(c)
		img, err := mutate.ConfigFile(good, c)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	for _, tt := range []struct {
		name    string
		img     v1.Image
		limits  Limits
		disturb func(http.ResponseWriter, *http.Request) bool
		kind    fault.Kind
	}{
		{name: "other machine", img: config(func(c *v1.ConfigFile) { c.Architecture = "s390x" }), kind: fault.Unsupported},
		{name: "layers with other digests", img: config(func(c *v1.ConfigFile) { c.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64) }), kind: fault.Invalid},
		{name: "no file system", img: config(func(c *v1.ConfigFile) { c.RootFS.DiffIDs = nil }), kind: fault.Unsupported},
		{name: "a huge environment", img: config(func(c *v1.ConfigFile) { c.Config.Env = []string{"A=" + strings.Repeat("x", maxConfig)} }), kind: fault.Invalid},
		{name: "a NUL in a command", img: config(func(c *v1.ConfigFile) { c.Config.Cmd = []string{"a\x00b"} }), kind: fault.Invalid},
		{name: "too large compressed", img: good, limits: Limits{Compressed: 100}, kind: fault.Invalid},
		{name: "bomb", img: good, limits: Limits{Size: 5000}, kind: fault.Invalid},
		{name: "too many layers", img: makeImage(t, layer, layer, layer), limits: Limits{Layers: 2}, kind: fault.Invalid},
		{name: "not there", img: good, disturb: status(404), kind: fault.NotFound},
		{name: "not allowed", img: good, disturb: status(403), kind: fault.Denied},
		{name: "broken registry", img: good, disturb: status(501), kind: fault.Unavailable},
		{name: "wrong bytes", img: good, disturb: wrongBytes(layer), kind: fault.Unavailable},
		{name: "cut off", img: good, disturb: cutOff(layer), kind: fault.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, Options{Limits: tt.limits})
			ref := h.push(t, "app:1", tt.img)
			h.disturb = tt.disturb
			defer func() { h.disturb = nil }()
			_, err := s.Pull(t.Context(), ref, PullOptions{}, nil)
			if fault.KindOf(err) != tt.kind {
				t.Errorf("got %v of kind %q, want %q", err, fault.KindOf(err), tt.kind)
			}
			nothingLeft(t, s)
			if images, err := s.List(); err != nil || len(images) > 0 {
				t.Errorf("images %v, %v; want none", images, err)
			}
		})
	}
}

func isLayer(r *http.Request, l v1.Layer) bool {
	digest, err := l.Digest()
	return err == nil && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String())
}

// wrongBytes answers for a layer with as many other bytes.
func wrongBytes(l v1.Layer) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !isLayer(r, l) {
			return false
		}
		size, _ := l.Size()
		w.Write(make([]byte, size))
		return true
	}
}

// cutOff answers with fewer bytes than it announces.
func cutOff(l v1.Layer) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !isLayer(r, l) {
			return false
		}
		size, _ := l.Size()
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Write(make([]byte, size/2))
		return true
	}
}

func TestPullCancelled(t *testing.T) {
	h := newHub(t)
	random := make([]byte, 1<<20)
	rand.Read(random)
	ref := h.push(t, "app:1", makeImage(t, tarLayer(t, file{name: "a", body: string(random)})))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h.disturb = func(w http.ResponseWriter, r *http.Request) bool {
		if h.blobs.Load() < 2 { // the configuration
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(1<<20))
		w.Write(random[:1000])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	}
	s := newStore(t, Options{})
	if _, err := s.Pull(ctx, ref, PullOptions{}, nil); fault.KindOf(err) != fault.Canceled {
		t.Errorf("got %v, want a cancelled context", err)
	}
	nothingLeft(t, s)
}
