package serial

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// open returns a listener over one end of a socket pair, which waits and takes deadlines as a
// virtio port does. Only real machines (package boottest) show that a port without a host is waited
// for.
func open(t *testing.T) (*Listener, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := FromFD(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { l.Close(); far.Close() })
	return l, far
}

func accept(t *testing.T, l *Listener) io.ReadWriteCloser {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := l.Accept(ctx)
	if err != nil {
		t.Fatalf("accepting: %v", err)
	}
	return c
}

func TestSessionsFollowOneAnotherOnOnePort(t *testing.T) {
	l, far := open(t)
	for range 3 {
		c := accept(t, l)
		far.Write([]byte("in"))
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Fatalf("reading: %v", err)
		}
		if _, err := c.Write([]byte("out")); err != nil {
			t.Fatalf("writing: %v", err)
		}
		if _, err := io.ReadFull(far, make([]byte, 3)); err != nil {
			t.Fatalf("reading at the far end: %v", err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
		c.Close()
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
			t.Errorf("a read during Close returned %v, want the end of the connection", err)
		}
		c.Close()
	}
	c := accept(t, l)
	far.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("reading in a later session: %v", err)
	}
	far.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the host's end a read returned %v, want io.EOF", err)
	}
}

func TestAcceptWaitsForThePreviousConnection(t *testing.T) {
	l, _ := open(t)
	first := accept(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accepting beside an open connection returned %v, want the context's end", err)
	}
	// The reader below is under way when the connection closes. The port must not be free before
	// the read has ended.
	read := make(chan struct{})
	go func() {
		first.Read(make([]byte, 1))
		close(read)
	}()
	first.Close()
	second := accept(t, l)
	select {
	case <-read:
	case <-time.After(20 * time.Second):
		t.Error("a read of the closed connection still waits during the next session")
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading from a closed connection returned %v, want os.ErrClosed", err)
	}
	first.Close() // late: it must not end the second
	second.Close()
}

func TestLookupFindsThePortByName(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"vport0p1": "other\n", "vport1p1": "banger.agent\n", "vport2p1": ""} {
		os.Mkdir(filepath.Join(class, dev), 0o755)
		if name != "" {
			os.WriteFile(filepath.Join(class, dev, "name"), []byte(name), 0o644)
		}
	}
	if got, ok := lookup(class, "banger.agent"); got != "vport1p1" || !ok {
		t.Errorf("the port is %q, %v, want vport1p1", got, ok)
	}
	if got, ok := lookup(filepath.Join(class, "none"), "banger.agent"); ok {
		t.Errorf("a missing directory holds the port %q", got)
	}
}

func TestDialConnectsToTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	if _, err := (Dialer{Path: path}).Dial(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("dialling a missing socket returned %v, want fault.Unavailable", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dialer{Path: path}.Dial(t.Context())
	if err != nil {
		t.Fatalf("dialling a socket that listens: %v", err)
	}
	conn.Close()
}
