package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
	"maps"
)

// worker creates and starts a VM whose guest has done something.
func (d *daemon) worker(t *testing.T, req model.Create) model.VM {
	t.Helper()
	v := d.create(t, req)
	d.running(t, v.ID)
	d.work(v, "work of "+v.Spec.Name)
	v, _ = d.Get(v.ID)
	return v
}

func (d *daemon) pause(t *testing.T, v model.VM) {
	t.Helper()
	if got, err := d.Pause(t.Context(), v.ID, nil); err != nil || got.State != model.Paused {
		t.Fatalf("pausing: %s, %v", got.State, err)
	}
}

func (d *daemon) suspend(t *testing.T, v model.VM) {
	t.Helper()
	if got, err := d.Suspend(t.Context(), v.ID, nil); err != nil || got.State != model.Suspended {
		t.Fatalf("suspending: %s, %v", got.State, err)
	}
}

func (d *daemon) resume(t *testing.T, v model.VM) {
	t.Helper()
	if got, err := d.Resume(t.Context(), v.ID, nil); err != nil || got.State != model.Running {
		t.Fatalf("resuming: %s, %v", got.State, err)
	}
}

// bring brings a running VM into another state.
func (d *daemon) bring(t *testing.T, v model.VM, to model.State) {
	t.Helper()
	switch to {
	case model.Paused:
		d.pause(t, v)
	case model.Suspended:
		d.suspend(t, v)
	case model.Stopped:
		if _, err := d.Stop(t.Context(), v.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
	case model.Failed:
		d.bring(t, v, model.Stopped)
		d.failing("do agent", errBoom)
		d.Start(t.Context(), v.ID, model.Start{}, nil)
		d.failing("do agent", nil)
	case model.Broken:
		d.failing("signal", errBoom)
		d.Stop(t.Context(), v.ID, ptr(time.Duration(0)), nil)
		d.failing("signal", nil)
	}
	if got := d.state(t, v.ID); got != to {
		t.Fatalf("it is %s, not %s", got, to)
	}
}

// goesOn looks that a VM runs with all that it has done, and that nothing is left of a pause or of anything that was to be saved.
func (d *daemon) goesOn(t *testing.T, v model.VM) {
	t.Helper()
	if got := d.state(t, v.ID); got != model.Running || d.computer.Halted(v.ID) || d.look(v).Frozen {
		t.Errorf("it is %s; halted: %v, its processes held: %v", got, d.computer.Halted(v.ID), d.look(v).Frozen)
	}
	if got := d.worked(v); got != "work of "+v.Spec.Name {
		t.Errorf("it has %q", got)
	}
	d.nothingSaved(t)
}

// nothingSaved looks that there is no suspended VM's memory, and nothing unfinished.
func (d *daemon) nothingSaved(t *testing.T) {
	t.Helper()
	for _, path := range append(d.files(), d.stored()...) {
		if name := filepath.Base(path); name == "suspended" || strings.HasPrefix(name, disk.TempPrefix) {
			t.Errorf("left: %s", path)
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	var said []step.Event
	report := func(e step.Event) { said = append(said, e) }
	for range 2 {
		if got, err := d.Pause(t.Context(), "a", report); err != nil || got.State != model.Paused || got.Runtime == nil {
			t.Fatalf("%+v, %v", got, err)
		}
		if !h.computer.Halted(v.ID) || !h.look(v).Frozen {
			t.Errorf("halted: %v, processes held: %v", h.computer.Halted(v.ID), h.look(v).Frozen)
		}
	}
	if len(said) != 1 || said[0].Phase != step.Skipped {
		t.Errorf("pausing twice said %v", said)
	}
	if _, err := d.Agent("a"); fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "resume") {
		t.Errorf("the agent of a paused VM: %v, hint %q", err, fault.HintOf(err))
	}
	said = nil
	for range 2 {
		if got, err := d.Resume(t.Context(), "a", report); err != nil || got.State != model.Running {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if len(said) != 1 || said[0].Phase != step.Skipped {
		t.Errorf("resuming twice said %v", said)
	}
	d.goesOn(t, v)
	d.pause(t, v)
	if got, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil || got.State != model.Running || !got.Started.Equal(*v.Started) {
		t.Errorf("starting a paused VM: %+v, %v", got, err)
	}
	d.goesOn(t, v)
}

func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	for _, from := range []model.State{model.Running, model.Paused} {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.homes = true
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB)})
			before := h.files()
			if from == model.Paused {
				d.pause(t, v)
			}
			d.suspend(t, v)
			got, _ := d.Get("a")
			if h.running() != 0 || got.Runtime != nil || got.Network != nil || got.Stopped == nil || got.LastError != nil {
				t.Errorf("%d machines, %+v", h.running(), got)
			}
			for _, path := range []string{h.layout.VM(v.ID).Run, h.held(v, "one"), h.held(v, "two")} {
				if _, err := os.Stat(path); err == nil {
					t.Errorf("%s is still there", path)
				}
			}
			var said []step.Event
			if _, err := d.Suspend(t.Context(), "a", func(e step.Event) { said = append(said, e) }); err != nil || len(said) != 1 || said[0].Phase != step.Skipped {
				t.Errorf("suspending it again: %v, %v", said, err)
			}
			d.die() // a reboot does not matter
			d = h.daemon()
			got, err := d.Resume(t.Context(), "a", nil)
			if err != nil || got.State != model.Running || got.Stopped != nil || !got.Started.Equal(*v.Started) {
				t.Fatalf("%+v, %v", got, err)
			}
			if got.Boot == nil || got.Boot.Cold || got.Boot.Origin == nil || got.Boot.Origin.Kind != model.FromSuspended {
				t.Errorf("it went on as %+v", got.Boot)
			}
			if g := h.look(v); g.Forks != 0 || g.Name != "a" {
				t.Errorf("the guest has become another one: %+v", g)
			}
			d.goesOn(t, v)
			if after := h.files(); !slices.Equal(before, after) {
				t.Errorf("files before %v, after %v", before, after)
			}
		})
	}
}

