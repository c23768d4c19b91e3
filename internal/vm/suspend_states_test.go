package vm

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestStatesOfSuspension checks what each command does to a VM in each state.
func TestStatesOfSuspension(t *testing.T) {
	t.Parallel()
	ok, wrong := fault.Kind(""), fault.WrongState
	type result struct {
		err fault.Kind
		now model.State // "": the VM is deleted
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
			"pause": {ok, model.Paused}, "suspend": {ok, model.Suspended}, "resume": {ok, model.Running},
			"snapshot": {ok, model.Running}, "fork": {ok, model.Running},
		},
		model.Paused: {
			"pause": {ok, model.Paused}, "suspend": {ok, model.Suspended}, "resume": {ok, model.Running},
			"start": {ok, model.Running},
			"stop":  {ok, model.Stopped}, "restart": {ok, model.Running}, "kill": {ok, model.Stopped},
			"signal 0": {ok, model.Paused}, "rename": {ok, model.Paused},
			"delete": {wrong, model.Paused}, "force": {ok, ""}, "prune": {ok, model.Paused},
			"stats": {ok, model.Paused}, "set": {wrong, model.Paused},
			"snapshot": {ok, model.Paused}, "fork": {ok, model.Paused},
		},
		model.Suspended: {
			"pause": {wrong, model.Suspended}, "suspend": {ok, model.Suspended}, "resume": {ok, model.Running},
			"start": {ok, model.Running},
			"stop":  {ok, model.Stopped}, "restart": {ok, model.Running}, "kill": {ok, model.Stopped},
			"signal 0": {wrong, model.Suspended}, "rename": {ok, model.Suspended},
			"delete": {wrong, model.Suspended}, "force": {ok, ""}, "prune": {ok, model.Suspended},
			"stats": {ok, model.Suspended}, "set": {wrong, model.Suspended},
			"snapshot": {ok, model.Suspended}, "fork": {ok, model.Suspended},
		},
		model.Stopped: {
			"pause": {wrong, model.Stopped}, "suspend": {wrong, model.Stopped},
			"resume": {wrong, model.Stopped}, "snapshot": {ok, model.Stopped}, "fork": {wrong, model.Stopped},
		},
		model.Failed: {
			"pause": {wrong, model.Failed}, "suspend": {wrong, model.Failed}, "resume": {wrong, model.Failed},
			"snapshot": {ok, model.Failed}, "fork": {wrong, model.Failed},
		},
		model.Broken: {
			"pause": {wrong, model.Broken}, "suspend": {wrong, model.Broken}, "resume": {wrong, model.Broken},
			"snapshot": {wrong, model.Broken}, "fork": {wrong, model.Broken},
		},
	} {
		for command, want := range want {
			t.Run(string(state)+"/"+command, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v := d.worker(t, model.Create{Name: "a"})
				d.bringTo(t, v, state)
				began := time.Now()
				if err := commands[command](t.Context(), d, v.ID); fault.KindOf(err) != want.err {
					t.Errorf("the command returned %v after %v, not the kind %q", err, time.Since(began), want.err)
				}
				got, err := d.Get(v.ID)
				if (err != nil) != (want.now == "") {
					t.Fatalf("the VM must be gone: %v, but looking it up returned %v", want.now == "", err)
				}
				if err == nil && got.State != want.now {
					t.Fatalf("the VM is %s, not %s", got.State, want.now)
				}
				if want.now == "" {
					h.wantFiles(t, nil)
					h.wantMachines(t, 0)
					return
				}
				switch want.now {
				case model.Running:
					if command == "restart" {
						d.wantState(t, v.ID, model.Running)
					} else {
						d.wantRunning(t, v)
					}
				case model.Paused:
					d.wantPaused(t, v)
					d.resume(t, v)
					h.wantWork(t, v, "work of a")
				case model.Suspended:
					d.resume(t, v)
					h.wantWork(t, v, "work of a")
				case model.Stopped:
					if _, err := os.Stat(h.layout.VM(v.ID).Suspended()); err == nil {
						t.Error("the stopped VM still has saved memory")
					}
				}
			})
		}
	}
}
