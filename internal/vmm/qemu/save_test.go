package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// request returns a request for a new checkpoint in a directory.
func request(t testing.TB, dir string) vmm.SaveRequest {
	t.Helper()
	memory, err := os.Create(filepath.Join(dir, "memory"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = memory.Close() })
	return vmm.SaveRequest{Memory: memory, Device: filepath.Join(dir, "device")}
}

func save(t testing.TB, in vmm.Instance) (vmm.Checkpoint, vmm.Saved) {
	t.Helper()
	req := request(t, t.TempDir())
	saved, err := in.(vmm.Saver).Save(deadline(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint(t, req, saved), saved
}

func checkpoint(t testing.TB, req vmm.SaveRequest, saved vmm.Saved) vmm.Checkpoint {
	t.Helper()
	device, err := os.Open(req.Device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	return vmm.Checkpoint{Memory: req.Memory, Device: device, Layout: saved.Layout}
}

func restore(t testing.TB, m vmm.Machine, from vmm.Checkpoint) vmm.Instance {
	t.Helper()
	in, err := driver(t).(vmm.Restorer).Restore(deadline(t), m, from, ignore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, in) })
	return in
}

// powersOff checks that a machine runs: it powers off when its button is pressed.
func powersOff(t testing.TB, in vmm.Instance) {
	t.Helper()
	if exit := endBy(t, in); exit.Reason != vmm.ExitPowerOff {
		t.Errorf("the machine does not power off, but ends by %+v", exit)
	}
}

// TestSaveToFullDisk has no room for the memory, or for the state of the devices: then the memory
// is on another file system, which has room.
func TestSaveToFullDisk(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "a small file system has to be mounted")
	in := start(t, machine(t, tiny{then: off}))
	for _, what := range []string{"memory", "device"} {
		small := t.TempDir()
		if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=4k"); err != nil {
			t.Fatal(err)
		}
		roomy := t.TempDir()
		req := request(t, map[string]string{"memory": small, "device": roomy}[what])
		req.Device = filepath.Join(map[string]string{"memory": roomy, "device": small}[what], "device")
		_, err := in.(vmm.Saver).Save(deadline(t), req)
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("without room for the %s, a save does not fail as such: %v", what, err)
		}
		if sealed := err != nil && strings.Contains(err.Error(), "devices"); sealed != (what == "device") {
			t.Errorf("without room for the %s, another write fails: %v", what, err)
		}
		if _, err := os.Stat(req.Device); !os.IsNotExist(err) {
			t.Errorf("without room for the %s, a failed save leaves the state of the devices: %v", what, err)
		}
		if err := errors.Join(req.Memory.Close(), unix.Unmount(small, 0)); err != nil {
			t.Errorf("without room for the %s, a failed save leaves a file open: %v", what, err)
		}
	}
	powersOff(t, in)
}

// TestSaveCannotEnd closes the memory's file of a Save that shall leave the machine halted. The
// Save fails, so the machine continues.
func TestSaveCannotEnd(t *testing.T) {
	in := start(t, machine(t, tiny{then: off}))
	req := request(t, t.TempDir())
	req.Halt = true
	req.Still = func(context.Context) error { return req.Memory.Close() }
	if _, err := in.(vmm.Saver).Save(deadline(t), req); !errors.Is(err, unix.EBADF) {
		t.Errorf("a save whose file is closed does not fail as such: %v", err)
	}
	if _, err := os.Stat(req.Device); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed save leaves the state of the devices: %v", err)
	}
	powersOff(t, in)
}

// TestSaveByQEMU saves a machine whose process banger may not read.
func TestSaveByQEMU(t *testing.T) {
	m := machine(t, tiny{then: off})
	in := start(t, m)
	booted(t, in)
	from, saved := save(t, in)
	req := request(t, t.TempDir())
	slow, err := qemu.SaveByQEMU(deadline(t), in, req)
	if err != nil {
		t.Fatal(err)
	}
	other := checkpoint(t, req, slow)
	one, err := io.ReadAll(from.Memory)
	if err != nil {
		t.Fatal(err)
	}
	two, err := io.ReadAll(other.Memory)
	if err != nil {
		t.Fatal(err)
	}
	differ := 0
	for i := range one {
		const bios, end = 0xE0000, 0x100000 // there the guest sees a ROM, which hides the memory
		if i >= len(two) || one[i] != two[i] && (i < bios || i >= end) {
			differ++
		}
	}
	// The guest runs in between.
	if differ > 64 || len(one) != len(two) || slow.Memory > saved.Memory+128*model.KiB {
		t.Errorf("the two ways of saving differ in %d bytes of %d and %d, with %v and %v of data",
			differ, len(one), len(two), saved.Memory, slow.Memory)
	}
	t.Log(saved, slow)
	powersOff(t, restore(t, machine(t, tiny{}), other))
	powersOff(t, in)
}

