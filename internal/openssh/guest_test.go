package openssh

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/testkit"
)

var guest = Guest{Proxy: "banger vm proxy %h", Key: "/home/ann/id", KnownHosts: "/home/ann/known_hosts"}

// generous is a configuration of somebody who shares everything with every host.
const generous = `Host *
	ForwardAgent yes
	ForwardX11 yes
	ForwardX11Trusted yes
	PermitLocalCommand yes
	LocalCommand touch /tmp/pwned
	RemoteCommand touch /tmp/pwned
	Tunnel ethernet
	ControlMaster auto
	ControlPath ~/.ssh/%C
	ControlPersist yes
	UpdateHostKeys yes
	AddKeysToAgent yes
	VerifyHostKeyDNS yes
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
	IdentitiesOnly no
	PasswordAuthentication yes
	PreferredAuthentications gssapi-with-mic,password
	CanonicalizeHostname always
	HostName trap.test
	ProxyCommand trap
	Compression yes
`

// additive are options that a later block adds to those of an earlier one. Only a configuration
// that is not read keeps them away.
const additive = `
	LocalForward 1 a:1
	RemoteForward 2 a:1
	DynamicForward 3
	SendEnv SECRET
	SetEnv SECRET=x
	IdentityFile /home/ann/.ssh/own
	CertificateFile /home/ann/.ssh/own-cert
`

// safe is what ssh -G must print for a VM.
var safe = []string{
	"forwardagent no", "forwardx11 no", "forwardx11trusted no", "permitlocalcommand no", "tunnel false", "controlmaster false",
	"controlpersist no", "updatehostkeys false", "addkeystoagent false", "verifyhostkeydns false", "stricthostkeychecking true",
	"identitiesonly yes", "preferredauthentications publickey", "canonicalizehostname false", "hostname web.vm", "user root",
	"proxycommand banger vm proxy %h", "userknownhostsfile /home/ann/known_hosts", "globalknownhostsfile none", "identityfile /home/ann/id",
}

// unsafe are beginnings of lines that ssh -G must not print for a VM.
var unsafe = []string{"remotecommand", "controlpath /", "controlpath ~", "hostname trap", "proxycommand trap"}

var additiveLines = []string{"localforward", "remoteforward", "dynamicforward", "sendenv", "setenv", "certificatefile", "identityfile /home/ann/.ssh/"}

// settings returns the lines of ssh -G, which prints what ssh would do. If config is not "", ssh
// reads it as it reads ~/.ssh/config.
func settings(t *testing.T, config string, args ...string) string {
	t.Helper()
	testkit.RequireTool(t, "ssh")
	if config != "" {
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"-F", file}, args...)
	}
	out, err := exec.Command("ssh", append([]string{"-G"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh -G %v: %v\n%s", args, err, out)
	}
	return "\n" + string(out)
}

func wantLines(t *testing.T, got string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("ssh -G lacks %q", line)
		}
	}
}

func wantNone(t *testing.T, got string, prefixes ...string) {
	t.Helper()
	for _, p := range prefixes {
		if at := strings.Index(got, "\n"+p); at >= 0 {
			line, _, _ := strings.Cut(got[at+1:], "\n")
			t.Errorf("ssh -G has %q", line)
		}
	}
}

