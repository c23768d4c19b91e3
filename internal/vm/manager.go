// Package vm is the life of VMs: it creates, starts, stops, changes and deletes them, keeps their records true, and after a
// crash brings records and host together again.
//
// Vocabulary: a record (model.VM) is what is durable. An entry is a record in memory with its operation lock. A live machine is what
// exists only while a VMM runs: the driver's instance and the agent's client. An operation is a start, stop, delete, ...: it holds
// the entry's operation lock from end to end, so operations on one VM queue in order while different VMs proceed in parallel.
//
// Invariants:
//   - A record is stored before what it names is made on the host, and removed after that is gone.
//   - State changes follow model's table; they happen only under the operation lock, through Manager.update. (Two are shown and not stored: see notAdopted and setUnwanted.)
//   - Everything that an operation makes is taken away by the same idempotent clean-ups (cleanup.go), whether by the undo of a failed start,
//     by stop, by delete or by recovery at start-up.
//   - No caller's context is a VM's lifetime. A cancelled start is undone; a machine that runs is never ended by a cancelled request.
//
// Lock order: an entry's operation lock, then Manager.refs, then Manager.mu, then entry.mu. The last two are never held over I/O.
package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Config is what a Manager is built from.
type Config struct {
	Layout       paths.Layout
	Store        Store
	Driver       vmm.Driver
	Images       Images
	Kernels      Kernels
	NewAgent     func(Dialer) Agent
	Capabilities []Capability  // in the order of their hooks
	Defaults     model.Spec    // what Create fills in: image, kernel, sizes, network, user, environment
	BootTimeout  time.Duration // for the guest's agent to come up; 0 leaves it to the driver (vmm.Info.Grace)
	StopTimeout  time.Duration // for a guest to power off before its VMM is ended; 10 s when 0
	Templates    TemplateConfig
	Log          *slog.Logger
}

// Manager holds all VMs of one BANGER_HOME. Its methods are safe for concurrent use.
type Manager struct {
	Config
	mu  sync.RWMutex
	vms map[string]*entry // by id

	templates *templates
	ops       activity
	forking   chan struct{} // one for each child of a fork that may start at a time

	naming sync.Mutex // of snapshots; a leaf

	refs sync.RWMutex // held for reading from the moment an image's presence was checked until a record names it
	obs  sync.Mutex   // one round of observers at a time, so that they see changes in order

	life context.Context // ends at Close: that of the watchers
	end  context.CancelFunc
	wg   sync.WaitGroup
}

// entry is one VM in memory.
type entry struct {
	lock    opLock
	standby *standby // whose machine this is, between its creation and its start, which are one operation

	mu       sync.Mutex // guards what follows; writers hold the operation lock too
	vm       model.VM
	live     *live
	used     use
	unwanted bool // it was to be deleted, how that ended could not be recorded, and it is tried again
}

// live is what exists while a VMM runs.
type live struct {
	inst   vmm.Instance
	agent  Agent
	killed atomic.Bool // by the user
}

const (
	defaultStopTimeout = 10 * time.Second
	storeTimeout       = 10 * time.Second // for writing one record
	killTimeout        = 20 * time.Second // for a VMM to be gone after SIGKILL
)

// Open reads the records, brings them and the host together again, and returns the manager. See recover.go.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	m := &Manager{Config: cfg, vms: map[string]*entry{}}
	m.templates = newTemplates(m, cfg.Templates)
	m.forking = make(chan struct{}, max(2, runtime.NumCPU()))
	m.life, m.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := os.MkdirAll(cfg.Layout.Snapshots(), 0o700); err != nil {
		return nil, fmt.Errorf("making the snapshots' folder: %w", err)
	}
	if err := m.recover(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if !m.templates.Off {
		m.wg.Go(func() { m.templates.run(m.life) })
	}
	m.wg.Go(func() { m.watchIdle(m.life) })
	m.wg.Go(func() { m.watchLeftovers(m.life) })
	return m, nil
}

// Close lets go of all VMs without ending them, and returns when every goroutine of the manager has ended. Operations must be
// over.
func (m *Manager) Close() error {
	m.end()
	m.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, e := range m.vms {
		errs = append(errs, e.letGo())
	}
	m.templates.endStandby(context.Background(), "")
	return errors.Join(errs...)
}

// Get returns the VM that ref means: a name, an id, or the beginning of one id.
func (m *Manager) Get(ref string) (model.VM, error) {
	e, err := m.find(ref)
	if err != nil {
		return model.VM{}, err
	}
	return e.record(), nil
}

