// Package uevent waits for news of devices: the kernel's uevents (netlink(7),
// NETLINK_KOBJECT_UEVENT).
package uevent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Events is a subscription to uevents. Open it before the change that is waited for can happen.
type Events struct {
	f *os.File
}

// Open subscribes to the kernel's uevents.
func Open() (*Events, error) {
	kind := unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening the uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("binding the uevent socket: %w", err)
	}
	return &Events{f: os.NewFile(uintptr(fd), "uevents")}, nil
}

// Wait returns after the next event of any kind, or when ctx ends. Only one call at a time is
// allowed.
func (e *Events) Wait(ctx context.Context) error {
	e.f.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { e.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [8 << 10]byte
	_, err := e.f.Read(buf[:])
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// ENOBUFS means that events were lost. One of them may have been the awaited one.
	if err != nil && !errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("waiting for a uevent: %w", err)
	}
	return nil
}

// Close ends the subscription.
func (e *Events) Close() error { return e.f.Close() }
