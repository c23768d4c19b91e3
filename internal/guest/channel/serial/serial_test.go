package port

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open returns a port over one end of a socket pair, which waits and takes deadlines as a virtio port does. That a port without
// a host is waited for is seen in real machines only (package boottest).
func open(t *testing.T) (*Port, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := FromFD(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { far.Close() })
	return p, far
}

// TestConn: sessions come and go on one open port.
func TestConn(t *testing.T) {
	p, far := open(t)
	for range 3 {
		c := p.Conn()
		far.Write([]byte("in"))
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("out")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(far, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
		c.Close()
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read in a closed session: %v", err)
		}
		c.Close()
	}
	first, second := p.Conn(), p.Conn()
	first.Close() // late: it must not end the second
	far.Write([]byte("x"))
	if _, err := second.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	far.Close()
	if _, err := second.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the host's end: %v", err)
	}
}

func TestLookup(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"vport0p1": "other\n", "vport1p1": "banger.agent\n", "vport2p1": ""} {
		os.Mkdir(filepath.Join(class, dev), 0o755)
		if name != "" {
			os.WriteFile(filepath.Join(class, dev, "name"), []byte(name), 0o644)
		}
	}
	if got, ok := lookup(class, "banger.agent"); got != "vport1p1" || !ok {
		t.Errorf("%q, %v", got, ok)
	}
	if _, ok := lookup(filepath.Join(class, "none"), "banger.agent"); ok {
		t.Error("found a port in no folder")
	}
}

func TestWaitEnds(t *testing.T) {
	events, err := OpenEvents()
	if err != nil {
		t.Skipf("needs uevents: %v", err)
	}
	defer events.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		if err := events.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
}
