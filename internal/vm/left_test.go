package vm

import (
	"context"
	"errors"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestPauseFailsBesideASilentVMM has a VMM that lets no guest continue for a while. A pause or a
// suspension that fails meanwhile loses nothing: the VM continues when its VMM answers again.
func TestPauseFailsBesideASilentVMM(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]func(context.Context, *daemon) error{
		"pause":   func(ctx context.Context, d *daemon) error { return second(d.Pause(ctx, "a", nil)) },
		"suspend": func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) },
	} {
		for retry, again := range map[string]func(*testing.T, *daemon) *daemon{
			"in time": func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d },
			"start":   func(t *testing.T, d *daemon) *daemon { d.start(t, "a"); return d },
			"daemon":  func(_ *testing.T, d *daemon) *daemon { d.die(); return d.daemon() },
		} {
			t.Run(name+"/"+retry, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				free := h.fullDisk("froze", "resume")
				for range 2 { // the second time, it is the repair before the command that fails
					if err := command(t.Context(), d); !errors.Is(err, errBoom) {
						t.Errorf("the %s returned %v, not the error of its hook", name, err)
					}
					d.retryCleanups(t.Context())
					d.wantState(t, "a", model.Pausing)
					h.wantMachines(t, 1)
				}
				free()
				d = again(t, d)
				d.wantContinues(t, v)
			})
		}
	}
}

// TestPauseFailsAndMachineEnds ends the machine of a VM whose pause could not be undone.
func TestPauseFailsAndMachineEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	free := h.fullDisk("froze", "resume")
	defer free()
	if _, err := d.Pause(t.Context(), "a", nil); !errors.Is(err, errBoom) {
		t.Errorf("the pause returned %v, not the error of its hook", err)
	}
	h.end(v, vmm.ExitCrashed)
	waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
	h.wantMachines(t, 0)
}

// TestRenameLeavesWhatIsLeft ends a daemon while a rename waits for a resume or a pause whose guest
// does not answer. The rename leaves the VM to the next daemon, too.
func TestRenameLeavesWhatIsLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before model.State
		hook   string
		do     func(context.Context, *daemon) error
	}{
		"resume": {model.Suspended, "do post-start/one", func(ctx context.Context, d *daemon) error { return second(d.Resume(ctx, "a", nil)) }},
		"pause":  {model.Running, "thaw", func(ctx context.Context, d *daemon) error { return second(d.Pause(ctx, "a", nil)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			if c.before == model.Suspended {
				d.suspend(t, v)
			}
			release := h.hanging(c.hook)
			h.failing("froze", errBoom) // then a pause thaws the guest
			errs := d.waits(t, c.hook, c.do)
			renamed := make(chan error, 1)
			go func() { renamed <- second(d.Rename(t.Context(), "a", "b")) }()
			e, _ := d.find("a")
			waitFor(t, func() bool { return e.Lock.Waiting() == 1 })
			d.endWaits(errEnding)
			if err := <-errs; err == nil {
				t.Errorf("the %s succeeded", name)
			}
			wantKind(t, "the rename", <-renamed, fault.Unavailable)
			d.die()
			release()
			h.failing("froze", nil)
			h.wantMachines(t, 1)
			d = h.daemon()
			d.wantContinues(t, v)
		})
	}
}
