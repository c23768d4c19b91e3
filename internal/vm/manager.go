// Package vm is the life of VMs: it creates, starts, stops, changes and deletes them, keeps their
// records true, and after a crash brings records and host together again.
//
// # Words
//
//   - A record (model.VM) is what is durable. An entry is a record in memory with its operation
//     lock: see package record.
//   - An operation is a start, a stop, a delete and so on. It holds the entry's operation lock from
//     beginning to end. Operations on one VM queue in order, and different VMs proceed in parallel.
//   - A VM is settled when nothing of a run is left on the host.
//   - A capture is a VM at one moment, from which other VMs are made: see package moment.
//
// # Invariants
//
//   - A record is stored before what it names is made on the host, and removed after that is gone.
//   - A record changes under the operation lock, in operation.update. Shown and not stored are the
//     state recovering, and what recovery.notAdopted, recovery.showMissing and
//     operation.setUnwanted show. A stop, and the facts of a VM that is being deleted, are only
//     shown if they cannot be stored.
//   - Nothing is given up because of what is only shown: perform recovers such a VM first.
//   - Everything that an operation makes is removed by the same idempotent functions of package
//     machine, whether by the undo of a failed start, by a stop, by a delete or by recovery.
//   - No caller's context is a VM's lifetime. A cancelled start is undone. A machine that runs is
//     never ended by a cancelled request.
//
// # Files
//
// References between files point one way, which a test checks. From the bottom: contract,
// manager, operation, disks, settle, memory, watch, start, repair, recover, perform, then one file
// per command, then idle and open.
//
// # Lock order
//
// Each lock is acquired and released in one function. In this order, from the first that is taken:
//
//   - record.Entry.Lock, the operation lock. It lasts for a whole operation, I/O included.
//   - core.refs is held for reading from the moment an image's or kernel's presence was checked
//     until a record names it, and for writing while unused ones are deleted.
//   - Pool.making and Library.naming: see packages template and library. A start and a snapshot
//     take them under the operation lock.
//   - Machine.look: one look at a machine's disks at a time. Its holder is a goroutine that takes
//     no other lock, and may never end. The wait for it is bounded.
//   - core.obs: one round of observers at a time, so that they see changes in order.
//   - the mutexes of package record. They are never held during I/O.
//   - vmdir.Keeper.mu is a leaf that is held while the copy of a record is written.
//   - those inside of packages oplock and template are leaves.
//
// core.forking is a semaphore and no lock: it bounds how many children of forks start at a time,
// and is taken before a child's operation lock.
package vm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/paths"
	"banger/internal/snapshot/library"
	"banger/internal/template"
	"banger/internal/vm/parts"
	"banger/internal/vm/record"
	"banger/internal/vm/room"
	"banger/internal/vmm"
)

// Config is what a Manager is built from.
type Config struct {
	Layout       paths.Layout
	Store        record.Store
	Drivers      *vmm.Registry
	Images       parts.Images
	Kernels      parts.Kernels
	NewAgent     func(machine.Dialer) machine.Agent
	Capabilities []machine.Capability // in the order of their hooks
	// what Create fills in: image, kernel, sizes, network, user, environment
	Defaults    model.Spec
	BootTimeout time.Duration // for the guest's agent to answer; 0 leaves it to the driver
	// for a guest to power off before its VMM is ended; 10 s when 0
	StopTimeout time.Duration
	// for the VMs to be recovered before Open returns; the rest are shown as recovering. 2 s when 0
	RecoverTimeout time.Duration
	Templates      template.Config // Usual and Quiet are filled in
	Meter          Meter           // nil: nothing is counted
	Room           room.Room       // nil: there is always room
	Log            *slog.Logger
}

// Manager holds all VMs of one BANGER_HOME. Its methods are safe for concurrent use.
type Manager struct{ *core }

// core is what a Manager and the operations under way share.
type core struct {
	Config
	host      *machine.Host
	records   *record.Index
	templates *template.Pool
	library   *library.Library
	ops       oplock.Activity

	refs    sync.RWMutex
	obs     sync.Mutex
	forking chan struct{}

	waits    context.Context // ends with errEnding: operations wait for no guest any more
	endWaits context.CancelCauseFunc
	life     context.Context // ends at Close: that of background work
	end      context.CancelFunc
	wg       sync.WaitGroup
}

const (
	defaultStopTimeout = 10 * time.Second
	defaultRecoverTime = 2 * time.Second
	killTimeout        = 20 * time.Second // for a VMM to be gone after a signal; nominal
	// Nominal, and short: on the slowest host, a daemon must still end in the time of its client.
	endGrace  = time.Second            // for guests to answer when the daemon ends
	thawGrace = 500 * time.Millisecond // for a guest to thaw after a call-off
)

// errEnding is why operations end when the daemon does.
var errEnding = fault.New(fault.Unavailable, "the daemon is ending").WithHint("Try again: bangerd starts on demand.")

// Get returns the VM that ref means: a name, an id, or the beginning of one id.
func (m *Manager) Get(ref string) (model.VM, error) {
	e, err := m.records.Find(ref)
	if err != nil {
		return model.VM{}, err
	}
	return room.Shown(e.Shown(), m.Room), nil
}

// List returns all VMs, the oldest first.
func (m *Manager) List() []model.VM {
	return m.records.List(func(e *record.Entry) model.VM { return room.Shown(e.Shown(), m.Room) })
}

// Library returns the stored snapshots, and Templates the templates.
func (m *Manager) Library() *library.Library { return m.library }
func (m *Manager) Templates() *template.Pool { return m.templates }

// observe shows the observers what VMs there are. Their errors are logged: a stale known_hosts file
// is no reason to fail a start.
func (c *core) observe(ctx context.Context) {
	c.obs.Lock()
	defer c.obs.Unlock()
	vms := c.records.List((*record.Entry).Record)
	for _, capability := range c.host.Capabilities {
		if o, ok := capability.(machine.Observer); ok {
			if err := o.RecordsChanged(context.WithoutCancel(ctx), vms); err != nil {
				c.Log.ErrorContext(ctx, "showing the VMs to a capability", "capability", capability.Name(), "error", err)
			}
		}
	}
}

// pinned calls do while no image and no kernel can be deleted.
func (c *core) pinned(do func() error) error {
	c.refs.RLock()
	defer c.refs.RUnlock()
	return do()
}

func (c *core) logger(v model.VM) *slog.Logger { return c.Log.With("vm", v.ID, "name", v.Spec.Name) }

// parts chooses what VMs are made of.
func (c *core) parts() parts.Chooser {
	return parts.Chooser{Images: c.Images, Kernels: c.Kernels, Drivers: c.Drivers}
}

func (c *core) dirsOf(v model.VM) paths.VM { return c.Layout.VM(v.ID) }
