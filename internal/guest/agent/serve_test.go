package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"banger/internal/guest/channel"
)

// socketListener is a transport with many connections, as vsock is, over a unix socket.
type socketListener struct {
	*net.UnixListener
	path   string
	waits  chan struct{}        // gets an element when the agent waits for a connection
	answer func(socketListener) // called before the agent answers a hello, if set
}

// answering is a connection of the agent that calls before at its first write.
type answering struct {
	net.Conn
	before func()
	once   sync.Once
}

func (a *answering) Write(p []byte) (int, error) {
	a.once.Do(a.before)
	return a.Conn.Write(p)
}

func (l socketListener) Accept(ctx context.Context) (io.ReadWriteCloser, error) {
	defer context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })()
	l.waits <- struct{}{}
	conn, err := l.UnixListener.Accept()
	if err != nil || l.answer == nil {
		return conn, err
	}
	return &answering{Conn: conn, before: func() { l.answer(l) }}, nil
}

func (socketListener) FD() uintptr { return 0 }

func serveOnSocket(t *testing.T, answer func(socketListener)) socketListener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	listener := socketListener{l.(*net.UnixListener), path, make(chan struct{}, 16), answer}
	ctx, cancel := context.WithCancel(context.Background())
	s := sessions{log: slog.New(slog.DiscardHandler), server: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }),
	}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(ctx, listener)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("serving continues after its context has ended")
		}
		l.Close()
	})
	return listener
}

func (l socketListener) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func connect(t *testing.T, conn net.Conn) *channel.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := channel.Connect(ctx, conn)
	if err != nil {
		t.Fatalf("beginning a session: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// ask sends one request and reports whether it was answered.
func ask(s *channel.Session) error {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Open(ctx) },
		DisableKeepAlives: true,
	}}
	resp, err := client.Get("http://agent/")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// TestNewestHostIsServed: a host that dials again is served although the agent has not noticed its
// old connection's end.
func TestNewestHostIsServed(t *testing.T) {
	l := serveOnSocket(t, nil)
	first := connect(t, l.dial(t))
	if err := ask(first); err != nil {
		t.Fatalf("asking in the first session: %v", err)
	}
	second := connect(t, l.dial(t)) // the first connection is still open
	if err := ask(second); err != nil {
		t.Errorf("asking in the second session: %v", err)
	}
	select {
	case <-first.Done():
	case <-time.After(20 * time.Second):
		t.Error("the first session continues beside the second")
	}
}

// TestSilentConnectionsEndNoSession: who connects and does not greet neither ends the session nor
// waits for ever.
func TestSilentConnectionsEndNoSession(t *testing.T) {
	l := serveOnSocket(t, nil)
	session := connect(t, l.dial(t))
	silent := l.dial(t)
	l.dial(t)
	silent.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := silent.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a silent connection reads %v when another one comes, want its end", err)
	}
	if err := ask(session); err != nil {
		t.Errorf("a silent connection ended the session: %v", err)
	}
}

// TestSilentConnectionBeforeTheAnswer: a silent connection that comes between a host's hello and
// its answer does not end the host's session.
func TestSilentConnectionBeforeTheAnswer(t *testing.T) {
	l := serveOnSocket(t, func(l socketListener) {
		l.dial(t)
		for range 3 { // the agent has accepted the host and the silent connection, and waits again
			<-l.waits
		}
	})
	if err := ask(connect(t, l.dial(t))); err != nil {
		t.Errorf("a silent connection ended the session: %v", err)
	}
}

func TestChooseTransport(t *testing.T) {
	for cmdline, want := range map[string]string{
		"":                                  onSerial,
		"quiet banger.agentx=vsock:52 ro\n": onSerial,
		"banger.agent=vsock:52":             onVsock,
		"a banger.agent=x banger.agent=vsock:52 b\n": onVsock,
		"banger.agent=vsock:52 banger.agent=":        onSerial,
	} {
		if got, err := chooseTransport(cmdline); got != want || err != nil {
			t.Errorf("the transport of %q is %q, %v; want %q", cmdline, got, err, want)
		}
	}
	if got, err := chooseTransport("banger.agent=tcp:1"); err == nil {
		t.Errorf("an unknown transport is taken for %q, want an error", got)
	}
}

func TestTakeOverNeedsATransport(t *testing.T) {
	if l, err := takeOver("tcp", 0); err == nil {
		t.Errorf("an unknown transport made the listener %v, want an error", l)
	}
}
