package vm

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/vmdir"
)

// TestOlderRecords puts records back that are older than their VM, and starts the daemon. No disk,
// no memory and no machine is lost, whatever the record says and whatever the VM is by now. Only a
// record that shows an operation under way may end a machine.
func TestOlderRecords(t *testing.T) {
	ends := map[string]model.State{ // the machine; with the VM's state afterwards
		"first start": model.Failed, "starting": model.Failed, "stopping": model.Stopped, "broken": model.Stopped,
	}
	for _, now := range []model.State{model.Running, model.Suspended, model.Stopped} {
		for _, record := range []string{
			"creating", "created", "fork", "first start", "starting", "running", "pausing", "stopping", "stopped", "error", "broken",
			"suspended", "restoring",
		} {
			t.Run(record+"/"+string(now), func(t *testing.T) {
				h := newHost(t)
				d := h.daemon()
				records := map[string]model.VM{}
				keep := func(name string, change func(*model.VM)) {
					t.Helper()
					stored, err := d.store.VMs(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if change != nil {
						change(&stored[0])
					}
					records[name] = stored[0]
				}
				v := d.create(t, model.Create{Name: "a"})
				keep("created", nil)
				keep("creating", func(v *model.VM) { v.State = model.Creating })
				keep("fork", func(v *model.VM) { v.Parent, v.Runtime = &model.Parent{}, &model.Runtime{Fork: true} })
				d.start(t, "a")
				keep("running", nil)
				keep("first start", func(v *model.VM) { v.State, v.Started = model.Starting, nil })
				for _, state := range []model.State{model.Starting, model.Pausing, model.Stopping, model.Broken} {
					keep(string(state), func(v *model.VM) { v.State = state })
				}
				d.bringTo(t, v, model.Stopped)
				keep("stopped", nil)
				keep("error", func(v *model.VM) { v.State = model.Failed })
				keep("restoring", func(v *model.VM) { v.Restoring = []string{"work"} })
				d.start(t, "a")
				d.suspend(t, v)
				keep("suspended", nil)
				d.resume(t, v)
				d.work(v, "work of a")
				v, _ = d.Get("a")
				if now != model.Running {
					d.bringTo(t, v, now)
				}
				d.die()
				h.put(t, records[record])
				d = h.daemon()
				if record == "suspended" && now == model.Stopped { // the memory may come back
					d.wantState(t, "a", model.Suspended)
					if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
				want := now
				if state, ok := ends[record]; ok && now != model.Suspended {
					want = state
				}
				if now == model.Stopped && record == "error" { // it is at rest, too
					want = model.Failed
				}
				d.wantState(t, "a", want)
				switch want {
				case model.Running:
					equal(t, "the pid of the machine", d.pid(t, "a"), v.Runtime.PID)
					d.wantContinues(t, v)
				case model.Suspended:
					d.resume(t, v)
					d.wantContinues(t, v)
				default:
					h.failing("do agent", errBoom) // what this removes must not be the disk
					d.Start(t.Context(), "a", model.Start{}, nil)
					h.failing("do agent", nil)
					d.start(t, "a")
					h.wantOnDisk(t, v, "work of a")
				}
				h.wantMachines(t, 1)
			})
		}
	}
}

// TestForkThatNeverBegan has the record of a fork that was never up, and its disks without the mark
// of unused ones. An earlier version leaves that if it is killed.
func TestForkThatNeverBegan(t *testing.T) {
	for _, state := range []model.State{model.Stopped, model.Starting} {
		for name, c := range map[string]struct {
			revision uint64
			copied   bool
			kept     bool
		}{
			"of an earlier version":         {1, false, false},
			"of an earlier version, was up": {1, true, true},
			"was up":                        {4, true, true},
			"was up, its copy was not kept": {4, false, true},
		} {
			t.Run(name+"/"+string(state), func(t *testing.T) {
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.bringTo(t, v, model.Stopped)
				stored, err := d.store.VMs(t.Context())
				damage(t, err)
				d.die()
				child := stored[0]
				child.State, child.Started, child.Parent, child.Revision = state, nil, &model.Parent{}, c.revision
				child.Runtime = &model.Runtime{Fork: true}
				h.put(t, child)
				if c.copied {
					damage(t, os.WriteFile(h.layout.VM(v.ID).Record(), []byte("copy"), 0o600))
				}
				d = h.daemon()
				if !c.kept {
					d.wantVMs(t, 0)
					h.wantFiles(t, nil)
					return
				}
				d.wantState(t, "a", model.Stopped)
				h.wantOnDisk(t, v, "work of a")
			})
		}
	}
}

// put stores a record while no daemon runs.
func (h *host) put(t *testing.T, v model.VM) {
	t.Helper()
	s, err := store.Open(t.Context(), h.layout.Database())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.PutVM(t.Context(), v), s.Close()); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) pid(t *testing.T, ref string) int {
	t.Helper()
	v, err := d.Get(ref)
	if err != nil || v.Runtime == nil {
		t.Fatalf("VM %s has no machine: %v", ref, err)
	}
	return v.Runtime.PID
}

// TestDirectoriesWithoutRecord checks which directories start-up removes, and which it moves.
func TestDirectoriesWithoutRecord(t *testing.T) {
	write := func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) }
	for name, c := range map[string]struct {
		make func(files paths.VM) error
		lost bool
	}{
		"nothing in it":     {func(paths.VM) error { return nil }, false},
		"logs only":         {func(files paths.VM) error { return write(files.ConsoleLog()) }, false},
		"an unused disk":    {func(files paths.VM) error { return errors.Join(vmdir.MarkUnused(files), write(files.SystemDisk())) }, false},
		"a work disk":       {func(files paths.VM) error { return write(files.WorkDisk()) }, true},
		"a system disk":     {func(files paths.VM) error { return write(files.SystemDisk()) }, true},
		"a copy":            {func(files paths.VM) error { return write(files.Record()) }, true},
		"an unused, copied": {func(files paths.VM) error { return errors.Join(vmdir.MarkUnused(files), write(files.Record())) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			const id = "aaaaaaaaaaaaaaaa"
			files := h.layout.VM(id)
			if err := errors.Join(os.MkdirAll(files.Dir, 0o700), c.make(files)); err != nil {
				t.Fatal(err)
			}
			h.daemon()
			claim(t, !disk.MayExist(files.Dir), "the directory is still there")
			lost, err := vmdir.Lost(h.layout)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "the number of lost directories", len(lost), map[bool]int{true: 1}[c.lost])
		})
	}
}

// TestUnusedDisks checks when a directory has the mark of unused disks: until the VM has run.
func TestUnusedDisks(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	files := h.layout.VM(v.ID)
	want := func(when string, want bool) {
		t.Helper()
		equal(t, "the mark "+when, vmdir.IsUnused(files), want)
	}
	want("of a new VM", false)
	h.failing("do agent", errBoom)
	release := h.hanging("do agent")
	over := make(chan struct{})
	go func() { defer close(over); d.Start(t.Context(), "a", model.Start{}, nil) }()
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	want("of a first start", true)
	release()
	<-over
	want("after a failed start", false)
	claim(t, !vmdir.HasDisk(files), "the failed start has left a disk")
	h.failing("do agent", nil)
	d.start(t, "a")
	want("of a running VM", false)
	if err := vmdir.MarkUnused(files); err != nil { // as a crash leaves it
		t.Fatal(err)
	}
	d.die()
	h.daemon()
	want("after a crash", false)
}
