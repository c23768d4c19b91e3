package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/paths"
)

// TestMain makes the test binary act as bangerd if it is called by that name. newHome puts such a
// link into PATH.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "bangerd" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// newHome makes an empty home, in which api.Connect starts the test binary as the daemon.
func newHome(t *testing.T) paths.Layout {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, home := filepath.Join(dir, "bin"), filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Symlink(self, filepath.Join(bin, "bangerd"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("BANGER_HOME", home)
	layout := paths.At(home)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if c, err := api.Connect(ctx, layout, false); err == nil {
			if err := c.Daemon().Shutdown(ctx); err != nil {
				t.Errorf("shutting the daemon down: %v", err)
			}
			c.Close()
		}
		if t.Failed() {
			log, _ := os.ReadFile(layout.DaemonLog())
			t.Logf("the daemon's log:\n%s", log)
		}
		os.RemoveAll(dir)
	})
	return layout
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connect returns a client and the daemon's process.
func connect(t *testing.T, layout paths.Layout) (*api.Client, int) {
	t.Helper()
	c, err := api.Connect(testContext(t), layout, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	status, err := c.Daemon().Status(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return c, status.PID
}

func TestStartsOnDemandAndStops(t *testing.T) {
	layout := newHome(t)
	c, pid := connect(t, layout)
	if status, err := c.Daemon().Status(testContext(t)); err != nil || status.Socket != layout.Socket() || status.Driver == "" || status.RSS == 0 {
		t.Errorf("%+v, %v", status, err)
	}
	if vms, err := c.VMs().List(testContext(t)); err != nil || len(vms) != 0 {
		t.Errorf("%v, %v", vms, err)
	}
	if _, again := connect(t, layout); again != pid {
		t.Errorf("a second client has daemon %d, not %d", again, pid)
	}
	if sid, err := getsid(pid); err != nil || sid != pid {
		t.Errorf("the daemon is in session %d, %v", sid, err)
	}
	if err := c.Daemon().Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) && !zombie(pid) {
		t.Errorf("the daemon is still there: %v", err)
	}
	if _, err := os.Stat(layout.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket is still there: %v", err)
	}
	if _, next := connect(t, layout); next == pid {
		t.Error("the daemon did not start again")
	}
}

func getsid(pid int) (int, error) {
	sid, _, errno := syscall.RawSyscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}

// zombie reports whether the process has ended and this test, its parent, has not waited for it.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func TestManyClientsStartOneDaemon(t *testing.T) {
	layout := newHome(t)
	const clients = 8
	pids := make([]int, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c, err := api.Connect(testContext(t), layout, true)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			status, err := c.Daemon().Status(testContext(t))
			if err != nil {
				t.Error(err)
				return
			}
			pids[i] = status.PID
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Errorf("not one daemon but several: %v", pids)
		}
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	layout := newHome(t)
	_, pid := connect(t, layout)
	cmd := exec.Command("bangerd", "--foreground")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != fault.Locked.ExitCode() || !strings.Contains(stderr.String(), strconv.Itoa(pid)) {
		t.Errorf("%v: %s; want exit status %d and the process %d", err, stderr.String(), fault.Locked.ExitCode(), pid)
	}
	if _, still := connect(t, layout); still != pid {
		t.Errorf("the first daemon %d is gone; there is %d", pid, still)
	}
}

func TestComesBackAfterAKill(t *testing.T) {
	layout := newHome(t)
	c, pid := connect(t, layout)
	for range 3 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitGone(t, pid)
		if _, err := c.Daemon().Version(testContext(t)); err != nil {
			t.Errorf("a request that only reads does not reach the next daemon: %v", err)
		}
		var next int
		if c, next = connect(t, layout); next == pid {
			t.Fatalf("daemon %d answers although it was killed", pid)
		}
		pid = next
	}
}

