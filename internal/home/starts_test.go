package home

import (
	"maps"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
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
