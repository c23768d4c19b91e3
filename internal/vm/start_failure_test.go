package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// TestEachStepFails makes each step of a start fail. The host is then as before, and a second
// start works.
func TestEachStepFails(t *testing.T) {
	for _, name := range startSteps {
		if name == "template" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			v := d.create(t, model.Create{Name: "a"})
			before := h.files()
			repair := h.breakStep(name, v)
			got, err := d.Start(t.Context(), "a", model.Start{}, nil)
			var failed *step.Error
			if !errors.As(err, &failed) {
				t.Fatalf("the start returned %v, which names no step", err)
			}
			equal(t, "the step that failed", failed.Step, name)
			equal(t, "the VM after the failed start", got.State, model.Failed)
			wantNoRuntime(t, got)
			if got.LastError == nil {
				t.Error("the record does not show the error")
			} else {
				equal(t, "the recorded step", got.LastError.Step, name)
				claim(t, got.LastError.Log != "", "the record does not name the guest's log")
			}
			repair()
			h.wantFiles(t, before)
			h.wantMachines(t, 0)
			got, err = d.Start(t.Context(), "a", model.Start{}, nil)
			wantEnds(t, "the second start", model.Running)(got, err)
			wantNoLastError(t, got)
		})
	}
}

// breakStep makes a step fail, until repair is called.
func (h *host) breakStep(name string, v model.VM) (repair func()) {
	switch name {
	case "run-dir": // a file is where the directory must be
		dir := h.layout.VM(v.ID).Run
		parent := strings.TrimSuffix(dir, "/"+v.ID)
		os.RemoveAll(parent)
		os.MkdirAll(filepath.Dir(parent), 0o700)
		os.WriteFile(parent, nil, 0o600)
		return func() { os.Remove(parent) }
	case "system-disk": // a directory is where the file must be
		path := h.layout.VM(v.ID).SystemDisk()
		os.Mkdir(path, 0o700)
		return func() { os.RemoveAll(path) }
	}
	h.failing("do "+name, errBoom)
	return func() { h.failing("do "+name, nil) }
}

// TestEachUndoFails makes a late step and one undo fail. The VM is listed as broken, and can be
// started and deleted when the cause is gone.
func TestEachUndoFails(t *testing.T) {
	for hook, still := range map[string]string{"signal": "vmm", "undo one": "prepare/one", "undo two": "prepare/two"} {
		t.Run(hook, func(t *testing.T) {
			h := newHost(t)
			d := h.daemon()
			d.create(t, model.Create{Name: "a"})
			before := h.files()
			h.failing("do post-start/two", errBoom)
			h.failing(hook, errBoom)
			got, err := d.Start(t.Context(), "a", model.Start{}, nil)
			if err == nil {
				t.Fatal("a start with a failing hook succeeded")
			}
			equal(t, "a VM whose failed start could not be undone", got.State, model.Broken)
			claim(t, got.Runtime != nil, "the record does not name the machine that may be left")
			wantLastError(t, got, still)
			if err := d.Delete(t.Context(), "a", true, nil); err == nil {
				t.Error("a deletion that could not remove everything succeeded")
			}
			d.wantState(t, "a", model.Broken)
			h.failing(hook, nil)
			h.failing("do post-start/two", nil)
			wantEnds(t, "the start without the cause", model.Running)(d.Start(t.Context(), "a", model.Start{}, nil))
			if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := d.Delete(t.Context(), "a", false, nil); err != nil {
				t.Fatal(err)
			}
			h.wantFiles(t, nil)
			claim(t, len(before) > 0, "the VM had no files before its start")
		})
	}
}

func TestRemoveOnStopWhenTheStartFails(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	h.failing("do agent", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("the start returned %v, not the error of its hook", err)
	}
	d.wantVMs(t, 0)
	h.wantFiles(t, nil)
}

