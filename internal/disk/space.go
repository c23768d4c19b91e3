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

// Space is what files take up.
type Space struct {
	Apparent model.Bytes // how large they say they are
	Own      model.Bytes // allocated for them alone: what deleting them gives back
	Shared   model.Bytes // allocated, and used by other files as well: by reference (where the file system tells) or under another name
}

// SpaceOf adds up the regular files at and below a path. What is not there takes up nothing, and what goes meanwhile is left out. It follows no
// links. Files that share with each other only count as sharing, too.
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
	allocated := model.Bytes(st.Blocks * 512) // stat(2): st_blocks counts 512 bytes, whatever the block size
	shared := allocated
	if st.Nlink < 2 {
		if shared, err = Shared(f); err != nil {
			return err
		}
		shared = min(shared, allocated) // an extent may be longer than what this file uses of it
	}
	s.Apparent += model.Bytes(st.Size)
	s.Own += allocated - shared
	s.Shared += shared
	return nil
}

// Row is the space as a row of the usage of all.
func (s Space) Row(kind model.UsageKind, name string) model.UsageRow {
	return model.UsageRow{Kind: kind, Name: name, Apparent: s.Apparent, Own: s.Own, Shared: s.Shared}
}
