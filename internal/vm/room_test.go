package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
)

// noRoom is a host without space, for the VMs that a test holds.
type noRoom struct {
	mu   sync.Mutex
	held map[string]bool
	at   string // the directory whose file system has no room, either
}

var errNoRoom = errors.New("no room")

func (r *noRoom) Check() error { return errNoRoom }

func (r *noRoom) CheckAt(dir string) error {
	if dir == r.at {
		return errNoRoom
	}
	return nil
}

func (r *noRoom) Held(id string) *model.Hold {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held[id] {
		return nil
	}
	return &model.Hold{Reason: model.HeldAtFloor, Free: model.MiB, Floor: model.GiB}
}

func (r *noRoom) set(id string, held bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[id] = held
}

func withMachine(d *daemon, v model.VM, do func(*machine.Machine, func(context.Context) error) error) error {
	return Guarded{d.Manager}.With(d.t.Context(), v.ID, do)
}

func pauseMachine(m *machine.Machine, _ func(context.Context) error) error {
	return m.Pause(context.Background())
}

// hold holds a VM as the guard of the free space does.
func hold(t *testing.T, d *daemon, r *noRoom, v model.VM) {
	t.Helper()
	m, err := Guarded{d.Manager}.Machine(v.ID)
	if err == nil {
		err = m.Pause(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	r.set(v.ID, true)
}

// release continues a VM as the guard of the free space does.
func release(t *testing.T, d *daemon, r *noRoom, v model.VM) {
	t.Helper()
	if err := withMachine(d, v, func(m *machine.Machine, thaw func(context.Context) error) error {
		return errors.Join(m.Resume(t.Context()), thaw(t.Context()))
	}); err != nil {
		t.Error(err)
	}
	r.set(v.ID, false)
}

// TestHeld holds a VM: whatever needs its guest is refused with the numbers, also by a new daemon,
// until the VM is released.
func TestHeld(t *testing.T) {
	r := &noRoom{held: map[string]bool{}}
	h := newHost(t)
	h.room = r
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	hold(t, d, r, v)
	claim(t, h.computer.Halted(v.ID), "the machine of a VM that is held is not halted")
	d.die()
	d = h.daemon()
	claim(t, h.computer.Halted(v.ID), "a new daemon has continued the machine")
	v, _ = d.Get("a")
	equal(t, "the state of a VM that is held", v.State, model.Running)
	claim(t, v.Held != nil && d.List()[0].Held != nil, "a VM that is held is not shown as held")

	ctx := t.Context()
	for name, do := range map[string]func() error{
		"exec":     func() error { _, _, _, err := d.Use(ctx, "a"); return err },
		"agent":    func() error { _, err := d.Agent(t.Context(), "a"); return err },
		"pause":    func() error { _, err := d.Pause(ctx, "a", nil); return err },
		"resume":   func() error { _, err := d.Resume(ctx, "a", nil); return err },
		"suspend":  func() error { _, err := d.Suspend(ctx, "a", nil); return err },
		"fork":     func() error { _, err := d.Fork(ctx, "a", model.Fork{}, nil); return err },
		"snapshot": func() error { _, err := d.CreateSnapshot(ctx, "a", "s", nil); return err },
	} {
		err := do()
		wantKind(t, name+" of a VM that is held", err, fault.WrongState)
		wantHint(t, name+" of a VM that is held", err, "banger df")
	}
	claim(t, h.computer.Halted(v.ID), "a command that was refused has continued the machine")

	release(t, d, r, v)
	claim(t, !h.computer.Halted(v.ID), "the machine of a VM that was released is halted")
	equal(t, "how often the guest's clock was set", h.called("thaw"), 1)
	if _, done, err := use(d, "a"); err != nil {
		t.Errorf("a VM that was released cannot be used: %v", err)
	} else {
		done()
	}
}

func use(d *daemon, ref string) (model.VM, func(), error) {
	v, _, done, err := d.Use(d.t.Context(), ref)
	return v, done, err
}

// TestHeldEnds: a VM that is held can be stopped in order, killed and deleted. A stop may come
// before the guard has noted the hold.
func TestHeldEnds(t *testing.T) {
	r := &noRoom{held: map[string]bool{}}
	h := newHost(t)
	h.room = r
	d := h.daemon()
	for name, end := range map[string]func(ref string) error{
		"stop":   func(ref string) error { _, err := d.Stop(t.Context(), ref, nil, nil); return err },
		"kill":   func(ref string) error { _, err := d.Kill(t.Context(), ref, syscall.SIGKILL); return err },
		"delete": func(ref string) error { return d.Delete(t.Context(), ref, true, nil) },
	} {
		v := d.started(t, model.Create{Name: name})
		hold(t, d, r, v)
		if err := end(name); err != nil {
			t.Errorf("%s of a VM that is held: %v", name, err)
		}
		h.wantMachines(t, 0)
	}
	v := d.started(t, model.Create{Name: "soon"})
	if err := withMachine(d, v, pauseMachine); err != nil {
		t.Fatal(err)
	}
	wantEnds(t, "the stop before the hold is noted", model.Stopped)(d.Stop(t.Context(), "soon", nil, nil))
	got, _ := d.Get("soon")
	wantNoLastError(t, got)
	equal(t, "how many guests powered off", h.called("power-off"), 2)
}

// TestHeldInAnOperation holds a VM while an operation waits for its guest, which then fails. The
// machine stays halted, and the VM continues when it is released.
func TestHeldInAnOperation(t *testing.T) {
	for name, do := range map[string]func(context.Context, *daemon) error{
		"pause":   func(ctx context.Context, d *daemon) error { return second(d.Pause(ctx, "a", nil)) },
		"suspend": func(ctx context.Context, d *daemon) error { return second(d.Suspend(ctx, "a", nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &noRoom{held: map[string]bool{}}
			h := newHost(t)
			h.room = r
			d := h.daemon()
			v := d.worker(t, model.Create{Name: "a"})
			h.failing("thaw", errBoom) // its guest cannot answer
			err := second(failingOnce(h, "freeze", errBoom, func() (any, error) { return nil, do(t.Context(), d) }, func() { hold(t, d, r, v) }))
			wantKind(t, name+" of a VM that is held meanwhile", err, fault.WrongState)
			claim(t, h.computer.Halted(v.ID), "the operation that failed has continued the machine")
			d.wantState(t, "a", model.Running)
			if _, err := d.Rename(t.Context(), "a", "a"); err != nil { // which repairs first
				t.Error(err)
			}
			claim(t, h.computer.Halted(v.ID), "the next operation has continued the machine")
			h.failing("thaw", nil)
			release(t, d, r, v)
			d.wantContinues(t, v)
			h.wantMachines(t, 1)
		})
	}
}

// TestHeldInAStop holds a VM while its guest powers off. The stop does not continue it before there
// is space.
func TestHeldInAStop(t *testing.T) {
	t.Parallel()
	for _, space := range []bool{true, false} {
		t.Run(fmt.Sprintf("space %v", space), func(t *testing.T) {
			t.Parallel()
			r := &noRoom{held: map[string]bool{}}
			h := newHost(t)
			h.room = r
			d := h.daemon()
			v := d.started(t, model.Create{Name: "a"})
			powerOff := h.hanging("power-off")
			over := make(chan error)
			go func() { over <- second(d.Stop(t.Context(), "a", ptr(8*time.Second), nil)) }()
			waitFor(t, func() bool { return h.called("power-off") > 0 })
			hold(t, d, r, v)
			for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(10 * time.Millisecond) {
				if !h.computer.Halted(v.ID) {
					t.Fatal("the stop has continued a machine that is held")
				}
			}
			if space {
				r.set(v.ID, false)
				waitFor(t, func() bool { return !h.computer.Halted(v.ID) })
				powerOff()
			}
			err := <-over
			if space && err != nil || !space && (err == nil || !strings.Contains(err.Error(), "lacks disk space")) {
				t.Errorf("the stop returned %v", err)
			}
			d.wantState(t, "a", model.Stopped)
		})
	}
}

// TestHoldWaitsForNobody: a VM with an operation under way is not taken for one that is held.
func TestHoldWaitsForNobody(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a"})
	release := h.hanging("freeze")
	paused := make(chan error)
	go func() { _, err := d.Pause(t.Context(), "a", nil); paused <- err }()
	waitFor(t, func() bool { return h.called("freeze") > 0 })
	began := time.Now()
	wantKind(t, "holding a VM that is being paused", withMachine(d, v, pauseMachine), fault.Locked)
	t.Logf("the guard waited %v", time.Since(began))
	release()
	if err := <-paused; err != nil {
		t.Error(err)
	}
	wantKind(t, "holding a paused VM", withMachine(d, v, pauseMachine), fault.WrongState)
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Error(err)
	}
}

// TestIdleStaysWithoutRoom: below the floor, no idle VM is suspended, because its memory needs
// space.
func TestIdleStaysWithoutRoom(t *testing.T) {
	h := newHost(t)
	h.room = &noRoom{held: map[string]bool{}}
	d := h.daemon()
	v := d.started(t, model.Create{Name: "a", IdleSuspend: time.Minute})
	d.suspendIdle(t.Context(), time.Now().Add(time.Hour))
	d.wantState(t, v.ID, model.Running)
}

// TestTemplatesGiveWay: without room, machines on standby end, and no template is made.
func TestTemplatesGiveWay(t *testing.T) {
	r := &noRoom{held: map[string]bool{}}
	h := newHost(t)
	d := h.withStandby(t, model.Create{})
	h.wantMachines(t, 1)
	d.Templates().GiveWay(t.Context())
	h.wantMachines(t, 0)
	d.die()

	h.room = r
	d = h.daemon()
	if err := d.pool().FillInBackground(t.Context(), d.specFor(t, model.Create{})); err != nil {
		t.Error(err)
	}
	h.wantMachines(t, 0)
	equal(t, "the number of jobs that are set back", d.pool().SetBack(), 1)
}