// TestCloseWhileSaving closes an instance in each part of a Save. The machine continues.
func TestCloseWhileSaving(t *testing.T) {
	for _, still := range []bool{false, true} {
		in := start(t, machine(t, tiny{then: off}))
		req := request(t, t.TempDir())
		begun := make(chan struct{})
		wait := func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if req.Before = wait; still {
			req.Before, req.Still = nil, wait
		}
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := in.(vmm.Saver).Save(deadline(t), req); fault.KindOf(err) != fault.Canceled {
				t.Errorf("a save does not end as canceled when its instance is closed (while halted: %v): %v", still, err)
			}
		})
		<-begun
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
		again, err := adopt(t, in.State())
		if err != nil {
			t.Fatal(err)
		}
		powersOff(t, again)
		_ = again.Close()
	}
}

// TestSaveOfAMachineThatEnds kills QEMU in a Save, which then reports that the machine has ended,
// whatever the driver has noticed of it.
func TestSaveOfAMachineThatEnds(t *testing.T) {
	kill := func(in vmm.Instance) error { return in.Signal(syscall.SIGKILL) }
	for name, end := range map[string]func(vmm.Instance) error{
		"killed":             kill,
		"killed and noticed": func(in vmm.Instance) error { return errors.Join(kill(in), second(in.Wait(deadline(t)))) },
		"killed and closed": func(in vmm.Instance) error {
			return errors.Join(kill(in), second(in.Wait(deadline(t))), in.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := start(t, machine(t, tiny{then: off}))
			req := request(t, t.TempDir())
			req.Before = func(context.Context) error { return end(in) }
			if _, err := in.(vmm.Saver).Save(deadline(t), req); fault.KindOf(err) != fault.WrongState {
				t.Errorf("the save fails with %v (%s), not because the machine has ended", err, fault.KindOf(err))
			}
		})
	}
	in := start(t, machine(t, tiny{then: off}))
	if _, err := qemu.SaveUnread(deadline(t), in, request(t, t.TempDir()), func() error { return kill(in) }); fault.KindOf(err) != fault.WrongState {
		t.Errorf("a save that cannot read the memory any more fails with %v (%s)", err, fault.KindOf(err))
	}
}

// second returns the error of a call whose result does not matter.
func second[T any](_ T, err error) error { return err }

// TestPauseWhileSaving pauses a machine that is halted for a Save. It stays halted after the Save.
func TestPauseWhileSaving(t *testing.T) {
	in := start(t, machine(t, tiny{then: off})).(interface {
		vmm.Instance
		vmm.Saver
	})
	req := request(t, t.TempDir())
	var group sync.WaitGroup
	req.Still = func(ctx context.Context) error {
		begun := make(chan struct{})
		group.Go(func() {
			close(begun)
			if err := in.Pause(deadline(t)); err != nil {
				t.Error(err)
			}
		})
		<-begun
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if err := in.Pause(ctx); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("pausing with an ended context: %w", err)
		}
		return nil
	}
	if _, err := in.Save(deadline(t), req); err != nil {
		t.Error(err)
	}
	group.Wait()
	if err := in.PowerOff(deadline(t)); err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if exit, err := in.Wait(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a machine that was paused during a save does not stay halted: %+v, %v", exit, err)
	}
	if err := in.Resume(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if exit, err := in.Wait(deadline(t)); err != nil || exit.Reason != vmm.ExitPowerOff {
		t.Errorf("the machine does not power off after it was resumed: %+v, %v", exit, err)
	}
}

// TestEndWhileSaving kills a machine that is halted for a Save.
func TestEndWhileSaving(t *testing.T) {
	in := start(t, machine(t, tiny{}))
	req := request(t, t.TempDir())
	req.Still = func(ctx context.Context) error {
		if err := in.Signal(syscall.SIGKILL); err != nil {
			return err
		}
		_, err := in.Wait(ctx)
		return err
	}
	saved, err := in.(vmm.Saver).Save(deadline(t), req)
	t.Log(saved, err)
	if _, err := in.(vmm.Saver).Save(deadline(t), request(t, t.TempDir())); fault.KindOf(err) != fault.WrongState {
		t.Errorf("saving a machine that has ended is not refused as a wrong state: %v", err)
	}
}

