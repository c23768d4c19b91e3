package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func openWith(t *testing.T, path string, opts Options) *Store {
	t.Helper()
	s, err := OpenWith(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func backups(t *testing.T, dir string) []string {
	t.Helper()
	all, err := Backups(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestBackupsAreMadeOfChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	s := openWith(t, filepath.Join(t.TempDir(), "db"), Options{Backups: dir})
	now := time.Unix(1000, 0)
	if made, err := s.Backup(t.Context(), now); err != nil || made {
		t.Errorf("without a record, a backup was made: %v, %v", made, err)
	}
	for n := range 5 {
		if err := s.PutVM(t.Context(), record("a", "name-"+strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{true, false} {
			now = now.Add(time.Minute)
			if made, err := s.Backup(t.Context(), now); err != nil || made != want {
				t.Errorf("change %d: a backup was made: %v, %v; want %v", n, made, err, want)
			}
		}
	}
	all := backups(t, dir)
	if len(all) != keptBackups {
		t.Fatalf("the backups are %v", all)
	}
	for i, path := range all {
		found, err := Inspect(t.Context(), path, t.TempDir())
		if want := "name-" + strconv.Itoa(5-keptBackups+i); err != nil || len(found.VMs) != 1 || found.VMs[0].Spec.Name != want {
			t.Errorf("backup %d holds %+v, %v; want %s", i, found.VMs, err, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v: others can read it", path, info, err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v: others can list the backups", info, err)
	}
}

// TestInterruptedBackup leaves what a crash in a backup leaves.
func TestInterruptedBackup(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, filepath.Join(t.TempDir(), "db"), Options{Backups: dir})
	if err := s.PutVM(t.Context(), record("a", "one")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, backupTemp), []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	if made, err := s.Backup(t.Context(), time.Now()); err != nil || !made {
		t.Fatalf("%v, %v", made, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the files are %v, %v", entries, err)
	}
}

// TestMigrationIsRefused has a database that is not the caller's. Neither it nor a backup changes.
func TestMigrationIsRefused(t *testing.T) {
	path, dir := filepath.Join(t.TempDir(), "db"), filepath.Join(t.TempDir(), "backups")
	s := open(t, path)
	if _, err := s.db.ExecContext(t.Context(), "DROP TABLE meta; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.PutVM(t.Context(), record("a", "one")), s.Close()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	errForeign := errors.New("it is another home's")
	s, err = OpenWith(t.Context(), path, Options{Backups: dir, Check: func(ctx context.Context, s *Store) error {
		home, err := s.Meta(ctx, HomeKey)
		vms, vmsErr := s.VMs(ctx)
		if err := errors.Join(err, vmsErr); err != nil || home != "" || len(vms) != 1 {
			t.Errorf("the old database has the home %q and the VMs %v, %v", home, vms, err)
		}
		return errForeign
	}})
	if !errors.Is(err, errForeign) {
		t.Errorf("opening gave %v", err)
		s.Close()
	}
	if after, err := os.ReadFile(path); err != nil || !slices.Equal(before, after) {
		t.Errorf("the database was changed, %v", err)
	}
	if all, err := Backups(dir); err != nil || len(all) != 0 {
		t.Errorf("the backups are %v, %v", all, err)
	}
}

func TestBackupBeforeMigration(t *testing.T) {
	path, dir := filepath.Join(t.TempDir(), "db"), filepath.Join(t.TempDir(), "backups")
	s := open(t, path)
	if _, err := s.db.ExecContext(t.Context(), "DROP TABLE meta; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutVM(t.Context(), record("a", "one")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenWith(t.Context(), path, Options{Backups: dir}); err == nil {
		s.Close()
		t.Error("the schema was changed without a backup")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	openWith(t, path, Options{Backups: dir})
	all := backups(t, dir)
	if len(all) != 1 || !strings.HasSuffix(all[0], "-schema1.db") {
		t.Fatalf("the backups are %v", all)
	}
	if found, err := Inspect(t.Context(), all[0], t.TempDir()); err != nil || len(found.VMs) != 1 {
		t.Errorf("the backup holds %+v, %v", found, err)
	}
}

// BenchmarkBackup measures what a start costs with 100 VMs: with a change, and without one.
func BenchmarkBackup(b *testing.B) {
	for name, change := range map[string]bool{"changed": true, "unchanged": false} {
		b.Run(name, func(b *testing.B) {
			s, err := OpenWith(b.Context(), filepath.Join(b.TempDir(), "db"), Options{Backups: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for n := range 100 {
				if err := s.PutVM(b.Context(), record(strconv.Itoa(n), "vm-"+strconv.Itoa(n))); err != nil {
					b.Fatal(err)
				}
			}
			now := time.Now()
			for n := 0; b.Loop(); n++ {
				if change {
					b.StopTimer()
					if err := s.PutVM(b.Context(), record("0", "name-"+strconv.Itoa(n))); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				now = now.Add(time.Second)
				if _, err := s.Backup(b.Context(), now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestBackupsAfterAClockThatWasSetBack: the newest backup is the last in the list, whatever the
// clock shows.
func TestBackupsAfterAClockThatWasSetBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	s := openWith(t, filepath.Join(t.TempDir(), "db"), Options{Backups: dir})
	now := time.Unix(100_000, 0)
	for n := range 5 {
		if n == 2 {
			now = now.Add(-time.Hour)
		}
		if err := s.PutVM(t.Context(), record("a", "name-"+strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Backup(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		all := backups(t, dir)
		found, err := Inspect(t.Context(), all[len(all)-1], t.TempDir())
		if want := "name-" + strconv.Itoa(n); err != nil || len(found.VMs) != 1 || found.VMs[0].Spec.Name != want {
			t.Errorf("the newest backup holds %+v, %v; want %s", found.VMs, err, want)
		}
	}
}
