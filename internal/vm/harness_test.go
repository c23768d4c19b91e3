package vm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
	"banger/internal/store"
	"banger/internal/template"
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
	killAt   *stopAt // at one of the coming hooks, whichever it is; nil for none
	calls    []string
	guest    proto.Assume    // what the last guest was told to be
	records  map[string]bool // ids of VMs that the store has heard of: machines of others are templates in the making
	gone     map[string]bool // images and kernels that were deleted

	answersButton bool            // guests power off by their power button
	homes         bool            // VMs can have work disks
	version       string          // of the driver
	oneCPU        string          // what the driver says about guests with an init
	accel         string          // of the driver; "" for one of its own
	templates     template.Config // of the daemons; off unless a test turns them on
	keeps         bool            // machines that boot are kept as templates

	more    func(*session) []machine.Capability // capabilities besides those that every daemon has; may be nil
	drivers func(driver) *vmm.Registry          // of the daemons; nil: the fake driver alone
}

func newHost(t *testing.T) *host {
	testkit.RequireTool(t, "mkfs.ext4")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	layout := paths.At(t.TempDir(), os.Getuid())
	t.Cleanup(func() { os.RemoveAll(layout.Runtime) }) // elsewhere when the test's name is long
	return &host{
		t: t, layout: layout, computer: fake.NewHost(), file: file, fail: map[string]error{}, block: map[string]chan struct{}{},
		records: map[string]bool{}, gone: map[string]bool{}, version: "1.0", templates: template.Config{Off: true},
	}
}

// hook notes a call and does what the test asked for.
func (h *host) hook(ctx context.Context, name string) error {
	h.mu.Lock()
	h.calls = append(h.calls, name)
	err, gate := h.fail[name], h.block[name]
	if gate == nil {
		gate = h.killAt.pass(name)
	}
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

// stopAt is a hook that waits.
type stopAt struct {
	left    int // hooks up to it
	name    string
	reached chan struct{}
	gate    chan struct{}
}

// pass returns what the hook has to wait for, if it is to wait. The host's mutex guards it.
func (s *stopAt) pass(name string) chan struct{} {
	if s == nil || s.left == 0 {
		return nil
	}
	if s.left--; s.left > 0 {
		return nil
	}
	s.name = name
	close(s.reached)
	return s.gate
}

// killedAt does something and kills the daemon when it has come to the nth hook, whichever that is, then starts another one. "" is the hook when it was
// over before; then the daemon is the same.
func (d *daemon) killedAt(n int, do func(context.Context)) (hook string, now *daemon) {
	d.t.Helper()
	at := &stopAt{left: n, reached: make(chan struct{}), gate: make(chan struct{})}
	set := func(s *stopAt) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.killAt = s
	}
	set(at)
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	over := make(chan struct{})
	go func() { defer close(over); do(ctx) }()
	select {
	case <-over:
		set(nil)
		return "", d
	case <-at.reached:
	}
	now = d.killed(func() {
		set(nil)
		cancel()
		close(at.gate)
		<-over
	})
	return at.name, now
}

