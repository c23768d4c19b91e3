package home

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"banger/internal/fault"
)

// unusableDatabase adds a kind and a hint to an error of opening the database, which exists.
func unusableDatabase(path string, err error) error {
	err = fmt.Errorf("opening the database: %w", err)
	switch {
	case fault.KindOf(err) == fault.Damaged: // no regular file
		return fault.New(fault.Denied, "%w", err).
			WithHint("%s must be a file. Move away what is there, and put the database in its place.", path)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "%w", err).
			WithHint("If the database is yours: chmod 600 %s. If it belongs to another user: sudo chown %d %s", path, syscall.Geteuid(), path)
	}
	return Unusable(fault.Denied, err)
}
