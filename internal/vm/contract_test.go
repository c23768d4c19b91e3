package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/vmm"
)

// tap stands for a capability that holds something outside of the VM's directories, such as a
// network interface. It finds what it holds by the machine's id alone.
type tap struct {
	s   *session
	dir string
}

func (tap) Name() string            { return "tap" }
func (c tap) path(id string) string { return filepath.Join(c.dir, "tap-"+id) }
func (c tap) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	if err := os.WriteFile(c.path(req.ID), nil, 0o600); err != nil {
		return err
	}
	return c.s.hook(ctx, req.ID, "do prepare/tap")
}

func (c tap) Cleanup(ctx context.Context, req machine.CleanupRequest) error {
	if err := c.s.hook(ctx, req.ID, "undo tap"); err != nil {
		return err
	}
	return os.RemoveAll(c.path(req.ID))
}

// withTaps gives the daemons of a host a tap, and returns what lists those that exist.
func (h *host) withTaps() (list func() []string) {
	dir := h.t.TempDir()
	h.more = func(s *session) []machine.Capability { return []machine.Capability{tap{s, dir}} }
	return func() []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			h.t.Error(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
}

// TestCleanupWithoutARecord kills the daemon at each moment of a template build and of a standby
// machine. Neither has a record. The next daemon removes what capabilities hold outside their
// directories.
func TestCleanupWithoutARecord(t *testing.T) {
	t.Parallel()
	for what, do := range map[string]func(context.Context, *daemon, model.Spec) error{
		"template": func(ctx context.Context, d *daemon, _ model.Spec) error {
			_, err := d.BuildTemplate(ctx, model.Create{}, nil)
			return err
		},
		"standby": func(ctx context.Context, d *daemon, spec model.Spec) error { return d.pool().Fill(ctx, spec) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			moments := 0
			for n := 1; ; n++ {
				h := newHost(t)
				taps := h.withTaps()
				h.templates.Off, h.templates.Standby = false, 1
				d := h.daemon()
				d.busy()
				spec := d.specFor(t, model.Create{})
				if what == "standby" {
					if _, err := d.BuildTemplate(t.Context(), model.Create{}, nil); err != nil {
						t.Fatal(err)
					}
				}
				dead := d
				hook, now := d.killedAt(n, func(ctx context.Context) { _ = do(ctx, dead, spec) })
				if hook == "" {
					now.die()
					break
				}
				moments++
				if left := taps(); len(left) != 0 {
					t.Errorf("killed at %q: the taps %v are left", hook, left)
				}
				if left := h.files(); len(left) != 0 {
					t.Errorf("killed at %q: the files %v are left", hook, left)
				}
				if h.running() != 0 {
					t.Errorf("killed at %q: %d machines still run", hook, h.running())
				}
				now.die()
			}
			if moments < 8 {
				t.Errorf("the daemon was killed at %d moments only", moments)
			}
		})
	}
}

// TestStandbyEndsWithItsTaps ends a daemon in order: machines on standby hold nothing afterwards.
func TestStandbyEndsWithItsTaps(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	taps := h.withTaps()
	d := h.withStandby(t, model.Create{})
	if len(taps()) != 1 {
		t.Fatalf("on standby with the taps %v", taps())
	}
	d.die()
	if left := taps(); len(left) != 0 {
		t.Errorf("after the daemon's end the taps %v are left", left)
	}
}

// lease is a capability with a fact for a VM's whole life, an address, and one for each run.
type lease struct{ s *session }

type leased struct {
	Addr string `json:"addr"`
	Tap  string `json:"tap,omitempty"`
}

func (lease) Name() string { return "lease" }

func (c lease) Created(ctx context.Context, req machine.LifeRequest) error {
	if err := req.StoreFact(ctx, 1, leased{Addr: "addr-" + req.ID}); err != nil {
		return err
	}
	return c.s.hook(ctx, "", "created "+req.Spec.Name)
}

func (c lease) Deleted(ctx context.Context, req machine.LifeRequest) error {
	var f leased
	if _, err := req.Facts.Load("lease", &f); err != nil {
		return err
	}
	return c.s.hook(ctx, "", "deleted "+f.Addr)
}

func (c lease) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	var f leased
	if _, err := req.Facts.Load("lease", &f); err != nil {
		return err
	}
	f.Tap = "tap-" + req.ID
	if err := req.StoreFact(ctx, 1, f); err != nil {
		return err
	}
	return c.s.hook(ctx, req.ID, "do prepare/lease")
}

func (c lease) ContributeGuest(_ context.Context, req machine.GuestRequest) error {
	var f leased
	_, err := req.Facts.Load("lease", &f)
	req.Assume.Env = append(req.Assume.Env, "ADDR="+f.Addr, "TAP="+f.Tap)
	return err
}

