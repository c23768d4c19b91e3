package sshd_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/sshd"
	"banger/internal/testkit"
)

func sshAccount(uid, gid int, home string) sshd.Account {
	return sshd.Account{Name: "guest", UID: uid, GID: gid, Home: home, Shell: "/bin/sh"}
}

func TestAuthorizedKeys(t *testing.T) {
	var s *server
	line := func() string { return string(ssh.MarshalAuthorizedKey(s.signer.PublicKey())) }
	other := string(ssh.MarshalAuthorizedKey(newSigner(t, "").PublicKey()))
	for _, tt := range []struct {
		name  string
		lines func() []string
		ok    bool
	}{
		{"among others", func() []string { return []string{"# comment", "", "garbage", other, line()} }, true},
		{"other only", func() []string { return []string{other} }, false},
		{"none", func() []string { return nil }, false},
		{"restricted", func() []string { return []string{"restrict,command=\"true\" " + line()} }, false},
		{"hidden behind a line break", func() []string { return []string{"garbage\n" + line()} }, false},
		{"authority", func() []string { return []string{"cert-authority " + line()} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s = serve(t, func(c *sshd.Config) { c.AuthorizedKeys = func() []string { return tt.lines() } })
			c, err := ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
				User: "me", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.signer)}, HostKeyCallback: ssh.FixedHostKey(s.hostKey),
			})
			if err == nil {
				c.Close()
			}
			if (err == nil) != tt.ok {
				t.Errorf("login: %v", err)
			}
		})
	}
}

func TestSignalAndResize(t *testing.T) {
	s := serve(t)
	session, err := s.dial(t, "me").NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := session.StdoutPipe()
	if err := session.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	if err := session.Start("trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done"); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 256)
		seen := ""
		for !strings.Contains(seen, want) {
			n, err := out.Read(buf)
			if err != nil {
				t.Fatalf("after %q: %v", seen, err)
			}
			seen += string(buf[:n])
		}
	}
	expect("24 80")
	if err := session.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	expect("50 132")
	if err := session.Signal(ssh.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := session.Wait(); !errors.As(err, &exit) || exit.Signal() != "KILL" {
		t.Errorf("ended with %v", err)
	}
}

func TestRefused(t *testing.T) {
	s := serve(t, func(c *sshd.Config) { c.SFTP = nil })
	c := s.dial(t, "me")
	if _, _, err := c.OpenChannel("x11", nil); err == nil {
		t.Error("a channel of an unknown type was opened")
	}
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com"} {
		if _, _, err := c.OpenChannel(kind, []byte{0, 0, 0, 9}); err == nil {
			t.Errorf("a malformed %s was opened", kind)
		}
	}
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestSubsystem("sftp"); err == nil {
		t.Error("sftp without a command")
	}
	for _, name := range []string{"pty-req", "env", "window-change", "signal", "exec", "x11-req"} {
		if ok, err := session.SendRequest(name, true, []byte{255, 255, 255, 255, 1}); ok || err != nil {
			t.Errorf("malformed %s: %v, %v", name, ok, err)
		}
	}
	if ok, _ := session.SendRequest("env", true, ssh.Marshal(struct{ Name, Value string }{"BAD NAME", "x"})); ok {
		t.Error("a variable with a bad name was taken")
	}
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
}

func TestTooManyChannels(t *testing.T) {
	s := serve(t)
	c := s.dial(t, "me")
	n := 0
	for {
		if _, err := c.NewSession(); err != nil {
			break
		}
		if n++; n > 10000 {
			t.Fatal("no bound")
		}
	}
	if n < 100 {
		t.Errorf("only %d channels", n)
	}
}

func TestNoShell(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
	}{
		{"echo plain  words", []string{"echo", "plain", "words"}},
		{"rsync --server -logDtpre.iLsfxCIvu . dir/", []string{"rsync", "--server", "-logDtpre.iLsfxCIvu", ".", "dir/"}},
		{"echo $HOME", nil},
		{"a; b", nil},
		{"echo 'a b'", nil},
		{" ", nil},
		{"", nil},
	} {
		got, err := sshd.WithoutShell(tt.line)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("the command line %q means %q, %v", tt.line, got, err)
		}
	}
}

// TestUserRights: sockets are made and reached as the user, not as root.
func TestUserRights(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can take another user's rights")
	s := serve(t)
	s.accounts["guest"] = sshAccount(1234, 1235, "/")
	c := s.dial(t, "guest")
	closed := shortDir(t) // root's, mode 0700
	if _, err := c.ListenUnix(filepath.Join(closed, "s")); err == nil {
		t.Error("a socket was made in another user's directory")
	}
	mine := shortDir(t)
	os.Chown(mine, 1234, 1235)
	l, err := c.ListenUnix(filepath.Join(mine, "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	eventually(t, "removal", func() bool { _, err := os.Lstat(filepath.Join(mine, "s")); return err != nil })

	root := s.dial(t, "me")
	path := filepath.Join(closed, "r")
	if _, err := root.ListenUnix(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Dial("unix", path); err == nil {
		t.Error("another user's socket was reached")
	}
	conn, err := root.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func BenchmarkHandshake(b *testing.B) {
	s := serve(b)
	for b.Loop() {
		c, err := ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
			User: "me", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.signer)}, HostKeyCallback: ssh.FixedHostKey(s.hostKey),
		})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

func BenchmarkThroughput(b *testing.B) {
	const size = 32 << 20
	for _, cipher := range []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM} {
		b.Run(cipher, func(b *testing.B) {
			s := serve(b)
			config := &ssh.ClientConfig{User: "me", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.signer)}, HostKeyCallback: ssh.FixedHostKey(s.hostKey)}
			config.Ciphers = []string{cipher}
			c, err := ssh.Dial("tcp", s.addr, config)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.SetBytes(size)
			for b.Loop() {
				session, err := c.NewSession()
				if err != nil {
					b.Fatal(err)
				}
				session.Stdin = bytes.NewReader(make([]byte, size))
				if out, err := session.Output("wc -c"); err != nil || strings.TrimSpace(string(out)) != "33554432" {
					b.Fatal(string(out), err)
				}
			}
		})
	}
}
