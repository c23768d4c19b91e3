package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/testkit"
)

// sshConfig returns the file for OpenSSH's option -F.
func sshConfig(h *testkit.Home) string { return filepath.Join(h.Dir, "state", "ssh", "config") }

// tool runs a program of OpenSSH, or rsync over ssh, with banger's configuration.
func tool(t *testing.T, h *testkit.Home, stdin, program string, args ...string) testkit.Result {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	if program != "rsync" {
		args = append([]string{"-F", sshConfig(h), "-o", "BatchMode=yes"}, args...)
	}
	return h.RunCmd(t, stdin, path, args...)
}

// TestSSH uses OpenSSH against the agent. The image has no sshd, and with --net none there is no
// network.
func TestSSH(t *testing.T) {
	for _, name := range []string{"ssh", "scp", "sftp", "rsync"} {
		testkit.RequireTool(t, name)
	}
	h := warm(t)
	ok(t, h, "daemon", "start")
	ok(t, h, "run", "-d", "--name", "box", "--net", "none")

	t.Run("banger ssh", func(t *testing.T) {
		r := h.Banger(t, "ssh", "box", "--", "sh", "-c", "'echo out; echo err >&2; exit 9'")
		equal(t, "exit status", r.Code, 9)
		equal(t, "stdout", r.Stdout, "out\n")
		has(t, r.Stderr, "err\n")
		term := h.Terminal(t, "vm", "ssh", "box")
		term.Expect(t, "# ")
		term.Type(t, "echo size $(stty size)\r")
		term.Expect(t, "size 24 80")
		term.Type(t, "exit 4\r")
		equal(t, "exit status of a shell", term.Wait(t), 4)
	})
	t.Run("ssh", func(t *testing.T) {
		r := tool(t, h, "typed\n", "ssh", "box.vm", "cat; exit 3")
		equal(t, "stdout", r.Stdout, "typed\n")
		equal(t, "exit status", r.Code, 3)
		ok(t, h, "exec", "box", "--", "useradd", "--create-home", "ada")
		r = tool(t, h, "", "ssh", "ada@box.vm", "id -un; pwd")
		equal(t, "user", r.Stdout, "ada\n/home/ada\n")
	})
	t.Run("scp", func(t *testing.T) {
		from := write(t, h, "files/up", "up and down\n", 0o640)
		for _, args := range [][]string{{"-p", from, "box.vm:/tmp/up"}, {"-p", "box.vm:/tmp/up", filepath.Join(h.Dir, "down")}} {
			if r := tool(t, h, "", "scp", args...); r.Code != 0 {
				t.Fatalf("scp %v: %s", args, r.Stderr)
			}
		}
		data, err := os.ReadFile(filepath.Join(h.Dir, "down"))
		equal(t, "what came back", string(data), "up and down\n")
		info, err2 := os.Stat(filepath.Join(h.Dir, "down"))
		if err != nil || err2 != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v, %v", err, err2, info)
		}
	})
	t.Run("sftp", func(t *testing.T) {
		r := tool(t, h, "cd /etc\nget hostname "+h.Dir+"/hostname\nls -l /tmp\n", "sftp", "box.vm")
		data, _ := os.ReadFile(filepath.Join(h.Dir, "hostname"))
		if r.Code != 0 || string(data) != "box\n" {
			t.Errorf("exit %d, got %q: %s", r.Code, data, r.Stderr)
		}
	})
	t.Run("rsync", func(t *testing.T) {
		write(t, h, "sync/a/one", "1", 0o600)
		write(t, h, "sync/b", "2", 0o755)
		shell := "ssh -F " + sshConfig(h) + " -o BatchMode=yes"
		if r := tool(t, h, "", "rsync", "-a", "-e", shell, filepath.Join(h.Dir, "sync")+"/", "box.vm:/tmp/sync/"); r.Code != 0 {
			t.Fatalf("rsync: %s", r.Stderr)
		}
		equal(t, "modes", ok(t, h, "exec", "box", "--", "stat", "-c", "%a", "/tmp/sync/a/one", "/tmp/sync/b"), "600\n755\n")
	})
	t.Run("another host key is refused", func(t *testing.T) {
		known := filepath.Join(h.Dir, "state", "ssh", "known_hosts")
		good, err := os.ReadFile(known)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(h.Dir, "tmp", "other")
		run(t, h, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
		public, err := os.ReadFile(other + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(good))
		if len(fields) < 3 {
			t.Fatalf("known_hosts: %q", good)
		}
		bad := fields[0] + " " + strings.Join(strings.Fields(string(public))[:2], " ") + "\n"
		for what, text := range map[string]string{"wrong": bad, "none": ""} {
			if err := os.WriteFile(known, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := tool(t, h, "", "ssh", "box.vm", "true"); r.Code != 255 {
				t.Errorf("with a key that is %s, ssh exits with %d: %s", what, r.Code, r.Stderr)
			}
		}
		if err := os.WriteFile(known, good, 0o600); err != nil {
			t.Fatal(err)
		}
		equal(t, "exit status with the right one again", tool(t, h, "", "ssh", "box.vm", "true").Code, 0)
	})
	t.Run("another user's key is refused", func(t *testing.T) {
		r := tool(t, h, "", "ssh", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "IdentityFile="+filepath.Join(h.Dir, "tmp", "other"),
			"-o", "User=root", "-F", withoutIdentity(t, h), "box.vm", "true")
		equal(t, "exit status", r.Code, 255)
	})
	t.Run("port forwarding", func(t *testing.T) {
		ok(t, h, "exec", "box", "--", "sh", "-c", `setsid python3 -c '
import socket
s = socket.socket()
s.bind(("127.0.0.1", 8080))
s.listen()
c = s.accept()[0]
c.sendall(c.recv(99).upper())' </dev/null >/dev/null 2>&1 &
until ss -ltn | grep -q 127.0.0.1:8080; do sleep 0.1; done`)
		equal(t, "what came back", tool(t, h, "shout\n", "ssh", "-W", "127.0.0.1:8080", "box.vm").Stdout, "SHOUT\n")
	})
	ok(t, h, "rm", "--force", "box")
	if data, _ := os.ReadFile(filepath.Join(h.Dir, "state", "ssh", "known_hosts")); strings.Contains(string(data), "box") {
		t.Errorf("known_hosts still knows the VM:\n%s", data)
	}
}

// withoutIdentity returns banger's configuration without its key.
func withoutIdentity(t *testing.T, h *testkit.Home) string {
	t.Helper()
	data, err := os.ReadFile(sshConfig(h))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, "IdentityFile") {
			kept = append(kept, line)
		}
	}
	return write(t, h, "tmp/ssh_config", strings.Join(kept, ""), 0o600)
}

