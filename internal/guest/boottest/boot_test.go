package boottest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest"
	"banger/internal/guest/archive"
	"banger/internal/guest/proto"
)

// TestMachine boots an image without an init and uses every feature of the agent.
func TestMachine(t *testing.T) {
	p := requireParts(t)
	work := newDisk(t, "256M")
	grow(t, work, "512M")
	d := disks{image: newImage(t, busyboxRoot(t)), system: newDisk(t, "1G"), work: work}
	withWork := func(doc *proto.Assume) {
		doc.Mounts = []proto.Mount{{Serial: proto.SerialWork, Target: "/root", Seed: true}}
		doc.Env = []string{"FROM_ASSUME=1", "BOTH=assume"}
		doc.Workdir = "/srv/app"
		doc.Files = []proto.File{{Path: "/root/.ssh/authorized_keys", Mode: 0o600, UID: 0, GID: 0, Data: []byte("key\n")}}
	}

	m := p.start(t, d)
	h, err := m.Hello(m.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if h.Assumed || h.Init || h.Generation != proto.Generation || len(h.Marks) != 3 {
		t.Errorf("hello is %+v", h)
	}
	if _, err := m.Stats(m.ctx()); fault.KindOf(err) != fault.WrongState {
		t.Errorf("stats without an identity: %v", err)
	}
	if _, err := m.Assume(m.ctx(), proto.Assume{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an empty assume: %v", err)
	}
	got := m.assume(withWork)
	t.Logf("marks: %v", got.Marks)
	if _, err := m.Assume(m.ctx(), proto.Assume{}); err == nil {
		t.Error("a second assume is taken")
	}
	t.Run("identity", func(t *testing.T) { testIdentity(t, m) })
	t.Run("commands", func(t *testing.T) { testCommands(t, m) })
	t.Run("terminal", func(t *testing.T) { testTerminal(t, m) })
	t.Run("signals", func(t *testing.T) { testSignals(t, m) })
	t.Run("hangup", func(t *testing.T) { testHangup(t, m) })
	t.Run("orphans", func(t *testing.T) { testOrphans(t, m) })
	t.Run("files", func(t *testing.T) { testFiles(t, m) })
	t.Run("ports", func(t *testing.T) { testPorts(t, m) })
	t.Run("stats", func(t *testing.T) { testStats(t, m) })
	t.Run("reconnect", func(t *testing.T) { testReconnect(t, m) })

	m.sh("echo kept > /root/kept; echo kept > /etc/kept; rm /root/.profile; echo docker > /var/lib/docker/kept")
	if _, err := m.PowerOff(m.ctx(), endGrace); err != nil {
		t.Error(err)
	}
	m.awaitEnd()
	for _, disk := range []string{d.system, d.work} {
		run(t, "e2fsck", "-fn", disk) // fails when the journal was not replayed
	}

	again := p.start(t, d)
	again.assume(withWork)
	if got := again.sh("cat /root/kept /etc/kept /var/lib/docker/kept /var/lib/docker/from-img; ls -a /root"); strings.Contains(got, ".profile") || strings.Count(got+"\n", "kept\n") != 3 {
		t.Errorf("after a restart: %q", got)
	}
	again.button()
	again.awaitEnd()
}

func grow(t *testing.T, path, size string) {
	t.Helper()
	run(t, "truncate", "-s", size, path)
}

func testIdentity(t *testing.T, m *machine) {
	for script, want := range map[string]string{
		"hostname":                       "quiet-otter",
		"cat /etc/hostname":              "quiet-otter",
		"cat /etc/machine-id":            "0123456789abcdef0123456789abcdef",
		"grep -c kept /etc/hosts":        "1",
		"cat /etc/resolv.conf":           "nameserver 10.0.2.3\nsearch vm",
		"cat /root/.ssh/authorized_keys": "key",
		"stat -c '%a %u' /root /root/.ssh /root/.ssh/authorized_keys": "700 0\n755 0\n600 0",
		"cat /root/.profile":                        "export FROM_PROFILE=yes",
		"cat /var/lib/docker/from-img":              "image",
		"ls /init /modules 2>/dev/null":             "",
		"ip route | head -n1":                       "default via 10.0.2.2 dev eth0  src 10.0.2.15",
		"pwd; ls -d /srv/app":                       "/srv/app\n/srv/app",
		"readlink /dev/fd":                          "/proc/self/fd",
		"grep -c cgroup2 /proc/mounts":              "1",
		"sed -n '/^PPid/s/\\t/ /p' /proc/$$/status": "PPid: 1",
		"ulimit -Sn; ulimit -Hn; umask":             "1024\n524288\n0022",
		"ls -l /proc/self/fd | grep -c vport":       "0",
		"echo $FROM_ASSUME $BOTH $HOME $USER $LANG": "1 assume /root root C.UTF-8",
	} {
		if got := strings.TrimSpace(mayFail(m, script)); got != want {
			t.Errorf("%s in the guest returned %q, want %q", script, got, want)
		}
	}
	var status bytes.Buffer
	m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"cat", "/proc/self/status"}}, guest.IO{Stdout: &status})
	for _, want := range []string{"SigBlk:\t0000000000000000\n", "SigIgn:\t0000000000000000\n"} {
		if !strings.Contains(status.String(), want) {
			t.Errorf("commands start without %q:\n%s", want, status.String())
		}
	}
	kib, err := strconv.Atoi(m.sh("df -k /root | tail -n1 | sed 's/  */ /g' | (IFS=' ' read a b c; echo $b)"))
	if err != nil || kib < 400<<10 {
		t.Errorf("the work disk has %d KiB after growing: %v", kib, err)
	}
}