// TestGuestThatDoesNotAnswer has an agent that never answers. The start fails by itself, and is
// not reported as cancelled.
func TestGuestThatDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.core.host.BootTimeout = 10 * time.Millisecond
	var log bytes.Buffer // only the start writes it, and it is read afterwards
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	v, err := d.Start(t.Context(), "a", model.Start{}, nil)
	equal(t, "the VM after the start", v.State, model.Failed)
	wantKind(t, "the start", err, fault.Unavailable)
	wantLastError(t, v, "did not answer within")
	if v.LastError.Log != h.layout.VM(v.ID).ConsoleLog() {
		t.Errorf("the record names the log %s, not the console's", v.LastError.Log)
	}
	if !strings.Contains(log.String(), "fake console") {
		t.Errorf("the daemon's log does not show the guest's last output: %s", log.String())
	}
}

// TestLastWords fails starts of a guest that printed something in an earlier run, or now. The
// host's clock may have been set meanwhile.
func TestLastWords(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a"})
	path := h.layout.VM(v.ID).ConsoleLog()
	write := func(text string, ahead time.Duration) fs.FileInfo {
		t.Helper()
		at := time.Now().Add(ahead)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	for _, ahead := range []time.Duration{-time.Hour, 0, time.Hour} {
		var log bytes.Buffer
		d.Log = slog.New(slog.NewTextHandler(&log, nil))
		before := write("earlier words", ahead)
		d.core.logConsole(t.Context(), v, before)
		equal(t, fmt.Sprintf("the daemon's log after a silent start, with a time that is %v ahead", ahead), log.String(), "")
		write("earlier words, last words", -ahead)
		d.core.logConsole(t.Context(), v, before)
		if !strings.Contains(log.String(), "last words") {
			t.Errorf("the last words are not in the daemon's log if their time is %v ahead: %q", -ahead, log.String())
		}
	}
}

// TestDeleteCancelsAStart deletes a VM whose start hangs.
func TestDeleteCancelsAStart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	errs := make(chan error)
	go func() { _, err := d.Start(t.Context(), "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	if err := d.Delete(t.Context(), "a", false, nil); fault.KindOf(err) != fault.WrongState {
		t.Errorf("the deletion without force returned %v", err)
	}
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	wantKind(t, "the cancelled start", <-errs, fault.Canceled)
	h.wantFiles(t, nil)
	h.wantMachines(t, 0)
}

// TestDeleteCancelsAllStarts deletes a VM while a restart boots and two starts wait behind it. The
// deletion waits for none of them to boot.
func TestDeleteCancelsAllStarts(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	var wg sync.WaitGroup
	begin := func(f func() error) {
		wg.Go(func() {
			if err := f(); fault.KindOf(err) != fault.Canceled {
				t.Errorf("a cancelled start or restart returned %v", err)
			}
		})
	}
	begin(func() error { _, err := d.Restart(t.Context(), "a", nil, nil); return err })
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	e, _ := d.find("a")
	for range 2 {
		begin(func() error { _, err := d.Start(t.Context(), "a", model.Start{}, nil); return err })
	}
	waitFor(t, func() bool { return e.Lock.Waiting() == 2 })
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	wg.Wait()
	h.wantCalls(t, "do agent", 1)
}

// TestCancelledRestart cancels a restart after its stop. The VM is stopped, and so follows its
// removal policy.
func TestCancelledRestart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	d.start(t, "a")
	release := h.hanging("power-off")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { _, err := d.Restart(ctx, v.ID, nil, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("power-off") > 0 })
	cancel()
	release()
	wantKind(t, "the cancelled restart", <-errs, fault.Canceled)
	h.wantFiles(t, nil)
	d.wantVMs(t, 0)
	claim(t, h.called("records []") > 0, "no capability got the record's removal")
}

func TestCancelledStartIsUndone(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	before := h.files()
	defer h.hanging("do assume")()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { _, err := d.Start(ctx, "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do assume") > 0 })
	cancel()
	wantKind(t, "the cancelled start", <-errs, fault.Canceled)
	h.wantFiles(t, before)
	d.wantState(t, "a", model.Stopped)
	h.wantMachines(t, 0)
}
