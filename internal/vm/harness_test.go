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
	"testing"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/store"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// The manager is tested with a real store, real disks and real folders. Only the machine (the fake driver's) and its agent are stand-ins, so that every step can be
// made to fail, hang or be cut off; end-to-end tests do the same with real machines where that is possible.

// host is what outlives a daemon: the machines that run, and what each hook is told to do.
type host struct {
	t        *testing.T
	layout   paths.Layout
	mu       sync.Mutex
	computer *fake.Host
	file     string           // stands for the image, the kernel and the initramfs
	fail     map[string]error // by hook: "do agent", "undo prepare/cap", ...
	block    map[string]chan struct{}
	calls    []string
	guest    proto.Assume // what the last guest was told to be

	answersButton bool // guests power off by their power button
}

func newHost(t *testing.T) *host {
	testkit.RequireTool(t, "mkfs.ext4")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return &host{
		t: t, layout: paths.At(t.TempDir(), os.Getuid()), computer: fake.NewHost(), file: file, fail: map[string]error{}, block: map[string]chan struct{}{},
	}
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

func (h *host) running() int { return len(h.computer.Running()) }

// end ends a VM's machine as if by itself.
func (h *host) end(v model.VM, why vmm.ExitReason) {
	h.t.Helper()
	if !h.computer.End(v.ID, vmm.Exit{Reason: why}) {
		h.t.Errorf("no machine of %s runs", v.Spec.Name)
	}
}

// options are those of the fake driver, whose machines have no agent: the agent's client is a stand-in too.
func (h *host) options() fake.Options {
	return fake.Options{
		Fail: h.driverHook, IgnorePowerButton: !h.answersButton, Info: vmm.Info{Accel: "none", Grace: 5 * time.Second},
	}
}

// files lists what is below the state and run folders, apart from the database and from logs, which stay to tell why a start failed.
func (h *host) files() []string {
	var found []string
	for _, root := range []string{h.layout.VMs(), filepath.Dir(h.layout.VM("x").Run)} {
		filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != root && filepath.Ext(path) != ".log" {
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
		Layout: h.layout, Store: records{s, h}, Driver: driver{fake.New(h.computer, h.options()), h}, Images: images{h}, Kernels: kernels{h},
		NewAgent:     func(Dialer) Agent { return &agent{h: h} },
		Capabilities: []Capability{capability{h, "one"}, capability{h, "two"}},
		Defaults:     model.Spec{Image: "img", Kernel: "krn", VCPUs: 1, Memory: 512 * model.MiB, DiskSize: 64 * model.MiB, Net: model.NetNone},
		StopTimeout:  time.Second,
		Templates:    TemplateConfig{Off: true},
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

func (r records) DeleteVM(ctx context.Context, id string) error {
	if err := r.h.hook(ctx, "store gone"); err != nil {
		return err
	}
	return r.Store.DeleteVM(ctx, id)
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

// driverHook names the driver's moments as the tests do.
func (h *host) driverHook(op fake.Op, _ string) error {
	name, ok := map[fake.Op]string{
		fake.OpInfo: "do preflight", fake.OpStarted: "do vmm", fake.OpAdopt: "adopt", fake.OpPowerOff: "power button", fake.OpSignal: "signal", fake.OpResize: "drive",
	}[op]
	if !ok {
		return nil
	}
	return h.hook(context.Background(), name)
}

// driver is the fake one, whose looking at a machine can be made to fail.
type driver struct {
	*fake.Driver
	h *host
}

func (d driver) Fingerprint(ctx context.Context, m vmm.Machine) (string, error) {
	if err := d.h.hook(ctx, "do origin"); err != nil {
		return "", err
	}
	return d.Driver.Fingerprint(ctx, m)
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
	for _, m := range a.h.computer.Running() {
		a.h.computer.End(m.ID, vmm.Exit{Reason: vmm.ExitPowerOff})
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
func (a *agent) Freeze(ctx context.Context) (proto.Frozen, error) {
	return proto.Frozen{}, a.h.hook(ctx, "freeze")
}
func (a *agent) Thaw(ctx context.Context, _ proto.Thaw) error { return a.h.hook(ctx, "thaw") }
func (a *agent) Close() error                                 { return nil }

type images struct{ h *host }

func (i images) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Image, error) {
	return model.Image{ID: "id-of-" + ref}, i.h.hook(ctx, "ensure image")
}

func (i images) Get(ref string) (model.Image, error) {
	return model.Image{ID: ref, Path: i.h.file, Config: model.ImageConfig{Env: []string{"A=image", "B=image"}, User: "app", WorkingDir: "/app"}},
		i.h.hook(context.Background(), "get image")
}

type kernels struct{ h *host }

func (k kernels) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Kernel, error) {
	return model.Kernel{ID: "id-of-" + ref}, k.h.hook(ctx, "ensure kernel")
}
func (k kernels) Get(ref string) (model.Kernel, error) {
	return model.Kernel{ID: ref, Vmlinux: k.h.file}, nil
}
func (k kernels) Initramfs(ctx context.Context, _ model.Kernel) ([]string, error) {
	return []string{k.h.file}, k.h.hook(ctx, "do initramfs")
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
	"preflight", "run-dir", "initramfs", "origin", "system-disk", "prepare/one", "prepare/two", "vmm", "agent", "assume", "post-start/one", "post-start/two",
}
