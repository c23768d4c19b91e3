// Package machine brings up, saves and tears down single machines. It knows no records: a VM's
// start, a template in the making, a machine on standby and a fork's child are all one Launch with
// different inputs.
//
// # Words
//
//   - A Subject is what a machine is made for: an id, a spec, and what its disks hold.
//   - A Source is what a machine starts from: a boot, or some kind of saved machine.
//   - A Launch is one machine on its way up. Its steps are in launch.go, in the order of the plan.
//   - A Machine is one that exists: the driver's instance and the client of the guest's agent.
//   - A Capability is one feature that hooks into the life of machines.
//
// # Invariants
//
//   - A machine's run directory is made before anything else and removed after everything else. So
//     what a crash leaves is found by its id, with or without a record.
//   - Before anything is made on the host, the Journal has stored what leads to it.
//   - All that a launch makes is removed by the same idempotent functions (teardown.go), whether by
//     the undo of a failed launch, by a stop, by a delete or by recovery.
//   - Nothing is removed from under a machine that has not ended.
//
// The package holds no locks. A Machine is safe for concurrent use. Of one Subject at most one
// Launch may be under way, which the caller sees to.
package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/report"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/pace"
	"banger/internal/vmm"
)

// Dialer connects to the host's end of an agent's channel.
type Dialer func(ctx context.Context) (net.Conn, error)

// Agent is the host's client of the agent in a guest. It reconnects by itself.
// Everything that comes from it is hostile input, which its implementation has bounded and checked.
type Agent interface {
	// Hello waits until an agent answers, or ctx ends.
	Hello(ctx context.Context) (proto.Hello, error)
	// Wake is Hello for a guest that was just restored and will run a command soon.
	Wake(ctx context.Context) (proto.Hello, error)
	Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error)
	// Upgrade opens the stream of a route: "/v1/exec", "/v1/ssh", "/v1/dial?port=N".
	Upgrade(ctx context.Context, route string) (net.Conn, error)
	// GetFiles and PutFiles carry a tar stream.
	GetFiles(ctx context.Context, path string) (io.ReadCloser, error)
	PutFiles(ctx context.Context, path string, archive io.Reader) error
	Ports(ctx context.Context) ([]proto.Port, error)
	// Resize grows a drive's file system, once the guest sees the drive have that size.
	Resize(ctx context.Context, serial string, size model.Bytes) error
	Stats(ctx context.Context) (proto.Stats, error)
	// Writes returns what was written since the guest got its identity.
	Writes(ctx context.Context) (proto.Writes, error)
	// Sync returns when what was written before is on the drives.
	Sync(ctx context.Context) error
	// Freeze halts all processes. An agent that is too old fails with fault.Unsupported.
	Freeze(ctx context.Context) (proto.Frozen, error)
	Thaw(ctx context.Context, doc proto.Thaw) error
	// PowerOff has the guest end; its processes may take grace, and with 0 they are killed.
	PowerOff(ctx context.Context, grace time.Duration) (proto.Ending, error)
	Close() error
}

// Subject is what a machine is made for: a VM, or one of banger's own machines, which have no
// record.
type Subject struct {
	ID        string
	Spec      model.Spec             // zero for what a crash left of a machine without a record
	DiskImage string                 // id of the image under the system disk; "": no such disk
	Disks     map[string]model.Bytes // lengths of disks that it has had: see model.VM
	Fresh     bool                   // the record says that nothing of a user's is on the disks
	Facts     Facts                  // what capabilities have stored for it
}

// ServesDisk reports whether a system disk that exists serves a machine with that image. If the
// record knows no disk, it is older than the disk, whose image nobody has changed.
func (s Subject) ServesDisk(image string) bool { return s.DiskImage == image || s.DiskImage == "" }

// Machine is a machine that exists.
type Machine struct {
	Instance vmm.Instance
	Agent    Agent
	Driver   vmm.Driver
	killed   atomic.Bool
	look     oplock.Lock // of who looks at its disks
}

// Nominal times: see package pace.
const (
	killTimeout = 20 * time.Second // for a VMM to be gone after SIGKILL
	// For a guest to freeze or thaw its processes, and to write what it has in memory. Nothing is
	// lost if it does not: so a guest that is silent on purpose keeps nobody waiting for long.
	holdTimeout = 5 * time.Second
	syncTimeout = 10 * time.Second
	// for a guest to thaw once the operation that has frozen it was called off
	thawGrace = 500 * time.Millisecond
)

// MarkKilled notes that the user ends the machine. So its end says nothing against a template, and
// what meets it fails with ErrKilled.
func (m *Machine) MarkKilled() { m.killed.Store(true) }

// Killed reports whether the user has ended the machine.
func (m *Machine) Killed() bool { return m.killed.Load() }

// ErrKilled is the error of what met the end of a machine that the user has killed.
var ErrKilled = fault.New(fault.Canceled, "the machine was killed meanwhile")

// End ends the VMM and waits until it is gone. A machine that has ended already is success.
func (m *Machine) End(ctx context.Context) error {
	if err := m.Instance.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("ending the VMM: %w", err)
	}
	ctx, cancel := pace.Context(ctx, killTimeout, "end of the VMM")
	defer cancel()
	if _, err := m.Instance.Wait(ctx); err != nil {
		return fmt.Errorf("waiting for the VMM (pid %d) to end: %w", m.Instance.PID(), err)
	}
	_ = m.Close() // what it says cannot matter any more
	return nil
}

// Cost is what the machine costs the host: zero if it does not exist or nobody can tell.
func (m *Machine) Cost() (cost vmm.Stats) {
	if m == nil {
		return cost
	}
	if s, ok := m.Instance.(vmm.Statter); ok {
		cost, _ = s.Stats()
	}
	return cost
}