// TestSuspendTwice leaves nothing of the first suspension in the way of the second, whatever became of it.
func TestSuspendTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	old := filepath.Join(t.TempDir(), "old")
	h.command("cp", "-a", h.layout.VM(v.ID).Suspended(), old)
	d.resume(t, v)
	h.command("cp", "-a", old, h.layout.VM(v.ID).Suspended()) // the daemon died before it could remove it
	h.inGuest(v.ID, func(g *guest) { g.Data = "more" })
	d.suspend(t, v)
	d.resume(t, v)
	if got := h.look(v).Data; got != "more" {
		t.Errorf("it went on with %q", got)
	}
	d.nothingSaved(t)
}

// TestStatesOfSuspension has what each command does to a VM in each state.
func TestStatesOfSuspension(t *testing.T) {
	t.Parallel()
	ok, wrong := fault.Kind(""), fault.WrongState
	type result struct {
		err fault.Kind
		now model.State // "" for gone
	}
	commands := map[string]func(context.Context, *daemon, string) error{
		"pause":   func(ctx context.Context, d *daemon, id string) error { _, err := d.Pause(ctx, id, nil); return err },
		"suspend": func(ctx context.Context, d *daemon, id string) error { _, err := d.Suspend(ctx, id, nil); return err },
		"resume":  func(ctx context.Context, d *daemon, id string) error { _, err := d.Resume(ctx, id, nil); return err },
		"start": func(ctx context.Context, d *daemon, id string) error {
			_, err := d.Start(ctx, id, model.Start{}, nil)
			return err
		},
		"stop": func(ctx context.Context, d *daemon, id string) error { _, err := d.Stop(ctx, id, nil, nil); return err },
		"restart": func(ctx context.Context, d *daemon, id string) error {
			_, err := d.Restart(ctx, id, nil, nil)
			return err
		},
		"kill": func(ctx context.Context, d *daemon, id string) error {
			_, err := d.Kill(ctx, id, syscall.SIGKILL)
			return err
		},
		"signal 0": func(ctx context.Context, d *daemon, id string) error { _, err := d.Kill(ctx, id, 0); return err },
		"rename":   func(ctx context.Context, d *daemon, id string) error { _, err := d.Rename(ctx, id, "b"); return err },
		"delete":   func(ctx context.Context, d *daemon, id string) error { return d.Delete(ctx, id, false, nil) },
		"force":    func(ctx context.Context, d *daemon, id string) error { return d.Delete(ctx, id, true, nil) },
		"prune":    func(ctx context.Context, d *daemon, id string) error { _, err := d.Prune(ctx); return err },
		"stats":    func(ctx context.Context, d *daemon, id string) error { _, err := d.Stats(ctx, id); return err },
		"set": func(ctx context.Context, d *daemon, id string) error {
			_, err := d.Set(ctx, id, model.Change{VCPUs: ptr(2)})
			return err
		},
		"snapshot": func(ctx context.Context, d *daemon, id string) error {
			_, err := d.CreateSnapshot(ctx, id, "", nil)
			return err
		},
		"fork": func(ctx context.Context, d *daemon, id string) error {
			forked, err := d.Fork(ctx, id, model.Fork{Name: "child"}, nil)
			if err == nil && forked.Children[0].VM == nil {
				err = errors.New(forked.Children[0].Error)
			}
			return err
		},
	}
	for state, want := range map[model.State]map[string]result{
		model.Running: {
			"pause": {ok, model.Paused}, "suspend": {ok, model.Suspended}, "resume": {ok, model.Running}, "snapshot": {ok, model.Running}, "fork": {ok, model.Running},
		},
		model.Paused: {
			"pause": {ok, model.Paused}, "suspend": {ok, model.Suspended}, "resume": {ok, model.Running}, "start": {ok, model.Running},
			"stop": {ok, model.Stopped}, "restart": {ok, model.Running}, "kill": {ok, model.Stopped}, "signal 0": {ok, model.Paused}, "rename": {ok, model.Paused},
			"delete": {wrong, model.Paused}, "force": {ok, ""}, "prune": {ok, model.Paused}, "stats": {ok, model.Paused}, "set": {wrong, model.Paused},
			"snapshot": {ok, model.Paused}, "fork": {ok, model.Paused},
		},
		model.Suspended: {
			"pause": {wrong, model.Suspended}, "suspend": {ok, model.Suspended}, "resume": {ok, model.Running}, "start": {ok, model.Running},
			"stop": {ok, model.Stopped}, "restart": {ok, model.Running}, "kill": {ok, model.Stopped}, "signal 0": {wrong, model.Suspended}, "rename": {ok, model.Suspended},
			"delete": {wrong, model.Suspended}, "force": {ok, ""}, "prune": {ok, model.Suspended}, "stats": {ok, model.Suspended}, "set": {wrong, model.Suspended},
			"snapshot": {ok, model.Suspended}, "fork": {ok, model.Suspended},
		},
		model.Stopped: {
			"pause": {wrong, model.Stopped}, "suspend": {wrong, model.Stopped}, "resume": {wrong, model.Stopped}, "snapshot": {ok, model.Stopped}, "fork": {wrong, model.Stopped},
		},
		model.Failed: {
			"pause": {wrong, model.Failed}, "suspend": {wrong, model.Failed}, "resume": {wrong, model.Failed}, "snapshot": {ok, model.Failed}, "fork": {wrong, model.Failed},
		},
		model.Broken: {
			"pause": {wrong, model.Broken}, "suspend": {wrong, model.Broken}, "resume": {wrong, model.Broken}, "snapshot": {wrong, model.Broken}, "fork": {wrong, model.Broken},
		},
	} {
		for command, want := range want {
			t.Run(string(state)+"/"+command, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.bring(t, v, state)
				began := time.Now()
				if err := commands[command](t.Context(), d, v.ID); fault.KindOf(err) != want.err {
					t.Errorf("got %v after %v", err, time.Since(began))
				}
				got, err := d.Get(v.ID)
				if (err != nil) != (want.now == "") || err == nil && got.State != want.now {
					t.Fatalf("it is %s, not %s (%v)", got.State, want.now, err)
				}
				if want.now == "" {
					if left := h.files(); len(left) != 0 || h.running() != 0 {
						t.Errorf("left: %v, %d machines", left, h.running())
					}
					return
				}
				switch want.now {
				case model.Running:
					if command != "restart" && (h.look(v).Frozen || h.computer.Halted(v.ID)) {
						t.Error("it does not go on")
					}
				case model.Paused:
					if !h.look(v).Frozen || !h.computer.Halted(v.ID) {
						t.Error("it goes on")
					}
					d.resume(t, v)
					if h.worked(v) != "work of a" {
						t.Errorf("its guest has %q", h.worked(v))
					}
				case model.Suspended:
					d.resume(t, v)
					if h.worked(v) != "work of a" {
						t.Errorf("its guest has %q", h.worked(v))
					}
				case model.Stopped:
					if _, err := os.Stat(h.layout.VM(v.ID).Suspended()); err == nil {
						t.Error("its memory is still there")
					}
				}
			})
		}
	}
}

