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
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
	"maps"
)

var errBoom = errors.New("boom")

// TestPlan starts a VM and compares its timeline: the order of the steps is what a plan promises.
func TestPlan(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	var got []string
	for _, span := range v.Boot.Steps {
		got = append(got, span.Name)
	}
	if !slices.Equal(got, startSteps) {
		t.Errorf("got  %v\nwant %v", got, startSteps)
	}
}

func TestLife(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Env: map[string]string{"B": "vm"}})
	if v.State != model.Stopped || v.Spec.ImageID != "id-of-img" || v.Spec.Memory != 512*model.MiB {
		t.Fatalf("created: %+v", v)
	}
	v, err := d.Start(t.Context(), "a", model.Start{}, nil)
	if err != nil || v.State != model.Running || v.Boot == nil || len(v.Boot.Steps) != len(startSteps) || len(v.Boot.Guest) != 1 {
		t.Fatalf("started: %+v, %v", v, err)
	}
	if got := h.guest; got.Hostname != "a" || got.User != "app" || got.Workdir != "/app" ||
		!slices.Equal(got.Env, []string{"A=image", "B=image", "B=vm"}) || len(got.Entropy) < 32 || len(got.Files) != 2 || len(got.MachineID) != 32 {
		t.Errorf("the guest was told %+v", got)
	}
	var said []step.Event
	if _, err := d.Start(t.Context(), v.ID[:6], model.Start{}, func(e step.Event) { said = append(said, e) }); err != nil || len(said) != 1 || said[0].Phase != step.Skipped || said[0].Detail != "already running" {
		t.Errorf("starting again: %v, %v", said, err)
	}
	if err := d.Delete(t.Context(), "a", false, nil); fault.KindOf(err) != fault.WrongState || fault.HintOf(err) == "" {
		t.Errorf("deleting what runs: %v", err)
	}
	if v, err = d.Stop(t.Context(), "a", nil, nil); err != nil || v.State != model.Stopped || v.Runtime != nil || h.running() != 0 || v.LastError != nil {
		t.Fatalf("stopped: %+v, %v", v, err)
	}
	if _, err := os.Stat(h.layout.VM(v.ID).SystemDisk()); err != nil {
		t.Errorf("the system disk did not survive: %v", err)
	}
	if v, err = d.Restart(t.Context(), "a", nil, nil); err != nil || v.State != model.Running {
		t.Fatalf("restarted: %+v, %v", v, err)
	}
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Fatal(err)
	}
	if left := h.files(); len(left) != 0 || h.running() != 0 {
		t.Errorf("left: %v, %d machines", left, h.running())
	}
	if _, err := d.Get("a"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("after deletion: %v", err)
	}
	if h.called("records []") == 0 || h.called("records [a]") == 0 {
		t.Errorf("observers were told %v", h.calls)
	}
}

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

func TestRemoveOnStop(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "a", Remove: model.RemoveOnStop})
	if _, err := d.Start(t.Context(), "a", model.Start{}, nil); err != nil {
		t.Fatal(err)
	}
	h.end(v, vmm.ExitPowerOff)
	waitFor(t, func() bool { _, err := d.Get("a"); return err != nil })
	waitFor(t, func() bool { return len(h.files()) == 0 })
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

func TestStubbornGuestIsEnded(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.Start(t.Context(), "a", model.Start{}, nil)
	h.failing("power-off", errBoom)
	short := 10 * time.Millisecond
	v, err := d.Stop(t.Context(), "a", &short, nil)
	if err != nil || v.State != model.Stopped || h.running() != 0 || h.called("power button") != 1 {
		t.Errorf("got %+v, %v; the power button was pressed %d times", v, err, h.called("power button"))
	}
}

// TestHungAgentLeavesTimeForThePowerButton has an agent that takes the request and does nothing.
func TestHungAgentLeavesTimeForThePowerButton(t *testing.T) {
	h := newHost(t)
	h.answersButton = true
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	defer h.hanging("power-off")()
	grace := 200 * time.Millisecond
	var said []step.Event
	if _, err := d.Stop(t.Context(), "a", &grace, func(e step.Event) { said = append(said, e) }); err != nil {
		t.Fatal(err)
	}
	if last := said[len(said)-1]; last.Step != "power-off" || last.Phase != step.Done {
		t.Errorf("the guest was not asked by its power button: %+v", last)
	}
}

func TestKill(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); fault.KindOf(err) != fault.WrongState || !strings.Contains(fault.HintOf(err), "nothing to kill") {
		t.Errorf("killing a stopped VM: %v, %q", err, fault.HintOf(err))
	}
	d.Start(t.Context(), "a", model.Start{}, nil)
	if v, err := d.Kill(t.Context(), "a", syscall.Signal(0)); err != nil || v.State != model.Running {
		t.Errorf("a harmless signal: %s, %v", v.State, err)
	}
	if v, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil || v.State != model.Stopped {
		t.Errorf("killed: %s, %v", v.State, err)
	}
}