func mayFail(m *machine, script string) string {
	var out bytes.Buffer
	if _, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"sh", "-c", script}}, guest.IO{Stdout: &out}); err != nil {
		m.t.Errorf("running %s in the guest: %v", script, err)
	}
	return out.String()
}

func testCommands(t *testing.T, m *machine) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than every buffer
	for name, tt := range map[string]struct {
		req    proto.ExecRequest
		stdin  string
		exit   proto.Exit
		stdout string
		stderr string
		kind   fault.Kind
	}{
		"output":      {req: proto.ExecRequest{Argv: []string{"sh", "-c", "echo out; echo err >&2"}}, stdout: "out\n", stderr: "err\n"},
		"status":      {req: proto.ExecRequest{Argv: []string{"sh", "-c", "exit 7"}}, exit: proto.Exit{Code: 7}},
		"killed":      {req: proto.ExecRequest{Argv: []string{"sh", "-c", "kill -9 $$"}}, exit: proto.Exit{Code: 137, Signal: "SIGKILL"}},
		"missing":     {req: proto.ExecRequest{Argv: []string{"no-such"}}, exit: proto.Exit{Code: 127}, stderr: "banger: no-such: command not found\n"},
		"not program": {req: proto.ExecRequest{Argv: []string{"/etc/passwd"}}, exit: proto.Exit{Code: 126}, stderr: "banger: /etc/passwd: permission denied\n"},
		"no workdir":  {req: proto.ExecRequest{Argv: []string{"true"}, Workdir: "/nowhere"}, exit: proto.Exit{Code: 126}, stderr: "banger: working directory /nowhere: no such file or directory\n"},
		"stdin":       {req: proto.ExecRequest{Argv: []string{"cat"}}, stdin: "hi\n", stdout: "hi\n"},
		"no stdin":    {req: proto.ExecRequest{Argv: []string{"cat"}}},
		"much":        {req: proto.ExecRequest{Argv: []string{"cat"}}, stdin: string(big), stdout: string(big)},
		"env":         {req: proto.ExecRequest{Argv: []string{"sh", "-c", "echo $BOTH $X"}, Env: []string{"BOTH=request", "X=a b"}}, stdout: "request a b\n"},
		"user":        {req: proto.ExecRequest{Argv: []string{"sh", "-c", "id; echo $HOME; pwd"}, User: "ada", Workdir: "/tmp"}, stdout: "uid=1000(ada) gid=1000(ada) groups=10(wheel),1000(ada)\n/home/ada\n/tmp\n"},
		"uid and gid": {req: proto.ExecRequest{Argv: []string{"sh", "-c", "id"}, User: "4711:10"}, stdout: "uid=4711 gid=10(wheel)\n"},
		"no user":     {req: proto.ExecRequest{Argv: []string{"true"}, User: "nobody-here"}, kind: fault.Invalid},
		"nul":         {req: proto.ExecRequest{Argv: []string{"echo", "a\x00b"}}, kind: fault.Invalid},
		"background":  {req: proto.ExecRequest{Argv: []string{"sh", "-c", "sleep 100 & echo done"}}, stdout: "done\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			streams := guest.IO{Stdout: &out, Stderr: &errOut}
			if tt.stdin != "" {
				streams.Stdin = strings.NewReader(tt.stdin)
			}
			exit, err := m.Exec(m.ctx(), tt.req, streams)
			if fault.KindOf(err) != tt.kind {
				t.Fatalf("error %v, want kind %q", err, tt.kind)
			}
			if err == nil && (exit != tt.exit || out.String() != tt.stdout || errOut.String() != tt.stderr) {
				t.Errorf("the command ended with %+v, %.200q, %.200q; want %+v, %.200q, %.200q", exit, out.String(), errOut.String(), tt.exit, tt.stdout, tt.stderr)
			}
		})
	}
}