// TestPauseFails fails each part of a pause: the VM goes on, and can be paused when the cause is gone.
func TestPauseFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"store pausing", "freeze", "froze", "halt", "store paused"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			h.failing(hook, errBoom)
			if got, err := d.Pause(t.Context(), "a", nil); !errors.Is(err, errBoom) || got.State != model.Running {
				t.Errorf("%s, %v", got.State, err)
			}
			h.failing(hook, nil)
			d.goesOn(t, v)
			d.pause(t, v)
			d.resume(t, v)
			d.goesOn(t, v)
		})
	}
}

// TestResumeFails fails each part of letting a paused VM go on: it stays paused, and can be resumed when the cause is gone.
func TestResumeFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"go on", "thaw", "store running"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.pause(t, v)
			h.failing(hook, errBoom)
			if got, err := d.Resume(t.Context(), "a", nil); !errors.Is(err, errBoom) || got.State != model.Paused {
				t.Errorf("%s, %v", got.State, err)
			}
			h.failing(hook, nil)
			d.resume(t, v)
			d.goesOn(t, v)
		})
	}
}

// suspendHooks are the moments of a suspension up to the one from which on the VM is suspended.
var suspendHooks = []string{"store pausing", "freeze", "froze", "save", "still", "shape", "store suspended"}

