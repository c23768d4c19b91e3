package drive

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger/internal/guest/agent/uevent"
)

// Where the kernel lists drives and drivers (Documentation/driver-api/driver-model/binding.rst).
const (
	blockDir = "/sys/block"
	blkDir   = "/sys/bus/virtio/drivers/virtio_blk"
)

// probeTime bounds one probe.
const probeTime = 10 * time.Second

// Open returns the device file of the drive with that id and size in bytes; size 0 accepts any. A
// machine that was forked before it used the drive remembers the size of another file. Open then
// makes the kernel probe the drive again, and the drive may get another name.
func Open(ctx context.Context, id string, size int64) (string, error) {
	dev, err := Find(id)
	if err != nil || size == 0 {
		return dev, err
	}
	has, err := Size(dev)
	if err != nil || has == inSectors(size) {
		return dev, err
	}
	if dev, err = probe(ctx, id); err != nil {
		return "", fmt.Errorf("probing drive %s again: %w", id, err)
	}
	if has, err = Size(dev); err != nil {
		return "", err
	}
	if has != inSectors(size) {
		return "", fmt.Errorf("drive %s has %d bytes, not %d", id, has, size)
	}
	return dev, nil
}

// inSectors rounds up to sectors of 512 bytes, the unit of virtio's drives (virtio specification
// 1.2, section 5.2.4).
func inSectors(size int64) int64 { return (size + 511) &^ 511 }

// probe unbinds the drive from its driver, binds it again, and waits until its device file exists.
func probe(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	name, err := find(blockDir, id)
	if err != nil {
		return "", err
	}
	device, err := os.Readlink(filepath.Join(blockDir, name, "device"))
	if err != nil {
		return "", err
	}
	events, err := uevent.Open()
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
		dev, err := Find(id)
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
