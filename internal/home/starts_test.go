package home

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/flock"
	"banger/internal/model"
	"banger/internal/paths"
)

// TestOlderDatabase puts an older database of the same home back. Its records do not fit the VMs.
func TestOlderDatabase(t *testing.T) {
	s := newSite(t.TempDir())
	s.mustStart(t)
	s.addVM(t, "0123456789abcdef", model.Running, false)
	s.mustStart(t)
	older, latest := &database{meta: maps.Clone(s.db.meta), vms: s.db.vms}, s.db
	s.mustStart(t)
	before := tree(t, s.State)
	s.db = older
	err := s.start(t)
	if fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "banger daemon recover") {
		t.Errorf("an older database is not refused with the way out: %v", err)
	}
	if after := tree(t, s.State); !maps.Equal(before, after) {
		t.Errorf("the refusal changed the state from %v to %v", before, after)
	}
	s.db = latest
	s.mustStart(t)
}

// TestOlderState puts all of an older state back. While a machine runs that the later state knew,
// the start is refused. A machine that has ended, or a runtime directory that is new, is no
// obstacle.
func TestOlderState(t *testing.T) {
	s := newSite(t.TempDir())
	s.mustStart(t)
	const id = "0123456789abcdef"
	s.addVM(t, id, model.Running, true)
	older, backup := &database{meta: maps.Clone(s.db.meta), vms: s.db.vms}, t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(s.State)); err != nil {
		t.Fatal(err)
	}
	s.mustStart(t)
	lock, err := os.Create(paths.LockIn(s.VM(id).Run))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if held, err := flock.TryLock(lock); !held || err != nil {
		t.Fatal(err)
	}
	s.mustStart(t)
	if err := errors.Join(os.RemoveAll(s.State), os.CopyFS(s.State, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	s.db = older
	before := tree(t, s.State)
	err = s.start(t)
	if fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), id) || !strings.Contains(fault.HintOf(err), "banger doctor") {
		t.Errorf("an older state beside a machine is not refused with the way out: %v", err)
	}
	if after := tree(t, s.State); !maps.Equal(before, after) {
		t.Errorf("the refusal changed the state from %v to %v", before, after)
	}
	held, err := Acquire(testContext(t), s.Layout)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.VM(id).Unrecorded(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := held.CheckState(); err != nil {
		t.Errorf("a machine that never had a record is in the way: %v", err)
	}
	if err := errors.Join(os.Remove(s.VM(id).Unrecorded()), held.Release()); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	s.mustStart(t)
	if m, err := readMark(s.Runtime); err != nil || m.Starts != 2 {
		t.Errorf("the mark of the runtime directory counts %d starts: %v", m.Starts, err)
	}
}

// TestCountFollowsTheDatabase starts with a mark that missed a start, as after a crash.
func TestCountFollowsTheDatabase(t *testing.T) {
	s := newSite(t.TempDir())
	s.mustStart(t)
	s.addVM(t, "0123456789abcdef", model.Stopped, false)
	s.db.meta["starts"] = "7"
	s.mustStart(t)
	if got := s.db.meta["starts"]; got != "8" {
		t.Errorf("the database counts %s starts", got)
	}
	if n, err := Starts(s.State); n != 8 || err != nil {
		t.Errorf("the mark counts %d starts: %v", n, err)
	}
}
