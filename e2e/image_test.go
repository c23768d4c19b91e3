package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// entry is a member of an archive.
type entry struct {
	tar.Header
	data string
}

func file(name, data string, mode int64) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}, data}
}

func dir(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

// archive returns a tar file of the entries.
func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

var hello = sync.OnceValues(func() (string, error) { return build("hello") })

// build builds a program in testdata for a guest.
func build(name string) (string, error) {
	dir, err := os.MkdirTemp("", "banger-"+name)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir+"/"+name, "./testdata/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", name, err, out)
	}
	data, err := os.ReadFile(dir + "/" + name)
	return string(data), err
}

// helloImage is an image with a single program: no shell, no init, no /etc. Its configuration sets
// everything that an OCI image can set for its process.
func helloImage(t *testing.T, more ...entry) v1.Image {
	t.Helper()
	program, err := hello()
	if err != nil {
		t.Fatal(err)
	}
	image := addLayer(t, empty.Image, file("hello", program, 0o755))
	if len(more) > 0 {
		image = addLayer(t, image, more...)
	}
	image, err = mutate.Config(image, v1.Config{
		Env:        []string{"GREETING=moin", "PATH=/"},
		WorkingDir: "/srv",
		User:       "1234:1234",
		Entrypoint: []string{"/hello", "from"},
		Cmd:        []string{"cmd"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func addLayer(t *testing.T, image v1.Image, entries ...entry) v1.Image {
	t.Helper()
	data := archive(t, entries...)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.AppendLayers(image, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// helloSays is the program's output if the image's configuration is applied.
const helloSays = "args from cmd\ndir /srv\nuid 1234\ngreeting moin\n"

// counter counts requests by method and path.
type counter struct {
	http.Handler
	user, password string // required if set

	mu   sync.Mutex
	seen map[string]int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); c.user != "" && (user != c.user || password != c.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	c.mu.Lock()
	c.seen[r.Method+" "+r.URL.Path]++
	c.mu.Unlock()
	c.Handler.ServeHTTP(w, r)
}

// blobs returns how many blobs were fetched since the last call.
func (c *counter) blobs() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for what, times := range c.seen {
		if strings.HasPrefix(what, http.MethodGet) && strings.Contains(what, "/blobs/") {
			n += times
		}
	}
	clear(c.seen)
	return n
}

// startRegistry serves a registry on loopback.
func startRegistry(t *testing.T) (*counter, string) {
	t.Helper()
	c := &counter{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), seen: map[string]int{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return c, strings.TrimPrefix(server.URL, "http://")
}

func push(t *testing.T, ref string, image v1.Image) {
	t.Helper()
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
}

// TestImagePull pulls from a registry on loopback.
func TestImagePull(t *testing.T) {
	h := warm(t)
	reg, host := startRegistry(t)
	small, big := host+"/team/hello:1", host+"/team/hello:2"
	push(t, small, helloImage(t))
	push(t, big, helloImage(t, file("extra", strings.Repeat("more ", 1000), 0o644)))
	reg.blobs()

	t.Run("its configuration is honoured", func(t *testing.T) {
		equal(t, "stdout", ok(t, h, "run", "--rm", "--image", small), helloSays)
		equal(t, "stdout", h.Feed(t, "hi\n", "run", "--rm", "--image", small, "--env", "GREETING=hey", "--workdir", "/", "--", "/hello", "cat").Stdout,
			"args cat\ndir /\nuid 1234\ngreeting hey\nhi\n")
		reg.blobs()
	})
	t.Run("only what is missing is fetched, once", func(t *testing.T) {
		both := parallel(func() testkit.Result { return h.Banger(t, "image", "pull", big) }, func() testkit.Result { return h.Banger(t, "image", "pull", big) })
		equal(t, "exit of the first", both[0].Code, 0)
		equal(t, "exit of the second", both[1].Code, 0)
		if n := reg.blobs(); n > 2 { // the new layer and the configuration
			t.Errorf("%d blobs were fetched", n)
		}
		ok(t, h, "image", "pull", big)
		equal(t, "blobs fetched by a pull of what is there", reg.blobs(), 0)
	})
	t.Run("the digest is pinned", func(t *testing.T) {
		ref, err := name.ParseReference(small)
		if err != nil {
			t.Fatal(err)
		}
		descriptor, err := remote.Get(ref)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "digest", decode[model.Image](t, h, "image", "show", small).Digest, descriptor.Digest.String())
		ok(t, h, "image", "pull", host+"/team/hello@"+descriptor.Digest.String())
	})
	t.Run("no such image", func(t *testing.T) {
		fails(t, h, []string{"image", "pull", host + "/team/none:1"}, "none")
	})
	t.Run("delete and prune", func(t *testing.T) {
		ok(t, h, "vm", "create", "--name", "user", "--image", small)
		fails(t, h, []string{"image", "delete", decode[model.Image](t, h, "image", "show", small).ID}, "user")
		ok(t, h, "image", "prune", "--yes")
		ok(t, h, "image", "show", small)
		ok(t, h, "rm", "user")
		ok(t, h, "image", "delete", small)
		fails(t, h, []string{"image", "show", small}, "hello")
	})
}

// TestImagePullAuth logs in with the docker configuration.
func TestImagePullAuth(t *testing.T) {
	testkit.RequireTool(t, "qemu-system-x86_64")
	t.Parallel()
	h := testkit.NewHome(t, bin)
	reg, host := startRegistry(t)
	push(t, host+"/private:1", helloImage(t))
	reg.user, reg.password = "anna", "secret"
	write(t, h, "docker/config.json", fmt.Sprintf(`{"auths": {%q: {"username": "anna", "password": "secret"}}}`, host), 0o600)
	refused := fails(t, h, []string{"image", "pull", host + "/private:1"})
	if strings.Contains(refused.Stderr, "secret") {
		t.Error("the error tells the password")
	}
	ok(t, h, "daemon", "stop")
	h.Setenv("DOCKER_CONFIG", filepath.Join(h.Dir, "docker"))
	ok(t, h, "image", "pull", host+"/private:1")
}

// TestImageImport imports each format and boots the image.
func TestImageImport(t *testing.T) {
	testkit.RequireTool(t, "mkfs.ext4")
	h := warm(t)
	image := helloImage(t)
	program, _ := hello()
	tmp := filepath.Join(h.Dir, "import")
	tree := filepath.Join(tmp, "tree")
	write(t, h, "import/tree/hello", program, 0o755)

	tag, err := name.NewTag("hello:archive")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(tmp, "docker.tar"), tag, image); err != nil {
		t.Fatal(err)
	}
	oci, err := layout.Write(filepath.Join(tmp, "oci"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	run(t, h, "tar", "-C", filepath.Join(tmp, "oci"), "-cf", filepath.Join(tmp, "oci.tar"), ".")
	write(t, h, "import/rootfs.tar", string(archive(t, file("hello", program, 0o755))), 0o644)
	run(t, h, "gzip", "-k", filepath.Join(tmp, "rootfs.tar"))
	run(t, h, "mkfs.ext4", "-q", "-d", tree, filepath.Join(tmp, "disk.ext4"), "16M")

	for what, path := range map[string]string{"docker-archive": "docker.tar", "oci-layout": "oci.tar", "rootfs-tar": "rootfs.tar",
		"rootfs-tar-gz": "rootfs.tar.gz", "directory": "tree", "ext4": "disk.ext4"} {
		t.Run(what, func(t *testing.T) {
			ok(t, h, "image", "import", filepath.Join(tmp, path), "--name", what)
			out := ok(t, h, "run", "--rm", "--net", "none", "--image", what, "--", "/hello", "from", what)
			has(t, out, "args from "+what+"\n")
			if strings.HasPrefix(what, "docker") || strings.HasPrefix(what, "oci") {
				has(t, out, "dir /srv\nuid 1234\ngreeting moin\n")
			}
		})
	}
	has(t, ok(t, h, "image", "list"), "docker-archive", "oci-layout", "rootfs-tar", "directory", "ext4", testkit.Image)
	ok(t, h, "image", "prune", "--yes")
}

// TestImageHostile imports malicious archives. None may write outside its image, and the daemon
// continues.
func TestImageHostile(t *testing.T) {
	testkit.RequireTool(t, "mkfs.ext4")
	t.Parallel()
	h := testkit.NewHome(t, bin)
	ok(t, h, "daemon", "start")
	pid := daemonPID(t, h)
	link := func(name, target string, kind byte) entry {
		return entry{tar.Header{Name: name, Linkname: target, Typeflag: kind, Mode: 0o777}, ""}
	}
	prey := write(t, h, "prey", "untouched", 0o644)
	outside := strings.Repeat("../", 20)
	for name, entries := range map[string][]entry{
		"dots":                {dir("a"), file("a/"+outside+strings.TrimPrefix(h.Dir, "/")+"/escaped", "x", 0o644)},
		"absolute":            {file(h.Dir+"/escaped", "x", 0o644)},
		"through a link":      {link("out", h.Dir, tar.TypeSymlink), file("out/escaped", "x", 0o644)},
		"hard link outside":   {link("h", outside+strings.TrimPrefix(prey, "/"), tar.TypeLink)},
		"hard link to itself": {link("h", "h", tar.TypeLink)},
		"links in a circle":   {link("a", "b", tar.TypeSymlink), link("b", "a", tar.TypeSymlink), file("a/x", "x", 0o644)},
		"device":              {{tar.Header{Name: "null", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}, ""}},
		"long name":           {file(strings.Repeat("d/", 3000)+"f", "x", 0o644)},
		"file as folder":      {file("f", "x", 0o644), file("f/g", "x", 0o644)},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, h, "tmp/hostile.tar", string(archive(t, append([]entry{dir("etc")}, entries...)...)), 0o644)
			r := h.Banger(t, "image", "import", path, "--name", "hostile")
			if strings.Contains(r.Stderr, "goroutine ") {
				t.Errorf("panicked:\n%s", r.Stderr)
			}
			t.Logf("exit %d: %s", r.Code, r.Stderr)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		whole := archive(t, file("f", strings.Repeat("x", 100_000), 0o644))
		fails(t, h, []string{"image", "import", write(t, h, "tmp/cut.tar", string(whole[:50_000]), 0o644), "--name", "cut"})
	})
	t.Run("sparse beyond all bounds", func(t *testing.T) {
		path := filepath.Join(h.Dir, "tmp", "huge")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 1<<43); err != nil {
			t.Fatal(err)
		}
		run(t, h, "tar", "-C", filepath.Join(h.Dir, "tmp"), "--sparse", "-cf", filepath.Join(h.Dir, "tmp", "sparse.tar"), "huge")
		os.Remove(path)
		fails(t, h, []string{"image", "import", filepath.Join(h.Dir, "tmp", "sparse.tar"), "--name", "sparse"})
	})
	if _, err := os.Stat(filepath.Join(h.Dir, "escaped")); err == nil {
		t.Error("an archive wrote outside of its image")
	}
	data, err := os.ReadFile(prey)
	if err != nil || string(data) != "untouched" {
		t.Errorf("an archive changed a file of the host: %q, %v", data, err)
	}
	equal(t, "daemon's pid", daemonPID(t, h), pid)
}

// TestImageDefault checks the default image for what a developer expects.
func TestImageDefault(t *testing.T) {
	h := warm(t)
	out := ok(t, h, "run", "--rm", "--", "sh", "-c",
		"for p in bash git curl ip ps less vi python3 sudo; do command -v $p >/dev/null || echo no $p; done; test -s /etc/ssl/certs/ca-certificates.crt || echo no certificates; ls /etc/ssh/*key* 2>/dev/null; echo end")
	equal(t, "what is missing, and what should not be there", out, "end\n")
}

// TestImageSystemd boots an image with an init of its own.
func TestImageSystemd(t *testing.T) {
	h := warm(t)
	source := testkit.SharedFile(t, "systemd.tar", func(path string) error {
		out, err := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", "bookworm", path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("mmdebstrap: %w: %s", err, out)
		}
		return nil
	})
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "image", "import", source, "--name", "systemd")
	ok(t, h, "run", "-d", "--name", "init", "--image", "systemd")
	// The VM runs as soon as the agent answers. Its init continues to boot.
	testkit.WaitFor(t, 2*time.Minute, "systemd is up", func() bool {
		return regexp.MustCompile(`^(running|degraded)\n`).MatchString(h.Banger(t, "exec", "init", "--", "systemctl", "is-system-running").Stdout)
	})
	if info, err := qemu.New(qemu.Config{}).Info(t.Context()); err != nil {
		t.Error(err)
	} else if r, ok := info.Recommended(vmm.MaxVCPUsWithInit); ok {
		equal(t, "virtual CPUs", show(t, h, "init").Spec.VCPUs, r.Value)
	}
	equal(t, "process 1", ok(t, h, "exec", "init", "--", "cat", "/proc/1/comm"), "systemd\n")
	ok(t, h, "exec", "init", "--", "systemctl", "is-active", "default.target")
	equal(t, "failed units", ok(t, h, "exec", "init", "--", "systemctl", "--failed", "--plain", "--no-legend"), "")
	equal(t, "hostname", ok(t, h, "exec", "init", "--", "hostname"), "init\n")
	ok(t, h, "vm", "stop", "init")
	equal(t, "state", show(t, h, "init").State, model.Stopped)
	ok(t, h, "rm", "init")
	h.CheckNoLeaks(t, before)
}
