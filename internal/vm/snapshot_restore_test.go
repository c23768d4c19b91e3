package vm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestRestoreInto has a VM in each state become what a snapshot keeps.
func TestRestoreInto(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended, model.Stopped, model.Failed, model.Broken} {
		for _, disksOnly := range []bool{false, true} {
			name := string(state)
			if disksOnly {
				name += " disks"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				h.homes = true
				d := h.daemon()
				of := d.worker(t, model.Create{Name: "of", VCPUs: ptr(2)})
				s := d.snap(t, of, "s")
				v := d.worker(t, model.Create{
					Name: "a", Image: "other", WorkDiskSize: ptr(64 * model.MiB), Labels: map[string]string{"stays": "1"}, Remove: model.RemoveOnStop,
				})
				if state == model.Stopped || state == model.Failed {
					e, err := d.find(v.ID)
					if err != nil {
						t.Fatal(err)
					}
					if err := d.rewrite(t.Context(), e, func(v *model.VM) { v.Spec.Remove = model.RemoveNever }); err != nil {
						t.Fatal(err)
					}
				}
				if state != model.Running {
					d.bring(t, v, state)
				}
				policy, _ := d.Get("a")
				forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", DisksOnly: disksOnly, Force: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				got := born(t, forked)[0]
				isOf(t, got, s)
				if got.ID != v.ID || got.Spec.Name != "a" || got.Spec.Labels["stays"] != "1" || got.Spec.Remove != policy.Spec.Remove {
					t.Errorf("it is another VM: %+v", got.Spec)
				}
				if got.Spec.VCPUs != 2 || got.Spec.ImageID != "id-of-img" || got.DiskImage != "id-of-img" || got.Spec.WorkDiskSize != 0 {
					t.Errorf("it is the VM that it was: %+v", got.Spec)
				}
				if _, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err == nil {
					t.Error("it has a work disk that the snapshot does not have")
				}
				if disksOnly {
					if got.State != model.Stopped || got.LastError != nil || h.running() != 1 {
						t.Errorf("it is %s, %d machines", got.State, h.running())
					}
					d.running(t, "a")
				} else {
					if got.State != model.Running || h.look(got).Data != "work of of" || h.look(got).Name != "a" {
						t.Errorf("it is %s, %+v", got.State, h.look(got))
					}
				}
				if h.onDisk(got) != "work of of" || h.running() != 2 {
					t.Errorf("it has %q on its disk; %d machines", h.onDisk(got), h.running())
				}
				d.nothingSaved(t)
				d.snap(t, got, "again")
				d.restore(t, "again", model.Restore{Fork: model.Fork{Name: "child"}})
				d.isFork(t, d.fork(t, of, model.Fork{})[0], of, "work of of")
			})
		}
	}
}

// TestRestoreSparesTheLiving restores into a VM in each state. What is not at rest would lose more than its disks.
func TestRestoreSparesTheLiving(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{model.Running, model.Paused, model.Suspended, model.Broken} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.snap(t, v, "s")
			h.work(v, "more")
			if state != model.Running {
				d.bring(t, v, state)
			}
			before := append(h.files(), h.stored()...)
			_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil)
			if fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "--force") {
				t.Errorf("got %v, hint %q", err, fault.HintOf(err))
			}
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) || d.state(t, "a") != state || h.onDisk(v) != "more" {
				t.Errorf("it is %s with %q; before %v, after %v", d.state(t, "a"), h.onDisk(v), before, after)
			}
			if got := d.restore(t, "s", model.Restore{Into: "a", Force: true})[0]; h.worked(got) != "work of a" {
				t.Errorf("by force it has %q", h.worked(got))
			}
		})
	}
}