func (c lease) PreStop(ctx context.Context, req machine.PreStopRequest) error {
	return c.s.hook(ctx, req.ID, "pre-stop")
}

func (c lease) Cleanup(ctx context.Context, req machine.CleanupRequest) error {
	var f leased
	if _, err := req.Facts.Load("lease", &f); err != nil {
		return err
	}
	if err := c.s.hook(ctx, req.ID, "undo lease "+f.Tap); err != nil {
		return err
	}
	f.Tap = ""
	return req.StoreFact(ctx, 1, f)
}

func withLease(t *testing.T) (*host, *daemon) {
	h := newHost(t)
	h.more = func(s *session) []machine.Capability { return []machine.Capability{lease{s}} }
	return h, h.daemon()
}

// fact returns what the lease has stored for a VM.
func (d *daemon) fact(t *testing.T, ref string) (f leased) {
	t.Helper()
	v, err := d.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if version, err := machine.Facts(v.Facts).Load("lease", &f); err != nil || version != 1 {
		t.Errorf("the fact has version %d, %v", version, err)
	}
	return f
}

// TestFacts follows a capability's facts through a VM's life.
func TestFacts(t *testing.T) {
	h, d := withLease(t)
	v := d.create(t, model.Create{Name: "a"})
	address := leased{Addr: "addr-" + v.ID}
	if got := d.fact(t, "a"); got != address {
		t.Errorf("after its creation the fact is %+v", got)
	}
	d.start(t, "a")
	if got, want := d.fact(t, "a"), (leased{address.Addr, "tap-" + v.ID}); got != want {
		t.Errorf("while it runs the fact is %+v, not %+v", got, want)
	}
	for _, want := range []string{"ADDR=addr-" + v.ID, "TAP=tap-" + v.ID} {
		if !slices.Contains(h.guest.Env, want) {
			t.Errorf("the guest contributor did not see %s: %v", want, h.guest.Env)
		}
	}
	if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := d.fact(t, "a"); got != address {
		t.Errorf("after a stop the fact is %+v: the address must stay and the tap must be cleared", got)
	}
	d.die()
	d = h.daemon()
	if got := d.fact(t, "a"); got != address {
		t.Errorf("with another daemon the fact is %+v", got)
	}
}

// TestFactIsStoredFirst kills the daemon just after a fact was stored and what it describes was
// made: the next daemon's cleanup receives the fact.
func TestFactIsStoredFirst(t *testing.T) {
	h, d := withLease(t)
	v, dead := d.create(t, model.Create{Name: "a"}), d
	d.killedIn("do prepare/lease", func(ctx context.Context) { dead.Start(ctx, "a", model.Start{}, nil) })
	if h.called("undo lease tap-"+v.ID) == 0 {
		t.Errorf("the cleanup did not receive the fact: %v", h.calls)
	}
}

