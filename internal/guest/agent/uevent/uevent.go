// Package port is the guest's end of the agent's channel: a virtio-serial port (virtio specification 1.2, section 5.3).
package port

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const class = "/sys/class/virtio-ports"

// Events tells that devices came or changed: the kernel's uevents. Open it before what is to be waited for can happen.
type Events struct {
	f *os.File
}

// OpenEvents begins to listen for uevents (netlink(7), NETLINK_KOBJECT_UEVENT).
func OpenEvents() (*Events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening the uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("binding the uevent socket: %w", err)
	}
	return &Events{f: os.NewFile(uintptr(fd), "uevents")}, nil
}

// Wait returns after the next event, whatever it is about, or when ctx ends. One call at a time.
func (e *Events) Wait(ctx context.Context) error {
	e.f.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { e.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [8 << 10]byte
	_, err := e.f.Read(buf[:])
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, unix.ENOBUFS) { // events were lost: one of them may have been ours
		return fmt.Errorf("waiting for a uevent: %w", err)
	}
	return nil
}

// Close ends listening.
func (e *Events) Close() error { return e.f.Close() }

// Find returns the device file of the port with that name, and waits for it. The port's name comes later than the
// port, with a uevent of its own.
func Find(ctx context.Context, events *Events, name string) (string, error) {
	for {
		if dev, ok := lookup(class, name); ok {
			return filepath.Join("/dev", dev), nil
		}
		if err := events.Wait(ctx); err != nil {
			return "", fmt.Errorf("looking for the virtio-serial port %s: %w", name, err)
		}
	}
}

func lookup(class, name string) (string, bool) {
	entries, _ := os.ReadDir(class) // not there before the driver is
	for _, e := range entries {
		got, err := os.ReadFile(filepath.Join(class, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return e.Name(), true
		}
	}
	return "", false
}
