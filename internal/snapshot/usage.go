package snapshot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/model"
)

// Usage measures all files. It reads no data.
func (s *Snapshot) Usage() (Usage, error) {
	u, err := s.usage()
	if err != nil {
		return Usage{}, fmt.Errorf("measuring snapshot %s: %w", s.dir, err)
	}
	return u, nil
}

func (s *Snapshot) usage() (Usage, error) {
	d, err := openDirectory(s.dir)
	if err != nil {
		return Usage{}, err
	}
	defer d.Close()
	names := []string{metaFile}
	for _, f := range s.files() {
		names = append(names, f.name)
	}
	var u Usage
	for _, name := range names {
		f, _, err := d.open(name, unix.O_RDONLY)
		if err != nil {
			return Usage{}, err
		}
		err = u.add(f)
		f.Close()
		if err != nil {
			return Usage{}, err
		}
	}
	u.Own = u.Allocated - u.Shared
	return u, nil
}

func (u *Usage) add(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	shared, err := disk.Shared(f)
	if err != nil {
		return err
	}
	// stat(2): st_blocks counts units of 512 bytes, for every block size
	allocated := model.Bytes(st.Blocks * 512)
	u.Apparent += model.Bytes(st.Size)
	u.Allocated += allocated
	u.Shared += min(shared, allocated) // an extent may be longer than this file's part of it
	return nil
}
