package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// backupPrefix and backupSuffix enclose the time in the name of a backup. Names sort by time.
const (
	backupPrefix = "banger-"
	backupSuffix = ".db"
)

// Backups lists the backups of a database, the oldest first.
func Backups(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the backups of the database: %w", err)
	}
	var backups []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), backupPrefix) && strings.HasSuffix(e.Name(), backupSuffix) {
			backups = append(backups, filepath.Join(dir, e.Name()))
		}
	}
	return backups, nil
}
