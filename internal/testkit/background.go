package testkit

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Background is a command that runs while the test continues, without a terminal.
type Background struct {
	args []string
	done chan struct{} // closed at its end
	err  error         // how it ended; valid after done

	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes the command's output.
func (b *Background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

// Start starts `banger args...` in a session of its own, so that a signal reaches only what the
// test signals.
func (h *Home) Start(t testing.TB, args ...string) (*exec.Cmd, *Background) {
	t.Helper()
	ctx, cancel := within(runTimeout)
	cmd := h.Command(ctx, filepath.Join(h.Bin, "banger"), args...)
	b := &Background{args: args, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = b, b
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		b.err = cmd.Wait()
		close(b.done)
	}()
	t.Cleanup(cancel)
	return cmd, b
}

// Output returns what the command has written so far, on both streams.
func (b *Background) Output() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

// Ended reports whether the command has ended.
func (b *Background) Ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// Expect waits until the command has written want, at most until the command ends.
func (b *Background) Expect(t testing.TB, want string) {
	t.Helper()
	waitFor(time.Minute, func() bool {
		ended := b.Ended() // first: after the end, nothing more is written
		return strings.Contains(b.Output(), want) || ended
	})
	if !strings.Contains(b.Output(), want) {
		t.Fatalf("%q did not come from %v:\n%s", want, b.args, b.Output())
	}
}

// Wait waits for the end of the command and returns its exit status as a shell does.
func (b *Background) Wait(t testing.TB) int {
	t.Helper()
	ctx, cancel := within(2 * time.Minute)
	defer cancel()
	select {
	case <-b.done:
		return exitCode(b.err)
	case <-ctx.Done():
		t.Fatalf("%v did not end:\n%s", b.args, b.Output())
		return -1
	}
}