// TestLifeHooks counts the hooks of VMs' lives.
func TestLifeHooks(t *testing.T) {
	h, d := withLease(t)
	v := d.worker(t, model.Create{Name: "a"})
	d.fork(t, v, model.Fork{Name: "b"})
	for _, hook := range []string{"created a", "created b"} {
		if got := h.called(hook); got != 1 {
			t.Errorf("%q was called %d times", hook, got)
		}
	}
	if _, err := d.Stop(t.Context(), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.called("pre-stop"); got != 1 {
		t.Errorf("the pre-stop hook was called %d times for a stop", got)
	}
	if _, err := d.Kill(t.Context(), "b", 9); err != nil {
		t.Fatal(err)
	}
	if got := h.called("pre-stop"); got != 1 {
		t.Error("the pre-stop hook was called for a kill")
	}
	if err := d.Delete(t.Context(), "a", false, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.called("deleted addr-" + v.ID); got != 1 {
		t.Errorf("the deleted hook was called %d times with the address", got)
	}
}

// TestLifeHooksFail makes each hook of a VM's life fail.
func TestLifeHooksFail(t *testing.T) {
	t.Run("created", func(t *testing.T) {
		h, d := withLease(t)
		h.failing("created a", errBoom)
		if _, err := d.Create(t.Context(), model.Create{Name: "a"}, nil); !errors.Is(err, errBoom) {
			t.Errorf("the creation returned %v", err)
		}
		if len(d.List()) != 0 {
			t.Errorf("the VM is left: %v", d.List())
		}
		deleted := func(c string) bool { return strings.HasPrefix(c, "deleted addr-") }
		if !slices.ContainsFunc(h.calls, deleted) {
			t.Error("what the hook had leased was not released")
		}
	})
	t.Run("pre-stop", func(t *testing.T) {
		h, d := withLease(t)
		d.started(t, model.Create{Name: "a"})
		h.failing("pre-stop", errBoom)
		if got, err := d.Stop(t.Context(), "a", nil, nil); err != nil || got.State != model.Stopped {
			t.Errorf("the stop: %s, %v", got.State, err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		h, d := withLease(t)
		v := d.create(t, model.Create{Name: "a"})
		h.failing("deleted addr-"+v.ID, errBoom)
		if err := d.Delete(t.Context(), "a", false, nil); !errors.Is(err, errBoom) {
			t.Errorf("the deletion returned %v", err)
		}
		if got := d.state(t, "a"); got != model.Deleting {
			t.Errorf("a VM whose lease was not released is %s", got)
		}
		h.failing("deleted addr-"+v.ID, nil)
		if err := d.Delete(t.Context(), "a", false, nil); err != nil || len(d.List()) != 0 {
			t.Errorf("the second deletion: %v, %v", err, d.List())
		}
	})
}

// named is a driver under another name.
type named struct {
	driver
	name string
}

func (n named) Name() string { return n.name }

// TestDriverOfTheRecord changes the default driver while a VM runs: the VM belongs to the driver
// that started it.
func TestDriverOfTheRecord(t *testing.T) {
	with := func(names ...string) func(driver) *vmm.Registry {
		return func(d driver) *vmm.Registry {
			var all []vmm.Driver
			for _, name := range names {
				all = append(all, named{d, name})
			}
			return vmm.NewRegistry(all[0], all[1:]...)
		}
	}
	h := newHost(t)
	h.drivers = with("old", "new")
	d := h.daemon()
	v := d.worker(t, model.Create{Name: "a"})
	if v.Runtime.Driver != "old" {
		t.Fatalf("it was started by %q", v.Runtime.Driver)
	}
	d.die()

	h.drivers = with("new", "old")
	d = h.daemon()
	if got := d.state(t, "a"); got != model.Running {
		t.Fatalf("with another default driver the VM is %s", got)
	}
	if e, _ := d.find("a"); e.Machine().Driver.Name() != "old" {
		t.Errorf("it was adopted by %q", e.Machine().Driver.Name())
	}
	d.suspend(t, v)
	d.resume(t, v)
	if got, _ := d.Get("a"); got.Runtime.Driver != "old" {
		t.Errorf("it was resumed by %q", got.Runtime.Driver)
	}
	if b := d.started(t, model.Create{Name: "b"}); b.Runtime.Driver != "new" {
		t.Errorf("a new VM was started by %q", b.Runtime.Driver)
	}
	d.die()

	h.drivers = with("new")
	d = h.daemon()
	got, _ := d.Get("a")
	equal(t, "a running VM without its driver", got.State, model.Broken)
	wantLastError(t, got, `"old"`)
	if err := d.Delete(t.Context(), "a", true, nil); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("without its driver, which alone can end its machine, it was deleted: %v", err)
	}
	if h.running() != 2 {
		t.Errorf("%d machines run", h.running())
	}
	d.die()

	h.drivers = with("new", "old")
	d = h.daemon()
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Errorf("with its driver again: %v", err)
	}
	if h.running() != 1 {
		t.Errorf("%d machines run after the deletion", h.running())
	}
}

// TestCancelledLaunchReleasesStandby launches with a context that has ended: the machine on standby
// that was taken for it is torn down, and nothing of it is left.
func TestCancelledLaunchReleasesStandby(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	taps := h.withTaps()
	d := h.withStandby(t, model.Create{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Launch(ctx, model.Create{Name: "a"}, func(model.VM) {}, nil); err == nil {
		t.Error("a launch succeeded whose context had ended")
	}
	d.die()
	if left := taps(); len(left) != 0 {
		t.Errorf("the taps %v are left", left)
	}
	if h.running() != 0 {
		t.Errorf("%d machines still run", h.running())
	}
}

// TestDeleteWithFactsOnAFullDisk deletes a VM whose cleanup stores a fact, while nothing can be
// stored.
func TestDeleteWithFactsOnAFullDisk(t *testing.T) {
	h, d := withLease(t)
	d.started(t, model.Create{Name: "a"})
	for _, hook := range []string{"store deleting", "store running", "store stopped", "store broken", "store error"} {
		h.failing(hook, errBoom)
	}
	if err := d.Delete(t.Context(), "a", true, nil); err != nil {
		t.Errorf("the deletion returned %v", err)
	}
	if left := h.files(); len(left) != 0 {
		t.Errorf("the files %v are left", left)
	}
}
