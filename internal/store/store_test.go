package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func record(id, name string) model.VM {
	return model.VM{ID: id, State: model.Stopped, Created: time.Unix(0, 42).UTC(), Spec: model.Spec{Name: name, VCPUs: 2},
		Runtime: &model.Runtime{Driver: "qemu", State: []byte{1, 2, 3}}}
}

func TestRecordsSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "banger.db")
	ctx := context.Background()
	s := open(t, path)
	want := record("a", "one")
	if err := s.PutVM(ctx, want); err != nil {
		t.Fatal(err)
	}
	s.Close()
	got, err := open(t, path).VMs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestNamesAreUnique(t *testing.T) {
	ctx := context.Background()
	s := open(t, filepath.Join(t.TempDir(), "db"))
	if err := s.PutVM(ctx, record("a", "one")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutVM(ctx, record("b", "one")); fault.KindOf(err) != fault.Exists {
		t.Errorf("storing a second VM with the name: got %v, want fault.Exists", err)
	}
	if err := s.PutVM(ctx, record("a", "two")); err != nil {
		t.Errorf("renaming to a free name: %v", err)
	}
	if err := s.PutVM(ctx, record("b", "one")); err != nil {
		t.Errorf("using a name again: %v", err)
	}
	for range 2 {
		if err := s.DeleteVM(ctx, "a"); err != nil {
			t.Errorf("deleting, and deleting again: %v", err)
		}
	}
}

// TestRevisionsBegin opens a database of a version that counted no revisions. Records that cannot
// be read stay as they are.
func TestRevisionsBegin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		migrations[0], migrations[1], "PRAGMA user_version = 2",
		`INSERT INTO vms VALUES ('a', 'one', 1, '{"id":"a","created":"2026-01-02T03:04:05.123456789Z","spec":{"memory":9007199254740993,"name":"<é>"}}'), ('b', 'two', 2, '{')`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := Inspect(t.Context(), path, t.TempDir())
	if err != nil || len(found.VMs) != 1 || len(found.Unreadable) != 1 {
		t.Fatalf("found %+v, %v", found, err)
	}
	want := model.VM{ID: "a", Created: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC), Revision: 1, Spec: model.Spec{Memory: 9007199254740993, Name: "<é>"}}
	if !reflect.DeepEqual(found.VMs[0], want) {
		t.Errorf("the record is %+v, want %+v", found.VMs[0], want)
	}
}

// TestMeta also opens a database from before the table.
func TestMeta(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	if _, err := s.db.ExecContext(ctx, "DROP TABLE meta; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutVM(ctx, record("a", "one")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path)
	for _, want := range []string{"", "x", "y"} {
		if want != "" {
			if err := s.SetMeta(ctx, HomeKey, want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Meta(ctx, HomeKey); err != nil || got != want {
			t.Errorf("Meta: got %q, %v, want %q", got, err, want)
		}
	}
	if vms, err := s.VMs(ctx); err != nil || len(vms) != 1 {
		t.Errorf("after the migration: got the records %v, %v, want one", vms, err)
	}
}

func TestRefusesWhatItCannotRead(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	for _, stmt := range []string{
		`INSERT INTO vms VALUES ('a', 'one', 1, '{"id": 7}')`,
		`INSERT INTO vms VALUES ('b', 'two', 1, '{"id": "c"}')`,
	} {
		if _, err := s.db.Exec(stmt); err != nil {
			t.Fatal(err)
		}
		if vms, err := s.VMs(ctx); fault.KindOf(err) != fault.Damaged || !strings.Contains(fault.HintOf(err), "daemon recover") {
			t.Errorf("after %q: got %+v, %v, hint %q; want fault.Damaged", stmt, vms, err, fault.HintOf(err))
		}
		if _, err := s.db.Exec("DELETE FROM vms"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(ctx, path); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("opening a newer schema: got %v, want fault.Unsupported", err)
	}
}

func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	// This file is not banger's, or half migrated by another program.
	if _, err := db.Exec("CREATE TABLE vms (x)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if s, err := Open(context.Background(), path); err == nil {
		s.Close()
		t.Error("Open accepted a database of another program")
	} else if errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	s := open(t, filepath.Join(t.TempDir(), "db"))
	// SQLite raises this to the present number of pages.
	if _, err := s.db.ExecContext(ctx, "PRAGMA max_page_count = 1"); err != nil {
		t.Fatal(err)
	}
	v := record("a", "one")
	v.Spec.Env = map[string]string{"LONG": strings.Repeat("x", 1<<16)}
	if err := s.PutVM(ctx, v); fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
		t.Errorf("a full disk: got %v (%s), want fault.Unavailable", err, fault.KindOf(err))
	}
}

// TestFullFileSystem fills the file system of the database. The error names the missing space,
// whatever SQLite reports.
func TestFullFileSystem(t *testing.T) {
	for _, left := range []int64{0, 4096, 64 << 10} {
		dir := t.TempDir()
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m")
		testkit.Require(t, "root", err == nil, fmt.Sprintf("mounting a tmpfs: %v", err))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		s := open(t, filepath.Join(dir, "banger.db"))
		var st unix.Statfs_t
		f, err := os.Create(filepath.Join(dir, "filler"))
		if err == nil {
			err = errors.Join(unix.Statfs(dir, &st))
		}
		if err == nil {
			err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-left), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; err == nil && i < 1000; i++ {
			err = s.PutVM(t.Context(), record(strconv.Itoa(i), "vm-"+strconv.Itoa(i)))
		}
		if fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("with %d bytes left: %v, hint %q", left, err, fault.HintOf(err))
		}
	}
}
