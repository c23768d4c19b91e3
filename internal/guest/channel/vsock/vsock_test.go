package vsock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/channel"
)

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// transport is a listener and a way to dial it: vsock over the kernel's loopback where there is
// one. Otherwise it is a unix socket, through the same Listener: a socket pair cannot listen.
func transport(t *testing.T) (*Listener, func(context.Context) (net.Conn, error)) {
	t.Helper()
	if l, dial, err := loopback(); err == nil {
		t.Log("over vsock's loopback")
		t.Cleanup(func() { l.Close() })
		return l, dial
	} else {
		t.Logf("over a unix socket, because vsock has no loopback here: %v", err)
	}
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := FromFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	l.allowed = func(unix.Sockaddr) bool { return true }
	t.Cleanup(func() { l.Close() })
	return l, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// loopback needs the module vsock_loopback (Linux 5.6). Without it a connection to CID 1 goes
// nowhere.
func loopback() (*Listener, func(context.Context) (net.Conn, error), error) {
	const port = 5252
	l, err := Listen(port)
	if err != nil {
		return nil, nil, err
	}
	l.allowed = func(sa unix.Sockaddr) bool { return addrOf(sa).cid == unix.VMADDR_CID_LOCAL }
	dial := Dialer{CID: unix.VMADDR_CID_LOCAL, Port: port}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	probe, err := dial.attempt(ctx)
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	defer probe.Close()
	if c, err := l.Accept(ctx); err != nil {
		l.Close()
		return nil, nil, err
	} else {
		c.Close()
	}
	return l, dial.Dial, nil
}

// agent serves sessions that echo every stream, each until it ends.
func agent(ctx context.Context, l channel.Listener) {
	for {
		raw, err := l.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			s, err := channel.Accept(ctx, raw, nil)
			if err != nil {
				return
			}
			defer s.Close()
			for {
				st, err := s.Accept()
				if err != nil {
					return
				}
				go func() {
					defer st.Close()
					io.Copy(st, st)
				}()
			}
		}()
	}
}

// talk sends text through a new stream and expects it back.
func talk(t *testing.T, s *channel.Session, text string) error {
	t.Helper()
	st, err := s.Open(timeout(t, 20*time.Second))
	if err != nil {
		return err
	}
	defer st.Close()
	st.SetDeadline(time.Now().Add(20 * time.Second))
	go io.WriteString(st, text)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(st, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("%d other bytes came back", len(got))
	}
	return nil
}

// TestSessionsAreRedialled: a connection may end at any time, on either side, and the next one is a
// session again.
func TestSessionsAreRedialled(t *testing.T) {
	l, dial := transport(t)
	ctx := timeout(t, time.Minute)
	go agent(ctx, l)
	for i := range 4 {
		conn, err := dial(ctx)
		if err != nil {
			t.Fatalf("dialling the agent, time %d: %v", i, err)
		}
		s, err := channel.Connect(ctx, conn)
		if err != nil {
			t.Fatalf("beginning session %d: %v", i, err)
		}
		if err := talk(t, s, strings.Repeat("text", 100_000)); err != nil {
			t.Fatalf("talking in session %d: %v", i, err)
		}
		if i%2 == 0 {
			conn.Close() // in the middle of the session
		}
		s.Close()
	}
}

// TestListenerIsHandedOver: a copy of the descriptor serves what the first listener has not
// accepted.
func TestListenerIsHandedOver(t *testing.T) {
	l, dial := transport(t)
	ctx := timeout(t, time.Minute)
	conn, err := dial(ctx) // waits in the socket's backlog meanwhile
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(l.FD()))
	if err != nil {
		t.Fatal(err)
	}
	next, err := FromFD(fd)
	if err != nil {
		t.Fatalf("taking the listener over: %v", err)
	}
	next.allowed = l.allowed
	defer next.Close()
	l.Close()
	go agent(ctx, next)
	s, err := channel.Connect(ctx, conn)
	if err != nil {
		t.Fatalf("the successor does not serve a connection made before the handover: %v", err)
	}
	defer s.Close()
	if err := talk(t, s, "hello"); err != nil {
		t.Errorf("talking to the successor: %v", err)
	}
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	l, dial := transport(t)
	for range 2 {
		if _, err := l.Accept(timeout(t, 20*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("accepting nobody returned %v, want the context's end", err)
		}
	}
	conn, err := dial(timeout(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := l.Accept(timeout(t, 20*time.Second)); err != nil {
		t.Errorf("accepting after an ended context: %v", err)
	}
}

// TestOnlyTheHostIsServed: processes in the guest reach the port by the loopback, and are turned
// away.
func TestOnlyTheHostIsServed(t *testing.T) {
	for cid, want := range map[uint32]bool{unix.VMADDR_CID_HOST: true, unix.VMADDR_CID_LOCAL: false, 3: false} {
		if got := fromHost(&unix.SockaddrVM{CID: cid}); got != want {
			t.Errorf("a peer with CID %d is served: %v, want %v", cid, got, want)
		}
	}
	l, dial := transport(t)
	l.allowed = fromHost
	conn, err := dial(timeout(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go l.Accept(timeout(t, 20*time.Second))
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a peer that is not the host reads %v, want the connection's end", err)
	}
}

// TestDialWaitsForTheListener: a host may dial before the agent listens, and gives up with its
// context.
func TestDialWaitsForTheListener(t *testing.T) {
	l, _, err := loopback()
	if err != nil {
		t.Skipf("needs vsock's loopback: %v", err)
	}
	l.Close()
	dial := Dialer{CID: unix.VMADDR_CID_LOCAL, Port: 5254}
	if conn, err := dial.Dial(timeout(t, 100*time.Millisecond)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("dialling nobody returned %v, %v; want fault.Unavailable", conn, err)
	}
	dialled := make(chan error, 1)
	go func() {
		conn, err := dial.Dial(timeout(t, 20*time.Second))
		if err == nil {
			conn.Close()
		}
		dialled <- err
	}()
	select {
	case err := <-dialled:
		t.Fatalf("dialling ended before anybody listened: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if l, err = Listen(5254); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-dialled; err != nil {
		t.Errorf("dialling did not wait for the listener: %v", err)
	}
}

func TestListenTakesThePort(t *testing.T) {
	l, err := Listen(5253)
	if err != nil {
		t.Skipf("needs AF_VSOCK: %v", err)
	}
	defer l.Close()
	if other, err := Listen(5253); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second listener on the port: %v, %v; want EADDRINUSE", other, err)
	}
}

// firecracker is a server with Firecracker's protocol on a unix socket. answer plays one
// connection.
func firecracker(t *testing.T, answer func(conn net.Conn, line string)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
				if err == nil {
					answer(conn, line)
				}
			}()
		}
	}()
	return path
}

