package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/model"
)

// Space is the space that files use.
type Space struct {
	Apparent model.Bytes // the sum of their lengths
	Own      model.Bytes // allocated for them alone: deleting them frees it
	// Shared is allocated and also used by other files: by reference, if reported, or by a link.
	Shared model.Bytes
}

// SpaceOf adds up the regular files at and below a path, and follows no links. Missing files count
// as nothing. Files that share only with each other count as shared too.
func SpaceOf(path string) (Space, error) {
	var sum Space
	err := filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = sum.add(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return Space{}, fmt.Errorf("measuring %s: %w", path, err)
	}
	return sum, nil
}

// SpaceBehind is SpaceOf for a directory that may be a symbolic link to one.
func SpaceBehind(path string) (Space, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return SpaceOf(path)
}

func (s *Space) add(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	// stat(2): st_blocks counts units of 512 bytes, for every block size
	allocated := model.Bytes(st.Blocks * 512)
	shared := allocated
	if st.Nlink < 2 {
		if shared, err = Shared(f); err != nil {
			return err
		}
		shared = min(shared, allocated) // an extent may be longer than this file's part of it
	}
	s.Apparent += model.Bytes(st.Size)
	s.Own += allocated - shared
	s.Shared += shared
	return nil
}

// Row returns the space as one row of a DiskUsage.
func (s Space) Row(kind model.UsageKind, name string) model.UsageRow {
	return model.UsageRow{Kind: kind, Name: name, Apparent: s.Apparent, Own: s.Own, Shared: s.Shared}
}
