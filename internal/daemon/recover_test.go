package daemon

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/vmdir"
)

// newStore opens the database of a new home, which the test has until its end.
func newStore(t *testing.T) (paths.Layout, *home.Held, *store.Store) {
	t.Helper()
	layout := testLayout(t)
	held, err := home.Acquire(testContext(t), layout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Release() })
	s, err := openStore(testContext(t), layout, held)
	if err != nil {
		t.Fatal(err)
	}
	return layout, held, s
}

// TestForeignDatabaseKeepsItsSchema puts a database of an older banger beside a VM that it does not
// know. The daemon does not start, and the database stays as it is.
func TestForeignDatabaseKeepsItsSchema(t *testing.T) {
	layout, held, s := newStore(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", layout.Database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "DROP TABLE meta; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(layout.VM("0123456789abcdef").Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if s, err := openStore(testContext(t), layout, held); fault.KindOf(err) != fault.WrongState {
		t.Errorf("opening the database gave %v", err)
		s.Close()
	}
	var version int
	if err := db.QueryRowContext(t.Context(), "PRAGMA user_version").Scan(&version); err != nil || version != 1 {
		t.Errorf("the schema has the version %d, %v", version, err)
	}
}

// TestOlderSchemaKeepsItsDatabase puts a database back that an older banger has left. Its records
// are older than their copies. The daemon does not start, and neither the database nor a backup of
// it changes.
func TestOlderSchemaKeepsItsDatabase(t *testing.T) {
	layout, held, s := newStore(t)
	v := model.VM{ID: "0123456789abcdef", Revision: 2, State: model.Stopped, Created: time.Now(), Spec: model.Spec{
		Name: "box", Image: "i", ImageID: "i", Kernel: "k", KernelID: "k", VCPUs: 1, Memory: model.GiB, DiskSize: model.GiB, Net: model.NetNone,
	}}
	keeper := vmdir.Keep(s, layout, slog.New(slog.DiscardHandler))
	if err := errors.Join(os.MkdirAll(layout.VM(v.ID).Dir, 0o700), keeper.PutVM(t.Context(), v), keeper.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", layout.Database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	older := "DROP TABLE meta; UPDATE vms SET doc = json_remove(doc, '$.revision'); PRAGMA user_version = 1"
	if _, err := db.ExecContext(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	s, err = openStore(testContext(t), layout, held)
	if fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), "older than the VMs") {
		t.Errorf("opening the database gave %v", err)
		s.Close()
	}
	var version int
	if err := db.QueryRowContext(t.Context(), "PRAGMA user_version").Scan(&version); err != nil || version != 1 {
		t.Errorf("the schema has the version %d, %v", version, err)
	}
	if backups, err := store.Backups(layout.Backups()); err != nil || len(backups) != 0 {
		t.Errorf("the backups are %v, %v", backups, err)
	}
}

// TestCheckRecords: what doctor asks for is refused as a start of the daemon is. Nothing is made.
func TestCheckRecords(t *testing.T) {
	layout := testLayout(t)
	check := func(when string, want fault.Kind) {
		t.Helper()
		err := Recover(testContext(t), layout, api.RecoverCheck, io.Discard)
		if fault.KindOf(err) != want {
			t.Errorf("%s: %v, want %q", when, err, want)
		}
	}
	check("without a home", "")
	if _, err := os.Lstat(layout.State); err == nil {
		t.Error("a state directory was made")
	}
	open := func(layout paths.Layout) *home.Held {
		held, err := home.Acquire(testContext(t), layout)
		if err != nil {
			t.Fatal(err)
		}
		s, err := openStore(testContext(t), layout, held)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(held.Claim(t.Context(), s, homeKeys), s.Close()); err != nil {
			t.Fatal(err)
		}
		return held
	}
	held, other := open(layout), testLayout(t)
	if err := errors.Join(open(other).Release(), os.MkdirAll(layout.VM("0123456789abcdef").Dir, 0o700), os.Remove(layout.Database())); err != nil {
		t.Fatal(err)
	}
	check("while a daemon works", "")
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	check("without its database", fault.WrongState)
	if _, err := os.Lstat(layout.Database()); err == nil {
		t.Error("a database was made")
	}
	if err := os.Rename(other.Database(), layout.Database()); err != nil {
		t.Fatal(err)
	}
	check("with another home's database", fault.WrongState)
}

func TestRecoverRefuses(t *testing.T) {
	layout := testLayout(t)
	recovered := func(mode string) (api.Recovered, error) {
		t.Helper()
		var out bytes.Buffer
		err := Recover(testContext(t), layout, mode, &out)
		var answer api.Recovered
		if jsonErr := json.Unmarshal(out.Bytes(), &answer); jsonErr != nil {
			t.Fatalf("%q: %v", out.String(), jsonErr)
		}
		if (err == nil) != (answer.Problem == nil) || (err == nil) != (answer.Result != nil) {
			t.Errorf("the error is %v, the answer %+v", err, answer)
		}
		return answer, err
	}
	if _, err := recovered(api.RecoverDo); fault.KindOf(err) != fault.NotFound {
		t.Errorf("without a state directory: %v", err)
	}
	if err := os.MkdirAll(layout.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := recovered("other"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("with an unknown mode: %v", err)
	}
	held, err := home.Acquire(context.Background(), layout)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{api.RecoverPlan, api.RecoverDo} {
		if _, err := recovered(mode); fault.KindOf(err) != fault.Locked {
			t.Errorf("%s beside a daemon: %v", mode, err)
		}
	}
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	answer, err := recovered(api.RecoverPlan)
	if err != nil || answer.Result.Database != model.DatabaseMissing {
		t.Errorf("%+v, %v", answer, err)
	}
	if _, err := os.Stat(layout.Database()); err == nil {
		t.Error("a plan has made a database")
	}
}
