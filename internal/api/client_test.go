package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// answering returns a client of a server that writes text to every caller.
func answering(t *testing.T, text string) *Client {
	t.Helper()
	socket := filepath.Join(shortDir(t), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n"))
			}
			conn.Close()
		}
	}()
	c := Dial(socket)
	t.Cleanup(func() {
		c.Close()
		l.Close()
		<-done
	})
	return c
}

// TestOddAnswers sends the client answers that no bangerd writes. The client neither hangs nor
// reports success.
func TestOddAnswers(t *testing.T) {
	events := "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nConnection: close\n\n"
	for name, c := range map[string]struct {
		text string
		kind fault.Kind
		says string
	}{
		"nothing":                  {"", fault.Unavailable, "went away"},
		"no HTTP":                  {"SSH-2.0-OpenSSH\n", fault.Unavailable, ""},
		"half a body":              {"HTTP/1.1 200 OK\nContent-Length: 99\n\n{\"id\":", fault.Unavailable, "went away"},
		"a status without problem": {"HTTP/1.1 502 Bad Gateway\nContent-Length: 4\n\noops", fault.Internal, "502"},
		"a redirect":               {"HTTP/1.1 301 Moved\nLocation: http://elsewhere/\nContent-Length: 0\n\n", fault.Internal, "301"},
		"an unknown kind":          {"HTTP/1.1 418 Teapot\nContent-Length: 34\n\n{\"kind\":\"teapot\",\"detail\":\"short\"}\n", fault.Internal, "short"},
		"events that end":          {events + "event: step\ndata: {\"step\":\"a\"}\n\n", fault.Unavailable, "went away"},
		"an event that is no JSON": {events + "event: step\ndata: {\n\n", fault.Internal, "decoding"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_, err := answering(t, c.text).VMs().Start(ctx, "box", model.Start{}, func(step.Event) {})
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (%s)", err, fault.KindOf(err))
			}
		})
	}
}

func TestEventsOfNewerDaemons(t *testing.T) {
	text := ":beat\n\nevent: news\ndata: {}\n\nevent:step\ndata:{\"step\":\ndata: \"a\"}\n\nid: 7\nevent: result\ndata: 42\n\n"
	for _, newline := range []string{"\n", "\r\n"} {
		var steps []string
		var out int
		err := readEvents(strings.NewReader(strings.ReplaceAll(text, "\n", newline)), func(e step.Event) { steps = append(steps, e.Step) }, &out)
		if err != nil || out != 42 || len(steps) != 1 || steps[0] != "a" {
			t.Errorf("%q: %v, %d, %v", newline, steps, out, err)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add([]byte("event: step\ndata: {\"step\":\"a\"}\n\nevent: result\ndata: {}\n\n"))
	f.Add([]byte("event: problem\ndata: {\"kind\":\"not-found\"}\n\n"))
	f.Add([]byte(":\n\ndata\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out json.RawMessage
		_ = readEvents(strings.NewReader(string(data)), nil, &out)
	})
}

func FuzzFrameErr(f *testing.F) {
	f.Add([]byte(`{"kind":"not-found","message":"no such command"}`))
	f.Add([]byte(`{"kind":"x","detail":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := FrameErr(data); err == nil || err.Error() == "" {
			t.Errorf("%q is no error", data)
		}
	})
}

func TestProblemOf(t *testing.T) {
	if ProblemOf(nil) != nil {
		t.Error("nil has a problem")
	}
	inner := fault.New(fault.Unsupported, "no KVM").WithHint("buy a computer")
	p := ProblemOf(fmt.Errorf("starting: %w", &step.Error{Step: "machine", Err: inner}))
	if p.Kind != "unsupported" || p.Step != "machine" || p.Status != 422 || p.Hint != "buy a computer" || p.Detail != "starting: machine: no KVM" {
		t.Errorf("%+v", p)
	}
	again := ProblemOf(fmt.Errorf("around: %w", p.Err()))
	if again.Step != "machine" || again.Kind != p.Kind || again.Hint != p.Hint || again.Detail != "around: "+p.Detail {
		t.Errorf("%+v", again)
	}
}

// TestForeignDaemon has another user listen on the daemon's socket.
func TestForeignDaemon(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can be somebody else")
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "sock")
	listening := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // forever: the thread now runs as another user
		unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 1))
		}
		if err != nil {
			fd = -1
		}
		listening <- fd
	}()
	fd := <-listening
	if fd < 0 {
		t.Fatal("somebody else cannot listen")
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := Dial(socket).Daemon().Version(ctx); fault.KindOf(err) != fault.Denied {
		t.Errorf("a daemon of somebody else: %v", err)
	}
}

func TestConnectWithoutStart(t *testing.T) {
	layout := paths.At(shortDir(t))
	_, err := Connect(context.Background(), layout, false)
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.HintOf(err), "daemon start") {
		t.Errorf("%v", err)
	}
}

func TestTarget(t *testing.T) {
	for ref, want := range map[string]string{
		"box": "/v1/vms/box/start", "a/b": "/v1/vms/a%2Fb/start", "..": "/v1/vms/%2E%2E/start", "a?b#c d": "/v1/vms/a%3Fb%23c%20d/start",
		"x@sha256:ab": "/v1/vms/x@sha256:ab/start",
	} {
		if got := (resource{name: "vms"}).one(ref, "start", nil); got != want {
			t.Errorf("%q: %s, want %s", ref, got, want)
		}
	}
}

func TestDaemonEnv(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(daemonEnv([]string{"A=1", "BANGER_HOME=here", "BANGER_HOMELY=x"}), " ")
	if want := "A=1 BANGER_HOME=" + filepath.Join(wd, "here") + " BANGER_HOMELY=x"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
