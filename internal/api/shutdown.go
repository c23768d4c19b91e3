package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/paths"
)

// Shutdown asks the daemon to stop and returns when its process has ended. VMs keep running. It
// works across API generations.
func (d Daemon) Shutdown(ctx context.Context) error {
	status, err := d.Status(ctx)
	if err != nil {
		return err
	}
	// A pidfd is opened before the request, so that Shutdown does not wait for another process that
	// gets the same number.
	fd, err := unix.PidfdOpen(status.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		fd = -1 // in another pid namespace, perhaps
	} else {
		defer unix.Close(fd)
	}
	if err := d.t.call(ctx, query{method: http.MethodPost, target: "/v1/shutdown"}, nil); err != nil {
		return err
	}
	if fd < 0 {
		return nil
	}
	return waitPidfd(ctx, fd)
}

// Terminate ends a daemon that does not listen, for instance because its socket was removed. The
// home's lock names its process. found is false if there is none. A daemon that is stopping gets no
// signal, because a second one would cut its end short. It returns when the process has ended.
func Terminate(ctx context.Context, layout paths.Layout) (found bool, err error) {
	daemon, err := home.Holder(layout)
	if err != nil || daemon.PID == 0 {
		return false, err
	}
	pid := daemon.PID
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("ending bangerd (process %d): %w", pid, err)
	}
	defer unix.Close(fd)
	// The pidfd belongs to the holder only if the same process still holds the lock.
	now, err := home.Holder(layout)
	if err != nil || now.PID != pid {
		return false, err
	}
	if now.Stopping {
		return true, waitPidfd(ctx, fd)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return true, fmt.Errorf("ending bangerd (process %d): %w", pid, err)
	}
	return true, waitPidfd(ctx, fd)
}

// waitPidfd returns when the process or ctx has ended. An eventfd makes the end of ctx wake the
// poll.
func waitPidfd(ctx context.Context, fd int) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("waiting for the end of bangerd: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken
		}
		unix.Close(wake)
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for the end of bangerd: %w", err)
		case fds[0].Revents != 0:
			return nil
		default:
			return fault.New(fault.Unavailable, "waiting for the end of bangerd: %w", context.Cause(ctx)).
				WithHint("Operations may still be under way; `banger daemon status` shows.")
		}
	}
}
