package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/step"
	"banger/internal/testkit"
)

func TestSuiteSources(t *testing.T) {
	deb822 := `# of the distribution
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.test/debian
Suites: trixie
Components: main
Enabled: no

Types: deb
URIs: http://vendor.test/tool
Suites: bookworm
Components: stable
`
	oneLine := `deb [arch=amd64,i386 signed-by=/k.gpg] http://mirror.test/debian bookworm main # comment
deb-src http://mirror.test/debian bookworm main
# deb http://mirror.test/debian sid main
deb http://mirror.test/debian unstable main non-free
deb [broken http://mirror.test/debian bookworm main
nonsense
`
	for _, tt := range []struct {
		name, file, content, suite string
		want                       string // "" if the suite is missing
	}{
		{"deb822", "debian.sources", deb822, "bookworm", `Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By: 
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
`},
		{"disabled", "debian.sources", deb822, "trixie", ""},
		{"one line", "x.list", oneLine, "bookworm", `Types: deb
URIs: http://mirror.test/debian
Suites: bookworm
Components: main
Architectures: amd64 i386
Signed-By: /k.gpg
`},
		{"other name", "x.list", oneLine, "sid", `Types: deb
URIs: http://mirror.test/debian
Suites: unstable
Components: main non-free
`},
		{"not there", "x.list", oneLine, "bullseye", ""},
		{"not a source", "x.list.save", oneLine, "bookworm", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "sources.list.d", tt.file), []byte(tt.content))
			got, err := suiteSources(dir, tt.suite)
			if tt.want == "" {
				if fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
					t.Errorf("%q, %v; want an error that the suite is missing", got, err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, tt.want)
			}
		})
	}
}

func TestPickAptOptions(t *testing.T) {
	dump := `APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.test:3128";
Acquire::https::CAInfo "/ca.pem";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
DPkg::Post-Invoke:: "rm -f /x";
`
	want := `Acquire::http::Proxy "http://proxy.test:3128"|Acquire::https::CAInfo "/ca.pem"|Acquire::Check-Valid-Until "false"`
	if got := strings.Join(pickAptOptions(dump), "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBuilderLeftover(t *testing.T) {
	for p, want := range map[string]bool{
		"/etc/hostname": true, "/etc/resolv.conf": true, "/etc/machine-id": true, "/etc/ssh/ssh_host_ed25519_key": true,
		"/etc/ssh/ssh_host_rsa_key.pub": true, "/etc/ssh/ssh_config": false, "/var/lib/apt/lists/x_InRelease": true, "/var/lib/apt/lists": false,
		"/var/lib/apt/lists/partial": false, "/var/cache/apt/pkgcache.bin": true, "/var/log/dpkg.log": true, "/var/log": false, "/etc/hosts": false,
	} {
		if got := builderLeftover(p); got != want {
			t.Errorf("builderLeftover(%q) = %v, want %v", p, got, want)
		}
	}
}

func TestStages(t *testing.T) {
	var got []string
	l := &stageLog{report: func(e step.Event) { got = append(got, e.Detail) }}
	for _, piece := range []string{"I: running apt-get up", "date...\nI: success\nW: careful\n", "E: apt ", "failed\nI: done\n"} {
		l.Write([]byte(piece))
	}
	if len(got) != 1 || got[0] != "running apt-get update" || l.tail() != "E: apt failed" {
		t.Errorf("stages %q, tail %q", got, l.tail())
	}
	l.Write([]byte(strings.Repeat("x", 1<<20)))
	if len(l.rest) > 1<<20-1 {
		t.Error("a line without an end was kept")
	}
}

// fakeBootstrap replaces mmdebstrap to test what it does besides writing a good archive.
func fakeBootstrap(t *testing.T, script string) bootstrap {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mmdebstrap")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return bootstrap{tool: path, suite: "bookworm"}
}

func TestBootstrapFails(t *testing.T) {
	s := newStore(t, Options{})
	archive := write(t, filepath.Join(t.TempDir(), "x.tar"), makeTar(t, rootFiles...))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, tt := range []struct {
		name, script string
		ctx          context.Context
		kind         fault.Kind
		says         string
	}{
		{"at once", "echo 'E: no such suite' >&2; exit 1", t.Context(), fault.Unavailable, "no such suite"},
		{"after a good archive", "cat " + archive + "; echo 'E: cleanup' >&2; exit 1", t.Context(), fault.Unavailable, "cleanup"},
		{"in the archive", "head -c 700 " + archive + "; exit 3", t.Context(), fault.Unavailable, "status 3"},
		{"cancelled", "head -c 700 " + archive + "; sleep 1000 & wait", ctx, fault.Canceled, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := s.locks.newStaging(t.Context(), s.dir)
			if err != nil {
				t.Fatal(err)
			}
			d := fakeBootstrap(t, tt.script)
			d.report = func(e step.Event) {
				if tt.ctx == ctx && e.Phase == step.Started {
					cancel()
				}
			}
			_, _, err = s.bootstrap(tt.ctx, b, d)
			if fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v of kind %q, want %q with %q", err, fault.KindOf(err), tt.kind, tt.says)
			}
			if err := b.close(); err != nil {
				t.Error(err)
			}
		})
	}
	nothingLeft(t, s)
}

