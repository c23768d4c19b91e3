package vm

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/vmm"
)

// asleep makes a suspended VM whose guest has done some work.
func (d *daemon) asleep(t *testing.T) (model.VM, paths.VM) {
	t.Helper()
	v := d.worker(t, model.Create{Name: "a"})
	d.suspend(t, v)
	return v, d.layout.VM(v.ID)
}

// wantKept checks that the VM is suspended and has its memory, and has no machine.
func (d *daemon) wantKept(t *testing.T, files paths.VM) {
	t.Helper()
	d.wantState(t, "a", model.Suspended)
	claim(t, disk.MayExist(files.Suspended()), "the memory was given up")
	d.wantMachines(t, 0)
}

func touch(t *testing.T, path string, at time.Time) {
	t.Helper()
	damage(t, os.Chtimes(path, at, at))
}

func written(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	damage(t, err)
	return info.ModTime()
}

// TestRefusedResumeKeepsTheMemory makes resumes fail, most of them before a VMM exists, while a
// disk is missing or gets another time. The memory stays, and the VM continues when the disk is
// back.
func TestRefusedResumeKeepsTheMemory(t *testing.T) {
	t.Parallel()
	for _, missing := range []bool{true, false} {
		for _, hook := range []string{"", "do preflight", "do prepare/two", "restore", "do agent"} {
			if !missing && (hook == "restore" || hook == "do agent") {
				continue // then the guest may have written to the disk
			}
			t.Run(map[bool]string{true: "missing, ", false: "touched, "}[missing]+hook, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				d := h.daemon()
				v, files := d.asleep(t)
				was := written(t, files.SystemDisk())
				take := func() {
					if missing {
						damage(t, os.Rename(files.SystemDisk(), files.SystemDisk()+".away"))
					} else {
						touch(t, files.SystemDisk(), time.Now())
					}
				}
				resume := func() (model.VM, error) { return d.Resume(t.Context(), "a", nil) }
				if hook == "" {
					take()
				} else if _, err := failingOnce(h, hook, errBoom, resume, take); !errors.Is(err, errBoom) {
					t.Errorf("the resume returned %v, not the error of its hook", err)
				}
				d.wantKept(t, files)
				_, err := resume()
				wantKind(t, "a resume without its disk", err, fault.Damaged)
				d.wantKept(t, files)
				d.die()
				d = h.daemon()
				d.wantKept(t, files)
				if missing {
					damage(t, os.Rename(files.SystemDisk()+".away", files.SystemDisk()))
				} else {
					touch(t, files.SystemDisk(), was)
				}
				d.resume(t, v)
				d.wantContinues(t, v)
			})
		}
	}
}

// TestMemoryBesideAnotherDisk gives a suspended VM another disk than its memory knows. Nothing uses
// the two together. The refusal says what to do, and that helps.
func TestMemoryBesideAnotherDisk(t *testing.T) {
	t.Parallel()
	touches := regexp.MustCompile(`touch -d .*?'(\.|$)`)
	for name, c := range map[string]struct {
		replace func(h *host, path string)
		touch   bool // the refusal names the command that gives the disk its time back
	}{
		"older":                {func(h *host, path string) { h.command("cp", "-a", path+".old", path) }, true},
		"copied without times": {func(h *host, path string) { h.command("cp", path, path+".new"); h.command("mv", path+".new", path) }, true},
		"longer": {func(h *host, path string) {
			was := written(h.t, path)
			h.command("truncate", "-s", "+4096", path)
			touch(h.t, path, was)
		}, false},
		"missing": {func(h *host, path string) { damage(h.t, os.Remove(path)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bringTo(t, v, model.Stopped)
			files := h.layout.VM(v.ID)
			path := files.SystemDisk()
			h.command("cp", "-a", path, path+".old")
			d.start(t, "a")
			d.work(v, "more work")
			d.suspend(t, v)
			h.command("cp", "-a", path, path+".kept")
			c.replace(h, path)
			var hint string
			for what, err := range map[string]error{
				"resume":   second(d.Resume(t.Context(), "a", nil)),
				"start":    second(d.Start(t.Context(), "a", model.Start{}, nil)),
				"stop":     second(d.Stop(t.Context(), "a", nil, nil)),
				"restart":  second(d.Restart(t.Context(), "a", nil, nil)),
				"fork":     second(d.Fork(t.Context(), "a", model.Fork{}, nil)),
				"snapshot": second(d.CreateSnapshot(t.Context(), "a", "s", nil)),
			} {
				wantKind(t, "the "+what, err, fault.Damaged)
				wantHint(t, "the "+what, err, "banger vm kill a")
				claim(t, errorNames(err, path), "the %s does not name the disk: %v", what, err)
				hint = fault.HintOf(err)
			}
			d.wantKept(t, files)
			d.wantVMs(t, 1)
			h.wantStored(t, 0)
			command := touches.FindString(hint)
			equal(t, "whether the hint has a command for the time: "+hint, command != "", c.touch)
			if name == "copied without times" {
				if out, err := exec.Command("sh", "-c", command[:len(command)-1]).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", command, err, out)
				}
			} else {
				h.command("cp", "-a", path+".kept", path)
			}
			d.resume(t, v)
			h.wantWork(t, v, "more work")

			d.suspend(t, v) // the way out of last resort
			h.command("cp", "-a", path+".old", path)
			if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			d.wantNothingSaved(t)
			d.start(t, "a")
			h.wantBooted(t, v, "work of a")
		})
	}
}