// TestSuspendFails fails each part of a suspension: the VM is as before, and can be suspended when the cause is gone.
func TestSuspendFails(t *testing.T) {
	t.Parallel()
	for _, from := range []model.State{model.Running, model.Paused} {
		for _, hook := range suspendHooks {
			if from == model.Paused && strings.HasPrefix(hook, "fr") {
				continue // its processes are held already
			}
			t.Run(string(from)+"/"+hook, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				if from == model.Paused {
					d.pause(t, v)
				}
				before := h.files()
				h.failing(hook, errBoom)
				if got, err := d.Suspend(t.Context(), "a", nil); !errors.Is(err, errBoom) || got.State != from {
					t.Errorf("%s, %v", got.State, err)
				}
				h.failing(hook, nil)
				if after := h.files(); !slices.Equal(before, after) {
					t.Errorf("files before %v, after %v", before, after)
				}
				if from == model.Paused {
					if !h.computer.Halted(v.ID) || !h.look(v).Frozen {
						t.Error("a paused VM goes on")
					}
				} else {
					d.goesOn(t, v)
				}
				d.suspend(t, v)
				d.resume(t, v)
				d.goesOn(t, v)
			})
		}
	}
}

// TestUnrecordedPause has a disk on which for a while nothing can be stored at all: a VM whose pause or suspension failed for that is let go on, and not
// ended, by whatever comes next.
func TestUnrecordedPause(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]func(context.Context, *daemon) error{
		"pause":   func(ctx context.Context, d *daemon) error { _, err := d.Pause(ctx, "a", nil); return err },
		"suspend": func(ctx context.Context, d *daemon) error { _, err := d.Suspend(ctx, "a", nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			for _, state := range []string{"paused", "suspended", "running"} {
				h.failing("store "+state, errBoom)
			}
			if err := command(t.Context(), d); !errors.Is(err, errBoom) {
				t.Errorf("got %v", err)
			}
			for _, state := range []string{"paused", "suspended", "running"} {
				h.failing("store "+state, nil)
			}
			if h.running() != 1 || h.look(v).Frozen || h.computer.Halted(v.ID) {
				t.Errorf("%d machines; halted: %v, processes held: %v", h.running(), h.computer.Halted(v.ID), h.look(v).Frozen)
			}
			if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
				t.Error(err)
			}
			d.goesOn(t, v)
		})
	}
}

// TestKilledWhilePausing kills the daemon at each moment of a pause, a suspension, and their ends.
func TestKilledWhilePausing(t *testing.T) {
	t.Parallel()
	running, suspended := model.Running, model.Suspended
	for _, c := range []struct {
		operation string
		from      model.State
		do        func(context.Context, *daemon)
		hooks     map[string]model.State // at which the daemon is killed, and what the VM is then
	}{
		{"pause", model.Running, func(ctx context.Context, d *daemon) { d.Pause(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "halt": running, "store paused": running,
		}},
		{"resume", model.Paused, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"go on": model.Paused, "thaw": model.Paused, "store running": model.Paused,
		}},
		{"suspend", model.Running, func(ctx context.Context, d *daemon) { d.Suspend(ctx, "a", nil) }, map[string]model.State{
			"store pausing": running, "freeze": running, "froze": running, "save": running, "still": running, "shape": running, "store suspended": running,
			"signal": suspended, "undo two": suspended, "undo one": suspended,
		}},
		{"resume", model.Suspended, func(ctx context.Context, d *daemon) { d.Resume(ctx, "a", nil) }, map[string]model.State{
			"store starting": suspended, "do preflight": suspended, "shape": suspended, "do prepare/one": suspended, "restore": suspended, "do vmm": suspended,
			"do agent": suspended, "thaw": suspended, "do post-start/two": suspended, "store running": suspended,
		}},
	} {
		for hook, want := range c.hooks {
			t.Run(c.operation+" of "+string(c.from)+"/"+hook, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				before := h.files()
				if c.from != model.Running {
					d.bring(t, v, c.from)
				}
				if hook == "store starting" || hook == "store running" || hook == "store pausing" {
					before = h.files() // nothing has happened yet
				}
				dead := d
				d = d.killedIn(hook, func(ctx context.Context) { c.do(ctx, dead) })
				got, err := d.Get("a")
				if err != nil || got.State != want {
					t.Fatalf("recovered as %s (%+v), %v", got.State, got.LastError, err)
				}
				switch want {
				case model.Running:
					d.goesOn(t, v)
					if after := h.files(); !slices.Equal(before, after) {
						t.Errorf("files before %v, after %v", before, after)
					}
				case model.Paused:
					d.resume(t, v)
					d.goesOn(t, v)
				case model.Suspended:
					if h.running() != 0 || got.Runtime != nil {
						t.Errorf("%d machines, %+v", h.running(), got.Runtime)
					}
					if left := h.files(); slices.Contains(left, h.layout.VM(v.ID).Run) || slices.Contains(left, h.held(v, "one")) {
						t.Errorf("left: %v", left)
					}
					d.resume(t, v)
					d.goesOn(t, v)
				}
				d.suspend(t, v) // nothing stands in the way of it
				d.resume(t, v)
				d.goesOn(t, v)
			})
		}
	}
}

