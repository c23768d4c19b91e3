package proc

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// killTime bounds the wait for a killed process to be reaped.
const killTime = time.Second

// RunHook runs a command to its end, also while all other processes are halted. It has no input. If
// ctx ends, RunHook kills its process group. Processes that it leaves in the background continue.
func (r *Runner) RunHook(ctx context.Context, req proto.ExecRequest, out *os.File) error {
	c, err := r.resolve(req)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	c.attr.Files = []uintptr{null.Fd(), out.Fd(), out.Fd()}
	kid, err := r.Table.startHook(c)
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.path, err)
	}
	select {
	case <-kid.done:
	case <-ctx.Done():
		r.Table.kill(kid)
		return context.Cause(ctx)
	}
	switch status := kid.status; {
	case status.Signaled():
		return fmt.Errorf("%s ended it", signalName(status.Signal()))
	case status.ExitStatus() != 0:
		return fmt.Errorf("it ended with status %d", status.ExitStatus())
	}
	return nil
}

// startHook starts a command in this process's own control group, which is never halted.
func (t *Table) startHook(c *command) (*child, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.startLocked(c.path, c.argv, &c.attr)
}

// kill ends a child and its process group, halted or not.
func (t *Table) kill(c *child) {
	t.mu.Lock()
	t.signalLocked(c, unix.SIGKILL)
	t.mu.Unlock()
	timer := time.NewTimer(killTime)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
}
