package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/model"
)

// PutSeal gives the snapshot at dir a seal. It is opened, and so checked, first.
func PutSeal(ctx context.Context, dir string, seal func(Meta) (*Seal, error)) error {
	s, err := Open(ctx, dir)
	if err != nil {
		return err
	}
	meta := s.Meta()
	if meta.Seal, err = seal(s.Meta()); err != nil {
		return err
	}
	data, err := encodeMeta(meta)
	if err != nil {
		return err
	}
	d, err := openDirectory(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.replaceMeta(data); err != nil {
		return fmt.Errorf("sealing snapshot %s: %w", dir, disk.NoSpace(err, dir))
	}
	return nil
}

// replaceMeta replaces the description by a rename. The directory may be a copy whose files are
// hard links, so nothing is written in place.
func (d directory) replaceMeta(data []byte) error {
	name := disk.TempPrefix + metaFile + "-" + model.NewID()
	f, _, err := d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(int(d.Fd()), name, int(d.Fd()), metaFile)
	}
	if err != nil {
		return errors.Join(err, os.Remove(filepath.Join(d.Name(), name)))
	}
	return d.Sync()
}