func TestBuildUnknownSuite(t *testing.T) {
	if _, err := newStore(t, Options{}).Build(t.Context(), "jessie", nil); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "bookworm") {
		t.Errorf("got %v, want an error that lists the suites", err)
	}
}

// TestBuild makes the default image from this host's archive, which takes half a minute and the
// network.
func TestBuild(t *testing.T) {
	testkit.Require(t, "debian-archive", os.Getenv("BANGER_TEST_BUILD") != "", "set BANGER_TEST_BUILD=1 to install Debian from the archive")
	testkit.RequireTool(t, "mmdebstrap")
	s := newStore(t, Options{})
	img, err := s.Pull(t.Context(), DefaultName, PullOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, img.Path)
	for _, p := range []string{"/usr/bin/git", "/usr/bin/curl", "/usr/bin/sudo", "/usr/bin/python3", "/usr/bin/vim.tiny", "/usr/bin/rsync", "/usr/sbin/poweroff", "/usr/sbin/halt"} {
		if look(t, img.Path, p) == "(none)" {
			t.Errorf("the image lacks %s", p)
		}
	}
	for _, p := range []string{"/etc/hostname", "/etc/resolv.conf", "/etc/machine-id", "/usr/lib/systemd/systemd", "/etc/apt/apt.conf.d/99mmdebstrap"} {
		if look(t, img.Path, p) != "(none)" {
			t.Errorf("the image must not have %s", p)
		}
	}
	nothingLeft(t, s)
}

func TestHintFor(t *testing.T) {
	for said, want := range map[string]string{
		"E: Write error - write (28: No space left on device)": "Free some space",
		"E: Failed to fetch http://a.example/dists":            "Try apt update",
	} {
		if got := hintFor(0, said); !strings.Contains(got, want) {
			t.Errorf("the hint for %q is %q", said, got)
		}
	}
}

// TestBuildersTempDir requires a temporary directory that users of a namespace can enter.
func TestBuildersTempDir(t *testing.T) {
	private := filepath.Join(t.TempDir(), "mine", "below")
	if err := os.MkdirAll(private, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(private), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(private, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ temp, mode, want string }{
		{"/usr", modeAuto, "/usr"}, {private, modeAuto, "/tmp"}, {link, modeAuto, "/tmp"}, {"/nowhere", modeAuto, "/tmp"},
		{private, modeRoot, private}, {private, modeUnshare, "/bench"},
	} {
		if got := tempDirOf(buildEnv([]string{"TMPDIR=" + c.temp}, c.mode, "/bench")); got != c.want {
			t.Errorf("%s with TMPDIR=%s works in %s, want %s", c.mode, c.temp, got, c.want)
		}
	}
}
