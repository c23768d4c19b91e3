package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestRestoreInto restores a snapshot into a VM in each state.
func TestRestoreInto(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{
		model.Running, model.Paused, model.Suspended, model.Stopped, model.Failed, model.Broken,
	} {
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
					d.bringTo(t, v, state)
				}
				policy, _ := d.Get("a")
				forked, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", DisksOnly: disksOnly, Force: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				got := childrenOf(t, forked)[0]
				wantMadeFrom(t, got, s)
				equal(t, "the id, which a restore keeps,", got.ID, v.ID)
				equal(t, "the name, which a restore keeps,", got.Spec.Name, "a")
				equal(t, "the label, which a restore keeps,", got.Spec.Labels["stays"], "1")
				equal(t, "the removal policy, which a restore keeps,", got.Spec.Remove, policy.Spec.Remove)
				equal(t, "the number of vCPUs, which the snapshot has,", got.Spec.VCPUs, 2)
				equal(t, "the image, which the snapshot has,", got.Spec.ImageID, "id-of-img")
				equal(t, "the image under the disk", got.DiskImage, "id-of-img")
				equal(t, "the work disk's size, which the snapshot has,", got.Spec.WorkDiskSize, model.Bytes(0))
				if _, err := os.Stat(h.layout.VM(v.ID).WorkDisk()); err == nil {
					t.Error("the VM has a work disk, which the snapshot does not have")
				}
				if disksOnly {
					equal(t, "a VM that got disks alone", got.State, model.Stopped)
					wantNoLastError(t, got)
					h.wantMachines(t, 1)
					d.start(t, "a")
				} else {
					equal(t, "a VM that got memory, too,", got.State, model.Running)
					equal(t, "what its guest has in its memory", h.memoryOf(got).Data, "work of of")
					equal(t, "its guest's host name", h.memoryOf(got).Name, "a")
				}
				h.wantOnDisk(t, got, "work of of")
				h.wantMachines(t, 2)
				d.wantNothingSaved(t)
				d.snap(t, got, "again")
				d.restore(t, "again", model.Restore{Fork: model.Fork{Name: "child"}})
				d.wantFork(t, d.fork(t, of, model.Fork{})[0], of, "work of of")
			})
		}
	}
}

// TestRestoreRequiresForce restores into VMs that are not at rest. They would lose more than their
// disks.
func TestRestoreRequiresForce(t *testing.T) {
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
				d.bringTo(t, v, state)
			}
			before := append(h.files(), h.stored()...)
			_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a"}, nil)
			wantKind(t, "the restore", err, fault.WrongState)
			wantHint(t, "the restore", err, "--force")
			h.wantAllFiles(t, before)
			d.wantState(t, "a", state)
			h.wantOnDisk(t, v, "more")
			h.wantWork(t, d.restore(t, "s", model.Restore{Into: "a", Force: true})[0], "work of a")
		})
	}
}

// TestRestoreChecksTheStateUnderTheLock starts a VM while a restore waits for its lock. The
// restore must see that the VM runs.
func TestRestoreChecksTheStateUnderTheLock(t *testing.T) {
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
			d.bringTo(t, v, model.Stopped)
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
			waitFor(t, func() bool { return e.Lock.Waiting() == 1 })
			h.work(v, "more")
			release()
			wg.Wait()
			if firstErr != nil {
				t.Errorf("the first operation: %v", firstErr)
			}
			wantKind(t, "the restore that waited", secondErr, fault.WrongState)
			d.wantState(t, "a", model.Running)
			h.wantOnDisk(t, v, "more")
			h.wantMachines(t, 2)
		})
	}
}

// TestRestoreIntoRefuses checks that a restore that cannot succeed is refused before anything
// changes.
func TestRestoreIntoRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *host, model.Snapshot)
		want  fault.Kind
	}{
		"no image":  {func(_ *testing.T, h *host, _ model.Snapshot) { h.setGone("id-of-img", true) }, fault.NotFound},
		"no kernel": {func(_ *testing.T, h *host, _ model.Snapshot) { h.setGone("id-of-krn", true) }, fault.NotFound},
		"damaged memory": {func(t *testing.T, h *host, s model.Snapshot) {
			damages[2].do(t, filepath.Join(h.layout.Snapshots(), s.ID, "memory"))
		}, fault.Damaged},
		"damaged disk": {func(t *testing.T, h *host, s model.Snapshot) {
			damages[2].do(t, filepath.Join(h.layout.Snapshots(), s.ID, "system.ext4"))
		}, fault.Damaged},
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
				t.Errorf("the restore returned %v, not the kind %q", err, c.want)
			}
			h.wantAllFiles(t, before)
			got, _ := d.Get("a")
			equal(t, "the VM after a refused restore", got.State, model.Running)
			equal(t, "its image", got.Spec.Image, "other")
			claim(t, got.Parent == nil, "it is recorded as restored from %+v", got.Parent)
			h.wantWork(t, v, "work of a")
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
			t.Errorf("the restore %s returned %v, not the kind %q", name, err, c.want)
		}
	}
	d.wantVMs(t, 1)
	h.wantWork(t, v, "work of a")
}

// TestRestoreIntoAMissingDirectory restores a VM in place whose directory was moved away. That is
// refused, and works when the directory is back.
func TestRestoreIntoAMissingDirectory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	d.snap(t, v, "s")
	dir := h.layout.VM(v.ID).Dir
	h.command("mv", dir, dir+".away")
	_, err := d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil)
	wantKind(t, "the restore", err, fault.Damaged)
	wantHint(t, "the restore", err, "Put the directory back")
	d.wantState(t, "a", model.Running)
	h.command("mv", dir+".away", dir)
	d.restore(t, "s", model.Restore{Into: "a", Force: true})
	d.wantContinues(t, v)
}

// below lists the files below a directory.
func below(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "!", "-name", "*.log").Output()
	damage(t, err)
	return string(out)
}

// TestRestoreIntoAnotherFileSystem restores a VM in place whose directory is a symbolic link to
// another file system. Without room there, the restore is refused.
func TestRestoreIntoAnotherFileSystem(t *testing.T) {
	h := newHost(t)
	h.homes = true
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a", WorkDiskSize: ptr(64 * model.MiB)})
	d.snap(t, v, "s")
	h.work(v, "more")
	d.bringTo(t, v, model.Stopped)
	d.die()
	mounted := filepath.Join(t.TempDir(), "big")
	fill, free := h.smallFilesystem(mounted, 96*model.MiB)
	h.command("mv", h.layout.VM(v.ID).Dir, mounted)
	damage(t, os.Symlink(filepath.Join(mounted, v.ID), h.layout.VM(v.ID).Dir))
	d = h.daemon()
	before := below(t, mounted)
	fill(0)
	err := restoreInto(model.Restore{})(t, d)
	wantDiskFull(t, err)
	claim(t, strings.Contains(fault.HintOf(err), h.layout.VM(v.ID).Dir), "the hint names another file system: %s", fault.HintOf(err))
	free()
	equal(t, "the VM's files after a restore without room", below(t, mounted), before)
	h.wantOnDisk(t, v, "more")
	got := d.restore(t, "s", model.Restore{Into: "a"})[0]
	h.wantWork(t, got, "work of a")
	d.die()
	h.room = &noRoom{held: map[string]bool{}, at: h.layout.VM(v.ID).Dir}
	d = h.daemon()
	err = restoreInto(model.Restore{Force: true})(t, d)
	claim(t, errors.Is(err, errNoRoom), "below the floor of the VM's file system, the restore returned %v", err)
	d.wantContinues(t, v)
}