// TestCopiedWithoutTimes starts a daemon on a home whose disks have lost their times, with any
// record that a VM may have that was suspended. Its memory is kept, and the record says why it is
// of no use now.
func TestCopiedWithoutTimes(t *testing.T) {
	t.Parallel()
	for _, state := range []model.State{
		model.Running, model.Paused, model.Pausing, model.Stopping, model.Stopped, model.Failed, model.Broken, model.Starting, model.Suspended,
	} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			d.bringTo(t, v, model.Suspended)
			d.resume(t, v) // so that the record names other memory
			stored, err := d.store.VMs(t.Context())
			damage(t, err)
			d.suspend(t, v)
			files := h.layout.VM(v.ID)
			d.die()
			// one that is starting is rebuilt
			if stored[0].State = state; !state.Live() || state == model.Starting {
				stored[0].Runtime = nil
			}
			h.put(t, stored[0])
			was := written(t, files.SystemDisk())
			touch(t, files.SystemDisk(), time.Now())
			for range 2 {
				d = h.daemon()
				d.wantKept(t, files)
				d.retryCleanups(t.Context())
				_, err = d.Start(t.Context(), "a", model.Start{}, nil)
				wantKind(t, "a start of a VM whose disks have lost their times", err, fault.Damaged)
				d.wantKept(t, files)
				d.die()
			}
			d = h.daemon()
			if got, _ := d.Get("a"); state != model.Suspended {
				wantLastError(t, got, "fit")
			}
			touch(t, files.SystemDisk(), was)
			d.resume(t, v)
			d.wantContinues(t, v)
		})
	}
}

// TestHistoryIsRemoved has the memory from which a machine has continued, which was recorded as
// running, and which has ended without a daemon. That memory is of no use.
func TestHistoryIsRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v, files := d.asleep(t)
	h.command("cp", "-a", files.Suspended(), files.Dir+".kept")
	d.resume(t, v)
	h.work(v, "more")
	d.die()
	damage(t, os.Rename(files.Dir+".kept", files.Suspended()))
	h.end(v, vmm.ExitCrashed)
	d = h.daemon()
	d.wantState(t, "a", model.Stopped)
	d.wantNothingSaved(t)
	d.start(t, "a")
	h.wantBooted(t, v, "more")
}

// TestMemoryBesideAStoppedVM puts memory beside the disks of a stopped VM while the daemon runs, as
// when its directory is put back. A start does not remove it unseen.
func TestMemoryBesideAStoppedVM(t *testing.T) {
	t.Parallel()
	for _, fits := range []bool{true, false} {
		h := newHost(t)
		d := h.daemon()
		v, files := d.asleep(t)
		h.command("cp", "-a", files.Suspended(), files.Dir+".kept")
		if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		was := written(t, files.SystemDisk())
		damage(t, os.Rename(files.Dir+".kept", files.Suspended()))
		if !fits {
			touch(t, files.SystemDisk(), time.Now())
			wantKind(t, "the start", second(d.Start(t.Context(), "a", model.Start{}, nil)), fault.Damaged)
			d.wantKept(t, files)
			touch(t, files.SystemDisk(), was)
		}
		d.start(t, "a")
		d.wantContinues(t, v)
	}
}

// TestLeftoverOfAResumedVM suspends a VM that was resumed before, and cannot remove what its run
// leaves. The new memory stays, whatever time its disk has by then.
func TestLeftoverOfAResumedVM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v, files := d.asleep(t)
	d.resume(t, v)
	h.failing("undo one", errBoom)
	wantFails(t, "the suspension", errBoom, model.Suspended)(d.Suspend(t.Context(), "a", nil))
	h.failing("undo one", nil)
	was := written(t, files.SystemDisk())
	touch(t, files.SystemDisk(), time.Now())
	d.retryCleanups(t.Context())
	d.wantKept(t, files)
	touch(t, files.SystemDisk(), was)
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestMachineEndsBeforeItsMemoryIsRecorded ends a machine all of whose memory is saved, while that
// cannot be recorded. The memory is all that is left of the machine.
func TestMachineEndsBeforeItsMemoryIsRecorded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	suspend := func() (model.VM, error) { return d.Suspend(t.Context(), "a", nil) }
	_, err := failingOnce(h, "store suspended", errBoom, suspend, func() {
		h.end(v, vmm.ExitCrashed)
	})
	if !errors.Is(err, errBoom) {
		t.Errorf("the suspension returned %v, not the error of its hook", err)
	}
	waitFor(t, func() bool { return d.state(t, "a") == model.Suspended })
	d.wantKept(t, h.layout.VM(v.ID))
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestMemoryOutOfReach starts a daemon while the memory of a suspended VM is elsewhere, as on a
// disk that is not mounted. The VM continues when the memory is back.
func TestMemoryOutOfReach(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	v, files := d.asleep(t)
	d.die()
	damage(t, os.Rename(files.Suspended(), files.Dir+".memory"))
	d = h.daemon()
	d.wantState(t, "a", model.Suspended)
	for what, err := range map[string]error{
		"resume": second(d.Resume(t.Context(), "a", nil)), "start": second(d.Start(t.Context(), "a", model.Start{}, nil)),
	} {
		wantKind(t, "the "+what, err, fault.Damaged)
		wantHint(t, "the "+what, err, "Mount the disk")
	}
	damage(t, os.Rename(files.Dir+".memory", files.Suspended()))
	d.resume(t, v)
	d.wantContinues(t, v)
}

func errorNames(err error, what string) bool {
	return err != nil && regexp.MustCompile(regexp.QuoteMeta(what)).MatchString(err.Error())
}
