package fake_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		ID: filepath.Base(filepath.Dir(dir)) + filepath.Base(dir), RunDir: run, Kernel: kernel, Initramfs: []string{kernel}, VCPUs: 1, Memory: model.MiB,
		ConsoleLog: filepath.Join(dir, "console.log"), ConsoleMax: model.MiB, VMMLog: filepath.Join(dir, "vmm.log"),
	}
}

// keeper plays a guest that echoes lines and keeps words in its memory.
func keeper(host *fake.Host) func(vmm.Machine, net.Conn) {
	return func(m vmm.Machine, conn net.Conn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			answer := lines.Text()
			if answer == "kept" {
				answer += " " + string(host.Memory(m.ID))
			} else if word, ok := strings.CutPrefix(answer, "keep "); ok {
				host.SetMemory(m.ID, []byte(word))
			}
			if _, err := fmt.Fprintln(conn, answer); err != nil {
				return
			}
		}
	}
}

func TestDriver(t *testing.T) {
	host := fake.NewHost()
	vmmtest.Run(t, vmmtest.Harness{
		Driver:  func(testing.TB) vmm.Driver { return fake.New(host, fake.Options{Agent: keeper(host)}) },
		Machine: machine,
		Echo:    machine,
	})
	if left := host.Running(); len(left) != 0 {
		t.Errorf("still running: %+v", left)
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
			t.Errorf("%s: %v", fail, err)
		}
		if left, _ := os.ReadDir(m.RunDir); len(left) != 0 || len(host.Running()) != 0 {
			t.Errorf("%s: left %v and %v", fail, left, host.Running())
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
		fake.OpAdopt:    func() error { _, err := d.Adopt(t.Context(), in.State()); return err },
		fake.OpDial:     func() error { _, err := in.DialAgent(t.Context()); return err },
		fake.OpPowerOff: func() error { return in.PowerOff(t.Context()) },
		fake.OpSignal:   func() error { return in.Signal(9) },
	}
	for op, do := range ops {
		if fail = op; !errors.Is(do(), broken) {
			t.Errorf("%s did not fail", op)
		}
		if host.Halted(m.ID) {
			t.Errorf("the machine is halted after %s has failed", op)
		}
	}
	fail = ""
	if err := in.PowerOff(t.Context()); err != nil || len(host.Running()) != 1 {
		t.Errorf("a deaf guest: %v, %d run", err, len(host.Running()))
	}
	if !host.End(m.ID, vmm.Exit{Reason: vmm.ExitPanic}) || host.End(m.ID, vmm.Exit{}) {
		t.Error("it did not end once")
	}
	if exit, err := in.Wait(t.Context()); err != nil || exit.Reason != vmm.ExitPanic {
		t.Errorf("ended by %+v, %v", exit, err)
	}
}