// TestRestoreToDriveInUse restores a machine whose drive another one writes. QEMU notices this
// when it loads the state, and stays halted.
func TestRestoreToDriveInUse(t *testing.T) {
	m := machine(t, tiny{then: off})
	in := start(t, m)
	booted(t, in)
	from, _ := save(t, in)
	other := machine(t, tiny{})
	other.Drives = m.Drives
	if again, err := driver(t).(vmm.Restorer).Restore(deadline(t), other, from, ignore); fault.KindOf(err) != fault.Locked {
		t.Errorf("a second writer of a drive is not refused as locked: %v", err)
		if err == nil {
			end(t, again)
		}
	}
	if left, err := os.ReadDir(other.RunDir); err != nil || len(left) != 0 {
		t.Errorf("a failed restore leaves files: %v, %v", left, err)
	}
	powersOff(t, in)
	other.Drives[0].Path = m.Kernel
	powersOff(t, restore(t, other, from))
}

// TestRestoreWithOtherDevices restores a machine that is not like the saved one.
func TestRestoreWithOtherDevices(t *testing.T) {
	m := machine(t, tiny{then: off})
	from, _ := save(t, start(t, m))
	for name, change := range map[string]func(*vmm.Machine){
		"fewer drives": func(m *vmm.Machine) { m.Drives = m.Drives[:1] },
		"another card": func(m *vmm.Machine) { m.NICs = nil },
		"less memory":  func(m *vmm.Machine) { m.Memory = 32 * model.MiB },
	} {
		other := machine(t, tiny{})
		change(&other)
		in, err := driver(t).(vmm.Restorer).Restore(deadline(t), other, from, ignore)
		if err == nil {
			t.Errorf("%s: a machine with other devices is restored", name)
			end(t, in)
		}
		t.Log(name, err)
		if left, err := os.ReadDir(other.RunDir); err != nil || len(left) != 0 {
			t.Errorf("%s: a failed restore leaves files: %v, %v", name, left, err)
		}
	}
}

// layoutIsTrue checks that QEMU has each region where the layout says.
func layoutIsTrue(t *testing.T, in vmm.Instance, layout *vmm.MemoryLayout) {
	t.Helper()
	base, err := qemu.HostAddress(deadline(t), in, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(layout.Regions) != 2 {
		t.Errorf("memory above the hole under 4 GiB is no region of its own: %+v", layout.Regions)
	}
	for _, r := range layout.Regions {
		for _, at := range []int64{0, int64(r.Size) - 1} {
			got, err := qemu.HostAddress(deadline(t), in, r.Address+at)
			if want := base + uint64(r.Offset+at); err != nil || got != want {
				t.Errorf("the guest's address %#x is not where the layout says, at %#x, but at %#x: %v", r.Address+at, want, got, err)
			}
		}
	}
	if _, err := qemu.HostAddress(deadline(t), in, int64(layout.Regions[0].Size)); err == nil {
		t.Error("there is memory after the first region, which the layout does not have")
	}
}

// TestSaveLarge saves a guest that has memory above 4 GiB, and restores it from a memory file
// without a name.
func TestSaveLarge(t *testing.T) {
	m := linux(t)
	m.Memory = 4 * model.GiB
	in := start(t, m)
	awake(t, in)
	from, saved := save(t, in)
	t.Logf("%+v", saved)
	layoutIsTrue(t, in, saved.Layout)
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	copied := os.NewFile(uintptr(fd), "memory")
	defer copied.Close()
	if err := copied.Truncate(int64(m.Memory)); err != nil {
		t.Fatal(err)
	}
	above := int64(0) // bytes above 3 GiB, where the hole below 4 GiB begins
	for at := int64(0); ; {
		start, err := unix.Seek(int(from.Memory.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		end, err2 := unix.Seek(int(from.Memory.Fd()), start, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(copied, start), io.NewSectionReader(from.Memory, start, end-start)); err != nil {
			t.Fatal(err)
		}
		above += max(0, end-max(start, 3<<30))
		at = end
	}
	if above == 0 {
		t.Error("the guest has nothing in its upper memory, so this test shows nothing")
	}
	other := linux(t)
	other.Memory = m.Memory
	fork := restore(t, other, vmm.Checkpoint{Memory: copied, Device: from.Device, Layout: from.Layout})
	awake(t, fork)
	save(t, fork)
	if _, err := qemu.SaveByQEMU(deadline(t), in, request(t, t.TempDir())); fault.KindOf(err) != fault.Denied || fault.HintOf(err) == "" {
		t.Errorf("saving a large machine without the right to read it is not refused as denied with a hint: %v", err)
	}
	powersOff(t, fork)
}