// TestSuspendLeavesSomething fails the clean-up after a suspension: the VM is suspended all the same and keeps its memory, whoever tries again, and it does not
// go on beside what is left.
func TestSuspendLeavesSomething(t *testing.T) {
	t.Parallel()
	retries := map[string]func(*testing.T, *daemon) *daemon{
		"resume":  func(_ *testing.T, d *daemon) *daemon { return d },
		"in time": func(t *testing.T, d *daemon) *daemon { d.retryCleanups(t.Context()); return d },
		"suspend": func(t *testing.T, d *daemon) *daemon { d.suspend(t, d.List()[0]); return d },
		"daemon":  func(_ *testing.T, d *daemon) *daemon { d.die(); return d.daemon() },
	}
	for _, hook := range []string{"signal", "undo two", "undo one"} {
		for name, retry := range retries {
			t.Run(hook+"/"+name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				before := h.files()
				h.failing(hook, errBoom)
				suspended := func(when string) {
					t.Helper()
					got, _ := d.Get("a")
					if got.State != model.Suspended || got.Runtime == nil || got.LastError == nil || !strings.Contains(got.LastError.Msg, "boom") || got.LastError.Hint == "" {
						t.Fatalf("%s: it is %s, %+v", when, got.State, got.LastError)
					}
				}
				if _, err := d.Suspend(t.Context(), "a", nil); !errors.Is(err, errBoom) {
					t.Errorf("suspending: %v", err)
				}
				suspended("at first")
				machines := h.running()
				if _, err := d.Resume(t.Context(), "a", nil); !errors.Is(err, errBoom) || h.running() != machines {
					t.Errorf("resuming: %v, %d machines", err, h.running())
				}
				suspended("resumed")
				d.retryCleanups(t.Context())
				suspended("tried again")
				if d.die(); machines != h.running() {
					t.Errorf("%d machines, there were %d", h.running(), machines)
				}
				d = h.daemon()
				suspended("with another daemon")
				d.snap(t, v, "s")
				h.failing(hook, nil)
				d = retry(t, d)
				if got, _ := d.Get("a"); got.State != model.Suspended || name != "resume" && (got.Runtime != nil || got.LastError != nil || h.running() != 0) {
					t.Errorf("it is %s, %+v, %d machines", got.State, got.LastError, h.running())
				}
				d.resume(t, v)
				d.goesOn(t, v)
				if after := h.files(); !slices.Equal(before, after) || h.running() != 1 {
					t.Errorf("before %v, after %v; %d machines", before, after, h.running())
				}
				if got, _ := d.Get("a"); got.LastError != nil {
					t.Errorf("it runs, and shows %+v", got.LastError)
				}
			})
		}
	}
}

// TestSuspendedMachineEndsLate has one that would not end with the suspension, and does so later.
func TestSuspendedMachineEndsLate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("signal", errBoom)
	if got, err := d.Suspend(t.Context(), "a", nil); !errors.Is(err, errBoom) || got.State != model.Suspended {
		t.Errorf("%s, %v", got.State, err)
	}
	h.end(v, vmm.ExitCrashed)
	h.failing("signal", nil)
	waitFor(t, func() bool { got, _ := d.Get("a"); return got.Runtime == nil })
	if got := d.state(t, "a"); got != model.Suspended {
		t.Errorf("it is %s", got)
	}
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestKilledAfterTheGuestWrote kills the daemon when a guest that has been resumed has already changed its disk: its memory is history.
func TestKilledAfterTheGuestWrote(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	dead, over := d, make(chan struct{})
	calls := h.called("do post-start/two")
	release := h.hanging("do post-start/two")
	go func() { defer close(over); dead.Resume(t.Context(), "a", nil) }()
	waitFor(t, func() bool { return h.called("do post-start/two") > calls })
	h.work(v, "work of a")
	d = d.killed(func() { release(); <-over })
	if got, _ := d.Get("a"); got.State != model.Failed || got.LastError == nil || got.Runtime != nil || h.running() != 0 {
		t.Errorf("%s, %+v, %d machines", got.State, got.LastError, h.running())
	}
	d.nothingSaved(t)
	d.running(t, "a")
	if g := h.look(v); g.Data != "" || h.onDisk(v) != "work of a" {
		t.Errorf("it has booted with %q in its memory and %q on its disk", g.Data, h.onDisk(v))
	}
}

// TestRecoveryCannotLetItGoOn has a guest that does not answer after the daemon was killed in a suspension.
func TestRecoveryCannotLetItGoOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	h.failing("thaw", errBoom)
	dead := d
	d = d.killedIn("still", func(ctx context.Context) { dead.Suspend(ctx, "a", nil) })
	d.cannotGoOn(t, v)
}

