package sshd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/testkit"
)

func TestExec(t *testing.T) {
	s := serve(t)
	big := strings.Repeat("a long line of input\n", 50000)
	for _, tt := range []struct {
		name, command, stdin string
		want                 result
	}{
		{"output", "echo out; echo err >&2", "", result{"out\n", "err\n", 0}},
		{"status", "exit 7", "", result{"", "", 7}},
		{"stdin", "cat", big, result{big, "", 0}},
		{"stdin of many windows, unread", "true", big, result{"", "", 0}},
		{"killed", "kill -KILL $$", "", result{"", "", 255}},
		{"quoting", `printf '%s|' "a b" c`, "", result{"a b|c|", "", 0}},
		{"not found", "exec no-such-program", "", result{"", "no-such-program", 127}},
		{"connection", "echo $SSH_CONNECTION", "", result{"UNKNOWN 65535 UNKNOWN 65535\n", "", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := s.client(t, "ssh", "vm", tt.command)
			cmd.Stdin = strings.NewReader(tt.stdin)
			got := run(t, cmd)
			if got.out != tt.want.out || got.code != tt.want.code || !strings.Contains(got.err, tt.want.err) {
				t.Errorf("got %.200q, %q, %d; want %.200q, %q, %d", got.out, got.err, got.code, tt.want.out, tt.want.err, tt.want.code)
			}
		})
	}
}

func TestWorkdirAndEnv(t *testing.T) {
	s := serve(t)
	cmd := s.client(t, "ssh", "-o", "SendEnv=LC_*", "-o", "SetEnv=COLOUR=blue", "vm", "pwd; echo $LC_MINE $COLOUR")
	cmd.Env = append(os.Environ(), "LC_MINE=mine")
	got := run(t, cmd)
	home, _ := filepath.EvalSymlinks(s.accounts["me"].Home)
	if want := home + "\nmine blue\n"; got.out != want {
		t.Errorf("got %q, want %q", got.out, want)
	}
}

func TestShellWithTerminal(t *testing.T) {
	s := serve(t)
	cmd := s.client(t, "ssh", "-tt", "vm")
	cmd.Env = append(os.Environ(), "TERM=vt220")
	cmd.Stdin = strings.NewReader("stty -echo\ntest -t 0 && echo terminal $TERM\nexit 3\n")
	got := run(t, cmd)
	contains(t, got.out, "terminal vt220")
	if got.code != 3 {
		t.Errorf("exit status %d, want 3", got.code)
	}
}

// TestOutputUnwanted: a command that writes for ever ends when the client's reader does.
func TestOutputUnwanted(t *testing.T) {
	s := serve(t)
	cmd := s.client(t, "ssh", "vm", "yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "y\n" {
		t.Fatal(line, err)
	}
	out.Close()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code == -1 {
		t.Error("it ran until the test had enough")
	}
}

func TestHangup(t *testing.T) {
	s := serve(t)
	mark := filepath.Join(t.TempDir(), "mark")
	cmd := s.client(t, "ssh", "vm", fmt.Sprintf("trap 'echo hung up > %s; exit' HUP; echo ready; while :; do sleep 0.05; done", mark))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(out).ReadString('\n')
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	eventually(t, "the hang-up", func() bool {
		b, _ := os.ReadFile(mark)
		return string(b) == "hung up\n"
	})
}

func TestWrongHostKey(t *testing.T) {
	s := serve(t)
	s.hostKey = newSigner(t, "").PublicKey()
	s.writeConfig(t)
	if got := run(t, s.client(t, "ssh", "vm", "true")); got.code != 255 || !strings.Contains(got.err, "Host key verification failed") {
		t.Errorf("got %+v", got)
	}
}

func TestLoginRefused(t *testing.T) {
	s := serve(t)
	t.Run("user", func(t *testing.T) {
		got := run(t, s.client(t, "ssh", "-o", "LogLevel=INFO", "-l", "nobody-here", "vm", "true"))
		if got.code != 255 {
			t.Errorf("status %d", got.code)
		}
		contains(t, got.err, `no user "nobody-here" in this image`)
	})
	t.Run("key", func(t *testing.T) {
		newSigner(t, filepath.Join(s.dir, "key"))
		got := run(t, s.client(t, "ssh", "vm", "true"))
		if got.code != 255 {
			t.Errorf("status %d", got.code)
		}
		contains(t, got.err, "Permission denied (publickey)")
	})
}

