package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vm/moment"
	"banger/internal/vm/record"
)

// restoredUnrecorded restores a snapshot into a VM, and fills the disk when all of it is in its
// place. The next daemon cannot record that either.
func (h *host) restoredUnrecorded(t *testing.T, remove model.RemovePolicy) (*daemon, model.VM) {
	t.Helper()
	d := h.daemon()
	d.snap(t, d.worker(t, model.Create{Name: "of"}), "s")
	v := d.worker(t, model.Create{Name: "a", Image: "other", Remove: remove})
	h.failing("store suspended", errBoom)
	err := second(d.RestoreSnapshot(t.Context(), "s", model.Restore{Into: "a", Force: true}, nil))
	claim(t, errors.Is(err, errBoom), "the restore returned %v", err)
	d.die()
	return d, v
}

// TestRestoreThatNobodyCanRecord completes a restore in place when the disk has room again. Its
// memory is not lost, and a VM that is to be removed when it stops is not deleted.
func TestRestoreThatNobodyCanRecord(t *testing.T) {
	t.Parallel()
	for _, remove := range []model.RemovePolicy{model.RemoveNever, model.RemoveOnStop} {
		t.Run("remove "+string(remove), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			_, v := h.restoredUnrecorded(t, remove)
			d := h.daemon()
			d.retryCleanups(t.Context()) // too early
			d.wantState(t, "a", model.Stopped)
			h.failing("store suspended", nil)
			d.retryCleanups(t.Context())
			claim(t, disk.MayExist(h.layout.VM(v.ID).Suspended()), "the restored memory was given up: %v", h.files())
			d.start(t, "a")
			equal(t, "the text in the memory after a start", h.memoryOf(v).Data, "work of of")
			h.wantWork(t, v, "work of of")
		})
	}
}

// TestRestoreOfABrokenVM completes a restore whose memory is in its place, of a VM that is shown as
// broken: what it was before is ended, and the memory is not lost.
func TestRestoreOfABrokenVM(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, v := h.restoredUnrecorded(t, model.RemoveNever)
	d := h.daemon()
	h.failing("store suspended", nil)
	e := d.core.records.Entries()[slices.IndexFunc(d.core.records.Entries(), func(e *record.Entry) bool { return e.Record().ID == v.ID })]
	damage(t, second(operateOn(t.Context(), d.core, e, opSettle, func(ctx context.Context, op *operation) (bool, error) {
		op.e.Show(func(v *model.VM) { v.State = model.Broken })
		return false, repairs{op}.completeRestore(ctx, nil)
	})))
	d.start(t, "a")
	equal(t, "the text in the memory after a start", h.memoryOf(v).Data, "work of of")
}

// TestWrongDiskAfterAFailedResume puts an older disk in the place of a suspended VM's, after a
// resume whose guest may have run. Nobody can tell what the guest wrote, so the memory stays. The
// record does not change with each try.
func TestWrongDiskAfterAFailedResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	var log strings.Builder
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	v, files := d.asleep(t)
	path := files.SystemDisk()
	resume := func() (model.VM, error) { return d.Resume(t.Context(), "a", nil) }
	_, err := failingOnce(h, "do agent", errBoom, resume, func() { damage(t, os.Rename(path, path+".away")) })
	claim(t, errors.Is(err, errBoom), "the resume returned %v", err)
	d.wantKept(t, files)
	tries := func(what string) {
		d.retryCleanups(t.Context())
		d.wantKept(t, files)
		before, lines := d.named("a"), strings.Count(log.String(), "what a suspended VM left")
		wantLastError(t, before, "does not fit its disks")
		d.retryCleanups(t.Context())
		d.wantKept(t, files)
		equal(t, "the revision of the record with "+what, d.named("a").Revision, before.Revision)
		equal(t, "the number of log lines with "+what, strings.Count(log.String(), "what a suspended VM left"), lines)
	}
	tries("a missing disk")
	h.command("cp", path+".away", path)
	touch(t, path, time.Now().Add(-24*time.Hour))
	tries("a wrong disk")
	_, err = resume()
	wantKind(t, "a resume with a wrong disk", err, fault.Damaged)
	damage(t, os.Rename(path+".away", path))
	d.resume(t, v)
	d.wantContinues(t, v)
}

// TestUndoneSuspensionLeavesNoHalf keeps one file of a suspension that is undone from being
// removed. The others are not left in the place of memory.
func TestUndoneSuspensionLeavesNoHalf(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	files := h.layout.VM(v.ID)
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(files.Dir, "*", "busy"))
		for _, path := range left {
			unix.Unmount(path, unix.MNT_DETACH)
		}
	})
	suspend := func() (model.VM, error) { return d.Suspend(t.Context(), "a", nil) }
	_, err := failingOnce(h, "store suspended", errBoom, suspend, func() {
		h.smallFilesystem(filepath.Join(files.Suspended(), "busy"), model.MiB)
	})
	claim(t, errors.Is(err, errBoom), "the suspension returned %v", err)
	claim(t, !disk.MayExist(files.Suspended()), "half of the memory is left: %v", h.files())
	d.wantRunning(t, v)
}

// TestCancelledLookIsNoDamage cancels the check of memory. The error advises nobody to give it up.
func TestCancelledLookIsNoDamage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	_, files := d.asleep(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := moment.Resume(ctx, d.named("a"), files)
	claim(t, err != nil && fault.HintOf(err) == "", "the cancelled check returned %v with the hint %q", err, fault.HintOf(err))
}

// TestMemoryThatNobodyCanTell takes the disk of a VM away whose machine has ended, and that has
// started from its memory. The memory stays until somebody can tell that it is history.
func TestMemoryThatNobodyCanTell(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.daemon()
	_, files := d.asleep(t)
	free := h.fullDisk("do agent", "store suspended")
	resume := func() (model.VM, error) { return d.Resume(t.Context(), "a", nil) }
	_, err := resume()
	claim(t, errors.Is(err, errBoom), "the resume returned %v", err)
	free()
	_, err = operateOn(t.Context(), d.core, d.core.records.Entries()[0], opSettle, func(ctx context.Context, op *operation) (bool, error) {
		damage(t, os.Rename(files.SystemDisk(), files.SystemDisk()+".away"))
		op.e.Show(func(v *model.VM) { v.State = model.Stopping })
		_, err := repairs{op}.asleep(ctx)
		return false, err
	})
	claim(t, err != nil, "nobody can tell, and nothing says so")
	d.wantKept(t, files)
}
