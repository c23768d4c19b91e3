package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/paths"
)

func source(t *testing.T) Source {
	home := t.TempDir()
	return Source{
		Layout:    paths.At(home),
		LookupEnv: func(name string) (string, bool) { return home, name == "HOME" },
		Absent:    errors.New("bangerd is not running"), Now: time.Unix(0, 0).UTC(),
		Doctor: func(context.Context) any { return []string{"fine"} },
		Config: func() (any, error) { return map[string]string{"memory": "1G"}, nil },
	}
}

// unpack returns the files of a bundle.
func unpack(t *testing.T, data []byte) map[string]string {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	tr := tar.NewReader(gz)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(hdr.Name, "/")
		files[name] = string(body)
	}
}

// TestWithoutDaemon makes a bundle of what there is without a daemon, and looks at what it says is
// missing.
func TestWithoutDaemon(t *testing.T) {
	src := source(t)
	if err := os.MkdirAll(src.Layout.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src.Layout.DaemonLog(), []byte("a line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	entries, err := Write(t.Context(), &out, src)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, out.Bytes())
	for name, want := range map[string]string{"bangerd.log": "a line\n", "doctor.json": "fine", "config.json": "1G", "versions.json": "linux"} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s holds %q, want %q in it", name, files[name], want)
		}
	}
	missing := map[string]string{}
	for _, e := range entries {
		if e.Missing != "" {
			missing[e.Name] = e.Missing
		} else if int(e.Size) != len(files[e.Name]) {
			t.Errorf("%s is listed with %d bytes and has %d", e.Name, e.Size, len(files[e.Name]))
		}
	}
	for _, name := range []string{"records/vms.json", "status.json", "goroutines.txt", "metrics.txt", "vms"} {
		if !strings.Contains(missing[name], "not running") {
			t.Errorf("%s is listed as missing because of %q", name, missing[name])
		}
		if _, there := files[name]; there {
			t.Errorf("%s is listed as missing and there", name)
		}
	}
	var listed []Entry
	if err := json.Unmarshal([]byte(files["contents.json"]), &listed); err != nil || len(listed) != len(entries) {
		t.Errorf("contents.json lists %d parts of %d, %v", len(listed), len(entries), err)
	}
}

// TestScrub plants secrets of each kind in a text.
func TestScrub(t *testing.T) {
	src := source(t)
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(src.Layout.SSHKey(), "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
	home, _ := src.LookupEnv("HOME")
	write(home+"/.docker/config.json", `{"auths":{"ghcr.io":{"auth":"bWU6cmVnaXN0cnktcGFzcw==","identitytoken":"identity-abc"}}}`)
	s := newScrubber(src.Layout, src.LookupEnv)
	s.addEnv(map[string]string{"A": "env value", "B": "two\nlines of it", "C": `quo"ted\value`, "SHORT": "1", "LONGER": "env value and more"})
	s.seal()
	for text, want := range map[string]string{
		"say env value and more.":             "say (removed).",
		"say env value.":                      "say (removed).",
		"console: lines of it\r\n":            "console: (removed)\r\n",
		`{"C":"quo\"ted\\value"}`:             `{"C":"(removed)"}`,
		"x=quo%22ted%5Cvalue":                 "x=(removed)",
		"1 VM, 1 image":                       "1 VM, 1 image",
		"auth bWU6cmVnaXN0cnktcGFzcw== sent":  "auth (removed) sent",
		"the password is registry-pass":       "the password is (removed)",
		"identity-abc":                        "(removed)",
		"key b3BlbnNzaC1rZXktdjEAAAAA there":  "key (removed) there",
		"pull https://me:hidden@reg.io/x: no": "pull https://(removed)@reg.io/x: no",
		"Authorization: Bearer abc.def":       "Authorization: Bearer (removed)",
		"got bearer abcdefghijk":              "got bearer (removed)",
		`DB_PASSWORD="hunter2" ok`:            `DB_PASSWORD="(removed)" ok`,
		"token: ghp_abcdefghijklmnop":         "token: (removed)",
		"AKIAIOSFODNN7EXAMPLE":                "(removed)",
		"a\n-----BEGIN RSA PRIVATE KEY-----\r\nMIIEpAIB\r\n-----END RSA PRIVATE KEY-----\nb":        "a\n(removed)\nb",
		"MIIEpAIBAAKCAQEA\nMIIEpAIBAAKCAQEA\n-----END EC PRIVATE KEY-----\nb":                       "(removed)\nb",
		"-----BEGIN PRIVATE KEY-----\nMIIEpAIB":                                                     "(removed)",
		"vm=0123456789abcdef step=agent took=1.5s error=\"no answer\" https://registry.example/v2/": "vm=0123456789abcdef step=agent took=1.5s error=\"no answer\" https://registry.example/v2/",
	} {
		if got := s.text(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// TestTail cuts logs where a line begins, or past any secret if there is no line.
func TestTail(t *testing.T) {
	b := &builder{scrub: &scrubber{longest: 3}}
	for log, want := range map[string]string{
		"short\n":                          "short\n",
		"0123456789\nab\ncd\n":             "ab\ncd\n",
		strings.Repeat("line 1\n", 100):    "line 1\n",
		strings.Repeat("x", 100) + "12345": "xx12345",
	} {
		got, err := b.tail(strings.NewReader(log), 10)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%.20q became %q, want %q", log, got, want)
		}
	}
}

// TestHidden hides the arguments of an image's command, whatever they are.
func TestHidden(t *testing.T) {
	if got := hidden([]string{"server", "--password", "hunter2"}); len(got) != 1 || got[0] != removed {
		t.Errorf("a command is shown as %q", got)
	}
	if got := hidden(nil); got != nil {
		t.Errorf("no command is shown as %q", got)
	}
}