// TestLostSocket removes the socket of a running daemon. Clients get the same daemon again, and a
// daemon without a socket can be stopped.
func TestLostSocket(t *testing.T) {
	layout := newHome(t)
	_, pid := connect(t, layout)
	if err := os.Remove(layout.Socket()); err != nil {
		t.Fatal(err)
	}
	if _, still := connect(t, layout); still != pid {
		t.Errorf("after its socket was removed, daemon %d was replaced by %d", pid, still)
	}
	if err := os.RemoveAll(layout.Runtime); err != nil {
		t.Fatal(err)
	}
	c, err := api.Await(testContext(t), layout)
	if err != nil {
		t.Fatalf("after the runtime directory was removed: %v", err)
	}
	c.Close()
	for _, name := range []string{paths.LockIn(layout.Runtime), paths.MarkIn(layout.Runtime)} {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("the runtime directory is incomplete: %v", err)
		}
	}
	if err := os.Remove(layout.Socket()); err != nil {
		t.Fatal(err)
	}
	if found, err := api.Terminate(testContext(t), layout); err != nil || !found {
		t.Errorf("ending a daemon without a socket: found %v, %v", found, err)
	}
	waitGone(t, pid)
	if found, err := api.Terminate(testContext(t), layout); err != nil || found {
		t.Errorf("ending no daemon: found %v, %v", found, err)
	}
	if _, err := api.Await(testContext(t), layout); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("waiting for no daemon: %v", err)
	}
}

// TestOtherRuntimeDirectory connects with another XDG_RUNTIME_DIR than that of the daemon.
func TestOtherRuntimeDirectory(t *testing.T) {
	layout := newHome(t)
	_, pid := connect(t, layout)
	other := layout
	other.Runtime = filepath.Join(t.TempDir(), "banger")
	if _, same := connect(t, other); same != pid {
		t.Errorf("another runtime directory has daemon %d instead of %d", same, pid)
	}
	if _, err := os.Stat(other.Runtime); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other runtime directory: got %v, want that it was not made", err)
	}
}

// TestInheritsNothing starts the daemon with a lock and a pipe of the caller.
func TestInheritsNothing(t *testing.T) {
	layout := newHome(t)
	dir := t.TempDir()
	held, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(held.Fd())) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	connect(t, layout)
	cmd := exec.Command("bangerd", "--foreground") // it inherits the descriptor, too
	if err := cmd.Run(); err == nil {
		t.Error("a second daemon was not refused")
	}
	if err := errors.Join(held.Close(), syscall.Close(fd)); err != nil {
		t.Fatal(err)
	}
	again, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := syscall.Flock(int(again.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Errorf("the caller's lock is still held: %v", err)
	}
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil && !errors.Is(err, syscall.ECHILD) {
		t.Fatal(err)
	}
}

// TestRestartRace stops the daemon repeatedly while clients connect. Each client gets the old or
// the new daemon.
func TestRestartRace(t *testing.T) {
	layout := newHome(t)
	connect(t, layout)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := api.Connect(testContext(t), layout, true)
				if err != nil {
					t.Errorf("connecting: %v (%s)", err, fault.HintOf(err))
					return
				}
				c.Close()
			}
		})
	}
	for range 5 {
		c, err := api.Connect(testContext(t), layout, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Daemon().Shutdown(testContext(t)); err != nil && fault.KindOf(err) != fault.Unavailable {
			t.Errorf("stopping: %v", err)
		}
		c.Close()
	}
	close(stop)
	wg.Wait()
}

// TestStartErrorReachesTheUser breaks the home in several ways and reads the reason why the daemon
// did not start.
func TestStartErrorReachesTheUser(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(l paths.Layout) error
		says    string
	}{
		"the state is a file":  {func(l paths.Layout) error { return os.WriteFile(l.State, nil, 0o600) }, "state"},
		"a key that is none":   {func(l paths.Layout) error { return write(l.ConfigFile(), "[vm]\nmemroy = \"1G\"\n") }, "memroy"},
		"the database is none": {func(l paths.Layout) error { return write(l.Database(), "not SQLite at all, and long enough to tell\n") }, "banger.db"},
		"the runtime directory is open": {func(l paths.Layout) error {
			return errors.Join(os.MkdirAll(l.Runtime, 0o755), os.Chmod(l.Runtime, 0o755))
		},
			"open to others"},
	} {
		t.Run(name, func(t *testing.T) {
			layout := newHome(t)
			if err := errors.Join(os.MkdirAll(filepath.Dir(layout.State), 0o755), c.breakIt(layout)); err != nil {
				t.Fatal(err)
			}
			client, err := api.Connect(testContext(t), layout, true)
			if err == nil {
				client.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want something about %q", err, c.says)
			}
		})
	}
}

func write(path, text string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600))
}

func TestDaemonEndsOnSignal(t *testing.T) {
	layout := newHome(t)
	_, pid := connect(t, layout)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	log, err := os.ReadFile(layout.DaemonLog())
	if err != nil || !strings.Contains(string(log), "bangerd ends") {
		t.Errorf("the daemon did not come to its end: %v\n%s", err, log)
	}
}