// TestHybridReachesTheAgent: the whole way to an agent's session behind Firecracker's socket, once
// an agent listens.
func TestHybridReachesTheAgent(t *testing.T) {
	l, dial := transport(t)
	ctx := timeout(t, time.Minute)
	go agent(ctx, l)
	var asked atomic.Int32
	path := firecracker(t, func(conn net.Conn, line string) {
		if line != "CONNECT 52\n" {
			t.Errorf("the host asks %q, want CONNECT 52", line)
		}
		if asked.Add(1) < 4 {
			return // nobody listens yet
		}
		guest, err := dial(ctx)
		if err != nil {
			return
		}
		defer guest.Close()
		io.WriteString(conn, "OK 1073741824\n")
		go io.Copy(guest, conn)
		io.Copy(conn, guest)
	})
	conn, err := Hybrid{Path: path, Port: 52}.Dial(ctx)
	if err != nil {
		t.Fatalf("dialling a guest whose agent comes up later: %v", err)
	}
	s, err := channel.Connect(ctx, conn)
	if err != nil {
		t.Fatalf("beginning a session: %v", err)
	}
	defer s.Close()
	if err := talk(t, s, "hello"); err != nil {
		t.Errorf("talking: %v", err)
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("the host asked %d times, want 4", n)
	}
}

// TestHybridTakesNoByteOfTheStream: what follows the answer in the same packet is the session's.
func TestHybridTakesNoByteOfTheStream(t *testing.T) {
	path := firecracker(t, func(conn net.Conn, _ string) { io.WriteString(conn, "OK 7\nOK first bytes\n") })
	conn, err := Hybrid{Path: path, Port: 52}.Dial(timeout(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "OK first bytes\n" || err != nil {
		t.Errorf("the stream begins with %q, %v", got, err)
	}
}

func TestHybridGivesUp(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, tt := range map[string]struct {
		answer func(net.Conn, string)
		ends   bool // by itself, without its context
	}{
		"nobody listens":   {func(net.Conn, string) {}, false},
		"silence":          {func(net.Conn, string) { <-hang }, false},
		"half an answer":   {func(c net.Conn, _ string) { io.WriteString(c, "OK 1"); <-hang }, false},
		"another protocol": {func(c net.Conn, _ string) { io.WriteString(c, "HTTP/1.1 400 Bad Request\n") }, true},
		"no number":        {func(c net.Conn, _ string) { io.WriteString(c, "OK x\n") }, true},
		"endless line":     {func(c net.Conn, _ string) { io.WriteString(c, strings.Repeat("O", 1000)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := 100 * time.Millisecond
			if tt.ends {
				limit = 20 * time.Second
			}
			ctx := timeout(t, limit)
			conn, err := Hybrid{Path: firecracker(t, tt.answer), Port: 52}.Dial(ctx)
			if fault.KindOf(err) != fault.Unavailable {
				t.Errorf("dialling returned %v, %v; want fault.Unavailable", conn, err)
			}
			if tt.ends && ctx.Err() != nil {
				t.Errorf("dialling waited for its context, want the error at once")
			}
		})
	}
	ctx := timeout(t, 20*time.Second)
	if _, err := (Hybrid{Path: filepath.Join(t.TempDir(), "none"), Port: 52}).Dial(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("dialling a VMM that is gone returned %v, want an error at once", err)
	}
}

// The compiler checks the contracts of package channel.
var (
	_ channel.Listener = (*Listener)(nil)
	_ channel.Dialer   = Dialer{}
	_ channel.Dialer   = Hybrid{}
	_ net.Conn         = (*conn)(nil)
)
