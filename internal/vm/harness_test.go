package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/store"
	"banger/internal/testkit"
	"banger/internal/vmm"
)

// The manager is tested with a real store, real disks and real folders. Only the machine and its agent are stand-ins, so that every step can be
// made to fail, hang or be cut off; end-to-end tests do the same with real machines where that is possible.

// host is what outlives a daemon: the machines that run, and what each hook is told to do.
type host struct {
	t        *testing.T
	layout   paths.Layout
	mu       sync.Mutex
	machines map[string]*machine // by run folder
	fail     map[string]error    // by hook: "do agent", "undo prepare/cap", ...
	block    map[string]chan struct{}
	calls    []string
	guest    proto.Assume // what the last guest was told to be

	answersButton bool // guests power off by their power button
}

func newHost(t *testing.T) *host {
	testkit.RequireTool(t, "mkfs.ext4")
	return &host{t: t, layout: paths.At(t.TempDir(), os.Getuid()), machines: map[string]*machine{}, fail: map[string]error{}, block: map[string]chan struct{}{}}
}

// hook notes a call and does what the test asked for.
func (h *host) hook(ctx context.Context, name string) error {
	h.mu.Lock()
	h.calls = append(h.calls, name)
	err, gate := h.fail[name], h.block[name]
	h.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

func (h *host) failing(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.fail, name)
		return
	}
	h.fail[name] = err
}

// hanging makes the hook wait until release is called.
func (h *host) hanging(name string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	h.block[name] = gate
	return sync.OnceFunc(func() {
		h.mu.Lock()
		delete(h.block, name)
		h.mu.Unlock()
		close(gate)
	})
}

func (h *host) called(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.calls {
		if c == name {
			n++
		}
	}
	return n
}

func (h *host) running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, m := range h.machines {
		if m.alive() {
			n++
		}
	}
	return n
}