// randomFile writes a file of n random bytes and returns them.
func randomFile(t testing.TB, path string, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
	return data
}

func sameFile(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs: %d bytes, want %d", path, len(got), len(want))
	}
}

func TestSCP(t *testing.T) {
	s := serve(t)
	dir, home := t.TempDir(), s.accounts["me"].Home
	data := randomFile(t, filepath.Join(dir, "big"), 20<<20)
	for _, mode := range []string{"-s", "-O"} { // sftp, and the old protocol
		t.Run(mode, func(t *testing.T) {
			testkit.RequireTool(t, "scp")
			if got := run(t, s.client(t, "scp", mode, "-p", filepath.Join(dir, "big"), "vm:far")); got.code != 0 {
				t.Fatal(got.err)
			}
			sameFile(t, filepath.Join(home, "far"), data)
			back := filepath.Join(dir, "back"+mode)
			if got := run(t, s.client(t, "scp", mode, "-p", "vm:far", back)); got.code != 0 {
				t.Fatal(got.err)
			}
			sameFile(t, back, data)
			if info, _ := os.Stat(back); info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v", info.Mode())
			}
		})
	}
	t.Run("home", func(t *testing.T) {
		if got := run(t, s.client(t, "scp", "-r", "vm:~/far", filepath.Join(dir, "tilde"))); got.code != 0 {
			t.Fatal(got.err)
		}
		sameFile(t, filepath.Join(dir, "tilde"), data)
	})
}

func TestSFTP(t *testing.T) {
	s := serve(t)
	home := s.accounts["me"].Home
	os.WriteFile(filepath.Join(home, "a"), []byte("a"), 0o644)
	cmd := s.client(t, "sftp", "-b", "-", "vm")
	cmd.Stdin = strings.NewReader("pwd\nmkdir d\nrename a d/b\nln -s b d/link\nchmod 600 d/b\nls -l d\ndf\nrm d/b\n-get nothing\n")
	got := run(t, cmd)
	if got.code != 0 {
		t.Fatal(got.out, got.err)
	}
	resolved, _ := filepath.EvalSymlinks(home)
	contains(t, got.out, "Remote working directory: "+resolved)
	contains(t, got.out, "-rw-------")
	if target, err := os.Readlink(filepath.Join(home, "d", "link")); target != "b" {
		t.Errorf("link to %q, %v; want b", target, err)
	}
}

