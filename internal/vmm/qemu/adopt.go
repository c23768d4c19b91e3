package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"banger/internal/fault"
	"banger/internal/pace"
	"banger/internal/socket"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu/qmp"
)

// Nominal times: see package pace.
const (
	// adoptTimeout bounds the wait for a process between its fork and its exec, and for the
	// monitor of a machine that is adopted. A QEMU that was stopped by a signal never answers.
	adoptTimeout = 5 * time.Second
	// greetTimeout bounds the wait for the answer of a new QEMU, in addition to the caller's
	// context.
	greetTimeout = time.Minute
)

// Adopt finds a machine again: see vmm.Driver. If its monitor does not answer, the machine is
// adopted nevertheless, so that one can signal it and wait for it.
func (d *Driver) Adopt(ctx context.Context, data vmm.State, runDir string) (vmm.Instance, error) {
	s, err := decodeState(data)
	if err != nil {
		return nil, err
	}
	s.RunDir = runDir
	return d.adopt(ctx, s)
}

// Find finds a machine by its run directory: see vmm.Finder. The path of its console's log is not
// known, so its console is no longer logged.
func (d *Driver) Find(ctx context.Context, runDir string) (vmm.Instance, error) {
	return d.adopt(ctx, intended(vmm.Machine{ID: filepath.Base(runDir), RunDir: runDir}))
}

// Look finds the process of a machine by its run directory: see vmm.Looker.
func (d *Driver) Look(ctx context.Context, runDir string) (pid int, err error) {
	ctx, cancel := pace.Context(ctx, adoptTimeout, "answer")
	defer cancel()
	id, err := process.Holder(ctx, runPath(state{RunDir: runDir}, lockName))
	return id.PID, err
}

func (d *Driver) adopt(ctx context.Context, s state) (vmm.Instance, error) {
	ctx, cancel := pace.Context(ctx, adoptTimeout, "answer")
	defer cancel()
	if s.Process == nil {
		id, err := process.Holder(ctx, runPath(s, lockName))
		if err != nil {
			return nil, fmt.Errorf("adopting machine %s: %w", s.ID, err)
		}
		s.Process = &id
	}
	proc, err := process.Open(*s.Process)
	if err != nil {
		return nil, fmt.Errorf("adopting machine %s: %w", s.ID, err)
	}
	if err := belongs(s, proc); err != nil {
		return nil, errors.Join(err, proc.Close())
	}
	if err := thaw(s, proc); err != nil { // a stopped QEMU would not answer
		return nil, errors.Join(fmt.Errorf("adopting machine %s: %w", s.ID, err), proc.Close())
	}
	in, err := d.attach(ctx, s, proc, nil, true)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("adopting machine %s: %w", s.ID, err), proc.Close())
	}
	if in.monitor == nil {
		select {
		case <-proc.Done():
			gone := fault.New(fault.NotFound, "adopting machine %s: process %d has ended", s.ID, proc.ID().PID)
			return nil, errors.Join(gone, in.Close())
		default:
			d.log.Warn("adopted a machine whose monitor does not answer", "vm", s.ID, "error", in.monitorErr)
		}
	}
	return in, nil
}

// belongs checks that a process is the machine of its run directory. The pid and the start time do
// not prove that: a copied home has the records of machines that belong to the original.
func belongs(s state, proc *process.Process) error {
	lock := runPath(s, lockName)
	ours, err := proc.Holds(lock)
	if err == nil && ours {
		return nil
	}
	if endsSoon(proc) { // a process that ends has neither descriptors nor a directory any more
		return fault.New(fault.NotFound, "adopting machine %s: process %d has ended", s.ID, proc.ID().PID)
	}
	if err != nil {
		return fmt.Errorf("adopting machine %s: %w", s.ID, err)
	}
	return fault.New(fault.WrongState, "adopting machine %s: process %d neither works in %s nor holds its lock, so the machine belongs to another home", s.ID, proc.ID().PID, s.RunDir).
		WithHint("If this home is a copy, stop the VM in the original, which alone may end the machine. If the runtime directory was moved, stop the daemon and move it back: `banger doctor` shows where it is. If XDG_RUNTIME_DIR has changed, restart the daemon with the earlier one.")
}

// attach makes the Instance of a process. Without an error, the Instance owns the process, and the
// writer of its log: nil if the machine is adopted. If the monitor does not answer, the Instance
// has none, and monitorErr holds the reason.
func (d *Driver) attach(ctx context.Context, s state, proc, writer *process.Process, adopted bool) (*instance, error) {
	encoded, err := s.encode()
	if err != nil {
		return nil, err
	}
	in := &instance{
		log:      d.log.With("vm", s.ID, "pid", proc.ID().PID),
		s:        s,
		encoded:  encoded,
		proc:     proc,
		writer:   writer,
		wirePort: wirePort{id: s.ID, holder: s.WireHolder},
		runLock:  make(chan struct{}, 1),
		ended:    make(chan struct{}),
		closed:   make(chan struct{}),
	}
	in.seen.log = in.log
	in.seen.resumed, in.seen.heard, in.seen.lost = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	if err := in.openConsole(ctx, adopted); err != nil {
		return nil, err
	}
	in.monitor, in.monitorErr = openMonitor(ctx, runPath(s, qmpSocket), &in.seen)
	in.group.Go(in.watch)
	return in, nil
}

func openMonitor(ctx context.Context, path string, seen *witness) (*qmp.Client, error) {
	ctx, cancel := pace.Context(ctx, greetTimeout, "answer")
	defer cancel()
	conn, err := socket.Dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connecting to QEMU's monitor: %w", err)
	}
	return qmp.Open(ctx, conn, seen.event)
}
