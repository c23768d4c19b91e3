package drive

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger/internal/guest/agent/port"
)

// Where the kernel keeps its drivers' and drives' handles (Documentation/driver-api/driver-model/binding.rst).
const (
	blockDir = "/sys/block"
	blkDir   = "/sys/bus/virtio/drivers/virtio_blk"
)

// probeTime bounds a look at a drive.
const probeTime = 10 * time.Second

// Open returns the device file of the drive with that serial number and of that size in bytes; 0 is any size. A machine that was forked before
// it used the drive remembers the size of another file behind it. The kernel then takes the drive for a new one, and may give it another name.
func Open(ctx context.Context, serial string, size int64) (string, error) {
	dev, err := Find(serial)
	if err != nil || size == 0 {
		return dev, err
	}
	has, err := Size(dev)
	if err != nil || has == inSectors(size) {
		return dev, err
	}
	if dev, err = probe(ctx, serial); err != nil {
		return "", fmt.Errorf("looking at drive %s again: %w", serial, err)
	}
	if has, err = Size(dev); err != nil {
		return "", err
	}
	if has != inSectors(size) {
		return "", fmt.Errorf("drive %s has %d bytes, not %d", serial, has, size)
	}
	return dev, nil
}

// inSectors rounds up, as virtio's drives have whole sectors of 512 bytes only (virtio specification 1.2, section 5.2.4).
func inSectors(size int64) int64 { return (size + 511) &^ 511 }

// probe takes the drive from its driver, gives it back, and waits until it is there again.
func probe(ctx context.Context, serial string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	name, err := find(blockDir, serial)
	if err != nil {
		return "", err
	}
	device, err := os.Readlink(filepath.Join(blockDir, name, "device"))
	if err != nil {
		return "", err
	}
	events, err := port.OpenEvents()
	if err != nil {
		return "", err
	}
	defer events.Close()
	for _, handle := range []string{"unbind", "bind"} {
		if err := os.WriteFile(filepath.Join(blkDir, handle), []byte(filepath.Base(device)), 0); err != nil {
			return "", err
		}
	}
	for {
		dev, err := Find(serial)
		if err == nil {
			if _, err = os.Stat(dev); err == nil {
				return dev, nil
			}
		}
		if events.Wait(ctx) != nil {
			return "", err
		}
	}
}
