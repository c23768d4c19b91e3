package serial

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// class is where the kernel lists virtio-serial ports (drivers/char/virtio_console.c).
const class = "/sys/class/virtio-ports"

// Waiter waits for news of devices. Package uevent implements it in the guest.
type Waiter interface {
	Wait(ctx context.Context) error
}

// Find returns the device file of the port with that name. If there is none yet, Find waits for it.
// The kernel announces a port's name after the port itself, with a uevent of its own.
func Find(ctx context.Context, events Waiter, name string) (string, error) {
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
	entries, _ := os.ReadDir(class) // missing until the driver is loaded
	for _, e := range entries {
		got, err := os.ReadFile(filepath.Join(class, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return e.Name(), true
		}
	}
	return "", false
}
