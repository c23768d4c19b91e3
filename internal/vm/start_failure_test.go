package vm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// TestEachStepFails fails each step's do, and looks that the host is as before and a second start works.
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
			if !errors.As(err, &failed) || failed.Step != name {
				t.Fatalf("got %v", err)
			}
			if got.State != model.Failed || got.Runtime != nil || got.LastError == nil || got.LastError.Step != name || got.LastError.Log == "" {
				t.Errorf("recorded: %+v, %+v", got, got.LastError)
			}
			repair()
			if after := h.files(); !slices.Equal(before, after) || h.running() != 0 {
				t.Errorf("%d machines and files %v; before %v", h.running(), after, before)
			}
			if got, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil || got.State != model.Running || got.LastError != nil {
				t.Errorf("the second start: %+v, %v", got, err)
			}
		})
	}
}

// breakStep makes the step fail, and returns what repairs it.
func (h *host) breakStep(name string, v model.VM) (repair func()) {
	switch name {
	case "run-dir": // a file stands where the folder should be
		dir := h.layout.VM(v.ID).Run
		parent := strings.TrimSuffix(dir, "/"+v.ID)
		os.RemoveAll(parent)
		os.MkdirAll(filepath.Dir(parent), 0o700)
		os.WriteFile(parent, nil, 0o600)
		return func() { os.Remove(parent) }
	case "system-disk":
		dir := h.layout.VM(v.ID).Dir
		os.Rename(dir, dir+"-away")
		return func() { os.Rename(dir+"-away", dir) }
	}
	h.failing("do "+name, errBoom)
	return func() { h.failing("do "+name, nil) }
}

// TestEachUndoFails fails a late step and one undo: the VM is broken and listed, and can be brought to rest when the cause is gone.
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
			if err == nil || got.State != model.Broken || got.Runtime == nil || !strings.Contains(got.LastError.Msg, still) {
				t.Fatalf("got %+v, %+v, %v", got, got.LastError, err)
			}
			if err := d.Delete(t.Context(), "a", true, nil); err == nil {
				t.Error("a delete that could not take everything away succeeded")
			}
			if d.state(t, "a") != model.Broken {
				t.Errorf("after a failed delete it is %s", d.state(t, "a"))
			}
			h.failing(hook, nil)
			h.failing("do post-start/two", nil)
			if got, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil || got.State != model.Running {
				t.Fatalf("starting when the cause is gone: %+v, %v", got, err)
			}
			if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := d.Delete(t.Context(), "a", false, nil); err != nil {
				t.Fatal(err)
			}
			if left := h.files(); len(left) != 0 || len(before) == 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestRemoveOnStopWhenTheStartFails(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	h.failing("do agent", errBoom)
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	if len(d.List()) != 0 || len(h.files()) != 0 {
		t.Errorf("left: %v, %v", d.List(), h.files())
	}
}

// TestSilentGuest has no agent that answers: that is an error of the start, not its being called off.
func TestSilentGuest(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.core.host.BootTimeout = 10 * time.Millisecond
	var log bytes.Buffer // written by the start alone, which is over when it is read
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	v, err := d.Start(t.Context(), "a", model.Start{}, nil)
	if v.State != model.Failed || fault.KindOf(err) != fault.Unavailable || !strings.Contains(v.LastError.Msg, "did not answer within 10ms") {
		t.Errorf("%s, %+v, %v", v.State, v.LastError, err)
	}
	if v.LastError.Log != h.layout.VM(v.ID).ConsoleLog() {
		t.Errorf("the log is said to be %s", v.LastError.Log)
	}
	if !strings.Contains(log.String(), "fake console") {
		t.Errorf("the guest's last words are lost: %s", log.String())
	}
}

func TestDeleteCallsOffAStart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	errs := make(chan error)
	go func() { _, err := d.Start(t.Context(), "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	if err := d.Delete(t.Context(), "a", false, nil); fault.KindOf(err) != fault.WrongState {
		t.Errorf("without force: %v", err)
	}
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	if err := <-errs; fault.KindOf(err) != fault.Canceled {
		t.Errorf("the start ended with %v", err)
	}
	if left := h.files(); len(left) != 0 || h.running() != 0 {
		t.Errorf("left: %v, %d machines", left, h.running())
	}
}

// TestDeleteCallsOffAllStarts has a restart boot and two starts wait behind it: the delete waits for none of them to boot.
func TestDeleteCallsOffAllStarts(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	var wg sync.WaitGroup
	begin := func(f func() error) {
		wg.Go(func() {
			if err := f(); fault.KindOf(err) != fault.Canceled {
				t.Errorf("it ended with %v", err)
			}
		})
	}
	begin(func() error { _, err := d.Restart(t.Context(), "a", nil, nil); return err })
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	e, _ := d.find("a")
	for range 2 {
		begin(func() error { _, err := d.Start(t.Context(), "a", model.Start{}, nil); return err })
	}
	waitFor(t, func() bool { return e.lock.queue() == 2 })
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if n := h.called("do agent"); n != 1 {
		t.Errorf("%d boots", n)
	}
}

// TestCalledOffRestart leaves a VM stopped, and one that goes when it stops is gone.
func TestCalledOffRestart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	d.running(t, "a")
	release := h.hanging("power-off")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { _, err := d.Restart(ctx, v.ID, nil, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("power-off") > 0 })
	cancel()
	release()
	if err := <-errs; fault.KindOf(err) != fault.Canceled {
		t.Errorf("got %v", err)
	}
	if left := h.files(); len(left) != 0 || len(d.List()) != 0 || h.called("records []") == 0 {
		t.Errorf("left: %v, %v", left, d.List())
	}
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
	if err := <-errs; fault.KindOf(err) != fault.Canceled {
		t.Errorf("got %v", err)
	}
	if after := h.files(); !slices.Equal(before, after) || d.state(t, "a") != model.Stopped || h.running() != 0 {
		t.Errorf("%s, files %v", d.state(t, "a"), after)
	}
}