// cannotGoOn looks that a VM whose processes cannot be let go on is paused, and goes on when they can.
func (d *daemon) cannotGoOn(t *testing.T, v model.VM) {
	t.Helper()
	got, err := d.Get(v.ID)
	if err != nil || got.State != model.Paused || got.LastError == nil || !strings.Contains(got.LastError.Msg, "boom") || d.host.running() != 1 {
		t.Errorf("%+v, %+v, %v, %d machines", got, got.LastError, err, d.host.running())
	}
	d.host.failing("thaw", nil)
	d.resume(t, v)
	d.goesOn(t, v)
	if got, _ := d.Get(v.ID); got.LastError != nil {
		t.Errorf("it runs, and shows %+v", got.LastError)
	}
}

// TestKilledAfterItsMachineEnded finds nothing to let go on.
func TestKilledAfterItsMachineEnded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	dead := d
	release := h.hanging("store paused")
	over := make(chan struct{})
	go func() { defer close(over); dead.Pause(t.Context(), "a", nil) }()
	waitFor(t, func() bool { return h.called("store paused") > 0 })
	h.end(v, vmm.ExitCrashed)
	d = d.killed(func() { release(); <-over })
	if got, err := d.Get("a"); err != nil || got.State != model.Stopped || got.LastError == nil || got.Runtime != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDamagedMemory damages what a suspended VM has kept in each way: it is not resumed, its disks are spared, and its memory can be given up.
func TestDamagedMemory(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"meta.json", "memory", "device"} {
		for _, how := range damages {
			t.Run(file+" "+how.name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.suspend(t, v)
				how.do(t, filepath.Join(h.layout.VM(v.ID).Suspended(), file))
				for name, err := range map[string]error{
					"resume": second(d.Resume(t.Context(), "a", nil)), "start": second(d.Start(t.Context(), "a", model.Start{}, nil)),
					"stop": second(d.Stop(t.Context(), "a", nil, nil)),
				} {
					if err == nil || !strings.Contains(fault.HintOf(err), "banger vm kill a") {
						t.Errorf("%s: %v, hint %q", name, err, fault.HintOf(err))
					}
				}
				if d.state(t, "a") != model.Suspended || h.running() != 0 {
					t.Errorf("it is %s, %d machines", d.state(t, "a"), h.running())
				}
				if got, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil || got.State != model.Stopped {
					t.Fatalf("killed: %s, %v", got.State, err)
				}
				d.nothingSaved(t)
				d.running(t, "a")
				if g := h.look(v); g.Data != "" || h.onDisk(v) != "work of a" {
					t.Errorf("it has booted with %q in its memory and %q on its disk", g.Data, h.onDisk(v))
				}
			})
		}
	}
}

func second[T any](_ T, err error) error { return err }

// damages are what can happen to a file, besides other times, which are no damage.
var damages = []struct {
	name string
	do   func(*testing.T, string)
}{
	{"removed", func(t *testing.T, path string) { damage(t, os.Remove(path)) }},
	{"truncated", func(t *testing.T, path string) {
		info, err := os.Stat(path)
		damage(t, err)
		damage(t, os.Truncate(path, info.Size()-1))
	}},
	{"flipped", func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		damage(t, err)
		defer f.Close()
		var b [1]byte
		_, err = f.ReadAt(b[:], 10)
		damage(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b[:], 10)
		damage(t, err)
	}},
}

func damage(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestResumeOfSuspendedFails fails each part of going on from memory. As long as the guest has written nothing, it can be tried again.
func TestResumeOfSuspendedFails(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{
		"store starting", "do preflight", "do initramfs", "shape", "do prepare/two", "restore", "do vmm", "do agent", "thaw", "do post-start/one", "store running",
	} {
		for _, wrote := range []bool{false, true} {
			if wrote && hook != "thaw" && hook != "do post-start/one" && hook != "store running" {
				continue // it has not run yet
			}
			t.Run(fmt.Sprint(hook, " wrote ", wrote), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.suspend(t, v)
				before := h.files()
				errs := make(chan error, 1)
				calls := h.called(hook)
				h.failing(hook, errBoom)
				release := h.hanging(hook)
				go func() { _, err := d.Resume(t.Context(), "a", nil); errs <- err }()
				waitFor(t, func() bool { return h.called(hook) > calls })
				if wrote {
					h.work(v, "work of a")
					past := time.Now().Add(-time.Hour) // the host's clock was set
					if err := os.Chtimes(h.layout.VM(v.ID).SystemDisk(), past, past); err != nil {
						t.Error(err)
					}
				}
				release()
				if err := <-errs; !errors.Is(err, errBoom) {
					t.Errorf("got %v", err)
				}
				h.failing(hook, nil)
				if h.running() != 0 {
					t.Errorf("%d machines", h.running())
				}
				if wrote {
					if got, _ := d.Get("a"); got.State != model.Failed || got.LastError == nil {
						t.Fatalf("%s, %+v", got.State, got.LastError)
					}
					d.nothingSaved(t)
					d.running(t, "a")
					if g := h.look(v); g.Data != "" || h.onDisk(v) != "work of a" {
						t.Errorf("it has booted with %q in its memory and %q on its disk", g.Data, h.onDisk(v))
					}
					return
				}
				if got := d.state(t, "a"); got != model.Suspended {
					t.Fatalf("it is %s", got)
				}
				if after := h.files(); !slices.Equal(before, after) {
					t.Errorf("files before %v, after %v", before, after)
				}
				d.resume(t, v)
				d.goesOn(t, v)
			})
		}
	}
}