// reporter makes hooks of the steps that an operation reports.
func (h *host) reporter() step.Reporter {
	return func(e step.Event) {
		_ = h.hook(context.Background(), fmt.Sprintf("report %s %s %s", e.Phase, e.Step, e.Detail))
	}
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

// options are those of the fake driver. Its guests say on their channel who they are and nothing else: what agents do is the stand-in's
// business, but one that is halted or gone is not heard.
func (s *session) options() fake.Options {
	return fake.Options{
		Agent: func(m vmm.Machine, conn net.Conn) {
			if _, err := fmt.Fprintln(conn, m.ID); err == nil {
				_, _ = io.Copy(io.Discard, conn)
			}
		},
		Fail: s.driverHook, IgnorePowerButton: !s.answersButton, Info: s.driverInfo(),
	}
}

// driverInfo is what the driver reports of itself.
func (s *session) driverInfo() vmm.Info {
	info := vmm.Info{
		Version: s.version, Accel: cmp.Or(s.accel, "none"), Grace: time.Minute,
		Features: vmm.Features{vmm.FeatureUserNet, vmm.FeatureTap, vmm.FeatureTellsReboot},
	}
	if s.oneCPU != "" {
		info.Recommendations = []vmm.Recommendation{{Kind: vmm.MaxVCPUsWithInit, Value: 1, Reason: s.oneCPU}}
	}
	return info
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

// stored lists snapshots and templates, finished or not.
func (h *host) stored() []string {
	h.t.Helper()
	var found []string
	for _, dir := range []string{h.layout.Snapshots(), h.layout.Templates()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
		for _, entry := range entries {
			found = append(found, filepath.Join(dir, entry.Name()))
		}
	}
	return found
}

// daemon is one life of the daemon on the host.
type daemon struct {
	*Manager
	*session
	store *store.Store
}

// session is what one daemon sees of the host. When the daemon is dead, nothing that it does has an effect any more.
type session struct {
	*host
	dead atomic.Bool
}

var errDead = errors.New("the daemon is dead")

// hook is the host's for a machine, told apart by whether it is a VM's or becomes a template. "" is no machine.
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
	m, err := Open(ctx, Config{
		Layout: h.layout, Store: recordStore{s, life}, Drivers: drivers, Images: images{life}, Kernels: kernels{life},
		NewAgent:     func(dial machine.Dialer) machine.Agent { return &agent{life, dial} },
		Capabilities: capabilities,
		Defaults:     model.Spec{Image: "img", Kernel: "krn", VCPUs: 1, Memory: 512 * model.MiB, DiskSize: 64 * model.MiB, Net: model.NetNone},
		StopTimeout:  time.Second,
		Templates:    templates,
		Log:          slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	started := &daemon{m, life, s}
	h.t.Cleanup(started.die)
	return started
}

// recordStore is the store, with a disk that may be full.
type recordStore struct {
	*store.Store
	s *session
}

func (r recordStore) PutVM(ctx context.Context, v model.VM) error {
	r.s.mu.Lock()
	r.s.records[v.ID] = true
	r.s.mu.Unlock()
	if err := r.s.hook(ctx, "", "store "+string(v.State)); err != nil {
		return err
	}
	return r.Store.PutVM(ctx, v)
}

func (r recordStore) DeleteVM(ctx context.Context, id string) error {
	if err := r.s.hook(ctx, "", "store gone"); err != nil {
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
func (s *session) driverHook(op fake.Op, id string) error {
	name, ok := map[fake.Op]string{
		fake.OpInfo: "do preflight", fake.OpStarted: "do vmm", fake.OpAdopt: "adopt", fake.OpPowerOff: "power button", fake.OpSignal: "signal", fake.OpResize: "drive",
		fake.OpPause: "halt", fake.OpResume: "go on", fake.OpSave: "save", fake.OpStill: "still", fake.OpRestore: "restore",
	}[op]
	if !ok {
		return nil
	}
	return s.hook(context.Background(), id, name)
}

// driver is the fake one, whose looking at a machine can be made to fail.
type driver struct {
	*fake.Driver
	s *session
}

func (d driver) Fingerprint(ctx context.Context, m vmm.Machine) (string, error) {
	name := "do origin"
	if m.Kernel == "" {
		name = "shape"
	}
	if err := d.s.hook(ctx, m.ID, name); err != nil {
		return "", err
	}
	return d.Driver.Fingerprint(ctx, m)
}

// guest is what a guest keeps in its memory: it goes where that goes.
type guest struct {
	Assumed, Frozen bool
	Forks           int    // identities after the first
	Name            string // of the host that it is
	Data            string // what its processes have
}

// inGuest changes what a guest has in its memory, and returns it.
func (h *host) inGuest(id string, change func(*guest)) guest {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var g guest
	if memory := h.computer.Memory(id); len(memory) > 0 {
		if err := json.Unmarshal(memory, &g); err != nil {
			h.t.Errorf("the memory of %s holds %q: %v", id, memory, err)
		}
	}
	change(&g)
	memory, err := json.Marshal(g)
	if err != nil {
		h.t.Error(err)
	}
	h.computer.SetMemory(id, memory)
	return g
}

// look returns what a guest has in its memory.
func (h *host) look(v model.VM) guest {
	h.t.Helper()
	return h.inGuest(v.ID, func(*guest) {})
}

// workPlace is where on its system disk a guest keeps its work: beyond what mkfs writes.
const workPlace = 50 << 20

// work has a guest do something that is in its memory and on its disk.
func (h *host) work(v model.VM, text string) {
	h.t.Helper()
	h.inGuest(v.ID, func(g *guest) { g.Data = text })
	f, err := os.OpenFile(h.layout.VM(v.ID).SystemDisk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(append([]byte(text), 0), workPlace)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
}

// worked returns what the guest of a running VM has done, which must be the same in its memory and on its disk.
func (h *host) worked(v model.VM) string {
	h.t.Helper()
	memory, disk := h.look(v).Data, h.onDisk(v)
	if memory != disk {
		h.t.Errorf("%s has %q in its memory and %q on its disk", v.Spec.Name, memory, disk)
	}
	return memory
}

// onDisk returns what the guest has done, as far as that is on its disk.
func (h *host) onDisk(v model.VM) string {
	h.t.Helper()
	f, err := os.Open(h.layout.VM(v.ID).SystemDisk())
	if err != nil {
		h.t.Error(err)
		return ""
	}
	defer f.Close()
	text := make([]byte, 100)
	if _, err := f.ReadAt(text, workPlace); err != nil {
		h.t.Error(err)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}

// agent is the client of the agent in one guest. The agent behaves as the real one does.
type agent struct {
	s    *session
	dial machine.Dialer
}

// reach waits until the guest answers, and returns whose it is. Then it does what the test asked for.
func (a *agent) reach(ctx context.Context, hook string) (id string, err error) {
	conn, err := a.dial(ctx)
	if err != nil {
		return "", fault.New(fault.Unavailable, "connecting to the guest: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fscanln(conn, &id); err != nil {
		return "", fault.New(fault.Unavailable, "waiting for the guest: %w", errors.Join(context.Cause(ctx), err))
	}
	if err := a.s.hook(ctx, id, hook); err != nil {
		return id, err
	}
	if !slices.ContainsFunc(a.s.computer.Running(), func(m vmm.Machine) bool { return m.ID == id }) {
		return id, fault.New(fault.Unavailable, "the guest is gone")
	}
	return id, nil
}

func (a *agent) Hello(ctx context.Context) (proto.Hello, error) {
	id, err := a.reach(ctx, "do agent")
	if err != nil {
		return proto.Hello{}, err
	}
	g := a.s.inGuest(id, func(*guest) {})
	return proto.Hello{
		Generation: proto.Generation, Assumed: g.Assumed, Frozen: g.Frozen, Forks: g.Forks, Uptime: time.Second, Marks: []proto.Mark{{Name: "init", At: time.Millisecond}},
	}, nil
}

func (a *agent) Wake(ctx context.Context) (proto.Hello, error) {
	if _, err := a.reach(ctx, "wake"); err != nil {
		return proto.Hello{}, err
	}
	return a.Hello(ctx)
}

func (a *agent) Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error) {
	id, err := a.reach(ctx, "do assume")
	if err != nil {
		return proto.Assumed{}, err
	}
	a.s.inGuest(id, func(g *guest) {
		if g.Assumed && !g.Frozen {
			err = fault.New(fault.WrongState, "this machine has taken on an identity before")
			return
		}
		if g.Assumed {
			g.Forks++
		}
		g.Assumed, g.Frozen, g.Name = true, false, doc.Hostname
	})
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.guest = doc
	return proto.Assumed{}, err
}

func (a *agent) Sync(ctx context.Context) error {
	_, err := a.reach(ctx, "sync")
	return err
}

func (a *agent) Freeze(ctx context.Context) (proto.Frozen, error) {
	id, err := a.reach(ctx, "freeze")
	if err != nil {
		return proto.Frozen{}, err
	}
	a.s.inGuest(id, func(g *guest) { g.Frozen = g.Assumed })
	return proto.Frozen{Processes: 1}, a.s.hook(ctx, id, "froze")
}

func (a *agent) Thaw(ctx context.Context, doc proto.Thaw) error {
	id, err := a.reach(ctx, "thaw")
	if err != nil {
		return err
	}
	if len(doc.Entropy) < 32 || doc.Time.IsZero() {
		return fault.New(fault.Invalid, "thawed with %+v", doc)
	}
	a.s.inGuest(id, func(g *guest) { g.Frozen = false })
	return nil
}

func (a *agent) PowerOff(ctx context.Context) error {
	id, err := a.reach(ctx, "power-off")
	if err != nil {
		return err
	}
	if a.s.inGuest(id, func(*guest) {}).Frozen {
		return fault.New(fault.WrongState, "the processes are held")
	}
	a.s.computer.End(id, vmm.Exit{Reason: vmm.ExitPowerOff})
	return nil
}

func (a *agent) Resize(ctx context.Context, serial string, _ model.Bytes) error {
	_, err := a.reach(ctx, "resize "+serial)
	return err
}

// Upgrade runs commands, which do nothing.
func (a *agent) Upgrade(ctx context.Context, route string) (net.Conn, error) {
	if route != "/v1/exec" {
		return nil, errors.ErrUnsupported
	}
	if _, err := a.reach(ctx, "exec"); err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if t, _, err := proto.NewReader(theirs).ReadFrame(); err == nil && t == proto.FrameStart {
			_ = proto.NewWriter(theirs).WriteJSON(proto.FrameExit, proto.Exit{})
		}
	}()
	return ours, nil
}

func (a *agent) GetFiles(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}
func (a *agent) PutFiles(context.Context, string, io.Reader) error { return errors.ErrUnsupported }
func (a *agent) Ports(context.Context) ([]proto.Port, error)       { return nil, errors.ErrUnsupported }
func (a *agent) Stats(ctx context.Context) (proto.Stats, error) {
	_, err := a.reach(ctx, "stats")
	return proto.Stats{}, err
}
func (a *agent) Close() error { return nil }

// delete makes an image or a kernel disappear, or come back.
func (h *host) delete(id string, gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone[id] = gone
}

func (h *host) isGone(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone[id] {
		return fault.New(fault.NotFound, "no %s", id)
	}
	return nil
}

type images struct{ s *session }

const imageWithInit = "img-with-init"

func (i images) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Image, error) {
	img := model.Image{ID: "id-of-" + ref}
	if ref == imageWithInit {
		img.Init = "/sbin/init"
	}
	return img, i.s.hook(ctx, "", "ensure image")
}

func (i images) Get(ref string) (model.Image, error) {
	img := model.Image{ID: ref, Path: i.s.file, Config: model.ImageConfig{Env: []string{"A=image", "B=image"}, User: "app", WorkingDir: "/app"}}
	if ref == "id-of-"+imageWithInit {
		img.Init = "/sbin/init"
	}
	return img, errors.Join(i.s.isGone(ref), i.s.hook(context.Background(), "", "get image"))
}

type kernels struct{ s *session }

func (k kernels) Ensure(ctx context.Context, ref string, _ step.Reporter) (model.Kernel, error) {
	return model.Kernel{ID: "id-of-" + ref}, k.s.hook(ctx, "", "ensure kernel")
}

// Get returns a kernel with a file of its own.
func (k kernels) Get(ref string) (model.Kernel, error) {
	file := k.s.file + "-" + ref
	f, err := os.OpenFile(file, os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	return model.Kernel{ID: ref, Vmlinux: file}, errors.Join(err, k.s.isGone(ref))
}

func (k kernels) Initramfs(ctx context.Context, _ model.Kernel) ([]string, error) {
	return []string{k.s.file}, k.s.hook(ctx, "", "do initramfs")
}

// capability makes a file per VM on the host, which is what its clean-up must take away.
type capability struct {
	s    *session
	name string
}

// held is the file that a capability makes.
func (h *host) held(v model.VM, capability string) string { return h.heldBy(v.ID, capability) }

func (h *host) heldBy(id, capability string) string {
	return filepath.Join(h.layout.VM(id).Dir, "held-by-"+capability)
}

func (c capability) Name() string { return c.name }
func (c capability) Preflight(ctx context.Context, req machine.PreflightRequest) error {
	return c.s.hook(ctx, req.ID, "preflight "+c.name)
}

func (c capability) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	if err := os.WriteFile(c.s.heldBy(req.ID, c.name), nil, 0o600); err != nil {
		return err
	}
	return c.s.hook(ctx, req.ID, "do prepare/"+c.name)
}

func (c capability) PostStart(ctx context.Context, req machine.PostStartRequest) error {
	return c.s.hook(ctx, req.ID, "do post-start/"+c.name)
}

func (c capability) Cleanup(ctx context.Context, req machine.CleanupRequest) error {
	if err := c.s.hook(ctx, req.ID, "undo "+c.name); err != nil {
		return err
	}
	return os.RemoveAll(c.s.heldBy(req.ID, c.name))
}

func (c capability) ContributeGuest(_ context.Context, req machine.GuestRequest) error {
	req.Assume.Files = append(req.Assume.Files, proto.File{Path: "/" + c.name})
	return nil
}

func (c capability) RecordsChanged(_ context.Context, vms []model.VM) error {
	var names []string
	for _, v := range vms {
		names = append(names, v.Spec.Name)
	}
	slices.Sort(names)
	return c.s.hook(context.Background(), "", fmt.Sprintf("records %v", names))
}

// homes makes work disks, as the real capability does.
type homes struct{ s *session }

func (homes) Name() string { return "homes" }
func (c homes) PrepareHost(ctx context.Context, req machine.HostRequest) error {
	if req.Spec.WorkDiskSize == 0 {
		return nil
	}
	path := c.s.layout.VM(req.ID).WorkDisk()
	err := machine.FitDisk(path, req.Spec.WorkDiskSize)
	if fault.KindOf(err) == fault.NotFound {
		return disk.Create(ctx, path, req.Spec.WorkDiskSize)
	}
	return err
}

func (c homes) Cleanup(_ context.Context, req machine.CleanupRequest) error {
	if !req.Fresh {
		return nil
	}
	return os.RemoveAll(c.s.layout.VM(req.ID).WorkDisk())
}

func (c homes) ContributeMachine(_ context.Context, req machine.MachineRequest) error {
	if req.Spec.WorkDiskSize != 0 {
		req.Machine.Drives = append(req.Machine.Drives, vmm.Drive{Name: proto.SerialWork, Path: c.s.layout.VM(req.ID).WorkDisk()})
	}
	return nil
}

// startSteps are the steps of a start here. Each but "template", which does not fail, has a hook that makes it fail.
var startSteps = []string{
	"preflight", "run-dir", "initramfs", "origin", "system-disk", "prepare/one", "prepare/two", "vmm", "agent", "template", "assume", "post-start/one", "post-start/two",
}