// HasEnded reports whether the machine has ended.
func (m *Machine) HasEnded() bool {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := m.Instance.Wait(now)
	return err == nil
}

// Close releases the machine without ending it.
func (m *Machine) Close() error { return errors.Join(m.Agent.Close(), m.Instance.Close()) }

// Sync has a running guest write what it has in memory.
func (m *Machine) Sync(ctx context.Context) error {
	ctx, cancel := pace.Context(ctx, syncTimeout, "answer to a sync")
	defer cancel()
	return m.whileItRuns(ctx, m.Agent.Sync)
}

// Freeze halts the guest's processes.
func (m *Machine) Freeze(ctx context.Context) error {
	ctx, cancel := pace.Context(ctx, holdTimeout, "answer to a freeze")
	defer cancel()
	err := m.whileItRuns(ctx, func(ctx context.Context) error { _, err := m.Agent.Freeze(ctx); return err })
	if err != nil {
		return fmt.Errorf("freezing the guest's processes: %w", err)
	}
	return nil
}

// Thaw lets the processes of a running machine continue. doc says what changed meanwhile.
func (m *Machine) Thaw(ctx context.Context, doc proto.Thaw) error {
	ctx, cancel := pace.Context(ctx, holdTimeout, "answer to a thaw")
	defer cancel()
	if err := m.whileItRuns(ctx, func(ctx context.Context) error { return m.Agent.Thaw(ctx, doc) }); err != nil {
		return fmt.Errorf("thawing the guest's processes: %w", err)
	}
	return nil
}

// Pause halts the machine's virtual CPUs, and Resume lets them continue.
// A driver that cannot do that fails with fault.Unsupported.
func (m *Machine) Pause(ctx context.Context) error {
	defer oplock.AwaitGuest(ctx)()
	p, err := m.pauser()
	if err != nil {
		return err
	}
	return p.Pause(ctx)
}

// Resume is the opposite of Pause. A machine that runs is success.
func (m *Machine) Resume(ctx context.Context) error {
	defer oplock.AwaitGuest(ctx)()
	p, err := m.pauser()
	if err != nil {
		return err
	}
	return p.Resume(ctx)
}

// Halted reports whether and why the machine is halted.
func (m *Machine) Halted(ctx context.Context) (vmm.Halt, error) {
	r, ok := m.Instance.(vmm.HaltReporter)
	if !ok {
		return vmm.NotHalted, fault.New(fault.Unsupported, "the driver %s cannot report whether a machine is halted", m.Driver.Name())
	}
	return r.Halted(ctx)
}

// IsPaused reports whether a machine that is recorded as paused is halted, or runs with frozen
// processes. Then it is halted again. waits is called before the guest is waited for.
func (m *Machine) IsPaused(ctx context.Context, waits func()) (bool, error) {
	if halt, err := m.Halted(ctx); err != nil || halt != vmm.NotHalted {
		return err == nil, err
	}
	waits()
	ctx, cancel := pace.Context(ctx, holdTimeout, "answer of the guest's agent")
	defer cancel()
	var hello proto.Hello
	err := m.whileItRuns(ctx, func(ctx context.Context) (err error) { hello, err = m.Agent.Hello(ctx); return err })
	if err != nil || !hello.Frozen {
		return false, err
	}
	err = m.Pause(ctx)
	return err == nil, err
}

// CanPause returns an error that names the driver if the machine cannot be halted.
func (m *Machine) CanPause() error {
	_, err := m.pauser()
	return err
}

func (m *Machine) pauser() (vmm.Pauser, error) {
	p, ok := m.Instance.(vmm.Pauser)
	if !ok {
		return nil, fault.New(fault.Unsupported, "the driver %s cannot halt machines", m.Driver.Name())
	}
	return p, nil
}

// whileItRuns calls f with a context that also ends when the machine does, so that the end of a VMM
// is reported at once and as such.
func (m *Machine) whileItRuns(ctx context.Context, f func(context.Context) error) error {
	defer oplock.AwaitGuest(ctx)()
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if exit, err := m.Instance.Wait(ctx); err == nil {
			cancel(Ended(exit))
		}
	}()
	err := f(ctx)
	if lostConnection(err) { // most likely its other end is ending
		soon := time.NewTimer(goneTimeout)
		select {
		case <-watched:
		case <-soon.C:
		}
		soon.Stop()
	}
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	switch {
	case err != nil && m.Killed():
		return ErrKilled
	case err != nil && cause != nil:
		return cause
	}
	return err
}

// goneTimeout is how long a VMM may take to end after its connections.
const goneTimeout = time.Second

func lostConnection(err error) bool {
	for _, lost := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNREFUSED, net.ErrClosed} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}

// Ended describes the end of a machine as an error. The detail of a panic is from the guest's
// console.
func Ended(exit vmm.Exit) error {
	msg := "the machine ended (" + string(exit.Reason) + ")"
	switch {
	case exit.Detail == "":
	case exit.Reason == vmm.ExitPanic:
		msg += ": " + report.Marked(exit.Detail)
	default:
		msg += ": " + exit.Detail
	}
	err := fault.New(fault.Unavailable, "%s", msg)
	if exit.Full {
		return err.WithHint("Free some space there. %s", fault.Relief)
	}
	return err
}

// entropySize is what the kernel's generator takes in at once, twice over
// (drivers/char/random.c: the input pool holds 256 bits).
const entropySize = 64

func newEntropy() []byte {
	b := make([]byte, entropySize)
	rand.Read(b) // never fails
	return b
}
