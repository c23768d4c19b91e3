package home

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestRuntimeMoves starts a home with another runtime directory than before. As long as the earlier
// one has machines of this home, it stays in use.
func TestRuntimeMoves(t *testing.T) {
	s := newSite(t.TempDir())
	earlier, now := s.Runtime, filepath.Join(t.TempDir(), "banger")
	used := func(when, want string) {
		t.Helper()
		held, err := Acquire(testContext(t), s.Layout)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
		if got := held.Layout().Runtime; got != want {
			t.Errorf("%s, the home uses %s, want %s", when, got, want)
		}
		if err := held.Claim(testContext(t), s.db, testKeys); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	used("at the first start", earlier)
	machine := filepath.Join(earlier, "vms", "0123456789abcdef")
	if err := os.MkdirAll(machine, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Runtime = now
	used("with a machine in the earlier directory", earlier)
	used("at the start after it", earlier)
	if err := os.Remove(machine); err != nil {
		t.Fatal(err)
	}
	used("without machines", now)
	if err := os.MkdirAll(machine, 0o700); err != nil {
		t.Fatal(err)
	}
	used("when the home has moved", now)

	other := newSite(t.TempDir())
	other.Runtime = now
	if err := os.RemoveAll(now); err != nil {
		t.Fatal(err)
	}
	other.mustStart(t)
	if err := os.MkdirAll(filepath.Join(now, "vms", "0123456789abcdef"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Runtime = earlier
	used("when another home has taken the directory", earlier)
}

// TestStateMovedAway starts a home whose state directory was moved away beside its machines.
// Nothing is made in its place, so it can be moved back.
func TestStateMovedAway(t *testing.T) {
	s := newSite(t.TempDir())
	s.mustStart(t)
	const id = "0123456789abcdef"
	s.addVM(t, id, model.Running, true)
	s.mustStart(t)
	away := s.State + ".away"
	if err := os.Rename(s.State, away); err != nil {
		t.Fatal(err)
	}
	err := s.start(t)
	if fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), s.State) || !strings.Contains(fault.HintOf(err), "move it back") {
		t.Errorf("a start without the state directory is not refused with the way out: %v", err)
	}
	if err := os.Rename(away, s.State); err != nil {
		t.Errorf("something is in the place of the state directory: %v", err)
	}
	s.mustStart(t)
	if err := errors.Join(os.RemoveAll(s.VM(id).Run), os.Rename(s.State, away)); err != nil {
		t.Fatal(err)
	}
	s.db = &database{meta: map[string]string{}}
	s.mustStart(t) // without machines, it is a new home
}