// TestSSHInAnyHome uses OpenSSH's programs with a home whose path has the characters that ssh, its
// configuration or a shell give a meaning to.
func TestSSHInAnyHome(t *testing.T) {
	for _, name := range []string{"ssh", "scp", "sftp", "rsync"} {
		testkit.RequireTool(t, name)
	}
	h := warm(t)
	home := filepath.Join(h.Dir, "o d", "b,a%r'q")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(h.Dir, "cache"), filepath.Join(home, "cache")); err != nil {
		t.Fatal(err)
	}
	h.Setenv("BANGER_HOME", home)
	ok(t, h, "run", "-d", "--name", "box", "--net", "none")
	equal(t, "the host name over banger ssh", ok(t, h, "ssh", "box", "hostname"), "box\n")

	config := strings.TrimSpace(ok(t, h, "ssh-config"))
	including := write(t, h, "including", "Host other\n\tUser nobody\n"+ok(t, h, "ssh-config", "--include"), 0o600)
	from := write(t, h, "files/up", "up and down\n", 0o640)
	for what, file := range map[string]string{"ssh -F": config, "Include": including} {
		t.Run(what, func(t *testing.T) {
			for _, args := range [][]string{
				{"ssh", "-F", file, "box.vm", "hostname"},
				{"scp", "-F", file, from, "box.vm:/tmp/scp"},
				{"sftp", "-F", file, "-b", write(t, h, "batch", "put "+from+" /tmp/sftp\n", 0o600), "box.vm"},
				{"rsync", "-a", "-e", `ssh -F "` + file + `"`, from, "box.vm:/tmp/rsync"},
				{"ssh", "-F", file, "box.vm", "cat /tmp/scp /tmp/sftp /tmp/rsync; rm /tmp/scp /tmp/sftp /tmp/rsync"},
			} {
				if r := h.RunCmd(t, "", args[0], args[1:]...); r.Code != 0 {
					t.Fatalf("%q exits with %d: %s", args, r.Code, r.Stderr)
				} else if args[0] == "ssh" && r.Stdout != "box\n" && r.Stdout != strings.Repeat("up and down\n", 3) {
					t.Errorf("%q prints %q", args, r.Stdout)
				}
			}
		})
	}
	ok(t, h, "rm", "--force", "box")
}
