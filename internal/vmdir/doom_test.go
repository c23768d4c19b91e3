package vmdir

import (
	"context"
	"errors"
	"os"
	"testing"

	"banger/internal/model"
)

// full is a Store on a full disk.
type full struct {
	memory
	err error
}

func (f *full) PutVM(ctx context.Context, v model.VM) error {
	if f.err != nil {
		return f.err
	}
	return f.memory.PutVM(ctx, v)
}

func (f *full) DeleteVM(ctx context.Context, id string) error {
	if f.err != nil {
		return f.err
	}
	return f.memory.DeleteVM(ctx, id)
}

// newFull returns a Keeper over a disk that has become full after a VM was stored.
func newFull(t *testing.T) (*Keeper, *full) {
	t.Helper()
	k, m, _ := newKeeper(t)
	f := &full{memory: m}
	k.store = f
	put(t, k, record())
	f.err = errors.New("no space left")
	return k, f
}

// states returns the states that the next daemon finds.
func states(t *testing.T, k *Keeper) []model.State {
	t.Helper()
	vms, err := Keep(k.store, k.layout, k.log).VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var states []model.State
	for _, v := range vms {
		states = append(states, v.State)
	}
	return states
}

func deleting() model.VM {
	v := record()
	v.State = model.Deleting
	return v
}

// TestUnrecordedDeletionOutlivesTheDaemon kills the daemon between a deletion that it could not
// record and the end of it.
func TestUnrecordedDeletionOutlivesTheDaemon(t *testing.T) {
	k, f := newFull(t)
	if err := k.PutVM(t.Context(), deleting()); err == nil {
		t.Fatal("the deletion was recorded")
	}
	f.err = nil
	if got := states(t, k); len(got) != 1 || got[0] != model.Deleting {
		t.Errorf("the next daemon finds %v", got)
	}
	if err := k.DeleteVM(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k.layout.Doomed(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
}

// TestRecordOverridesTheNote stores the VM again after a deletion has failed.
func TestRecordOverridesTheNote(t *testing.T) {
	k, f := newFull(t)
	_ = k.PutVM(t.Context(), deleting())
	f.err = nil
	v := record()
	v.State = model.Broken
	put(t, k, v)
	if got := states(t, k); len(got) != 1 || got[0] != model.Broken {
		t.Errorf("the next daemon finds %v", got)
	}
}

// TestNoteWithoutARecordIsRemoved kills the daemon after the record was deleted.
func TestNoteWithoutARecordIsRemoved(t *testing.T) {
	k, f := newFull(t)
	_ = k.PutVM(t.Context(), deleting())
	f.err = nil
	if err := f.DeleteVM(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := states(t, k); len(got) != 0 {
		t.Errorf("the next daemon finds %v", got)
	}
	if _, err := os.Stat(k.layout.Doomed(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
}

// TestDeletionAfterACrash removes the copy of a VM and crashes before the record is deleted. The
// next daemon knows that the end of the copy must last first.
func TestDeletionAfterACrash(t *testing.T) {
	for _, noted := range []bool{false, true} {
		k, f := newFull(t)
		if !noted {
			f.err = nil
		}
		_ = k.PutVM(t.Context(), deleting()) // which fails on the full disk
		next := Keep(k.store, k.layout, k.log)
		if _, err := next.VMs(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !next.removed[id] {
			t.Errorf("the deletion is noted beside the disks: %v; the next daemon does not sync it", noted)
		}
	}
}