// TestRestoreLooksUnderTheLock: what comes first counts, be it a start or another restore, and not what was when the restore was asked for.
func TestRestoreLooksUnderTheLock(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(context.Context, *daemon) error{
		"start": func(ctx context.Context, d *daemon) error {
			_, err := d.Start(ctx, "a", model.Start{}, nil)
			return err
		},
		"restore": func(ctx context.Context, d *daemon) error {
			_, err := d.RestoreSnapshot(ctx, "s", model.Restore{Into: "a"}, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
			v := d.worker(t, model.Create{Name: "a"})
			d.bring(t, v, model.Stopped)
			e, err := d.find("a")
			if err != nil {
				t.Fatal(err)
			}
			began := h.called("do agent")
			release := h.hanging("do agent")
			var firstErr, secondErr error
			var wg sync.WaitGroup
			wg.Go(func() { firstErr = first(t.Context(), d) })
			waitFor(t, func() bool { return h.called("do agent") > began })
			wg.Go(func() { _, secondErr = d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil) })
			waitFor(t, func() bool { return e.lock.queue() == 1 })
			h.work(v, "more")
			release()
			wg.Wait()
			if firstErr != nil || fault.KindOf(secondErr) != fault.WrongState {
				t.Errorf("the first: %v; the second: %v", firstErr, secondErr)
			}
			if got := d.state(t, "a"); got != model.Running || h.onDisk(v) != "more" || h.running() != 2 {
				t.Errorf("it is %s with %q; %d machines", got, h.onDisk(v), h.running())
			}
		})
	}
}

// TestRestoreIntoRefuses before anything changes.
func TestRestoreIntoRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *host, model.Snapshot)
		want  fault.Kind
	}{
		"no image":  {func(_ *testing.T, h *host, _ model.Snapshot) { h.delete("id-of-img", true) }, fault.NotFound},
		"no kernel": {func(_ *testing.T, h *host, _ model.Snapshot) { h.delete("id-of-krn", true) }, fault.NotFound},
		"damaged memory": {func(t *testing.T, h *host, s model.Snapshot) {
			damages[2].do(t, filepath.Join(h.layout.Snapshots(), s.ID, "memory"))
		}, fault.Invalid},
		"damaged disk": {func(t *testing.T, h *host, s model.Snapshot) {
			damages[2].do(t, filepath.Join(h.layout.Snapshots(), s.ID, "system.ext4"))
		}, fault.Invalid},
		"no snapshot": {func(t *testing.T, h *host, s model.Snapshot) {
			damage(t, os.RemoveAll(filepath.Join(h.layout.Snapshots(), s.ID)))
		}, fault.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			s := d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
			v := d.worker(t, model.Create{Name: "a", Image: "other", Kernel: "other"})
			c.spoil(t, h, s)
			before := append(h.files(), h.stored()...)
			if _, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil); fault.KindOf(err) != c.want {
				t.Errorf("got %v", err)
			}
			if after := append(h.files(), h.stored()...); !slices.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
			if got, _ := d.Get("a"); got.State != model.Running || got.Spec.Image != "other" || got.Parent != nil || h.worked(v) != "work of a" {
				t.Errorf("%+v, with %q", got, h.worked(v))
			}
		})
	}
}

func TestRestoreRefusesNonsense(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	for name, c := range map[string]struct {
		req  model.Restore
		want fault.Kind
	}{
		"into a running one": {model.Restore{Into: "a"}, fault.WrongState},
		"into nobody":        {model.Restore{Into: "nobody"}, fault.NotFound},
		"into many":          {model.Restore{Into: "a", Fork: model.Fork{Count: 2}}, fault.Invalid},
		"into another name":  {model.Restore{Into: "a", Fork: model.Fork{Name: "b"}}, fault.Invalid},
		"into with a policy": {model.Restore{Into: "a", Fork: model.Fork{Remove: model.RemoveOnStop}}, fault.Invalid},
		"a bad policy":       {model.Restore{Fork: model.Fork{Remove: "soon"}}, fault.Invalid},
		"a bad name":         {model.Restore{Fork: model.Fork{Name: "A b"}}, fault.Invalid},
	} {
		if _, err := d.RestoreSnapshot(t.Context(), "s", c.req, nil); fault.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(d.List()) != 1 || h.worked(v) != "work of a" {
		t.Errorf("%v", d.List())
	}
}
