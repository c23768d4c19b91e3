// Package space keeps a part of the host's file system free, however much the guests write.
//
// # Words
//
//   - The floor is the free space that banger leaves to the host. Below the floor, nothing begins
//     that needs space, and VMs that write are held.
//   - A VM is held while banger has halted its machine for lack of space. Its record says
//     "running". It continues when there is a quarter more than the floor.
//
// # How
//
// A Guard looks at the file systems of the state directory and of each running VM's disks, which a
// person may have put on another one, and at the VMs that run. Far from the floor it looks every
// ten seconds, and more often the less space is left: a guest that writes 1 GiB/s cannot go far
// below the floor. Below the floor it halts each VM whose disks grow. VMs that do not write
// continue.
//
// A guest may be faster than a look. Then the file system is full, and the VMM halts the machine
// instead of failing the write (vmm.HaltedFull). The Guard finds such machines and continues them
// in the same way.
//
// # Operations
//
// An operation on a VM may wait long for its guest, and a hostile guest sees to that. So the Guard
// does not wait for operations before it halts a machine. An operation that is under way meets a
// guest that does not answer, and fails. Only the continuation of a VM waits for the operation,
// which may have halted the machine for its own purposes.
//
// A VM that does not just run may write as much as it has memory: a guest that powers off writes
// what it has cached. A stop continues a machine that was held before, and not one that the Guard
// halts during the stop.
//
// # What a crash leaves
//
// Nothing is stored. A new daemon's Guard finds the machines that are halted although their VMs
// run, and holds them until there is space.
//
// # Locks
//
// Guard.mu is a leaf and is never held during I/O.
package space

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// VM is a VM whose guest may run.
type VM struct {
	ID, Name string
	State    model.State
	Memory   model.Bytes
	Disks    []string // paths of the files that grow as its guest writes
}

// mayWrite is how much a VM may write below the floor. An idle system writes a little. One that
// comes up or ends must not fail for lack of that.
func (v VM) mayWrite() model.Bytes {
	if v.State == model.Running {
		return slack
	}
	return max(slack, v.Memory)
}

// ends reports whether the VM is being stopped. Then its machine is continued although it is held.
func (v VM) ends() bool { return v.State == model.Stopping || v.State == model.Paused }

// Machines are the VMs of one home.
type Machines interface {
	// Writers returns the VMs whose guests may run.
	Writers() []VM
	// Halted reports whether and why the VM's machine is halted. If an operation may have halted
	// it, the error is fault.Locked.
	Halted(ctx context.Context, id string) (vmm.Halt, error)
	// Hold halts the machine of a VM, also during an operation.
	Hold(ctx context.Context, id string) error
	// Freeze stops the VMM of a VM that is held, and writes all the same.
	Freeze(ctx context.Context, id string) error
	// Release lets it continue. If an operation is under way on the VM, the error is fault.Locked.
	Release(ctx context.Context, id string) error
}

// Config is what a Guard is made from.
type Config struct {
	Dir string // on the file system that is guarded
	// Also are directories whose file systems need space, too, for what Check refuses. They may be
	// missing.
	Also    []string
	Reserve model.Reserve
	// GiveWay is called when the free space at Dir has fallen below the floor: what only saves time
	// goes first. It may be nil.
	GiveWay func(context.Context)
	Log     *slog.Logger

	// Tests replace these.
	Statfs func(dir string) (FileSystem, error)
	Now    func() time.Time
	After  func(time.Duration) <-chan time.Time
}

// FileSystem is what a look at a file system finds.
type FileSystem struct {
	Dev         uint64 // its device number
	Free, Total model.Bytes
}

// Guard guards the file systems of one home. Its methods are safe for concurrent use.
type Guard struct {
	Config

	mu   sync.Mutex
	held map[string]model.Hold // by id; what Held returns has the present numbers
	// levels are those of the last look, by a VM's id
	levels map[string]level
}

// level is the result of a look at the file system.
type level struct {
	dir                 string
	dev                 uint64
	free, floor, resume model.Bytes
}

func (l level) low() bool    { return l.free < l.floor }
func (l level) enough() bool { return l.free >= l.resume }

const (
	farLook  = 10 * time.Second
	nearLook = 250 * time.Millisecond
	// machineLook is the time between two looks at machines that are not expected to be halted.
	machineLook = 2 * time.Second
	// assumedRate is how fast guests may write, in bytes per second, for the time to the next look.
	assumedRate = model.GiB
	// slack is how much a VM that runs may write below the floor
	slack = model.MiB
	// without a floor, a VM continues when there is so much, or a share of a small file system.
	fullRoom, fullShare = 64 * model.MiB, 16
	// one VM's halt or continuation may wait for its disks
	holdTimeout = 30 * time.Second
	// a VMM tells at once whether its machine is halted, or not at all
	answerTimeout = 2 * time.Second
)

// New returns a Guard.
func New(cfg Config) *Guard {
	if cfg.Statfs == nil {
		cfg.Statfs = statfs
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	if cfg.GiveWay == nil {
		cfg.GiveWay = func(context.Context) {}
	}
	return &Guard{Config: cfg, held: map[string]model.Hold{}}
}

// statfs returns the space that programs without privileges may use.
func statfs(dir string) (FileSystem, error) {
	var st unix.Statfs_t
	var of unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &st), unix.Stat(dir, &of)); err != nil {
		return FileSystem{}, fmt.Errorf("measuring the file system of %s: %w", dir, err)
	}
	return FileSystem{Dev: of.Dev, Free: model.Bytes(st.Bavail) * model.Bytes(st.Bsize), Total: model.Bytes(st.Blocks) * model.Bytes(st.Bsize)}, nil
}

// measure looks at the file system of a directory.
func (g *Guard) measure(dir string) (level, error) {
	fs, err := g.Statfs(dir)
	if err != nil {
		return level{}, err
	}
	l := level{dir: dir, dev: fs.Dev, free: fs.Free, floor: g.Reserve.Of(fs.Total)}
	if l.resume = l.floor + l.floor/4; l.floor == 0 {
		l.resume = min(fullRoom, fs.Total/fullShare)
	}
	return l, nil
}

// Check refuses what needs space while there is less than the floor. A file system that cannot be
// measured refuses nothing.
func (g *Guard) Check() error {
	for _, dir := range append([]string{g.Dir}, g.Also...) {
		if err := g.CheckAt(dir); err != nil {
			return err
		}
	}
	return nil
}

// CheckAt is Check for the file system of one directory.
func (g *Guard) CheckAt(dir string) error {
	if l, err := g.measure(dir); err == nil && l.low() {
		return fault.New(fault.Unavailable, "the host has %v free at %s, the floor is %v", l.free, dir, l.floor).
			WithHint("%s disk_reserve is the floor.", fault.Relief)
	}
	return nil
}

// Held returns why a VM is held, with the present numbers; nil if it is not.
func (g *Guard) Held(id string) *model.Hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.held[id]
	if !ok {
		return nil
	}
	l := g.levels[id]
	h.Free, h.Floor, h.Resume = l.free, l.floor, l.resume
	return &h
}

func (g *Guard) setHeld(id string, reason model.HoldReason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[id] = model.Hold{Reason: reason, Since: g.Now().UTC()}
}

func (g *Guard) forget(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.held, id)
}

// keepOnly forgets the holds of VMs that do not run any more.
func (g *Guard) keepOnly(running map[string]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.held {
		if !running[id] {
			delete(g.held, id)
		}
	}
}
