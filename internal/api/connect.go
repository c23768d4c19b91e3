package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banger/internal/descriptor"
	"banger/internal/fault"
	"banger/internal/flock"
	"banger/internal/home"
	"banger/internal/paths"
)

const (
	// ReadyFD is the file descriptor on which a daemon that Connect started reports the outcome of
	// its start: the line ReadyLine, or a Problem as JSON.
	ReadyFD = 3
	// ReadyLine means that the daemon listens.
	ReadyLine = "ready"

	startTimeout = 30 * time.Second

	// socketTimeout is for a daemon to make a lost socket anew. Each daemon looks more often.
	socketTimeout = 5 * time.Second
	socketPoll    = 50 * time.Millisecond

	maxReadyLine = 64 << 10
)

// Connect returns a client with a connection to the layout's daemon. If nobody listens and start is
// true, it starts bangerd, which one of several programs does. If that daemon is killed before it
// answers a request that only reads, the client sends it once more, to the next daemon.
func Connect(ctx context.Context, layout paths.Layout, start bool) (*Client, error) {
	c, err := connectOrStart(ctx, layout, start)
	if err == nil && start {
		c.t.again = func(ctx context.Context) (*transport, error) {
			next, err := connectOrStart(ctx, layout, start)
			if err != nil {
				return nil, err
			}
			return next.t, nil
		}
	}
	return c, err
}

func connectOrStart(ctx context.Context, layout paths.Layout, start bool) (*Client, error) {
	c, err := connect(ctx, layout)
	if err == nil || !start || !nobodyListens(err) {
		return c, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fault.New(fault.Unavailable, "starting bangerd: it is not ready after %v", startTimeout).
			WithHint("Look into %s.", layout.DaemonLog()))
	defer cancel()
	if err := home.CheckOwners(layout); err != nil {
		return nil, err
	}
	if err := home.PrivateDir(layout.Runtime); err != nil {
		return nil, err
	}
	unlock, err := lockStart(ctx, filepath.Join(layout.Runtime, "start.lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err := connect(ctx, layout); err == nil || !nobodyListens(err) {
		return c, err // another program was faster
	}
	program, err := paths.Program("bangerd")
	if err != nil {
		return nil, fault.New(fault.Unavailable, "starting bangerd: %w", err).
			WithHint("Run `make build`, or install bangerd next to banger.")
	}
	err = spawn(ctx, program, layout)
	if fault.KindOf(err) == fault.Locked {
		return awaitSocket(ctx, layout, err)
	}
	if err != nil {
		return nil, err
	}
	return connect(ctx, layout)
}

// Await returns a client of the home's daemon, which may be about to listen. If no daemon holds the
// home's lock, it returns the error of Connect at once.
func Await(ctx context.Context, layout paths.Layout) (*Client, error) {
	c, err := connect(ctx, layout)
	if err == nil || !nobodyListens(err) {
		return c, err
	}
	daemon, lockErr := home.Holder(layout)
	switch {
	case lockErr != nil || daemon.PID == 0:
		return nil, errors.Join(err, lockErr)
	case daemon.Stopping:
		return nil, fault.New(fault.Unavailable, "bangerd (process %d) is stopping", daemon.PID).
			WithHint("It waits for operations under way. Commands start it again when it has ended.")
	}
	return awaitSocket(ctx, layout, fault.New(fault.Unavailable, "bangerd (process %d) is at work, but it does not listen on %s", daemon.PID, layout.Socket()).
		WithHint("Look into %s. `banger daemon restart` ends this process and starts another one; VMs continue to run.", layout.DaemonLog()))
}

// awaitSocket waits for the socket of a daemon that is at work already: it starts, or it makes a
// lost socket anew. If it does not listen in time, the error is busy.
func awaitSocket(ctx context.Context, layout paths.Layout, busy error) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	ticker := time.NewTicker(socketPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, busy
		case <-ticker.C:
		}
		if daemon, err := home.Holder(layout); err == nil && daemon.PID == 0 {
			return nil, busy
		}
		if c, err := connect(ctx, layout); err == nil || !nobodyListens(err) {
			return c, err
		}
	}
}

// connect connects to a daemon that listens. A daemon that was started with another XDG_RUNTIME_DIR
// is found by the home's mark.
func connect(ctx context.Context, layout paths.Layout) (*Client, error) {
	conn, err := dialDaemon(ctx, layout.Socket())
	if nobodyListens(err) {
		if dir := home.RuntimeElsewhere(layout); dir != "" {
			layout.Runtime = dir
			if there, thereErr := dialDaemon(ctx, layout.Socket()); thereErr == nil {
				conn, err = there, nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if err := home.CheckClient(layout); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := Dial(layout.Socket())
	c.t.first = conn
	return c, nil
}

func nobodyListens(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// lockStart makes other programs wait that want to start the daemon. A holder releases the lock
// within startTimeout.
func lockStart(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, home.Unusable(fault.Denied, fmt.Errorf("locking the start of bangerd: %w", err))
	}
	if err := flock.Lock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// spawn starts the daemon in a session of its own and returns when it is ready. The daemon reports
// its start on a pipe, so nothing is polled, and a daemon that ends early is noticed at once.
func spawn(ctx context.Context, program string, layout paths.Layout) error {
	if err := descriptor.Keep(); err != nil { // they may hold a lock of the caller, or a pipe
		return fmt.Errorf("starting bangerd: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting bangerd: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(program, fmt.Sprintf("--ready-fd=%d", ReadyFD))
	cmd.Dir = "/" // so that it blocks no unmount
	cmd.Env = daemonEnv(os.Environ())
	cmd.ExtraFiles = []*os.File{w} // becomes ReadyFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fault.New(fault.Unavailable, "starting bangerd: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(r, maxReadyLine)).ReadString('\n')
	if err == nil && strings.TrimSpace(line) == ReadyLine {
		return cmd.Process.Release()
	}
	if ctx.Err() != nil { // the daemon may still become ready; the next caller finds it
		cmd.Process.Release()
		return context.Cause(ctx)
	}
	return startErr(line, cmd.Wait(), layout)
}

// startErr returns why a daemon did not start: its own report, or how its process ended.
func startErr(line string, exit error, layout paths.Layout) error {
	var p Problem
	if json.Unmarshal([]byte(line), &p) == nil && p.Kind != "" {
		p.Detail = "starting bangerd: " + p.Detail
		return p.Err()
	}
	if exit == nil {
		exit = errors.New("exit status 0")
	}
	return fault.New(fault.Unavailable, "starting bangerd: it ended before it was ready: %w", exit).
		WithHint("Look into %s, or run `bangerd --foreground`.", layout.DaemonLog())
}

// daemonEnv makes BANGER_HOME absolute, because the daemon has another working directory.
func daemonEnv(env []string) []string {
	out := make([]string, 0, len(env))
	for _, kv := range env {
		if home, ok := strings.CutPrefix(kv, "BANGER_HOME="); ok && home != "" {
			if abs, err := filepath.Abs(home); err == nil {
				kv = "BANGER_HOME=" + abs
			}
		}
		out = append(out, kv)
	}
	return out
}
