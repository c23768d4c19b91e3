package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/model"
)

func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	sparse, plain, twice := filepath.Join(dir, "sparse"), filepath.Join(dir, "a", "plain"), filepath.Join(dir, "a", "b", "twice")
	err := errors.Join(
		os.WriteFile(sparse, nil, 0o600), os.Truncate(sparse, 1<<30),
		os.WriteFile(plain, make([]byte, 64<<10), 0o600),
		os.WriteFile(twice, make([]byte, 128<<10), 0o600), os.Link(twice, filepath.Join(t.TempDir(), "elsewhere")),
		os.Symlink("/proc/kcore", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "a", "pipe"), 0o600), // nobody opens its other end
	)
	if err != nil {
		t.Fatal(err)
	}
	got, err := disk.SpaceOf(dir)
	if want := (disk.Space{Apparent: model.GiB + 192*model.KiB, Own: 64 * model.KiB, Shared: 128 * model.KiB}); got != want || err != nil {
		t.Errorf("space of a directory: got %+v, %v, want %+v", got, err, want)
	}
	if got, err := disk.SpaceOf(plain); got.Own != 64*model.KiB || err != nil {
		t.Errorf("space of one file: %+v, %v", got, err)
	}
	if got, err := disk.SpaceOf(filepath.Join(dir, "none")); got != (disk.Space{}) || err != nil {
		t.Errorf("space of a missing path: %+v, %v", got, err)
	}
	row := disk.Space{Apparent: 3, Own: 2, Shared: 1}.Row(model.UsageVM, "web")
	if row != (model.UsageRow{Kind: model.UsageVM, Name: "web", Apparent: 3, Own: 2, Shared: 1}) {
		t.Errorf("Row: got %+v", row)
	}
}

// TestSpaceOfClone measures a copy that shares most of its blocks.
func TestSpaceOfClone(t *testing.T) {
	from, to := btrfsFiles(t)
	if _, err := from.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(from.Sync(), disk.CloneFile(t.Context(), from, to)); err != nil {
		t.Fatal(err)
	}
	if _, err := to.WriteAt([]byte("mine"), 0); err != nil {
		t.Fatal(err)
	}
	if err := to.Sync(); err != nil {
		t.Fatal(err)
	}
	got, err := disk.SpaceOf(to.Name())
	if err != nil || got.Apparent != model.MiB || got.Own == 0 || got.Own > 64*model.KiB || got.Own+got.Shared < model.MiB-64*model.KiB {
		t.Errorf("space of a clone: got %+v, %v", got, err)
	}
}