// stream is an exec stream that a test controls.
type stream struct {
	t   *testing.T
	in  *proto.Reader
	out *proto.Writer
	io.Closer
	seen bytes.Buffer
}

func open(t *testing.T, m *machine, req proto.ExecRequest) *stream {
	t.Helper()
	conn, err := m.Upgrade(m.ctx(), "/v1/exec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	s := &stream{t: t, in: proto.NewReader(conn), out: proto.NewWriter(conn), Closer: conn}
	s.send(proto.FrameStart, req)
	return s
}

func (s *stream) send(kind proto.FrameType, v any) {
	s.t.Helper()
	var err error
	if text, ok := v.(string); ok {
		err = s.out.WriteFrame(kind, []byte(text))
	} else {
		err = s.out.WriteJSON(kind, v)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// expect reads output until it holds text.
func (s *stream) expect(text string) {
	s.t.Helper()
	for {
		if before, _, ok := strings.Cut(s.seen.String(), text); ok {
			s.seen.Next(len(before) + len(text))
			return
		}
		kind, payload, err := s.in.ReadFrame()
		if err != nil || kind == proto.FrameExit {
			s.t.Fatalf("waiting for %q: type %d, %v; got %q", text, kind, err, s.seen.String())
		}
		if kind == proto.FrameStdout || kind == proto.FrameStderr {
			s.seen.Write(payload)
		}
	}
}

func (s *stream) exit() proto.Exit {
	s.t.Helper()
	for {
		kind, payload, err := s.in.ReadFrame()
		if err != nil {
			s.t.Fatal(err)
		}
		if kind == proto.FrameExit {
			e, err := guest.ParseExit(payload)
			if err != nil {
				s.t.Fatal(err)
			}
			return e
		}
	}
}

func testTerminal(t *testing.T, m *machine) {
	s := open(t, m, proto.ExecRequest{TTY: true, Size: &proto.Size{Rows: 30, Cols: 99}, Stdin: true})
	s.send(proto.FrameStdin, "echo $FROM_PROFILE-$0-$TERM; stty size\n")
	s.expect("yes--sh-xterm-256color")
	s.expect("30 99")
	s.send(proto.FrameResize, proto.Size{Rows: 40, Cols: 120})
	s.send(proto.FrameStdin, "stty size\n")
	s.expect("40 120")
	s.send(proto.FrameStdin, "cat\n")
	// Otherwise the shell may read the input that is meant for cat.
	m.sh("until grep -qx cat /proc/[0-9]*/comm 2>/dev/null; do sleep 0.05; done")
	s.send(proto.FrameStdin, "x\n")
	s.expect("x\r\nx\r\n") // the terminal's echo, and cat's: it runs
	s.send(proto.FrameStdin, "\x03")
	s.expect("# ") // an interrupt drops what was typed ahead
	s.send(proto.FrameStdin, "echo in$?\n")
	s.expect("in130")
	s.send(proto.FrameStdin, "exit 5\n")
	if e := s.exit(); e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
}

func testSignals(t *testing.T, m *machine) {
	s := open(t, m, proto.ExecRequest{Argv: []string{"sh", "-c", "trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.05; done"}})
	s.expect("ready")
	s.send(proto.FrameSignal, "SIGINT")
	s.expect("got")
	if e := s.exit(); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	// A signal reaches a command that does not read its input.
	s = open(t, m, proto.ExecRequest{Argv: []string{"sleep", "100"}, Stdin: true})
	stdin := proto.NewStdin(s.out)
	go stdin.Write(make([]byte, 1<<20))
	for n := 0; n == 0; {
		s.send(proto.FrameSignal, "SIGTERM")
		n++
	}
	if e := s.exit(); e != (proto.Exit{Code: 143, Signal: "SIGTERM"}) {
		t.Errorf("exit %+v", e)
	}
	stdin.Close()
}

func testHangup(t *testing.T, m *machine) {
	running := func() bool { return strings.Contains(m.sh("ps | grep '[s]leep 31' || true"), "sleep 31") }
	for i, end := range []func(*stream){
		func(s *stream) { s.Close() },
		func(s *stream) { s.send(proto.FrameHangup, "") },
	} {
		for _, script := range []string{"echo ready; sleep 3141", "trap '' HUP; echo ready; while :; do sleep 3142; done"} {
			s := open(t, m, proto.ExecRequest{Argv: []string{"sh", "-c", script}})
			s.expect("ready")
			defer func() {
				for n := 0; running(); n++ {
					if n > 200 {
						t.Fatalf("after end %d, %q survives", i, script)
					}
					<-time.After(50 * time.Millisecond)
				}
			}()
			end(s)
		}
	}
	ctx, cancel := context.WithCancel(m.ctx())
	go func() {
		<-time.After(200 * time.Millisecond)
		cancel()
	}()
	if _, err := m.Exec(ctx, proto.ExecRequest{Argv: []string{"sleep", "3143"}}, guest.IO{}); fault.KindOf(err) != fault.Canceled {
		t.Errorf("a canceled command: %v", err)
	}
}

func testOrphans(t *testing.T, m *machine) {
	m.sh("for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 &) ; done; sleep 0.5")
	if got := m.sh("grep -l '^State:.*Z' /proc/[0-9]*/status 2>/dev/null || echo none"); got != "none" {
		t.Errorf("zombies: %s", got)
	}
}

func testFiles(t *testing.T, m *machine) {
	src := filepath.Join(t.TempDir(), "tree")
	os.MkdirAll(filepath.Join(src, "sub"), 0o750)
	os.WriteFile(filepath.Join(src, "sub/file"), []byte("text"), 0o640)
	os.Symlink("sub/file", filepath.Join(src, "link"))
	m.sh("mkdir -p /tmp/dst")
	r, w := io.Pipe()
	go func() { w.CloseWithError(archive.Pack(m.ctx(), w, src, archive.PackOptions{})) }()
	if err := m.PutFiles(m.ctx(), "/tmp/dst", r); err != nil {
		t.Fatal(err)
	}
	if got := m.sh("stat -c '%a %F' /tmp/dst/tree/sub /tmp/dst/tree/sub/file /tmp/dst/tree/link; cat /tmp/dst/tree/link"); got != "750 directory\n640 regular file\n777 symbolic link\ntext" {
		t.Errorf("in the guest: %q", got)
	}
	back, err := m.GetFiles(m.ctx(), "/tmp/dst/tree")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	dst := t.TempDir()
	if err := archive.Unpack(m.ctx(), back, dst, archive.UnpackOptions{Source: "/tmp/dst/tree"}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dst, "tree/link")); string(got) != "text" {
		t.Errorf("back on the host: %q, %v", got, err)
	}
	if _, err := m.GetFiles(m.ctx(), "/no/such"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a missing file: %v", err)
	}
	broken := errors.New("the host's disk broke")
	if err := m.PutFiles(m.ctx(), "/tmp/dst", io.MultiReader(strings.NewReader("abc"), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("a broken source: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func testPorts(t *testing.T, m *machine) {
	s := open(t, m, proto.ExecRequest{Argv: []string{"nc", "-l", "-p", "8080", "-e", "sh", "-c", "read line; echo got $line; cat"}})
	defer s.Close()
	for i := 0; ; i++ {
		ports, err := m.Ports(m.ctx())
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(ports, func(p proto.Port) bool { return p.Port == 8080 }) {
			break
		}
		if i > 100 {
			t.Fatalf("ports: %v", ports)
		}
		<-time.After(20 * time.Millisecond)
	}
	conn, err := m.Upgrade(m.ctx(), "/v1/dial?port=8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello\nrest")
	conn.(*proto.Tunnel).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "got hello\nrest" {
		t.Errorf("the guest's port answers %q, %v", got, err)
	}
	if _, err := m.Upgrade(m.ctx(), "/v1/dial?port=9"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a port that nobody listens on: %v", err)
	}
}

func testStats(t *testing.T, m *machine) {
	s, err := m.Stats(m.ctx())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	if s.MemTotal < 300<<20 || s.MemUsed <= 0 || s.AgentRSS <= 0 || s.CPUBusy <= 0 || s.Processes < 1 || s.NetRxBytes < 0 {
		t.Errorf("stats are %+v", s)
	}
	if len(s.Disks) != 2 || s.Disks[0].Target != "/" || s.Disks[1].Target != "/root" || s.Disks[0].Size < 900<<20 {
		t.Errorf("disks are %+v", s.Disks)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
