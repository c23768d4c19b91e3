package qemu_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
	"banger/internal/vmm/qemu/defect"
)

// resets gets an element for each reset that a driver logs.
type resets chan struct{}

func (r resets) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("the machine is reset")) {
		r <- struct{}{}
	}
	return len(line), nil
}

// TestLostTimer runs a guest that reports at each boot that it has lost its timer. The driver
// resets it up to the bound. Afterwards its own reboot ends the machine, as before.
func TestLostTimer(t *testing.T) {
	seen := make(resets, 2*defect.MaxResets)
	d := qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), seen), nil))})
	guest := tiny{text: "[    0.000000] Linux version 6\r\n[    0.423637] APIC frequency too slow, disabling apic timer\r\n", times: 1, then: append(bytes.Clone(button), reboot...)}
	m := machine(t, guest)
	in, err := d.Start(deadline(t), m, ignore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, in) })
	for boot := range defect.MaxResets + 1 {
		written := func() bool { return strings.Count(logged(t, m), guest.text) > boot }
		for ctx := deadline(t); !written(); { // a reset may lose a press
			if err := errors.Join(in.PowerOff(ctx), ctx.Err()); err != nil {
				t.Fatalf("boot %d: the guest does not answer its button: %v", boot, err)
			}
			waitFor(10*time.Second, written)
		}
		if boot == defect.MaxResets {
			break
		}
		select {
		case <-seen:
		case <-deadline(t).Done():
			t.Fatalf("boot %d: the machine was not reset", boot)
		}
	}
	if exit := endBy(t, in); exit.Reason != vmm.ExitReboot {
		t.Errorf("the guest's own reboot does not end the machine: %+v", exit)
	}
	if got, want := logged(t, m), strings.Repeat(guest.text, defect.MaxResets+1); got != want {
		t.Errorf("the console's log is %q, want %q", got, want)
	}
}

// TestHungBoot runs a guest that falls silent. The driver resets it up to the bound.
func TestHungBoot(t *testing.T) {
	seen := make(resets, 2*defect.MaxResets)
	d := qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), seen), nil)), BootPatience: 200 * time.Millisecond})
	guest := tiny{text: "booting\n", times: 1, then: off}
	m := machine(t, guest)
	in, err := d.Start(deadline(t), m, ignore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, in) })
	for boot := range defect.MaxResets {
		select {
		case <-seen:
		case <-deadline(t).Done():
			t.Fatalf("boot %d: the machine was not reset", boot)
		}
	}
	ended := make(chan vmm.Exit, 1)
	go func() {
		exit, _ := in.Wait(deadline(t))
		ended <- exit
	}()
	for { // a press is lost before the guest has booted again
		if err := in.PowerOff(deadline(t)); err != nil {
			t.Fatal(err)
		}
		select {
		case exit := <-ended:
			if exit.Reason != vmm.ExitPowerOff {
				t.Errorf("the machine does not end by its power button: %+v", exit)
			}
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestPausedBoot pauses a guest that boots. It is not reset.
func TestPausedBoot(t *testing.T) {
	seen := make(resets, 2*defect.MaxResets)
	d := qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), seen), nil)), BootPatience: 500 * time.Millisecond})
	in, err := d.Start(deadline(t), machine(t, tiny{then: off}), ignore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, in) })
	if err := in.(vmm.Pauser).Pause(deadline(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-seen:
		t.Error("a paused machine is reset")
	case <-time.After(time.Second):
	}
}

// waitFor waits until ok, but not longer than most.
func waitFor(most time.Duration, ok func() bool) {
	for end := time.Now().Add(most); !ok() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}