// TestGuestsShareNothing checks that what somebody shares with every host does not reach a VM: not
// through `banger ssh`, and not through banger's configuration file, alone or before the rest.
func TestGuestsShareNothing(t *testing.T) {
	home := t.TempDir()
	included := filepath.Join(home, "banger")
	if err := os.WriteFile(included, []byte(guest.Config()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("the test can fail", func(t *testing.T) {
		wantLines(t, settings(t, generous+additive, "web.vm"), "forwardagent yes", "sendenv SECRET")
	})
	t.Run("banger ssh", func(t *testing.T) {
		call, _ := Parse([]string{"web"})
		args := call.Args(guest, "web")
		if args[0] != "-F" || args[1] != "none" {
			t.Errorf("the first arguments are %q, so that ssh reads the person's configuration", args[:2])
		}
		got := settings(t, "", args...)
		wantLines(t, got, safe...)
		wantNone(t, got, append(unsafe, additiveLines...)...)
	})
	t.Run("ssh -F", func(t *testing.T) {
		got := settings(t, guest.Config(), "web.vm")
		wantLines(t, got, safe...)
		wantNone(t, got, append(unsafe, additiveLines...)...)
	})
	t.Run("included first", func(t *testing.T) {
		got := settings(t, Include(included)+generous+additive, "web.vm")
		wantLines(t, got, safe...)
		wantNone(t, got, unsafe...)
		want := []string{"certificatefile", "dynamicforward", "identityfile", "localforward", "remoteforward", "sendenv", "setenv"}
		if options, ours := Shared(got); !ours || !slices.Equal(options, want) {
			t.Errorf("what is shared is %q, want %q", options, want)
		}
		if options, ours := Shared(settings(t, Include(included), "web.vm")); !ours || len(options) > 0 {
			t.Errorf("without an own configuration, %q is shared", options)
		}
	})
}

// TestAskedFor checks that a person gets what the command line asks for, wherever it stands there.
func TestAskedFor(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-A web", "forwardagent yes"},
		{"web -A", "forwardagent yes"},
		{"web -o ForwardAgent=yes true", "forwardagent yes"},
		{"-X web", "forwardx11 yes"},
		{"web -oControlPath=/tmp/x", "controlpath /tmp/x"},
		{"web -L 1:a:1", "localforward 1 [a]:1"},
		{"web -R 2:a:1", "remoteforward 2 [a]:1"},
		{"web -o SendEnv=LANG", "sendenv LANG"},
		{"ann@web", "user ann"},
		{"web -l ann", "user ann"},
		{"web -o LogLevel=DEBUG", "loglevel DEBUG"},
	} {
		call, ok := Parse(strings.Fields(c.args))
		if !ok {
			t.Fatalf("%q names no VM", c.args)
		}
		t.Run(c.args, func(t *testing.T) {
			wantLines(t, settings(t, "", call.Args(guest, call.Name)...), c.want, "proxycommand banger vm proxy %h")
		})
	}
}

// TestInclude checks that the lines of Include work in each place of a configuration, and what they
// do to the lines before and after them.
func TestInclude(t *testing.T) {
	included := filepath.Join(t.TempDir(), "banger")
	if err := os.WriteFile(included, []byte(guest.Config()), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := Include(included)
	const global, block, match = "Port 7\n", "Host other\n\tUser ann\n", "Match host third\n\tUser bob\n"
	for _, c := range []struct{ name, config string }{
		{"alone", lines},
		{"begin", lines + global + block + match},
		{"after global lines", global + lines + block + match},
		{"after a Host block", global + block + lines},
		{"after a Match block", global + block + match + lines},
		{"between blocks", global + block + lines + match},
		{"twice", lines + global + block + lines + match},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantLines(t, settings(t, c.config, "web.vm"), "proxycommand banger vm proxy %h", "user root")
			for host, user := range map[string]string{"other": "ann", "third": "bob", "none": ""} {
				got := settings(t, c.config, host)
				wantNone(t, got, "proxycommand")
				if user != "" && strings.Contains(c.config, user) {
					wantLines(t, got, "user "+user)
				}
				if strings.Contains(c.config, global) {
					wantLines(t, got, "port 7")
				}
			}
		})
	}
}

// TestHostileNames checks that every path and program name reaches OpenSSH unchanged.
func TestHostileNames(t *testing.T) {
	for _, name := range []string{"plain", "o d", "b,a%r'q", `quo"te`, `back\slash`, "%h%%", "[a]*?", "#x", "~", "ü", "a=b", "$HOME", "{a,b}", " lead"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			g := Guest{Proxy: Word(dir+"/banger") + " %h", Key: dir + "/id", KnownHosts: dir + "/known_hosts"}
			file := filepath.Join(dir, "config")
			if err := os.WriteFile(file, []byte(g.Config()), 0o600); err != nil {
				t.Fatal(err)
			}
			call, _ := Parse([]string{"web"})
			for how, got := range map[string]string{
				"ssh -F":     settings(t, "", "-F", file, "web.vm"),
				"Include":    settings(t, Include(file), "web.vm"),
				"banger ssh": settings(t, "", call.Args(g, "web")...),
			} {
				// ssh -G replaces % sequences in the first file, but not in the second.
				for _, line := range []string{"userknownhostsfile " + dir + "/known_hosts", "identityfile " + strings.ReplaceAll(dir, "%", "%%") + "/id"} {
					if !strings.Contains(got, "\n"+line+"\n") {
						t.Errorf("%s lacks %q", how, line)
					}
				}
			}
		})
	}
}

// TestWord has a shell read the words after ssh's replacement of %% by %.
func TestWord(t *testing.T) {
	for _, word := range []string{"plain", "with space", "it's", `a"b\c`, "$HOME `id` ;", "100%", "%h"} {
		out, err := exec.Command("sh", "-c", "printf %s "+strings.ReplaceAll(Word(word), "%%", "%")).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q came as %q, %v", word, out, err)
		}
	}
}