// files lists what is below the state and run folders, apart from the database.
func (h *host) files() []string {
	var found []string
	for _, root := range []string{h.layout.VMs(), filepath.Dir(h.layout.VM("x").Run)} {
		filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != root {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// daemon is one life of the daemon on the host.
type daemon struct {
	*Manager
	store *store.Store
}

func (h *host) daemon() *daemon {
	h.t.Helper()
	return h.daemonWithin(h.t.Context())
}

// daemonWithin starts a daemon that is told to end when ctx does.
func (h *host) daemonWithin(ctx context.Context) *daemon {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.layout.Database())
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := Open(ctx, Config{
		Layout: h.layout, Store: records{s, h}, Driver: driver{h}, Images: images{h}, Kernels: kernels{h},
		NewAgent:     func(Dialer) Agent { return &agent{h: h} },
		Capabilities: []Capability{capability{h, "one"}, capability{h, "two"}},
		Defaults:     model.Spec{Image: "img", Kernel: "krn", VCPUs: 1, Memory: 512 * model.MiB, DiskSize: 64 * model.MiB, Net: model.NetNone},
		StopTimeout:  time.Second,
		Log:          slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	d := &daemon{m, s}
	h.t.Cleanup(d.die)
	return d
}

// records is the store, with a disk that may be full.
type records struct {
	*store.Store
	h *host
}

func (r records) PutVM(ctx context.Context, v model.VM) error {
	if err := r.h.hook(ctx, "store "+string(v.State)); err != nil {
		return err
	}
	return r.Store.PutVM(ctx, v)
}

// die ends the daemon the way kill -9 does for the host: nothing is settled. Closing only ends goroutines.
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

func (d *daemon) state(t *testing.T, ref string) model.State {
	t.Helper()
	v, err := d.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	return v.State
}

type driver struct{ h *host }

func (d driver) Name() string { return "stand-in" }
func (d driver) Info(ctx context.Context) (vmm.Info, error) {
	return vmm.Info{Accel: "none", Grace: 5 * time.Second}, d.h.hook(ctx, "do preflight")
}

func (d driver) Start(ctx context.Context, m vmm.Machine, intend func(vmm.State) error) (vmm.Instance, error) {
	if err := intend(vmm.State(m.RunDir)); err != nil {
		return nil, err
	}
	for _, drive := range m.Drives {
		if _, err := os.Stat(drive.Path); err != nil && !drive.ReadOnly {
			return nil, err
		}
	}
	inst := &machine{h: d.h, runDir: m.RunDir, over: make(chan struct{})}
	d.h.mu.Lock()
	if old := d.h.machines[m.RunDir]; old != nil && old.alive() {
		d.h.mu.Unlock()
		return nil, errors.New("two machines for one VM")
	}
	d.h.machines[m.RunDir] = inst
	d.h.mu.Unlock()
	if err := d.h.hook(ctx, "do vmm"); err != nil {
		inst.end(vmm.ExitKilled)
		return nil, err
	}
	return inst, nil
}

func (d driver) Adopt(ctx context.Context, s vmm.State) (vmm.Instance, error) {
	return d.Find(ctx, string(s))
}

func (d driver) Find(ctx context.Context, runDir string) (vmm.Instance, error) {
	if err := errors.Join(d.h.hook(ctx, "adopt"), ctx.Err()); err != nil {
		return nil, err
	}
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if m := d.h.machines[runDir]; m != nil && m.alive() {
		return m, nil
	}
	return nil, fault.New(fault.NotFound, "no machine")
}

type machine struct {
	h      *host
	runDir string
	once   sync.Once
	over   chan struct{}
	exit   vmm.Exit
}

func (m *machine) alive() bool {
	select {
	case <-m.over:
		return false
	default:
		return true
	}
}

func (m *machine) end(why vmm.ExitReason) {
	m.once.Do(func() { m.exit.Reason = why; close(m.over) })
}

func (m *machine) State() vmm.State { return vmm.State(m.runDir) }
func (m *machine) PID() int         { return 1 }
func (m *machine) DialAgent(context.Context) (net.Conn, error) {
	return nil, errors.New("no channel")
}
func (m *machine) PowerOff(ctx context.Context) error {
	if err := errors.Join(m.h.hook(ctx, "power button"), ctx.Err()); err != nil {
		return err
	}
	if m.h.answersButton {
		m.end(vmm.ExitPowerOff)
	}
	return nil
}
func (m *machine) Signal(sig syscall.Signal) error {
	if err := m.h.hook(context.Background(), "signal"); err != nil {
		return err
	}
	if fatal(sig) {
		m.end(vmm.ExitKilled)
	}
	return nil
}

func (m *machine) Wait(ctx context.Context) (vmm.Exit, error) {
	select {
	case <-m.over:
		return m.exit, nil
	case <-ctx.Done():
		return vmm.Exit{}, ctx.Err()
	}
}
func (m *machine) Close() error { return nil }
func (m *machine) ResizeDrive(ctx context.Context, serial string, _ model.Bytes) error {
	return m.h.hook(ctx, "drive "+serial)
}

type agent struct{ h *host }

func (a *agent) Hello(ctx context.Context) (proto.Hello, error) {
	return proto.Hello{Generation: proto.Generation, Uptime: time.Second, Marks: []proto.Mark{{Name: "init", At: time.Millisecond}}}, a.h.hook(ctx, "do agent")
}

func (a *agent) Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error) {
	a.h.mu.Lock()
	a.h.guest = doc
	a.h.mu.Unlock()
	return proto.Assumed{}, a.h.hook(ctx, "do assume")
}

func (a *agent) PowerOff(ctx context.Context) error {
	if err := a.h.hook(ctx, "power-off"); err != nil {
		return err
	}
	a.h.mu.Lock()
	defer a.h.mu.Unlock()
	for _, m := range a.h.machines {
		m.end(vmm.ExitPowerOff)
	}
	return nil
}
func (a *agent) Resize(ctx context.Context, serial string, _ model.Bytes) error {
	return a.h.hook(ctx, "resize "+serial)
}
func (a *agent) Upgrade(context.Context, string) (net.Conn, error) { return nil, errors.ErrUnsupported }
func (a *agent) GetFiles(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}
func (a *agent) PutFiles(context.Context, string, io.Reader) error { return errors.ErrUnsupported }
func (a *agent) Ports(context.Context) ([]proto.Port, error)       { return nil, errors.ErrUnsupported }
func (a *agent) Stats(ctx context.Context) (proto.Stats, error) {
	return proto.Stats{}, a.h.hook(ctx, "stats")
}
func (a *agent) Close() error { return nil }

type images struct{ h *host }

func (i images) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Image, error) {
	return model.Image{ID: "id-of-" + ref}, i.h.hook(ctx, "ensure image")
}

func (i images) Get(ref string) (model.Image, error) {
	return model.Image{ID: ref, Path: "/nowhere/" + ref, Config: model.ImageConfig{Env: []string{"A=image", "B=image"}, User: "app", WorkingDir: "/app"}},
		i.h.hook(context.Background(), "get image")
}

type kernels struct{ h *host }

func (k kernels) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Kernel, error) {
	return model.Kernel{ID: "id-of-" + ref}, k.h.hook(ctx, "ensure kernel")
}
func (k kernels) Get(ref string) (model.Kernel, error) { return model.Kernel{ID: ref}, nil }
func (k kernels) Initramfs(ctx context.Context, _ model.Kernel) ([]string, error) {
	return []string{"/initramfs"}, k.h.hook(ctx, "do initramfs")
}

// capability makes a file per VM on the host, which is what its clean-up must take away.
type capability struct {
	h    *host
	name string
}

func (c capability) Name() string { return c.name }
func (c capability) file(v model.VM) string {
	return filepath.Join(c.h.layout.State, "vms", v.ID, "held-by-"+c.name)
}
func (c capability) Preflight(ctx context.Context, _ PreflightRequest) error {
	return c.h.hook(ctx, "preflight "+c.name)
}

func (c capability) PrepareHost(ctx context.Context, req HostRequest) error {
	if err := os.WriteFile(c.file(req.VM), nil, 0o600); err != nil {
		return err
	}
	return c.h.hook(ctx, "do prepare/"+c.name)
}

func (c capability) PostStart(ctx context.Context, req PostStartRequest) error {
	return c.h.hook(ctx, "do post-start/"+c.name)
}

func (c capability) Cleanup(ctx context.Context, req CleanupRequest) error {
	if err := c.h.hook(ctx, "undo "+c.name); err != nil {
		return err
	}
	return os.RemoveAll(c.file(req.VM))
}

func (c capability) ContributeGuest(_ context.Context, req GuestRequest) error {
	req.Assume.Files = append(req.Assume.Files, proto.File{Path: "/" + c.name})
	return nil
}

func (c capability) RecordsChanged(_ context.Context, vms []model.VM) error {
	var names []string
	for _, v := range vms {
		names = append(names, v.Spec.Name)
	}
	slices.Sort(names)
	return c.h.hook(context.Background(), fmt.Sprintf("records %v", names))
}

// startSteps are the steps of a start here, each with the hook that makes it fail.
var startSteps = []string{
	"preflight", "run-dir", "system-disk", "prepare/one", "prepare/two", "initramfs", "vmm", "agent", "assume", "post-start/one", "post-start/two",
}
