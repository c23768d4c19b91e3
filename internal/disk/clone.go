package disk

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/internal/regular"
)

// Clone makes dst a copy of the file src, as CloneFile does. It replaces dst in one step and syncs
// it. src must not change during the call.
func Clone(ctx context.Context, src, dst string) error { return CloneWithin(ctx, src, dst, nil) }

// CloneWithin is Clone as long as there is room.
func CloneWithin(ctx context.Context, src, dst string, room *Room) error {
	from, err := regular.Open(src)
	if err != nil {
		return fmt.Errorf("cloning disk: %w", notFound(err))
	}
	defer from.Close()
	err = replace(dst, func(to *os.File) error { return cloneFile(ctx, from, to, room) })
	if err != nil {
		return fmt.Errorf("cloning disk %s to %s: %w", src, dst, NoSpace(err, dst))
	}
	return nil
}

// Copy is Clone without syncing, which takes most of a small disk's time. Until Sync, a crash of
// the host may leave anything at dst. After an error the caller removes dst.
func Copy(ctx context.Context, src, dst string) error {
	from, err := regular.Open(src)
	if err != nil {
		return fmt.Errorf("copying disk: %w", notFound(err))
	}
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("copying disk: %w", NoSpace(err, dst))
	}
	if err := errors.Join(CloneFile(ctx, from, to), to.Close()); err != nil {
		return fmt.Errorf("copying disk %s to %s: %w", src, dst, NoSpace(err, dst))
	}
	return nil
}

// Sync makes the content of a disk's file durable.
func Sync(path string) error {
	f, err := regular.Open(path)
	if err != nil {
		return fmt.Errorf("syncing disk: %w", notFound(err))
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing disk %s: %w", path, NoSpace(err, path))
	}
	return nil
}
