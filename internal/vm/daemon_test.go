package vm

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// session is one daemon's view of the host. After the daemon's death, its actions have no effect.
type session struct {
	*host
	dead atomic.Bool
}

var errDead = errors.New("the daemon is dead")

// hook is the host's hook for a machine. Hooks of machines without a VM begin with "build". The id
// "" stands for no machine.
func (s *session) hook(ctx context.Context, id, name string) error {
	if s.dead.Load() {
		return errDead
	}
	s.mu.Lock()
	if id != "" && !s.records[id] {
		name = "build " + name
	}
	s.mu.Unlock()
	err := s.host.hook(ctx, name)
	if s.dead.Load() {
		return errDead
	}
	return err
}

// daemon is one life of the daemon on the host.
type daemon struct {
	*Manager
	*session
	store *store.Store
}

func (h *host) daemon() *daemon {
	h.t.Helper()
	return h.daemonWithin(h.t.Context())
}

// daemonWithin starts a daemon that ends when ctx does.
func (h *host) daemonWithin(ctx context.Context) *daemon {
	h.t.Helper()
	d, err := h.tryDaemon(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *host) tryDaemon(ctx context.Context) (*daemon, error) {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.layout.Database())
	if err != nil {
		return nil, err
	}
	life := &session{host: h}
	capabilities := []machine.Capability{capability{life, "one"}, capability{life, "two"}}
	if h.homes {
		capabilities = append(capabilities, homes{life})
	}
	if h.more != nil {
		capabilities = append(capabilities, h.more(life)...)
	}
	templates := h.templates
	templates.BuildsOnly = !h.keeps
	d := driver{fake.New(h.computer, life.options()), life}
	drivers := vmm.NewRegistry(d)
	if h.drivers != nil {
		drivers = h.drivers(d)
	}
	var counts Meter
	if h.counts {
		counts = meter{h}
	}
	m, err := Open(ctx, Config{
		Meter:  counts,
		Layout: h.layout, Store: recordStore{s, life}, Drivers: drivers, Images: images{life}, Kernels: kernels{life},
		NewAgent:     life.newAgent,
		Capabilities: capabilities,
		Defaults: model.Spec{
			Image: "img", Kernel: "krn", VCPUs: 1, Memory: 512 * model.MiB, DiskSize: 64 * model.MiB, Net: model.NetNone,
		},
		StopTimeout: cmp.Or(h.grace, time.Second), RecoverTimeout: h.recoverTimeout,
		Room:      h.room,
		Templates: templates,
		Log:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	started := &daemon{m, life, s}
	h.t.Cleanup(started.die)
	return started, nil
}

// die ends the daemon as kill -9 does for the host: it completes nothing. It closes the manager
// only to end its goroutines.
func (d *daemon) die() {
	d.Manager.Close()
	d.store.Close()
}

func (d *daemon) create(t *testing.T, req model.Create) model.VM {
	t.Helper()
	v, err := d.Create(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// start starts a VM.
func (d *daemon) start(t *testing.T, ref string) {
	t.Helper()
	if v, err := d.Start(t.Context(), ref, model.Start{}, nil); err != nil || v.State != model.Running {
		t.Fatalf("after the start the VM is %s, not running: %v", v.State, err)
	}
}

// started creates and starts a VM.
func (d *daemon) started(t *testing.T, req model.Create) model.VM {
	t.Helper()
	v := d.create(t, req)
	d.start(t, v.ID)
	v, _ = d.Get(v.ID)
	return v
}

func (d *daemon) launch(t *testing.T, req model.Create) model.VM {
	t.Helper()
	v, err := d.Launch(t.Context(), req, func(model.VM) {}, nil)
	if err != nil || v.State != model.Running {
		t.Fatalf("after the launch the VM is %s, not running: %v", v.State, err)
	}
	return v
}

// worker creates and starts a VM whose guest has done some work.
func (d *daemon) worker(t *testing.T, req model.Create) model.VM {
	t.Helper()
	v := d.create(t, req)
	d.start(t, v.ID)
	d.work(v, "work of "+v.Spec.Name)
	v, _ = d.Get(v.ID)
	return v
}

func (d *daemon) pause(t *testing.T, v model.VM) {
	t.Helper()
	if got, err := d.Pause(t.Context(), v.ID, nil); err != nil || got.State != model.Paused {
		t.Fatalf("after the pause the VM is %s: %v", got.State, err)
	}
}

func (d *daemon) suspend(t *testing.T, v model.VM) {
	t.Helper()
	if got, err := d.Suspend(t.Context(), v.ID, nil); err != nil || got.State != model.Suspended {
		t.Fatalf("after the suspension the VM is %s: %v", got.State, err)
	}
}

func (d *daemon) resume(t *testing.T, v model.VM) {
	t.Helper()
	if got, err := d.Resume(t.Context(), v.ID, nil); err != nil || got.State != model.Running {
		t.Fatalf("after the resume the VM is %s: %v", got.State, err)
	}
}

// bringTo brings a running VM into another state.
func (d *daemon) bringTo(t *testing.T, v model.VM, to model.State) {
	t.Helper()
	switch to {
	case model.Paused:
		d.pause(t, v)
	case model.Suspended:
		d.suspend(t, v)
	case model.Stopped:
		if _, err := d.Stop(t.Context(), v.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
	case model.Failed:
		d.bringTo(t, v, model.Stopped)
		d.failing("do agent", errBoom)
		d.Start(t.Context(), v.ID, model.Start{}, nil)
		d.failing("do agent", nil)
	case model.Broken:
		d.failing("signal", errBoom)
		d.Stop(t.Context(), v.ID, ptr(time.Duration(0)), nil)
		d.failing("signal", nil)
	}
	if got := d.state(t, v.ID); got != to {
		t.Fatalf("the VM was to be brought to %s, but it is %s", to, got)
	}
}

// fork forks a VM. All children must start.
func (d *daemon) fork(t *testing.T, v model.VM, req model.Fork) []model.VM {
	t.Helper()
	forked, err := d.Fork(t.Context(), v.ID, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return childrenOf(t, forked)
}

// childrenOf returns the children of a fork or restore. All of them must have started.
func childrenOf(t *testing.T, forked model.Forked) (children []model.VM) {
	t.Helper()
	for _, c := range forked.Children {
		if c.VM == nil || c.Error != "" {
			t.Fatalf("the child %s has not started: %s", c.Name, c.Error)
		}
		equal(t, "the name in the child's record", c.VM.Spec.Name, c.Name)
		children = append(children, *c.VM)
	}
	return children
}

func (d *daemon) snap(t *testing.T, v model.VM, name string) model.Snapshot {
	t.Helper()
	s, err := d.CreateSnapshot(t.Context(), v.ID, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *daemon) restore(t *testing.T, ref string, req model.Restore) []model.VM {
	t.Helper()
	forked, err := d.RestoreSnapshot(t.Context(), ref, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return childrenOf(t, forked)
}

func (d *daemon) state(t *testing.T, ref string) model.State {
	t.Helper()
	v, err := d.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	return v.State
}

// startSteps are the steps of a start in these tests. Each has a hook that makes it fail, except
// "template", which cannot fail.
var startSteps = []string{
	"preflight", "run-dir", "initramfs", "origin", "system-disk", "prepare/one", "prepare/two", "vmm", "agent",
	"template", "assume", "post-start/one", "post-start/two",
}
