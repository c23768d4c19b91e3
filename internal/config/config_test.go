package config_test

import (
	"cmp"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

var update = flag.Bool("update", false, "write golden files")

// env returns an environment of HOME and the pairs.
func env(pairs ...string) func(string) (string, bool) {
	m := map[string]string{"HOME": "/home/me"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// write makes a configuration file.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c, err := config.Load(filepath.Join(t.TempDir(), "none"), env(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := model.Spec{Name: "x", VCPUs: cmp.Or(c.VCPUs, 1), Memory: c.Memory, DiskSize: c.DiskSize, WorkDiskSize: c.WorkDiskSize, Net: c.Net}
	if err := s.Validate(); err != nil {
		t.Errorf("the defaults make no valid VM: %v", err)
	}
	if c.StopTimeout != 10*time.Second || !c.GitIdentity {
		t.Errorf("the stop timeout is %v, the git identity %v, want 10s and true", c.StopTimeout, c.GitIdentity)
	}
	for _, r := range c.Rows() {
		if r.Origin != "default" {
			t.Errorf("%s comes from %s, want default", r.Key, r.Origin)
		}
		if r.Doc == "" {
			t.Errorf("%s has no description", r.Key)
		}
	}
}

func TestPrecedence(t *testing.T) {
	path := write(t, `
vcpus = 0x3
memory = "2G"
disk_size = 21474836480
net = "none"

[git]
identity = false
`)
	c, err := config.Load(path, env("BANGER_MEMORY", "3G", "BANGER_IMAGE", "alpine", "BANGER_NET", "", "BANGER_GIT_IDENTITY", "true"),
		map[string]string{"image": "busybox", "vcpus": "4"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range c.Rows() {
		got[r.Key] = r.Value + " from " + r.Origin
	}
	for key, want := range map[string]string{
		"vcpus":        "4 from flag --vcpu",
		"image":        "busybox from flag --image",
		"memory":       "3G from env BANGER_MEMORY",
		"disk_size":    "20G from file " + path + ":4",
		"net":          "none from file " + path + ":5",
		"git.identity": "true from env BANGER_GIT_IDENTITY",
		"kernel":       "debian from default",
		"file_sync":    "[] from default",
	} {
		if got[key] != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
	}
	if c.VCPUs != 4 || c.Memory != 3*model.GiB || c.DiskSize != 20*model.GiB || c.Net != model.NetNone || !c.GitIdentity {
		t.Errorf("the rows are right, but the configuration is %+v", c)
	}
}

func TestFileSync(t *testing.T) {
	path := write(t, `
[[file_sync]]
host = "~/.vimrc"
guest = "~/.vimrc"

[[file_sync]]
host = "/etc/../etc/hosts"
guest = "/etc/hosts"
mode = "0600"
optional = true
`)
	c, err := config.Load(path, env(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.SyncEntry{
		{Host: "/home/me/.vimrc", Guest: "/root/.vimrc"},
		{Host: "/etc/hosts", Guest: "/etc/hosts", Mode: 0o600, Optional: true},
	}
	if !reflect.DeepEqual(c.FileSync, want) {
		t.Errorf("the entries of file_sync are %+v, want %+v", c.FileSync, want)
	}
	rows := c.Rows()
	last := rows[len(rows)-1]
	if last.Key != "file_sync[1]" || last.Origin != "file "+path+":6" || last.Value != `{ host = "/etc/hosts", guest = "/etc/hosts", mode = "0600", optional = true }` {
		t.Errorf("the row of the second entry is %+v", last)
	}
	inline, err := config.Load(write(t, `file_sync = [
  { host = "~", guest = "/x" },
  {host = "/a", guest = "/b"}]`), env(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []config.SyncEntry{{Host: "/home/me", Guest: "/x"}, {Host: "/a", Guest: "/b"}}; !reflect.DeepEqual(inline.FileSync, want) {
		t.Errorf("an inline file_sync is read as %+v, want %+v", inline.FileSync, want)
	}
}

// TestWriters reads files that somebody else could have written.
func TestWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	load := func() error {
		_, err := config.Load(path, func(string) (string, bool) { return "", false }, nil)
		return err
	}
	if err := errors.Join(os.WriteFile(path, []byte("vcpus = 2\n"), 0o644), load()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := load(); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), path) || !strings.Contains(fault.HintOf(err), "chmod") {
		t.Errorf("a file that everybody may write to: %v (hint %q)", err, fault.HintOf(err))
	}
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can give files away")
	if err := errors.Join(os.Chmod(path, 0o644), os.Chown(path, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if err := load(); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), path) || !strings.Contains(fault.HintOf(err), "chown") {
		t.Errorf("a file of somebody else: %v (hint %q)", err, fault.HintOf(err))
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       []string // each a line; PATH is the file
	}{
		{"syntax", "vcpus = 2\nmemory = \n", []string{"PATH:2:10: unexpected character"}},
		{"twice", "vcpus = 2\nvcpus = 3\n", []string{"PATH:2:1: "}},
		{"unknown", "\nvcpu = 2\n", []string{"PATH:2: unknown key vcpu; did you mean vcpus?"}},
		{"unknown and far", "colour = 2\n", []string{"PATH:1: unknown key colour"}},
		{"unknown table", "[gti]\n[network]\nx = 1", []string{"PATH:1: unknown key gti", "PATH:2: unknown key network", "PATH:3: unknown key network.x"}},
		{"in a table", "[git]\nidentify = true\n", []string{"PATH:2: unknown key git.identify; did you mean git.identity?"}},
		{"quoted key", "\"git.identity\" = true\n", []string{`PATH:1: unknown key "git.identity"`}},
		{"all of them", "vcpus = -1\nmemory = \"1X\"\nnet = \"bridge\"\nlog_level = 3\n", []string{
			"PATH:1: vcpus: -1 is not between 0 and 64",
			`PATH:2: memory: size "1X" is not a number`,
			`PATH:3: net: "bridge" is not one of: user, none`,
			"PATH:4: log_level: must be a string in quotes, not a number",
		}},
		{"where metrics are served", "metrics_listen = \"0.0.0.0:9464\"\n", []string{
			`PATH:1: metrics_listen: "0.0.0.0:9464" is not a loopback address; other hosts could read it. Write 127.0.0.1:9464`,
		}},
		{"no address", "metrics_listen = \"localhost:9464\"\nlog_format = \"xml\"\n", []string{
			`PATH:1: metrics_listen: "localhost:9464" is not an address and a port, such as 127.0.0.1:9464`,
			`PATH:2: log_format: "xml" is not one of: text, json`,
		}},
		{"types", "vcpus = \"2\"\nmemory = true\nboot_timeout = 30\nimage = [\"a\"]\ngit.identity = \"yes\"\nqemu = 1979-05-27", []string{
			"PATH:1: vcpus: must be a number such as 0, not a string",
			`PATH:2: memory: must be a size such as "1G", not true or false`,
			`PATH:3: boot_timeout: must be a duration in quotes such as "30s", not a number`,
			"PATH:4: image: must be a string in quotes, not an array",
			"PATH:5: git.identity: must be true or false without quotes, not a string",
			"PATH:6: qemu: must be a string in quotes, not a date or fraction",
		}},
		{"values", "memory = \"64M\"\ndisk_size = 1\nwork_disk_size = 5\nstop_timeout = \"0s\"\nqemu = \"bin/qemu\"\nimage = \"\"\nkernel = \"a b\"\naccel = \"hvf\"\nboot_timeout = \"soon\"", []string{
			"PATH:1: memory: 64M is not between 128M and 1T",
			"PATH:2: disk_size: 1B is not between 32M and 16T",
			"PATH:3: work_disk_size: 5B is not between 32M and 16T; 0 means no work disk",
			"PATH:4: stop_timeout: 0s is not between 1s and 1h0m0s",
			"PATH:5: qemu: \"bin/qemu\" is a relative path",
			"PATH:6: image: the value is empty",
			"PATH:7: kernel: \"a b\" contains a space",
			"PATH:8: accel: \"hvf\" is not one of: auto, kvm, tcg",
			"PATH:9: boot_timeout: \"soon\" is not a duration",
		}},
		{"memory in part", "memory = 268435457", []string{"PATH:1: memory: 268435457 bytes is not a whole number of MiB"}},
		{"table for a value", "git = true\n[image]\n", []string{"PATH:1: git: must be a table, not true or false", "PATH:2: image: must be a string in quotes, not a table"}},
		{"file_sync", `[[file_sync]]
host = "relative"
guest = "/a/../b"
mode = 600
colour = "red"
[[file_sync]]
guest = "/"
optional = "yes"
mode = "999"
[[file_sync]]
host = "/x"
`, []string{
			`PATH:2: file_sync.host: "relative" is a relative path; use an absolute path, or ~/`,
			`PATH:3: file_sync.guest: "/a/../b" contains ".."`,
			`PATH:4: file_sync.mode: must be octal digits in quotes such as "0600", not a number`,
			"PATH:5: file_sync.colour: unknown key; an entry has host, guest, mode and optional",
			"PATH:7: file_sync.guest: the guest's root directory cannot be replaced",
			"PATH:8: file_sync.optional: must be true or false, not a string",
			`PATH:9: file_sync.mode: "999" is not an octal mode`,
			"PATH:6: file_sync: host is missing",
			"PATH:10: file_sync: guest is missing",
		}},
		{"file_sync as a table", "[file_sync]\nhost = \"/x\"", []string{"PATH:1: file_sync must be an array of tables: write [[file_sync]]"}},
		{"file_sync of texts", "file_sync = [\"a\"]", []string{"PATH:1: file_sync[0]: must be a table, not a string"}},
		{"deep file_sync", "[[file_sync]]\nhost = \"/a\"\nguest = \"/b\"\n[file_sync.more]\nx = 1", []string{"PATH:4: file_sync.more: unknown key", "PATH:5: file_sync.more.x: unknown key"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.file)
			c, err := config.Load(path, env(), nil)
			if err == nil {
				t.Fatalf("the invalid file is accepted: %+v", c)
			}
			if fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
				t.Errorf("the error has kind %s and hint %q, want invalid and any hint", fault.KindOf(err), fault.HintOf(err))
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(tt.want) {
				t.Fatalf("%d errors, want %d:\n%s", len(got), len(tt.want), err)
			}
			for i, want := range tt.want {
				if want = strings.ReplaceAll(want, "PATH", path); !strings.Contains(got[i], want) {
					t.Errorf("error %d is\n%s\nwant\n%s", i, got[i], want)
				}
			}
		})
	}
}

func TestErrorsElsewhere(t *testing.T) {
	path := write(t, "vcpus = -1")
	_, err := config.Load(path, env("BANGER_VCPUS", "many", "BANGER_GIT_IDENTITY", "maybe"), map[string]string{"disk_size": "big", "nonsense": "1"})
	want := path + `:1: vcpus: -1 is not between 0 and 64
environment BANGER_VCPUS: vcpus: "many" is not a whole number
environment BANGER_GIT_IDENTITY: git.identity: "maybe" is neither true nor false
--disk-size: disk_size: size "big" is not a number with an optional K, M, G or T, such as 512M or 8G
nonsense cannot be set`
	if err == nil || err.Error() != want {
		t.Errorf("errors of the file, the environment and flags are\n%v\nwant\n%s", err, want)
	}
	none := func(string) (string, bool) { return "", false }
	if _, err := config.Load(write(t, "[[file_sync]]\nhost='~/x'\nguest='/x'"), none, nil); err == nil || !strings.Contains(err.Error(), "HOME, which is not set") {
		t.Errorf("the error of ~ without HOME is %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	if _, err := config.Load(t.TempDir(), env(), nil); err == nil {
		t.Error("a directory was read as a file")
	}
	big := write(t, strings.Repeat("# comment\n", 200_000))
	if _, err := config.Load(big, env(), nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the error of a file that is too large is %v, want invalid", err)
	}
	testkit.Require(t, "user", os.Geteuid() != 0, "root may read everything")
	path := write(t, "")
	os.Chmod(path, 0)
	if _, err := config.Load(path, env(), nil); fault.KindOf(err) != fault.Denied || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the error of a file without read permission is %v, want denied", err)
	}
}

// TestExample checks that the example without its comment signs is valid and sets the defaults.
// TestIrregular claims that a configuration that is no regular file is refused, without waiting.
func TestIrregular(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "config.toml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, t.TempDir()} {
		done := make(chan error, 1)
		go func() {
			_, err := config.Load(path, func(string) (string, bool) { return "", false }, nil)
			done <- err
		}()
		select {
		case err := <-done:
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the load still waits", path)
		}
	}
}

func TestExample(t *testing.T) {
	text := regexp.MustCompile(`(?m)^# `).ReplaceAllString(config.Example(), "")
	c, err := config.Load(write(t, text), env(), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	d, _ := config.Load("/nonexistent", env(), nil)
	rows, defaults := c.Rows(), d.Rows()
	for i := range len(defaults) - 1 {
		if rows[i].Value != defaults[i].Value || rows[i].Origin == "default" {
			t.Errorf("%s is %q from %s, want %q from the file", rows[i].Key, rows[i].Value, rows[i].Origin, defaults[i].Value)
		}
	}
	if len(c.FileSync) != 1 {
		t.Errorf("file_sync: %+v", c.FileSync)
	}
}

func TestMarkdown(t *testing.T) {
	const path = "../../docs/config.md"
	if *update {
		if err := os.WriteFile(path, []byte(config.Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != config.Markdown() {
		t.Errorf("docs/config.md is out of date (%v): run `make docs`", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("vcpus = 2\nmemory = \"1G\"\n[git]\nidentity = true\n[[file_sync]]\nhost = '~/a'\nguest = '/b'\n")
	f.Add("file_sync = [{host='/a'}, 1, [2]]\n\"a.b\" = 1_000\nc.d.e = 0x1f")
	f.Add("[[file_sync]]\n[[file_sync.x]]\n[file_sync.x.y]\n[git]\n[git.identity]")
	f.Add("a = 1979-05-27T07:32:00Z\nb = [1.5, inf, nan]\nc = '''x'''\nd = \"\\u0000\"")
	f.Add(regexp.MustCompile(`(?m)^# `).ReplaceAllString(config.Example(), ""))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.LoadData(text, env())
		if err != nil {
			if !strings.Contains(err.Error(), "config.toml") {
				t.Errorf("an error without a place: %v", err)
			}
			return
		}
		s := model.Spec{Name: "x", VCPUs: cmp.Or(c.VCPUs, 1), Memory: c.Memory, DiskSize: c.DiskSize, WorkDiskSize: c.WorkDiskSize, Net: c.Net}
		if err := s.Validate(); err != nil {
			t.Errorf("%q is accepted, but makes no valid VM: %v", text, err)
		}
		for _, e := range c.FileSync {
			if !filepath.IsAbs(e.Host) || !filepath.IsAbs(e.Guest) || e.Mode&^0o777 != 0 {
				t.Errorf("%q is accepted, but has the entry %+v", text, e)
			}
		}
		// Each printed value is read back as the same value.
		for _, r := range c.Rows() {
			if strings.HasPrefix(r.Key, "file_sync") {
				continue
			}
			if again, err := config.LoadData("", env(), r.Key, r.Value); err != nil || !strings.Contains(again.String(), r.Key+"="+r.Value+"\n") {
				t.Errorf("%s is printed as %q, which is read as another value: %v", r.Key, r.Value, err)
			}
		}
	})
}
