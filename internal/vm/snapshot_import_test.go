package vm

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestExportAndImport takes a snapshot to another host.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.realIDs = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	var stream bytes.Buffer
	if err := d.library.Export(t.Context(), "s", &stream, nil); err != nil {
		t.Fatal(err)
	}
	there := newHost(t)
	there.file = h.file // the same kernel
	d = there.daemon()
	// Its own name, a requested one, and a random one, because its own is then taken.
	for i, want := range []string{"s", "named", ""} {
		name := want
		if i == 0 {
			name = ""
		}
		s, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, s.Name != "", "the imported snapshot has no name")
		claim(t, (len(s.Notices) == 1) == (want == ""), "the notices of the import are %+v", s.Notices)
		if want != "" {
			equal(t, "the imported snapshot's name", s.Name, want)
		} else {
			claim(t, s.Name != "s", "the imported snapshot has the taken name %q", s.Name)
		}
		claim(t, !s.Sealed, "the snapshot of another home counts as this home's own")
		child := d.restore(t, s.Name, model.Restore{TrustMemory: true})[0]
		wantMadeFrom(t, child, s)
		there.wantWork(t, child, "work of a")
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "s", nil); fault.KindOf(err) != fault.Exists {
		t.Errorf("the import with a taken name returned %v", err)
	}
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()[:stream.Len()/2]), "", nil); err == nil {
		t.Error("half of a snapshot was imported")
	}
	there.wantStored(t, 3)
}

// TestForeignMemory restores a snapshot that another home made. Its memory is used only by a
// request that trusts it.
func TestForeignMemory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.realIDs = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	claim(t, d.snap(t, v, "s").Sealed, "the home does not know its own snapshot")
	var stream bytes.Buffer
	if err := d.library.Export(t.Context(), "s", &stream, nil); err != nil {
		t.Fatal(err)
	}
	back, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "back", nil)
	if err != nil {
		t.Fatal(err)
	}
	claim(t, back.Sealed, "the home does not know its own snapshot that comes back")
	equal(t, "the state of a VM of it", d.restore(t, "back", model.Restore{})[0].State, model.Running)

	there := newHost(t)
	there.file = h.file // the same kernel
	d = there.daemon()
	s, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	claim(t, !s.Sealed, "the snapshot of another home counts as this home's own")
	forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Fork: model.Fork{Name: "cold"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	child := childrenOf(t, forked)[0]
	equal(t, "the state of a VM of another home's snapshot", child.State, model.Stopped)
	there.wantOnDisk(t, child, "work of a")
	claim(t, len(forked.Notices) == 1 && strings.Contains(forked.Notices[0].Hint, "--trust-memory"), "the notices are %+v; want one with the way out", forked.Notices)

	for _, name := range []string{"stopped", "running"} {
		into := d.create(t, model.Create{Name: name})
		if name == "running" {
			into = d.worker(t, model.Create{Name: "worker"})
		}
		before := into.State
		_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: into.ID, Force: true}, nil)
		claim(t, fault.KindOf(err) == fault.Invalid && strings.Contains(fault.HintOf(err), "--disks-only"), "a restore in place into a %s VM returned %v", name, err)
		equal(t, "the state of the "+name+" VM after it", d.state(t, into.ID), before)
		disksOnly := d.restore(t, "s", model.Restore{Into: into.ID, Force: true, DisksOnly: true})[0]
		equal(t, "the state after a restore of disks only", disksOnly.State, model.Stopped)
		trusting := d.restore(t, "s", model.Restore{Into: into.ID, Force: true, TrustMemory: true})[0]
		equal(t, "the state after a restore that trusts the memory", trusting.State, model.Running)
	}
}

// TestForeignSpec restores a stranger's snapshot in place. The VM keeps what reaches the host's
// network, and what its owner gives its commands.
func TestForeignSpec(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.realIDs = true
	d := h.daemon()
	v := d.worker(t, model.Create{
		Name: "a", Net: model.NetUser, Env: map[string]string{"LD_PRELOAD": "/evil.so"}, User: "0", Workdir: "/evil", IdleSuspend: time.Hour,
	})
	s := d.snap(t, v, "s")
	equal(t, "the network in the snapshot's description", s.Net, model.NetUser)
	equal(t, "the user in the snapshot's description", s.User, "0")
	var stream bytes.Buffer
	if err := d.library.Export(t.Context(), "s", &stream, nil); err != nil {
		t.Fatal(err)
	}
	own := d.restore(t, "s", model.Restore{Into: d.create(t, model.Create{Name: "own", Net: model.NetNone}).ID})[0]
	equal(t, "the network of a VM with the home's own snapshot", own.Spec.Net, model.NetUser)

	there := newHost(t)
	there.file = h.file // the same kernel
	d = there.daemon()
	if _, err := d.library.Import(t.Context(), bytes.NewReader(stream.Bytes()), "s", nil); err != nil {
		t.Fatal(err)
	}
	into := d.create(t, model.Create{Name: "into", Net: model.NetNone, Env: map[string]string{"MINE": "1"}, User: "1000", Workdir: "/home"})
	_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: into.ID, TrustMemory: true}, nil)
	claim(t, fault.KindOf(err) == fault.Invalid, "a restore of a machine with a network into a VM without one returned %v", err)
	got := d.restore(t, "s", model.Restore{Into: into.ID, DisksOnly: true})[0].Spec
	equal(t, "the network", got.Net, model.NetNone)
	equal(t, "the user", got.User, "1000")
	equal(t, "the working directory", got.Workdir, "/home")
	equal(t, "the idle time", got.IdleSuspend, into.Spec.IdleSuspend)
	claim(t, maps.Equal(got.Env, into.Spec.Env), "the environment is %v, want %v", got.Env, into.Spec.Env)
}