// List returns all VMs, oldest first.
func (m *Manager) List() []model.VM {
	m.mu.RLock()
	vms := make([]model.VM, 0, len(m.vms))
	for _, e := range m.vms {
		vms = append(vms, e.record())
	}
	m.mu.RUnlock()
	slices.SortFunc(vms, func(a, b model.VM) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return vms
}

// Agent returns the agent of a running VM.
func (m *Manager) Agent(ref string) (Agent, error) {
	e, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.vm.State != model.Running || e.live == nil {
		return nil, notRunning(e.vm)
	}
	return e.live.agent, nil
}

// References calls f with the images and kernels that VMs use (id to names of VMs). No VM that uses another one appears while f
// runs, so f may delete what nobody uses.
func (m *Manager) References(f func(images, kernels map[string][]string) error) error {
	m.refs.Lock()
	defer m.refs.Unlock()
	images, kernels := map[string][]string{}, map[string][]string{}
	use := func(in map[string][]string, id, user string) {
		if id != "" && !slices.Contains(in[id], user) {
			in[id] = append(in[id], user)
		}
	}
	for _, v := range m.List() {
		use(images, v.Spec.ImageID, v.Spec.Name)
		use(kernels, v.Spec.KernelID, v.Spec.Name)
		machine, err := m.machineSpec(v)
		if err != nil {
			return err
		}
		if v.Runtime != nil || v.State == model.Suspended { // it may be to have others at its next start
			use(images, v.DiskImage, v.Spec.Name)
		}
		if machine != nil {
			use(images, machine.ImageID, v.Spec.Name)
			use(kernels, machine.KernelID, v.Spec.Name)
		}
	}
	if err := m.snapshotReferences(images, kernels); err != nil {
		return err
	}
	return f(images, kernels)
}

// machineSpec is what a VM's machine was started as, whether it runs or is suspended; nil when there is none.
func (m *Manager) machineSpec(v model.VM) (*model.Spec, error) {
	if v.Runtime != nil {
		return cmp.Or(v.Runtime.Spec, &v.Spec), nil
	}
	if v.State != model.Suspended {
		return nil, nil
	}
	snap, err := snapshot.Open(context.Background(), m.Layout.VM(v.ID).Suspended())
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
		return nil, nil // it will never go on
	}
	if err != nil {
		return nil, err
	}
	spec := snap.Meta().Spec
	return &spec, nil
}

func (m *Manager) find(ref string) (*entry, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e, ok := m.vms[ref]; ok { // first: programs go by ids, and another VM may be called like one
		return e, nil
	}
	if e := m.byNameLocked(ref); e != nil {
		return e, nil
	}
	var found []*entry
	for id, e := range m.vms {
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return nil, fault.New(fault.NotFound, "no VM named %q", ref).WithHint("`banger vm list` shows the VMs there are")
	case 1:
		return found[0], nil
	}
	return nil, fault.New(fault.Invalid, "id prefix %q means %d VMs", ref, len(found)).WithHint("give more digits, or the name")
}

func (m *Manager) byNameLocked(name string) *entry {
	for _, e := range m.vms {
		if e.record().Spec.Name == name {
			return e
		}
	}
	return nil
}

// begin finds the VM, takes its operation lock, and makes its record say what is.
func (m *Manager) begin(ctx context.Context, ref, operation string) (*entry, context.Context, func(), error) {
	m.removeUnwanted(ctx)
	e, err := m.find(ref)
	if err != nil {
		return nil, nil, nil, err
	}
	opCtx, release, err := e.lock.acquire(ctx, operation)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("waiting for VM %s: %w", ref, err)
	}
	if err := m.settleUnrecorded(opCtx, e); err != nil {
		release()
		return nil, nil, nil, err
	}
	if err := m.finishRestore(opCtx, e); err != nil {
		release()
		return nil, nil, nil, err
	}
	m.letHeldGoOn(opCtx, e)
	return e, opCtx, m.counted(release), nil
}

// counted makes an operation's end known to those who wait for a pause.
func (m *Manager) counted(release func()) func() {
	end := m.ops.begin()
	return func() {
		release()
		end()
	}
}

// update changes a record: in the store first, then in memory. The caller holds the operation lock. A context that has ended does not
// stop it: what has happened must be recorded.
func (m *Manager) update(ctx context.Context, e *entry, change func(*model.VM)) error {
	before := e.record()
	after := before
	if before.Runtime != nil { // the one pointer that changes in place
		rt := *before.Runtime
		rt.Prepared = slices.Clone(rt.Prepared)
		after.Runtime = &rt
	}
	change(&after)
	if after.State != before.State && !before.State.May(after.State) {
		return fmt.Errorf("VM %s: state %s cannot follow %s", before.Spec.Name, after.State, before.State)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := m.Store.PutVM(ctx, after); err != nil {
		return err
	}
	e.mu.Lock()
	e.vm = after
	e.mu.Unlock()
	if after.State != before.State {
		m.logger(after).InfoContext(ctx, "state", "from", before.State, "to", after.State)
	}
	return nil
}

// observe tells the observers what VMs there are. Their errors are logged: a stale known_hosts file is no reason to fail a start.
func (m *Manager) observe(ctx context.Context) {
	m.obs.Lock()
	defer m.obs.Unlock()
	vms := m.List()
	for _, c := range m.Capabilities {
		if o, ok := c.(Observer); ok {
			if err := o.RecordsChanged(context.WithoutCancel(ctx), vms); err != nil {
				m.Log.ErrorContext(ctx, "telling a capability of the VMs", "capability", c.Name(), "error", err)
			}
		}
	}
}

func (m *Manager) logger(v model.VM) *slog.Logger {
	return m.Log.With("vm", v.ID, "name", v.Spec.Name)
}

func (m *Manager) runner(v model.VM, report step.Reporter) step.Runner {
	return step.Runner{Log: m.logger(v), Report: report}
}

func (e *entry) record() model.VM {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vm
}

func (e *entry) machine() *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.live
}

func (e *entry) setMachine(l *live) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live = l
}

// letGo closes the agent's client and the instance; the machine itself goes on.
func (e *entry) letGo() error {
	l := e.machine()
	if l == nil {
		return nil
	}
	e.setMachine(nil)
	return errors.Join(l.agent.Close(), l.inst.Close())
}

func notRunning(v model.VM) error {
	f := fault.New(fault.WrongState, "VM %s is not running: it is %s", v.Spec.Name, v.State)
	switch v.State {
	case model.Stopped, model.Failed:
		return f.WithHint("start it with `banger vm start %s`", v.Spec.Name)
	case model.Starting:
		return f.WithHint("wait until it has come up")
	case model.Paused, model.Suspended:
		return f.WithHint("let it go on with `banger vm resume %s`", v.Spec.Name)
	}
	return f
}
