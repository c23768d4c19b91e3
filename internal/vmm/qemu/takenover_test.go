package qemu_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// TestTakenOver confines a program that tries what a VMM in the hands of a guest may try.
func TestTakenOver(t *testing.T) {
	layers := protected(t)
	m := machine(t, tiny{})
	goal(t, &m)
	free := machine(t, tiny{})
	goal(t, &free)
	confined, unconfined := standIn(t, m, nil, false), standIn(t, free, nil, true)
	for _, a := range attempts {
		got, tried := confined[a.claim]
		control, triedFree := unconfined[a.claim]
		switch {
		case !tried || !triedFree:
			t.Errorf("%s: not tried", a.claim)
		case a.layer == "" && got.Failed != "":
			t.Errorf("%s does not work: %s", a.claim, got.Failed)
		case a.layer != "" && !a.hard && control.Failed != "":
			t.Errorf("%s proves nothing: it fails for an unconfined program, too: %s", a.claim, control.Failed)
		case a.layer == "" || !slices.Contains(layers, a.layer):
		case !slices.Contains([]unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENOENT}, got.Errno) || got.Errno == unix.ENOENT && !strings.HasPrefix(a.claim, "removing"):
			t.Errorf("%s is not refused: %+v", a.claim, got)
		}
	}
	for _, claim := range []string{"no core dump", "no capabilities"} {
		if got, tried := confined[claim]; !tried || got.Failed != "" {
			t.Errorf("%s: %v, %s", claim, tried, got.Failed)
		}
	}
}