// TestResumeWithoutItsImage, which somebody deleted by hand: it can go on when that is back.
func TestResumeWithoutItsImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	h.delete("id-of-img", true)
	if got, err := d.Resume(t.Context(), "a", nil); fault.KindOf(err) != fault.NotFound || got.State != model.Suspended {
		t.Errorf("%s, %v", got.State, err)
	}
	h.delete("id-of-img", false)
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestCancelledResume has whoever resumes a VM change their mind: a suspended VM stays so, a paused one goes on, because that is quick.
func TestCancelledResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	release := h.hanging("do agent")
	defer release()
	calls := h.called("do agent")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := d.Resume(ctx, "a", nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > calls })
	cancel()
	if err := <-errs; fault.KindOf(err) != fault.Canceled || d.state(t, "a") != model.Suspended || h.running() != 0 {
		t.Errorf("%v; it is %s, %d machines", err, d.state(t, "a"), h.running())
	}
	release()
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestForcedDeleteCallsOffAResume does not wait for a guest that does not answer.
func TestForcedDeleteCallsOffAResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	defer h.hanging("do agent")()
	calls := h.called("do agent")
	errs := make(chan error, 1)
	go func() { _, err := d.Resume(t.Context(), "a", nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > calls })
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	if err := <-errs; fault.KindOf(err) != fault.Canceled {
		t.Errorf("the resume ended with %v", err)
	}
	if left := h.files(); len(left) != 0 || h.running() != 0 || len(d.List()) != 0 {
		t.Errorf("left: %v, %d machines", left, h.running())
	}
}

// TestStopLetsTheGuestPowerOff although it was paused or suspended: only a guest that runs can close its files.
func TestStopLetsTheGuestPowerOff(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		d.bring(t, v, state)
		var said []step.Event
		got, err := d.Stop(t.Context(), "a", nil, func(e step.Event) { said = append(said, e) })
		if err != nil || got.State != model.Stopped || h.running() != 0 {
			t.Errorf("%s: %s, %v, %d machines", state, got.State, err, h.running())
		}
		if len(said) == 0 || said[len(said)-1].Step != "power-off" || said[len(said)-1].Phase != step.Done {
			t.Errorf("%s: %v", state, said)
		}
		d.nothingSaved(t)
	}
}

// TestStopWithoutAGuest ends a paused VM whose guest cannot be let go on, and asks nobody when it shall not wait for anybody.
func TestStopWithoutAGuest(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Paused, model.Suspended} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		d.bring(t, v, state)
		h.failing("thaw", errBoom)
		h.failing("restore", errBoom)
		if state == model.Suspended {
			if got, err := d.Stop(t.Context(), "a", nil, nil); !errors.Is(err, errBoom) || got.State != state {
				t.Errorf("memory that cannot be used: %s, %v", got.State, err)
			}
		}
		wait := time.Duration(0)
		if state == model.Paused {
			wait = 10 * time.Second
		}
		if got, err := d.Stop(t.Context(), "a", &wait, nil); err != nil || got.State != model.Stopped || h.running() != 0 {
			t.Errorf("%s: %s, %v, %d machines", state, got.State, err, h.running())
		}
		d.nothingSaved(t)
	}
}

// TestPausedMachineEnds by itself or by a signal.
func TestPausedMachineEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.pause(t, v)
	h.end(v, vmm.ExitCrashed)
	waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
	if got, _ := d.Get("a"); got.LastError == nil || got.Runtime != nil {
		t.Errorf("%+v", got)
	}
	d.running(t, "a")
	d.pause(t, v)
	if got, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil || got.State != model.Stopped {
		t.Errorf("%s, %v", got.State, err)
	}
}

// TestMachineEndsWhileItIsSuspended must not leave the memory of a machine that was not halted.
func TestMachineEndsWhileItIsSuspended(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"freeze", "still"} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a"})
		release := h.hanging(hook)
		errs := make(chan error, 1)
		go func() { _, err := d.Suspend(t.Context(), "a", nil); errs <- err }()
		waitFor(t, func() bool { return h.called(hook) > 0 })
		h.end(v, vmm.ExitCrashed)
		release()
		if err := <-errs; err == nil {
			t.Errorf("%s: it was suspended", hook)
		}
		waitFor(t, func() bool { return d.state(t, "a") == model.Stopped })
		d.nothingSaved(t)
	}
}

// TestPausedSurvivesTheDaemon as it is.
func TestPausedSurvivesTheDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.pause(t, v)
	d.die()
	d = h.daemon()
	if d.state(t, "a") != model.Paused || !h.computer.Halted(v.ID) || !h.look(v).Frozen {
		t.Errorf("it is %s; halted: %v, processes held: %v", d.state(t, "a"), h.computer.Halted(v.ID), h.look(v).Frozen)
	}
	d.resume(t, v)
	d.goesOn(t, v)
}

