package testkit

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Terminal is a command that runs on a terminal of its own, as a person sees it.
type Terminal struct {
	Cmd  *exec.Cmd
	tty  *os.File
	done chan error

	mu  sync.Mutex
	out bytes.Buffer
}

// Terminal starts `banger args...` on a terminal of 24 rows and 80 columns.
func (h *Home) Terminal(t testing.TB, args ...string) *Terminal {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	cmd := h.Command(ctx, filepath.Join(h.Bin, "banger"), args...)
	cmd.Env = append(cmd.Env, "TERM=xterm")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	term := &Terminal{Cmd: cmd, tty: tty, done: make(chan error, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf) // ends with EIO when the last holder of the other side is gone
			term.mu.Lock()
			term.out.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		err := cmd.Wait()
		<-read
		term.done <- err
	}()
	t.Cleanup(func() {
		cancel()
		tty.Close()
	})
	return term
}

// Output is what has come to the terminal so far.
func (term *Terminal) Output() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.out.String()
}

// Type sends keystrokes. "\x03" is Ctrl-C, "\x04" Ctrl-D.
func (term *Terminal) Type(t testing.TB, keys string) {
	t.Helper()
	if _, err := term.tty.WriteString(keys); err != nil {
		t.Fatalf("typing %q: %v", keys, err)
	}
}

// Expect waits until want has come to the terminal.
func (term *Terminal) Expect(t testing.TB, want string) {
	t.Helper()
	if !waitFor(time.Minute, func() bool { return strings.Contains(term.Output(), want) }) {
		t.Fatalf("%q did not come; the terminal shows\n%s", want, term.Output())
	}
}

// Resize gives the terminal another size.
func (term *Terminal) Resize(t testing.TB, rows, cols uint16) {
	t.Helper()
	if err := pty.Setsize(term.tty, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
}

// Wait waits for the command's end and returns its exit status as a shell gives it.
func (term *Terminal) Wait(t testing.TB) int {
	t.Helper()
	select {
	case err := <-term.done:
		return exitCode(err)
	case <-time.After(2 * time.Minute):
		t.Fatalf("%v did not end; the terminal shows\n%s", term.Cmd.Args, term.Output())
		return -1
	}
}

// Background is a command that runs while the test goes on, without a terminal.
type Background struct {
	args []string
	done chan error

	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes the command's output.
func (b *Background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

// Start starts `banger args...` in a session of its own, so that signals go where the test sends them.
func (h *Home) Start(t testing.TB, args ...string) (*exec.Cmd, *Background) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	cmd := h.Command(ctx, filepath.Join(h.Bin, "banger"), args...)
	b := &Background{args: args, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = b, b
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() { b.done <- cmd.Wait() }()
	t.Cleanup(cancel)
	return cmd, b
}

// Output is what the command has written so far, on both streams.
func (b *Background) Output() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

// Expect waits until the command has written want.
func (b *Background) Expect(t testing.TB, want string) {
	t.Helper()
	if !waitFor(time.Minute, func() bool { return strings.Contains(b.Output(), want) }) {
		t.Fatalf("%q did not come from %v:\n%s", want, b.args, b.Output())
	}
}

// Wait waits for the command's end and returns its exit status as a shell gives it.
func (b *Background) Wait(t testing.TB) int {
	t.Helper()
	select {
	case err := <-b.done:
		return exitCode(err)
	case <-time.After(2 * time.Minute):
		t.Fatalf("%v did not end:\n%s", b.args, b.Output())
		return -1
	}
}