// TestTakenOverIsFound: a VMM hides, and the daemon starts anew. The daemon of its home finds and
// ends it. The daemon of a copy of the home does not.
func TestTakenOverIsFound(t *testing.T) {
	on := protected(t)
	testkit.Require(t, "seccomp", slices.Contains(on, model.LayerCalls), "without a filter of system calls, a VMM leaves its directory")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []hiding{closing, replacing, ending} {
		t.Run(string(how), func(t *testing.T) {
			m := machine(t, tiny{})
			goal(t, &m)
			m.Cmdline = []string{fmt.Sprintf(`{"Hides": %q}`, how)}
			var states []vmm.State
			in, err := qemu.New(qemu.Config{Binary: self, Accel: qemu.TCG}).Start(deadline(t), m, func(s vmm.State) error {
				states = append(states, bytes.Clone(s))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			states = append(states, in.State())
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			testkit.WaitFor(t, time.Minute, "the VMM to hide", func() bool {
				name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", in.PID()))
				return err != nil || filepath.Base(name) != "lock"
			})
			foreign := filepath.Join(t.TempDir(), filepath.Base(m.RunDir))
			if err := errors.Join(os.MkdirAll(foreign, 0o700), os.Link(filepath.Join(m.RunDir, "lock"), filepath.Join(foreign, "lock"))); err != nil {
				t.Fatal(err)
			}
			finder := driver(t).(vmm.Finder)
			find := func(by string, ours bool, find func() (vmm.Instance, error)) vmm.Instance {
				again, err := find()
				switch {
				case err == nil && !ours:
					t.Errorf("the VMM is found %s in a copy of its directory", by)
				case err != nil && ours:
					t.Fatalf("the VMM is not found %s: %v", by, err)
				case ours && again.PID() != in.PID():
					t.Errorf("process %d is found %s, not %d", again.PID(), by, in.PID())
				}
				return again
			}
			for dir, ours := range map[string]bool{m.RunDir: true, foreign: false} {
				for by, state := range map[string]vmm.State{"by what was intended": states[0], "by its state": states[1]} {
					if again := find(by, ours, func() (vmm.Instance, error) { return driver(t).Adopt(deadline(t), state, dir) }); again != nil {
						_ = again.Close()
					}
				}
			}
			find("by its directory", false, func() (vmm.Instance, error) { return finder.Find(deadline(t), foreign) })
			end(t, find("by its directory", true, func() (vmm.Instance, error) { return finder.Find(deadline(t), m.RunDir) }))
			if _, err := driver(t).Adopt(deadline(t), states[1], m.RunDir); fault.KindOf(err) != fault.NotFound {
				t.Errorf("a VMM that was ended is found: %v", err)
			}
		})
	}
}

// TestFreeze stops a VMM. The next daemon, and a resume, let it continue.
func TestFreeze(t *testing.T) {
	m := machine(t, tiny{then: off})
	in := start(t, m)
	stopped := func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", in.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(stat), ") T ")
	}
	freeze := func(in vmm.Instance) {
		t.Helper()
		if err := in.(vmm.Freezer).Freeze(); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, 10*time.Second, "the VMM to stop", stopped)
		if halt, err := in.(vmm.HaltReporter).Halted(deadline(t)); halt != vmm.Halted || err != nil {
			t.Errorf("a VMM that was stopped counts as %v, %v", halt, err)
		}
	}
	mark := filepath.Join(m.RunDir, "frozen")
	if err := syscall.Mkfifo(mark, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := make(chan error, 1)
	go func() { fifo <- in.(vmm.Freezer).Freeze() }()
	select {
	case err := <-fifo:
		if fault.KindOf(err) != fault.Damaged || stopped() {
			t.Errorf("with a FIFO in the place of the mark, the VMM is stopped: %v, %v", stopped(), err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("with a FIFO in the place of the mark, stopping the VMM waits")
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	freeze(in)
	if err := in.(vmm.Pauser).Resume(deadline(t)); err != nil || stopped() {
		t.Errorf("a resume lets the VMM continue: %v, %v", !stopped(), err)
	}
	freeze(in)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	pid, err := driver(t).(vmm.Looker).Look(deadline(t), m.RunDir)
	if err != nil || pid != in.PID() || !stopped() {
		t.Errorf("a look finds process %d, not %d, or lets the VMM continue: %v, %v", pid, in.PID(), !stopped(), err)
	}
	again, err := adopt(t, in.State())
	if err != nil || stopped() {
		t.Fatalf("the next daemon lets the VMM continue: %v, %v", !stopped(), err)
	}
	defer end(t, again)
	powersOff(t, again)
}

// TestTakenOverWithoutNetwork confines the VMM of a machine without a network card.
func TestTakenOverWithoutNetwork(t *testing.T) {
	layers := protected(t)
	m := machine(t, tiny{})
	goal(t, &m)
	m.NICs = nil
	results := standIn(t, m, nil, false)
	for _, claim := range []string{"connecting over TCP", "sending UDP"} {
		if got := results[claim]; slices.Contains(layers, model.LayerCalls) && got.Errno != unix.EPERM {
			t.Errorf("without a network card, %s is not refused: %+v", claim, got)
		}
	}
}

// TestTakenOverSharedMemory restores a machine. Others may use the same memory, so the VMM must not
// write it.
func TestTakenOverSharedMemory(t *testing.T) {
	layers := protected(t)
	in := start(t, machine(t, tiny{}))
	booted(t, in)
	from, _ := save(t, in)
	results := standIn(t, machine(t, tiny{}), &from, false)
	if got := results["reading the shared memory"]; got.Failed != "" {
		t.Errorf("a restored VMM cannot read its memory: %s", got.Failed)
	}
	if got := results["writing the shared memory"]; slices.Contains(layers, model.LayerFiles) && got.Errno != unix.EACCES {
		t.Errorf("a restored VMM may open the memory that it shares for writing: %+v", got)
	}
}

// TestSharedMemoryIsSealed saves a machine to memory without a name, as a fork does. When it is
// sealed, nobody can write there, whatever the version of QEMU. Before, it counts as unprotected.
func TestSharedMemoryIsSealed(t *testing.T) {
	in := start(t, machine(t, tiny{then: off}))
	booted(t, in)
	req := request(t, t.TempDir())
	fd, err := unix.MemfdCreate("fork", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	req.Memory = os.NewFile(uintptr(fd), "fork")
	defer req.Memory.Close()
	saved, err := in.(vmm.Saver).Save(deadline(t), req)
	if err != nil {
		t.Fatal(err)
	}
	from := checkpoint(t, req, saved)
	open := restore(t, machine(t, tiny{}), from)
	if slices.Contains(vmm.ProtectionOf(open).On(), model.LayerMemory) {
		t.Error("a fork's memory counts as protected before it is sealed")
	}
	powersOff(t, open)
	if err := vmm.SealMemory(req.Memory); err != nil {
		t.Fatal(err)
	}
	if _, err := req.Memory.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("memory that machines share can be written: %v", err)
	}
	fork := restore(t, machine(t, tiny{}), from)
	if !slices.Contains(vmm.ProtectionOf(fork).On(), model.LayerMemory) {
		t.Errorf("a fork's memory does not count as protected: %+v", vmm.ProtectionOf(fork))
	}
	powersOff(t, fork)
	if err := vmm.SealMemory(request(t, t.TempDir()).Memory); err == nil {
		t.Error("a file that cannot be sealed is no error")
	}
}
