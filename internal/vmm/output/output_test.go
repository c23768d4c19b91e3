package output

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/testkit"
	"banger/internal/vmm/console"
	"banger/internal/vmm/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *Output {
	t.Helper()
	out, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Require(t, "memfd", out.Writer != nil, "this host does not run files without a name")
	t.Cleanup(func() { _ = out.File.Close(); _ = out.Writer.Close() })
	return out
}

// ended closes the VMM's end and waits for the writer.
func ended(t *testing.T, out *Output) {
	t.Helper()
	_ = out.File.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := out.Writer.Wait(ctx); err != nil {
		t.Fatal("the writer does not end:", err)
	}
	if status, ok := out.Writer.Status(); !ok || status != 0 {
		t.Errorf("the writer ends with %#x, %v", status, ok)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	var text bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := console.Follow(ctx, path, &text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// write writes everything, as a VMM that waits would.
func write(t *testing.T, out *Output, text string) {
	t.Helper()
	for len(text) > 0 {
		n, err := unix.Write(int(out.File.Fd()), []byte(text))
		if errors.Is(err, unix.EAGAIN) {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(out.File.Fd()), Events: unix.POLLOUT}}, 1000)
		} else if err != nil {
			t.Fatal(err)
		} else {
			text = text[n:]
		}
	}
}

// TestAppends checks that a run continues the log, and where its own output begins.
func TestAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmm.log")
	for i, want := range []string{"one\n", "one\ntwo\n"} {
		out := open(t, path)
		if out.End != int64(i*4) {
			t.Errorf("the output of run %d begins at %d", i, out.End)
		}
		write(t, out, want[i*4:])
		ended(t, out)
		if got := read(t, path); got != want {
			t.Errorf("after run %d the log is %q, not %q", i, got, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the log has the mode %v, %v", info.Mode(), err)
	}
}

// TestKeeps takes a file that a writer keeps, as another daemon does, until the VMM has ended.
func TestKeeps(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kept, other := os.NewFile(uintptr(fds[0]), "kept"), os.NewFile(uintptr(fds[1]), "other")
	defer other.Close()
	out, err := Open(filepath.Join(t.TempDir(), "vmm.log"), kept)
	if err := errors.Join(err, kept.Close()); err != nil {
		t.Fatal(err)
	}
	testkit.Require(t, "memfd", out.Writer != nil, "this host does not run files without a name")
	t.Cleanup(func() { _ = out.File.Close(); _ = out.Writer.Close() })
	writer, err := process.Open(out.Writer.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	var taken *os.File
	for taken == nil { // it may not run its program yet
		if taken, err = writer.Take(KeptFD); err != nil && !errors.Is(err, unix.EBADF) {
			t.Fatal(err)
		}
	}
	if _, err := other.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if n, err := taken.Read(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("the file that was taken reads %q, %v", got[:n], err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write([]byte("still there")); err != nil {
		t.Errorf("nobody keeps the file: %v", err)
	}
	_ = out.File.Close()
	if err := writer.Wait(t.Context()); err != nil { // it may collect the exit status of this child
		t.Fatal(err)
	}
	if _, err := other.Write([]byte("gone")); err == nil {
		t.Error("the file stays open after the end of the VMM")
	}
	if f, err := writer.Take(KeptFD); err == nil {
		t.Errorf("a file of a writer that has ended is taken: %v", f.Close())
	}
}

// TestFlood writes much more than the bound while nobody but the writer reads. The newest bytes
// stay, up to the last word.
func TestFlood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmm.log")
	out := open(t, path)
	var all strings.Builder
	for i := range 400_000 {
		fmt.Fprintf(&all, "complaint %d\n", i)
	}
	all.WriteString("last words\n")
	write(t, out, all.String())
	ended(t, out)
	got := read(t, path)
	if len(got) > Max || len(got) < half/2 {
		t.Errorf("the log has %d bytes, not up to %d", len(got), Max)
	}
	if !strings.HasSuffix(all.String(), got) {
		t.Errorf("the log is not the end of the output: %.100q", got)
	}
	for _, p := range []string{path, console.Old(path)} {
		if info, err := os.Stat(p); err != nil || info.Size() > half || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestNoDirectory removes the log's directory under a writer, and blocks the name of the older
// half. The log stays bounded.
func TestNoDirectory(t *testing.T) {
	for name, breakIt := range map[string]func(path string) error{
		"no directory": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"no name":      func(path string) error { return os.MkdirAll(console.Old(path)+"/x", 0o700) },
	} {
		path := filepath.Join(t.TempDir(), "dir", "vmm.log")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		out := open(t, path)
		if err := breakIt(path); err != nil {
			t.Fatal(err)
		}
		log, err := os.Open(fmt.Sprintf("/proc/%d/fd/1", out.Writer.ID().PID))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		write(t, out, strings.Repeat("0123456789abcde\n", 10*half/16))
		ended(t, out)
		size, err := log.Seek(0, io.SeekEnd)
		if err != nil || size > half {
			t.Errorf("%s: the log has %d bytes, %v", name, size, err)
		}
	}
}

// TestNobodyWaits writes while the writer stands still, and after it was killed.
func TestNobodyWaits(t *testing.T) {
	out := open(t, filepath.Join(t.TempDir(), "vmm.log"))
	if err := out.Writer.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 4096))
	var err error
	for i := 0; err == nil && i < 1<<20; i++ {
		_, err = unix.Write(int(out.File.Fd()), line)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a VMM whose writer stands still gets %v", err)
	}
	if err := out.Writer.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := out.Writer.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(int(out.File.Fd()), line); !errors.Is(err, unix.EPIPE) {
		t.Errorf("a VMM whose writer is gone gets %v", err)
	}
}

// BenchmarkOpen measures the start and the end of a writer.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "vmm.log")
	for b.Loop() {
		out, err := Open(path, nil)
		if err != nil || out.Writer == nil {
			b.Fatal(err)
		}
		_ = out.File.Close()
		_ = out.Writer.Wait(b.Context())
		_ = out.Writer.Close()
	}
}
