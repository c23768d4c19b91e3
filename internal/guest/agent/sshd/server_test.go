package sshd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/sshd"
	"banger/internal/testkit"
)

// TestMain also serves as the agent's sftp mode.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sftp" {
		os.Exit(sshd.SFTPMain(os.Args[2:], stdio{}, os.Stderr))
	}
	os.Exit(m.Run())
}

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// server is a running server with the data that a client needs.
type server struct {
	addr     string
	dir      string // holds config, key, known_hosts
	hostKey  ssh.PublicKey
	signer   ssh.Signer // an authorized key
	accounts map[string]sshd.Account
}

// me is this process's user with another home directory.
func me(t testing.TB) sshd.Account {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return sshd.Account{Name: u.Username, UID: os.Getuid(), GID: os.Getgid(), Home: t.TempDir(), Shell: "/bin/sh"}
}

// serve runs a server on a loopback port until the test ends. edit may change its configuration.
func serve(t testing.TB, edit ...func(*sshd.Config)) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), accounts: map[string]sshd.Account{}}
	s.accounts["me"] = me(t)
	host := newSigner(t, "")
	s.hostKey = host.PublicKey()
	s.signer = newSigner(t, filepath.Join(s.dir, "key"))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := sshd.Config{
		HostKey:        host,
		AuthorizedKeys: func() []string { return []string{string(ssh.MarshalAuthorizedKey(s.signer.PublicKey()))} },
		Lookup: func(name string) (sshd.Account, error) {
			if a, ok := s.accounts[name]; ok {
				return a, nil
			}
			return sshd.Account{}, fmt.Errorf("no user %q in this image", name)
		},
		Starter: starter{},
		SFTP:    []string{exe, "sftp"},
		Log:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, e := range edit {
		e(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { sshd.Serve(ctx, conn, cfg) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		tasks.Wait()
	})
	s.writeConfig(t)
	return s
}

// newSigner makes a key and, if path is not empty, writes it there.
func newSigner(t testing.TB, path string) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if path != "" {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// writeConfig writes an ssh_config with strict checking of the host's key, for the host name "vm".
func (s *server) writeConfig(t testing.TB) {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.addr)
	known := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(s.hostKey))
	config := fmt.Sprintf(`Host vm
  HostName %s
  Port %s
  User me
  IdentityFile %s
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  PreferredAuthentications publickey
  BatchMode yes
  LogLevel ERROR
`, host, port, filepath.Join(s.dir, "key"), filepath.Join(s.dir, "known_hosts"))
	for name, text := range map[string]string{"known_hosts": known, "config": config} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// client returns an OpenSSH program with the server's configuration. It ends with the test.
func (s *server) client(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	testkit.RequireTool(t, program)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{"-F", filepath.Join(s.dir, "config")}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// result is the outcome of a client.
type result struct {
	out, err string
	code     int
}

func run(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %v: %v\n%s", cmd.Args, err, stderr.String())
	}
	return result{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// dial logs in with this module's own client.
func (s *server) dial(t testing.TB, name string) *ssh.Client {
	t.Helper()
	c, err := ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(s.signer)}, HostKeyCallback: ssh.FixedHostKey(s.hostKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// freePort returns a TCP port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// shortDir returns a directory whose name is short enough for unix sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// eventually waits until check is true.
func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !check() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s did not come to be", what)
		}
	}
}

func contains(t testing.TB, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%q does not hold %q", got, want)
	}
}
