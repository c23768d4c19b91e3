package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/regular"
)

// keptBackups is how many backups are kept. Older ones are removed.
const keptBackups = 3

// A backup has the name banger-TIME-CONTENT.db. Names sort by time. CONTENT stands for what the
// backup holds.
const (
	backupPrefix = "banger-"
	backupSuffix = ".db"
	backupTime   = "20060102T150405.000Z"
	backupTemp   = ".tmp-backup.db"
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

// Backup writes a backup of the database, unless the newest one holds the same, and reports
// whether it did. The caller has read all records: a damaged database must not replace a backup.
// One without records must not either.
func (s *Store) Backup(ctx context.Context, now time.Time) (made bool, err error) {
	content, err := s.content(ctx)
	if err != nil {
		return false, fmt.Errorf("backing up the database: %w", err)
	}
	if content == "" {
		return false, nil
	}
	return s.backup(ctx, now, content)
}

// backup writes a backup with that content, unless the newest one has it.
func (s *Store) backup(ctx context.Context, now time.Time, content string) (made bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backing up the database: %w", s.noSpace(err))
		}
	}()
	backups, err := Backups(s.backups)
	if err != nil {
		return false, err
	}
	if n := len(backups); n > 0 && strings.HasSuffix(backups[n-1], "-"+content+backupSuffix) {
		return false, nil
	}
	temp := filepath.Join(s.backups, backupTemp)
	if err := s.writeBackup(ctx, temp); err != nil {
		return false, errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	path := filepath.Join(s.backups, backupPrefix+backupMoment(now, backups)+"-"+content+backupSuffix)
	if err := os.Rename(temp, path); err != nil {
		return false, err
	}
	for _, old := range backups[:max(0, len(backups)+1-keptBackups)] {
		err = errors.Join(err, os.Remove(old))
	}
	return true, errors.Join(err, syncPath(s.backups))
}

// backupMoment is the time in the name of a new backup. It is later than that of all others, also
// if the host's clock was set back. Otherwise an old backup would pass for the newest.
func backupMoment(now time.Time, backups []string) string {
	for _, path := range backups {
		name := strings.TrimPrefix(filepath.Base(path), backupPrefix)
		made, err := time.Parse(backupTime, name[:min(len(name), len(backupTime))])
		if err == nil && !now.After(made) {
			now = made.Add(time.Millisecond)
		}
	}
	return now.UTC().Format(backupTime)
}

// writeBackup writes the present database to a file, and syncs it.
func (s *Store) writeBackup(ctx context.Context, path string) error {
	if err := os.MkdirAll(s.backups, 0o700); err != nil {
		return err
	}
	f, err := regular.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// It accepts an empty file, and keeps its mode (sqlite.org/lang_vacuum.html).
	if _, err := s.db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return damaged(err)
	}
	return syncPath(path)
}

// content stands for all records and values. Without a record it is "".
func (s *Store) content(ctx context.Context) (string, error) {
	h, records := sha256.New(), 0
	err := s.each(ctx, func(id, doc string) error {
		records++
		fmt.Fprintf(h, "%q %q\n", id, doc)
		return nil
	})
	if err != nil || records == 0 {
		return "", err
	}
	home, err := s.Meta(ctx, HomeKey)
	fmt.Fprintf(h, "%q %d\n", home, len(migrations))
	const digits = 16
	return hex.EncodeToString(h.Sum(nil))[:digits], err
}

// syncPath makes a file or the names in a directory last.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
