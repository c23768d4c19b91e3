package testkit

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Terminal is a command on a terminal of its own.
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
	ctx, cancel := within(runTimeout)
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
			n, err := tty.Read(buf) // fails with EIO when the other side is closed
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

// Output returns what the terminal has received so far.
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

// Expect waits until the terminal has received want.
func (term *Terminal) Expect(t testing.TB, want string) {
	t.Helper()
	if !waitFor(time.Minute, func() bool { return strings.Contains(term.Output(), want) }) {
		t.Fatalf("%q did not come; the terminal shows\n%s", want, term.Output())
	}
}

// Resize changes the size of the terminal.
func (term *Terminal) Resize(t testing.TB, rows, cols uint16) {
	t.Helper()
	if err := pty.Setsize(term.tty, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
}

// Wait waits for the end of the command and returns its exit status as a shell does.
func (term *Terminal) Wait(t testing.TB) int {
	t.Helper()
	ctx, cancel := within(2 * time.Minute)
	defer cancel()
	select {
	case err := <-term.done:
		return exitCode(err)
	case <-ctx.Done():
		t.Fatalf("%v did not end; the terminal shows\n%s", term.Cmd.Args, term.Output())
		return -1
	}
}
