package agent

import (
	"context"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/drive"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/uevent"
)

// diskService looks after the file systems of the drives.
type diskService struct{ drives *mount.Drives }

// resize answers POST /v1/resize.
func (s *diskService) resize(r *http.Request) (any, error) {
	var size int64
	if text := r.URL.Query().Get("size"); text != "" {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
			return nil, fault.New(fault.Invalid, "%q is not a size", text)
		}
	}
	if err := s.grow(r.Context(), r.URL.Query().Get("serial"), size); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// growTime bounds waiting for the kernel to see a drive's new size.
const growTime = 10 * time.Second

// grow grows the file system on a mounted drive to the drive's size. It first waits until the drive
// has size bytes.
func (s *diskService) grow(ctx context.Context, serial string, size int64) error {
	m, err := s.drives.Find(serial)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	if err := awaitSize(ctx, m.Dev, size); err != nil {
		return err
	}
	return m.Grow()
}

// awaitSize waits until a device has that size. A uevent announces the change (genhd.c,
// set_capacity_and_notify).
func awaitSize(ctx context.Context, dev string, size int64) error {
	events, err := uevent.Open()
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		has, err := drive.Size(dev)
		if err != nil || has >= size {
			return err
		}
		if err := events.Wait(ctx); err != nil {
			return fault.New(fault.Unavailable, "drive %s has %d of %d bytes: %w", dev, has, size, err)
		}
	}
}

// sync answers POST /v1/sync. The machine is about to be saved. Work that it does now need not be
// done in each machine that is restored from it.
func (s *diskService) sync(*http.Request) (any, error) {
	findIdentityFiles()
	unix.Sync() // waits (sync(2), "NOTES")
	runtime.GC()
	return struct{}{}, nil
}
