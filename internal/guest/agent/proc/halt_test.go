package proc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
	"banger/internal/testkit"
)

// while is how long a test checks that nothing happens.
const while = 100 * time.Millisecond

// begin starts a command in the background and returns the channel for its outcome.
func begin(r *Runner, argv ...string) chan error {
	started := make(chan error, 1)
	go func() {
		p, err := r.Start(proto.ExecRequest{Argv: argv}, Streams{})
		if err == nil {
			p.Wait()
		}
		started <- err
	}()
	return started
}

func TestHalt(t *testing.T) {
	r := newRunner(t)
	for forked, want := range map[bool]error{false: nil, true: ErrForked} {
		r.Table.Halt()
		early := begin(r, "true")
		select {
		case err := <-early:
			t.Errorf("a command started in a halted machine: %v", err)
		case <-time.After(while):
		}
		r.Table.Resume(forked)
		if err := <-early; !errors.Is(err, want) {
			t.Errorf("forked %v: a command that had to wait: %v", forked, err)
		}
		if err := <-begin(r, "true"); err != nil {
			t.Errorf("forked %v: a command later on: %v", forked, err)
		}
	}
}

// TestHangupOfHalted: the grace after a hangup begins when the command can handle the signal.
func TestHangupOfHalted(t *testing.T) {
	r := newRunner(t)
	ready := waitFor("ready")
	p, err := r.Start(proto.ExecRequest{Argv: []string{"sh", "-c", "trap 'echo bye; exit 3' HUP; echo ready; while :; do sleep 0.01; done"}}, Streams{Stdout: ready})
	if err != nil {
		t.Fatal(err)
	}
	<-ready.come
	kid := p.(*process).child
	r.Table.Halt()
	syscall.Kill(-kid.pid, syscall.SIGSTOP)
	ended := make(chan struct{})
	go func() {
		r.Table.end(kid, time.Minute)
		close(ended)
	}()
	select {
	case <-kid.done:
		t.Error("a halted command was ended")
	case <-time.After(while):
	}
	r.Table.Resume(true) // SIGCONT comes with the hangup
	if exit := p.Wait(); exit.Code != 3 || !strings.HasSuffix(ready.seen.String(), "bye\n") {
		t.Errorf("it ends with %+v, %q", exit, ready.seen.String())
	}
	<-ended
}

// waiter is an output that reports when a text has arrived.
type waiter struct {
	text string
	seen strings.Builder
	come chan struct{}
}

func waitFor(text string) *waiter {
	return &waiter{text: text, come: make(chan struct{})}
}

func (w *waiter) Write(p []byte) (int, error) {
	before := strings.Contains(w.seen.String(), w.text)
	w.seen.Write(p)
	if !before && strings.Contains(w.seen.String(), w.text) {
		close(w.come)
	}
	return len(p), nil
}

func TestRunHook(t *testing.T) {
	r := newRunner(t)
	r.Table.Halt() // hooks run all the same
	defer r.Table.Resume(true)
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	hook := func(ctx context.Context, script string) error {
		return r.RunHook(ctx, proto.ExecRequest{Argv: []string{"sh", "-c", script}, Env: []string{"A=1"}}, out)
	}
	if err := hook(t.Context(), "echo $A; cat; echo err >&2"); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "1\nerr\n" {
		t.Errorf("it says %q", got)
	}
	for script, want := range map[string]string{"exit 3": "status 3", "kill -KILL $$": "SIGKILL"} {
		if err := hook(t.Context(), script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the hook %q ended with %v, want %s", script, err, want)
		}
	}
	if err := r.RunHook(t.Context(), proto.ExecRequest{Argv: []string{"/no/such"}}, out); err == nil {
		t.Error("a missing hook runs")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	late := errors.New("too late")
	time.AfterFunc(while, func() { cancel(late) })
	pids := filepath.Join(t.TempDir(), "pids")
	if err := hook(ctx, "sleep 1000 & echo $! $$ > "+pids+"; wait"); !errors.Is(err, late) {
		t.Errorf("a hook that hangs: %v", err)
	}
	text, _ := os.ReadFile(pids)
	for _, pid := range strings.Fields(string(text)) {
		awaitDead(t, pid)
	}
}

func awaitDead(t *testing.T, pid string) {
	t.Helper()
	for n := 0; ; n++ {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil || strings.Contains(string(status), "\nState:\tZ") {
			return
		}
		if n > 1000 {
			t.Fatalf("process %s lives", pid)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// fakeGroups counts the calls of a Table.
type fakeGroups struct {
	fd      int
	renewed int
	next    func() int
}

func (g *fakeGroups) ForCommands() int { return g.fd }

func (g *fakeGroups) Lost() bool {
	return unix.Faccessat(g.fd, "cgroup.procs", unix.F_OK, 0) != nil
}

func (g *fakeGroups) Renew() error {
	g.renewed++
	g.fd = g.next()
	return nil
}

// TestGroups: commands start also if their group accepts no process.
func TestGroups(t *testing.T) {
	testkit.Require(t, "root", os.Getuid() == 0, "control groups are root's to make")
	dir := hierarchy(t)
	open := func(name string) int {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			unix.Close(fd)
			unix.Rmdir(path)
		})
		return fd
	}
	r := newRunner(t)
	g := &fakeGroups{fd: open("one"), next: func() int { return open("two") }}
	r.Table.UseGroups(g)
	in := func(want string) {
		t.Helper()
		_, out, errOut := run(t, r, proto.ExecRequest{Argv: []string{"grep", "^0::", "/proc/self/cgroup"}}, nil)
		if !strings.HasSuffix(out, want+"\n") {
			t.Errorf("a command is in %q, not in %s: %s", out, want, errOut)
		}
	}
	in("/one")
	if _, err := r.Start(proto.ExecRequest{Argv: []string{script(t, "#!/no/such\n")}}, Streams{}); !errors.Is(err, os.ErrNotExist) || g.renewed > 0 {
		t.Errorf("a missing interpreter: %v; the group was renewed %d times", err, g.renewed)
	}
	unix.Rmdir(filepath.Join(dir, "one"))
	in("/two")
	unix.Rmdir(filepath.Join(dir, "two"))
	g.next = func() int { return g.fd } // no better
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(own)), "\n")
	in(strings.TrimPrefix(lines[len(lines)-1], "0::"))
	if g.renewed != 2 {
		t.Errorf("the group was renewed %d times", g.renewed)
	}
}

// script makes an executable file.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// hierarchy makes a control group for the test.
func hierarchy(t *testing.T) string {
	t.Helper()
	mounts, _ := os.ReadFile("/proc/mounts")
	at := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			at = f[1]
		}
	}
	testkit.Require(t, "cgroup2", at != "", "no such file system is mounted")
	dir, err := os.MkdirTemp(at, "banger-test-")
	if err != nil {
		testkit.Require(t, "cgroup2", false, err.Error())
	}
	t.Cleanup(func() { unix.Rmdir(dir) })
	return dir
}
