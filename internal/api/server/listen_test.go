package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/model"
	"banger/internal/testkit"
)

// as runs f on a thread of another user. The thread ends with f.
func as(t *testing.T, uid int, f func() error) error {
	t.Helper()
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can be somebody else")
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // forever: the thread must not be used again
		// The raw system call changes only this thread; syscall.Setresuid would change all.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			result <- errno
			return
		}
		result <- f()
	}()
	return <-result
}

// ask sends a request with plain system calls, which stay on their thread, and returns the answer.
func ask(socket string) (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return "", err
	}
	unix.Write(fd, []byte("GET /v1/version HTTP/1.1\r\nHost: banger\r\n\r\n"))
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	return string(buf[:max(n, 0)]), err
}

func TestOtherUsersAreRefused(t *testing.T) {
	t.Parallel()
	w := serve(t)
	socket := w.client.Socket()
	const nobody = 65534
	var answer string
	knock := func() (err error) { answer, err = ask(socket); return err }
	if err := as(t, nobody, knock); err == nil {
		t.Error("the directory let somebody else in")
	}
	for _, p := range []string{filepath.Dir(filepath.Dir(socket)), filepath.Dir(socket), socket} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := as(t, nobody, knock); err == nil && answer != "" {
		t.Errorf("somebody else was answered %q", answer)
	}
	if err := as(t, os.Getuid(), knock); err != nil || answer == "" {
		t.Errorf("the owner was answered %q, %v", answer, err)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)
	socket := filepath.Join(dir, "run", "sock")
	prepare := func() error { return home.PrivateDir(filepath.Dir(socket)) }
	// A crash has left a socket.
	if err := errors.Join(prepare(), os.WriteFile(socket, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := Listen(socket, prepare, log)
		if err != nil {
			t.Fatal(err)
		}
		for p, mode := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
			if info, err := os.Stat(p); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: mode %v, %v", p, info.Mode(), err)
			}
		}
		if err := l.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after the end, the socket is still there: %v", err)
		}
	}
	if err := os.Chmod(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(socket, prepare, log); fault.KindOf(err) != fault.Denied {
		t.Errorf("listening in a directory that is open to others: %v", err)
	}
}

// TestLostSocket removes the socket, and its directory, while the listener works.
func TestLostSocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "run")
	socket := filepath.Join(dir, "sock")
	l, err := Listen(socket, func() error { return home.PrivateDir(dir) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range []string{socket, dir} {
		if err := os.RemoveAll(lost); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, time.Minute, "the socket is back after "+filepath.Base(lost)+" was removed", func() bool {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		if conn, err := l.Accept(); err != nil {
			t.Errorf("accepting on the new socket: %v", err)
		} else {
			conn.Close()
		}
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting after the end: %v", err)
	}
}

// TestReplacedSocket ends a listener whose path names another socket. That one stays.
func TestReplacedSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "sock")
	l, err := Listen(socket, func() error { return nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(other, nil, 0o600), os.Rename(other, socket)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the other file was removed: %v", err)
	}
}

// TestShutdownWaits shuts a server down during a start: first it waits, then it cancels the start.
func TestShutdownWaits(t *testing.T) {
	t.Parallel()
	w := serve(t)
	begun, calledOff := make(chan struct{}), make(chan struct{})
	w.m.start = stuck(begun, calledOff)
	result := make(chan error, 1)
	go func() { _, err := w.client.VMs().Start(deadline(t), "box", model.Start{}, nil); result <- err }()
	await(t, "the start", begun)
	ctx, cancel := context.WithCancel(context.Background())
	down := make(chan error, 1)
	go func() { down <- w.Server.Shutdown(ctx, 20*time.Second) }()
	select {
	case <-calledOff:
		t.Error("the start was called off at once")
	case <-down:
		t.Error("the server went down under a start")
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	await(t, "calling off", calledOff)
	if err := await(t, "the end", down); err != nil {
		t.Errorf("shutting down: %v", err)
	}
	if err := await(t, "the answer", result); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("the client was told %v", err)
	}
	if _, err := w.client.Daemon().Version(deadline(t)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// TestTurnAway: a client that cannot be served because no descriptor is left hears so, and one that
// comes later is served.
func TestTurnAway(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	accepting, err := Listen(socket, func() error { return nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := accepting.(*listener)
	defer l.Close()
	type reply struct {
		text string
		err  error
	}
	replies := make(chan reply)
	for range 3 {
		go func() {
			text, err := ask(socket)
			replies <- reply{text, err}
		}()
	}
	for range 3 {
		var got reply
		for waiting := true; waiting; {
			l.turnAway(l.current, unix.EMFILE)
			select {
			case got = <-replies:
				waiting = false
			case <-time.After(10 * time.Millisecond):
			}
		}
		if got.err != nil || !strings.HasPrefix(got.text, "HTTP/1.1 503 ") || !strings.Contains(got.text, "too many open files") {
			t.Errorf("a client for which no descriptor is left gets %q, %v", got.text, got.err)
		}
	}
	go ask(socket)
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("a later client: %v", err)
	}
	conn.Close()
}

// TestLateRead: what a client has sent before a deadline is read also after the deadline. Nothing
// else is.
func TestLateRead(t *testing.T) {
	t.Parallel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ends[i] = conn.(*net.UnixConn)
	}
	c := &peerConn{UnixConn: ends[0]}
	if _, err := ends[1].Write([]byte("sent")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "sent" {
		t.Errorf("after the deadline, %q is read, %v; want what was sent before", buf[:n], err)
	}
	if n, err := c.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with nothing left, %d bytes are read, %v; want the deadline", n, err)
	}
}