// TestPendingSurvivesSuspension changes a running VM and suspends it: it goes on as the machine that it was, with the image and the kernel that it had, which
// nobody may delete until then.
func TestPendingSurvivesSuspension(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	changed, err := d.Set(t.Context(), "a", model.Change{VCPUs: ptr(3), Image: ptr("other"), Kernel: ptr("other-kernel"), Env: map[string]string{"NEW": "1"}})
	if err != nil || len(changed.Pending) != 4 {
		t.Fatalf("%+v, %v", changed, err)
	}
	inUse := func() (images, kernels []string) {
		if err := d.References(func(i, k map[string][]string) error {
			images, kernels = slices.Sorted(maps.Keys(i)), slices.Sorted(maps.Keys(k))
			return nil
		}); err != nil {
			t.Error(err)
		}
		return images, kernels
	}
	check := func(when string) {
		t.Helper()
		got, _ := d.Get("a")
		if !slices.Equal(got.Pending, changed.VM.Pending) || got.Spec.VCPUs != 3 || got.DiskImage != "id-of-img" {
			t.Errorf("%s: pending %v, %+v, its disk lies over %s", when, got.Pending, got.Spec, got.DiskImage)
		}
		images, kernels := inUse()
		if !slices.Equal(images, []string{"id-of-img", "other"}) || !slices.Equal(kernels, []string{"id-of-krn", "other-kernel"}) {
			t.Errorf("%s: in use are %v, %v", when, images, kernels)
		}
	}
	check("running")
	d.suspend(t, v)
	check("suspended")
	d.resume(t, v)
	check("resumed")
	d.goesOn(t, v)
	if m := h.computer.Running()[0]; m.VCPUs != 1 {
		t.Errorf("it goes on with %d CPUs", m.VCPUs)
	}
	first, err := os.Stat(h.layout.VM(v.ID).SystemDisk())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Restart(t.Context(), "a", nil, nil); err != nil || len(got.Pending) != 0 || got.DiskImage != "other" {
		t.Errorf("restarted: %+v, %v", got, err)
	}
	if m := h.computer.Running()[0]; m.VCPUs != 3 {
		t.Errorf("it was started with %d CPUs", m.VCPUs)
	}
	if again, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil || os.SameFile(first, again) {
		t.Errorf("the other image lies under the first one's changes (%v)", err)
	}
	if images, kernels := inUse(); !slices.Equal(images, []string{"other"}) || !slices.Equal(kernels, []string{"other-kernel"}) {
		t.Errorf("in the end %v, %v are in use", images, kernels)
	}
}

// TestRenamedWhileSuspended tells the guest of its new name at the next start, as for one that runs.
func TestRenamedWhileSuspended(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	if got, err := d.Rename(t.Context(), "a", "b"); err != nil || !slices.Equal(got.Pending, []string{"name"}) {
		t.Errorf("%+v, %v", got.Pending, err)
	}
	d.resume(t, v)
	if got, err := d.Restart(t.Context(), "b", nil, nil); err != nil || len(got.Pending) != 0 || h.look(v).Name != "b" {
		t.Errorf("%v, %v, it is called %q", got.Pending, err, h.look(v).Name)
	}
}

// TestRemovalOfSuspended: a suspension is no stop, but its end can be one.
func TestRemovalOfSuspended(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *daemon){
		"stop": func(t *testing.T, d *daemon) { d.Stop(t.Context(), "a", nil, nil) },
		"kill": func(t *testing.T, d *daemon) { d.Kill(t.Context(), "a", syscall.SIGKILL) },
	} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
		d.suspend(t, v)
		d.die()
		d = h.daemon()
		if got := d.state(t, "a"); got != model.Suspended {
			t.Fatalf("%s: after a restart of the daemon it is %s", name, got)
		}
		end(t, d)
		if left := h.files(); len(left) != 0 || len(d.List()) != 0 {
			t.Errorf("%s: left: %v", name, left)
		}
	}
	for _, state := range []model.State{model.Paused, model.Suspended} {
		h := newHost(t)
		d := h.daemon()
		v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnDetach})
		d.bring(t, v, state)
		d.die() // and whoever it was made for with it
		d = h.daemon()
		if left := h.files(); len(left) != 0 || len(d.List()) != 0 || h.running() != 0 {
			t.Errorf("%s: left: %v, %d machines", state, left, h.running())
		}
	}
}

// TestFailedResumeKeepsWhatIsToBeRemoved: a VM that goes when it stops has not stopped yet.
func TestFailedResumeKeepsWhatIsToBeRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	d.suspend(t, v)
	h.failing("do agent", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	h.failing("do agent", nil)
	d.resume(t, v)
	d.goesOn(t, v)
}
