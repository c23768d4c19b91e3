package fake_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
	"banger/internal/vmm/vmmtest"
)

func machine(t testing.TB) vmm.Machine {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	kernel := filepath.Join(dir, "kernel")
	if err := errors.Join(os.Mkdir(run, 0o700), os.WriteFile(kernel, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return vmm.Machine{
		ID: filepath.Base(filepath.Dir(dir)) + filepath.Base(dir), RunDir: run, Kernel: kernel, Initramfs: []string{kernel}, BootID: "boots",
		VCPUs: 1, Memory: model.MiB, Drives: []vmm.Drive{{Name: "image", Path: kernel}, {Name: "system", Path: kernel}},
		ConsoleLog: filepath.Join(dir, "console.log"), ConsoleMax: model.MiB, VMMLog: filepath.Join(dir, "vmm.log"),
	}
}

// keeper plays a guest that answers lines and has words in its memory.
func keeper(host *fake.Host) func(vmm.Machine, net.Conn) {
	return func(m vmm.Machine, conn net.Conn) {
		keep := func(word string) { host.SetMemory(m.ID, []byte(word)) }
		drives := func() (ids []string) {
			for _, d := range m.Drives {
				ids = append(ids, driveID(d.Name))
			}
			return ids
		}
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			write := func() string { host.Write(m.ID); return "written" }
			answer := vmmtest.Answer(lines.Text(), string(host.Memory(m.ID)), keep, drives, write)
			if _, err := fmt.Fprintln(conn, answer); err != nil {
				return
			}
		}
	}
}

// driveID is an id that is not the drive's name.
func driveID(name string) string { return "id-of-" + name }

// reboots reports whether the guest of a machine reboots when its power button is pressed.
func reboots(m vmm.Machine) bool { return slices.Contains(m.Cmdline, "reboots") }

func rebooting(t testing.TB) vmm.Machine {
	m := machine(t)
	m.Cmdline = []string{"reboots"}
	return m
}

func TestDriver(t *testing.T) {
	conforms(t, fake.Options{})
}

// TestPoorDriver runs the suite with a driver that has no network and does not tell a reboot from a
// power-off.
func TestPoorDriver(t *testing.T) {
	conforms(t, fake.Options{Info: vmm.Info{
		Version: "1.0", Path: "/fake", Accel: vmm.AccelKVM, Why: "it is a fake", Grace: time.Second,
		Recommendations: []vmm.Recommendation{{Kind: vmm.MaxVCPUsWithInit, Value: 1, Reason: "it is poor"}},
	}})
}

func conforms(t *testing.T, o fake.Options) {
	host := fake.NewHost()
	o.Agent, o.Reboots, o.DriveID = keeper(host), reboots, driveID
	vmmtest.Run(t, vmmtest.Harness{
		Driver:  func(testing.TB) vmm.Driver { return fake.New(host, o) },
		Machine: machine,
		Reboot:  rebooting,
		Echo:    machine,
		Full: func(t testing.TB) (vmm.Machine, func()) {
			m := machine(t)
			host.SetFull(m.ID, true)
			return m, func() { host.SetFull(m.ID, false) }
		},
	})
	if left := host.Running(); len(left) != 0 {
		t.Errorf("the suite leaves machines that run: %+v", left)
	}
}

func TestFail(t *testing.T) {
	broken := errors.New("broken")
	var fail fake.Op
	host := fake.NewHost()
	d := fake.New(host, fake.Options{IgnorePowerButton: true, Fail: func(op fake.Op, _ string) error {
		if op == fail {
			return broken
		}
		return nil
	}})
	m := machine(t)
	ignore := func(vmm.State) error { return nil }
	for _, fail = range []fake.Op{fake.OpStart, fake.OpIntended, fake.OpStarted} {
		if _, err := d.Start(t.Context(), m, ignore); !errors.Is(err, broken) {
			t.Errorf("a start does not fail at %s: %v", fail, err)
		}
		if left, _ := os.ReadDir(m.RunDir); len(left) != 0 || len(host.Running()) != 0 {
			t.Errorf("a start that fails at %s leaves %v and %v", fail, left, host.Running())
		}
	}
	fail = ""
	in, err := d.Start(t.Context(), m, ignore)
	if err != nil {
		t.Fatal(err)
	}
	saver := in.(vmm.Saver)
	save := func() error {
		dir := t.TempDir()
		memory, err := os.Create(filepath.Join(dir, "memory"))
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close()
		_, err = saver.Save(t.Context(), vmm.SaveRequest{Memory: memory, Device: filepath.Join(dir, "device")})
		return err
	}
	ops := map[fake.Op]func() error{
		fake.OpPause:    func() error { return saver.Pause(t.Context()) },
		fake.OpResume:   func() error { return saver.Resume(t.Context()) },
		fake.OpSave:     save,
		fake.OpStill:    save,
		fake.OpRestore:  func() error { _, err := d.Restore(t.Context(), m, vmm.Checkpoint{}, ignore); return err },
		fake.OpInfo:     func() error { _, err := d.Info(t.Context()); return err },
		fake.OpAdopt:    func() error { _, err := d.Adopt(t.Context(), in.State(), m.RunDir); return err },
		fake.OpDial:     func() error { _, err := in.DialAgent(t.Context()); return err },
		fake.OpPowerOff: func() error { return in.PowerOff(t.Context()) },
		fake.OpSignal:   func() error { return in.Signal(9) },
	}
	for op, do := range ops {
		if fail = op; !errors.Is(do(), broken) {
			t.Errorf("%s does not fail when it shall", op)
		}
		if host.Halted(m.ID) {
			t.Errorf("a machine is halted after %s has failed", op)
		}
	}
	fail = ""
	if err := in.PowerOff(t.Context()); err != nil || len(host.Running()) != 1 {
		t.Errorf("a guest that ignores the power button ends by it: %v, %d run", err, len(host.Running()))
	}
	if !host.End(m.ID, vmm.Exit{Reason: vmm.ExitPanic}) || host.End(m.ID, vmm.Exit{}) {
		t.Error("End does not report once that it ended the machine")
	}
	if exit, err := in.Wait(t.Context()); err != nil || exit.Reason != vmm.ExitPanic {
		t.Errorf("a machine ends by another reason than End was given: %+v, %v", exit, err)
	}
}
