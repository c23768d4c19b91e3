package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/regular"
)

// install moves a finished image from its staging directory to its place and names it. If the same
// image exists, the new one is dropped.
func (s *Store) install(ctx context.Context, b *staging, r record, c claim) (model.Image, error) {
	if err := finishStaging(b, r); err != nil {
		return model.Image{}, fmt.Errorf("installing image %s: %w", short(r.Image.ID), disk.NoSpace(err, s.dir))
	}
	unlock, err := s.locks.lock(ctx, global)
	if err != nil {
		return model.Image{}, err
	}
	defer unlock()
	final := filepath.Join(s.dir, r.Image.ID)
	if _, err := s.read(r.Image.ID); err != nil {
		// What is there is unreadable, if anything.
		if err := errors.Join(os.RemoveAll(final), os.Rename(b.dir, final), disk.SyncDir(s.dir)); err != nil {
			return model.Image{}, fmt.Errorf("installing image %s: %w", short(r.Image.ID), err)
		}
	}
	return s.tagLocked(r.Image.ID, c)
}

// finishStaging writes the record and syncs the staging directory.
func finishStaging(b *staging, r record) error {
	info, err := os.Stat(b.path(rootfsFile))
	if err != nil {
		return err
	}
	r.Version, r.Image.Size, r.Image.Names, r.Image.Path = recordVersion, model.Bytes(info.Size()), []string{}, ""
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.path(recordFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if err := errors.Join(syncFile(b.path(recordFile)), syncFile(b.path(rootfsFile))); err != nil {
		return err
	}
	// All VMs of the image share the file, so nobody may write to it.
	if err := errors.Join(os.Chmod(b.path(rootfsFile), 0o444), os.Chmod(b.dir, 0o755)); err != nil {
		return err
	}
	return disk.SyncDir(b.dir)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// namedFirst moves a name to the front, so that the caller prints a name that the user gave.
func namedFirst(img model.Image, name string) model.Image {
	if i := slices.Index(img.Names, name); i > 0 {
		img.Names = slices.Insert(slices.Delete(img.Names, i, i+1), 0, name)
	}
	return img
}

// writeFile replaces a small file atomically. The caller holds the global lock, so one temporary
// name is enough.
func writeFile(path, text string) error {
	temp := filepath.Join(filepath.Dir(path), disk.TempPrefix+"name")
	if err := regular.Write(temp, []byte(text), 0o644); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := errors.Join(syncFile(temp), os.Rename(temp, path)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

func short(id string) string { return id[:min(12, len(id))] }
