package snapshot

import (
	"context"
	"fmt"

	"banger/internal/disk"
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