func TestKillEndsAHangingStart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	defer h.hanging("do agent")()
	errs := make(chan error)
	go func() { _, err := d.Start(t.Context(), "a", model.Start{}, nil); errs <- err }()
	waitFor(t, func() bool { return h.called("do agent") > 0 })
	if _, err := d.Kill(t.Context(), "a", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := <-errs; err == nil || !strings.Contains(err.Error(), "the machine ended") {
		t.Errorf("the start ended with %v", err)
	}
	if d.state(t, "a") != model.Failed {
		t.Errorf("it is %s", d.state(t, "a"))
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

func TestOneVMInOrderManyInParallel(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	for _, name := range []string{"a", "b", "c"} {
		d.create(t, model.Create{Name: name})
	}
	release := h.hanging("do assume")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "a", "b", "c"} {
		wg.Go(func() {
			if v, err := d.Start(t.Context(), name, model.Start{}, nil); err != nil || v.State != model.Running {
				t.Errorf("%s: %s, %v", name, v.State, err)
			}
		})
	}
	waitFor(t, func() bool { return h.called("do assume") == 3 }) // three at once; the second start of each waits
	release()
	wg.Wait()
	if h.called("do assume") != 3 {
		t.Errorf("%d boots for three VMs", h.called("do assume"))
	}
}

func TestNamesAndPrefixes(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.create(t, model.Create{Name: "old"}) // a name that no id begins with
	if _, err := d.Create(t.Context(), model.Create{Name: "old"}, nil); fault.KindOf(err) != fault.Exists || h.called("ensure image") != 1 {
		t.Errorf("a second one of that name: %v; %d images were looked for", err, h.called("ensure image"))
	}
	if _, err := d.Create(t.Context(), model.Create{Name: "A b"}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad name: %v", err)
	}
	if _, err := d.Rename(t.Context(), v.ID[:4], "new"); err != nil {
		t.Error(err)
	}
	if _, err := d.Get("old"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the old name: %v", err)
	}
	d.create(t, model.Create{Name: "old"})
	if _, err := d.Rename(t.Context(), "old", "new"); fault.KindOf(err) != fault.Exists {
		t.Errorf("renaming to a taken name: %v", err)
	}
	other, _ := d.find("old")
	if err := d.rewrite(t.Context(), other, func(o *model.VM) { o.Spec.Name = v.ID }); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get(v.ID); err != nil || got.ID != v.ID {
		t.Errorf("the VM whose id another one is called: %+v, %v", got, err)
	}
	if _, err := d.Get(""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no name at all: %v", err)
	}
	names := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			v, err := d.Create(t.Context(), model.Create{}, nil)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			names[v.Spec.Name] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(names) != 20 {
		t.Errorf("%d names for 20 VMs", len(names))
	}
}

func TestRacingForAName(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		wg.Go(func() { _, err := d.Create(t.Context(), model.Create{Name: "a"}, nil); errs <- err })
	}
	wg.Wait()
	close(errs)
	won := 0
	for err := range errs {
		switch fault.KindOf(err) {
		case "":
			won++
		case fault.Exists:
		default:
			t.Error(err)
		}
	}
	if won != 1 || len(d.List()) != 1 {
		t.Errorf("%d won, %d VMs", won, len(d.List()))
	}
}

func TestFailedImageLeavesNothing(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	h.failing("ensure image", errBoom)
	if _, err := d.Create(t.Context(), model.Create{Name: "a"}, nil); !errors.Is(err, errBoom) {
		t.Errorf("got %v", err)
	}
	if len(d.List()) != 0 || len(h.files()) != 0 {
		t.Errorf("left: %v, %v", d.List(), h.files())
	}
}

func TestPrune(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "stopped"})
	d.create(t, model.Create{Name: "runs"})
	d.Start(t.Context(), "runs", model.Start{}, nil)
	got, err := d.Prune(t.Context())
	if err != nil || !slices.Equal(got.Removed, []string{"stopped"}) || len(d.List()) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestRunningHoldsItsImage has a running VM told to use another image: the one it runs on is in use until it stops.
func TestRunningHoldsItsImage(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	d.create(t, model.Create{Name: "a"})
	d.running(t, "a")
	if _, err := d.Set(t.Context(), "a", model.Change{Image: ptr("other")}); err != nil {
		t.Fatal(err)
	}
	inUse := func() (ids []string) {
		d.References(func(images, _ map[string][]string) error { ids = slices.Sorted(maps.Keys(images)); return nil })
		return ids
	}
	if got := inUse(); !slices.Equal(got, []string{"id-of-img", "other"}) {
		t.Errorf("while it runs: %v", got)
	}
	d.Stop(t.Context(), "a", nil, nil)
	if got := inUse(); !slices.Equal(got, []string{"other"}) {
		t.Errorf("after it stopped: %v", got)
	}
}