// TestSFTPRights: the server of another user's sftp session runs as that user.
func TestSFTPRights(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can become another user")
	s := serve(t)
	home := shortDir(t)
	if err := os.Chown(home, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	s.accounts["guest"] = sshAccount(1234, 1235, home)
	secret := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(secret, []byte("secret"), 0o600)
	cmd := s.client(t, "sftp", "-b", "-", "guest@vm")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("put %s/config mine\n-get %s %s/stolen\n-put %s/config %s\n", s.dir, secret, home, s.dir, secret))
	got := run(t, cmd)
	if got.code != 0 {
		t.Fatal(got.err)
	}
	contains(t, got.err, "Permission denied")
	info, err := os.Stat(filepath.Join(home, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 1235 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	sameFile(t, secret, []byte("secret"))
	if _, err := os.Stat(filepath.Join(home, "stolen")); err == nil {
		t.Error("another user's file was read")
	}
}

func TestRsync(t *testing.T) {
	testkit.RequireTool(t, "rsync")
	s := serve(t)
	src, home := t.TempDir(), s.accounts["me"].Home
	os.MkdirAll(filepath.Join(src, "sub"), 0o750)
	data := randomFile(t, filepath.Join(src, "sub", "file"), 1<<20)
	os.Symlink("sub/file", filepath.Join(src, "link"))
	shell := "ssh -F " + filepath.Join(s.dir, "config")
	cmd := s.client(t, "rsync", "-a", "-e", shell, src+"/", "vm:copy/")
	cmd.Args = append(cmd.Args[:1], cmd.Args[3:]...) // rsync's -F is another one
	if got := run(t, cmd); got.code != 0 {
		t.Fatal(got.err)
	}
	sameFile(t, filepath.Join(home, "copy", "link"), data)
}

func TestForwardToGuest(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	defer web.Close()
	_, webPort, _ := net.SplitHostPort(web.Listener.Addr().String())
	sock := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(l, web.Config.Handler)
	defer l.Close()

	s := serve(t)
	tcp, unix, socks := freePort(t), freePort(t), freePort(t)
	cmd := s.client(t, "ssh", "-N", "-o", "ExitOnForwardFailure=yes",
		"-L", tcp+":localhost:"+webPort, "-L", unix+":"+sock, "-D", socks, "vm")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	fetch := func(port string) string {
		body := ""
		eventually(t, "forward of port "+port, func() bool {
			resp, err := http.Get("http://127.0.0.1:" + port)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			body = string(b)
			return true
		})
		return body
	}
	for _, port := range []string{tcp, unix} {
		if got := fetch(port); got != "here" {
			t.Errorf("port %s: got %q", port, got)
		}
	}
	testkit.RequireTool(t, "curl")
	curl := s.client(t, "curl", "-sS", "--socks5-hostname", "127.0.0.1:"+socks, "http://localhost:"+webPort)
	curl.Args = append(curl.Args[:1], curl.Args[3:]...)
	if got := run(t, curl); got.out != "here" {
		t.Errorf("socks: %+v", got)
	}
}

func TestForwardFromGuest(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "back home") }))
	defer web.Close()
	s := serve(t)
	sock := filepath.Join(shortDir(t), "s")
	cmd := s.client(t, "ssh", "-N", "-o", "ExitOnForwardFailure=yes", "-v",
		"-R", "0:"+web.Listener.Addr().String(), "-R", sock+":"+web.Listener.Addr().String(), "vm")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	port, lines := "", bufio.NewScanner(stderr)
	for port == "" && lines.Scan() {
		fmt.Sscanf(lines.Text(), "Allocated port %s for remote forward", &port)
	}
	go io.Copy(io.Discard, stderr)
	get := func(network, addr string) string {
		tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial(network, addr) }}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("http://guest")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	if got := get("tcp", "127.0.0.1:"+port); got != "back home" {
		t.Errorf("tcp: %q", got)
	}
	eventually(t, "the socket", func() bool { _, err := os.Lstat(sock); return err == nil })
	// Only root can set the mode.
	if info, _ := os.Lstat(sock); os.Geteuid() == 0 && info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket's mode is %v", info.Mode())
	}
	if got := get("unix", sock); got != "back home" {
		t.Errorf("unix: %q", got)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the socket's removal", func() bool { _, err := os.Lstat(sock); return err != nil })
	eventually(t, "the port's closing", func() bool { _, err := net.Dial("tcp", "127.0.0.1:"+port); return err != nil })
}

func TestAgentForwarding(t *testing.T) {
	testkit.RequireTool(t, "ssh-agent")
	testkit.RequireTool(t, "ssh-add")
	s := serve(t)
	sock := filepath.Join(shortDir(t), "a")
	agent := s.client(t, "ssh-agent", "-D", "-a", sock)
	agent.Args = append(agent.Args[:1], agent.Args[3:]...)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { agent.Process.Kill(); agent.Wait() }()
	eventually(t, "the agent", func() bool { _, err := os.Stat(sock); return err == nil })
	add := s.client(t, "ssh-add", filepath.Join(s.dir, "key"))
	add.Args = append(add.Args[:1], add.Args[3:]...)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
	if got := run(t, add); got.code != 0 {
		t.Fatal(got.err)
	}
	got := run(t, s.client(t, "ssh", "-A", "-o", "IdentityAgent="+sock, "vm", "ssh-add -L; echo $SSH_AUTH_SOCK"))
	contains(t, got.out, "ssh-ed25519 ")
	lines := strings.Fields(got.out)
	far := lines[len(lines)-1]
	eventually(t, "removal of "+far, func() bool { _, err := os.Stat(filepath.Dir(far)); return err != nil })
}

// TestMaster: many sessions share one connection, as editors use it.
func TestMaster(t *testing.T) {
	s := serve(t)
	ctl := filepath.Join(shortDir(t), "c")
	cmd := s.client(t, "ssh", "-N", "-M", "-S", ctl, "vm")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	eventually(t, "the control socket", func() bool { _, err := os.Stat(ctl); return err == nil })
	for i := range 3 {
		got := run(t, s.client(t, "ssh", "-S", ctl, "vm", fmt.Sprintf("exit %d", i)))
		if got.code != i {
			t.Errorf("session %d: %+v", i, got)
		}
	}
}
