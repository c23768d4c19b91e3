package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/memory"
)

// Save keeps the machine's state: see vmm.Saver. The memory is read from QEMU's process by package
// memory; QEMU writes the state of the devices.
func (in *instance) Save(ctx context.Context, req vmm.SaveRequest) (vmm.Saved, error) {
	if !in.saving.CompareAndSwap(false, true) {
		return vmm.Saved{}, fault.New(fault.Locked, "machine %s is already being saved", in.s.ID)
	}
	defer in.saving.Store(false)
	ctx, cancel := whileOpen(ctx, in)
	defer cancel()
	s := &saving{in: in, req: req, read: readMemory(in.PID())}
	return s.run(ctx)
}

// run saves the machine. If the first sign of its end is that its memory cannot be read, the error
// is that the machine has ended.
func (s *saving) run(ctx context.Context) (vmm.Saved, error) {
	saved, err := s.save(ctx)
	if fault.KindOf(err) == fault.Internal && endsSoon(s.in.proc) {
		err = fault.New(fault.WrongState, "%w: %w", over(s.in.proc), err)
	}
	if err != nil {
		return vmm.Saved{}, fmt.Errorf("saving machine %s: %w", s.in.s.ID, err)
	}
	return saved, nil
}

// whileOpen returns a context that also ends with the Instance.
func whileOpen(ctx context.Context, in *instance) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		select {
		case <-in.closed:
			cancel(over(in.proc))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-idle }
}

// saving is a Save that is under way.
type saving struct {
	in     *instance
	req    vmm.SaveRequest
	device *os.File
	state  *os.File // of the devices, in memory
	lent   *loan    // of state
	read   readFunc
	memory copier
	pause  time.Duration
	halted bool // by this Save, and it shall stay halted
	layout *vmm.MemoryLayout
}

func (s *saving) save(ctx context.Context) (_ vmm.Saved, err error) {
	defer func() {
		if err != nil && s.halted {
			err = errors.Join(err, s.in.cont(ctx))
		}
		err = s.release(ctx, err)
	}()
	if err := s.create(ctx); err != nil {
		return vmm.Saved{}, err
	}
	if err := s.begin(ctx); err != nil {
		return vmm.Saved{}, err
	}
	s.flush()
	err = call(ctx, s.req.Before)
	if err == nil {
		err = s.halt(ctx)
	}
	if err := errors.Join(err, s.memory.Close()); err != nil {
		return vmm.Saved{}, err
	}
	if err := memory.Reserve(ctx, s.req.Memory); err != nil {
		return vmm.Saved{}, err
	}
	size, err := seal(s.state, s.device)
	if err != nil {
		return vmm.Saved{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(s.req.Memory.Fd()), &st); err != nil {
		return vmm.Saved{}, fmt.Errorf("measuring the memory's file: %w", err)
	}
	return vmm.Saved{Pause: s.pause, Memory: model.Bytes(st.Blocks * 512), Device: size, Layout: s.layout}, nil
}

// create creates the file of the devices' state, and memory that QEMU writes the state to.
func (s *saving) create(ctx context.Context) (err error) {
	fd, err := unix.MemfdCreate("devices", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making memory for the devices' state: %w", err)
	}
	s.state = os.NewFile(uintptr(fd), "devices")
	if s.lent, err = lend(ctx, s.in, s.state); err != nil {
		return err
	}
	s.device, err = os.OpenFile(s.req.Device, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating the file of the devices' state: %w", err)
	}
	return nil
}

// release closes what create has opened. After an error, the file goes, too.
func (s *saving) release(ctx context.Context, err error) error {
	if s.device != nil {
		_ = s.device.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(s.req.Device))
		}
	}
	if s.lent != nil {
		if err := s.lent.back(ctx); err != nil {
			s.in.log.Warn("QEMU keeps a file open", "error", err)
		}
	}
	if s.state != nil {
		_ = s.state.Close()
	}
	return err
}

// begin does the part of copying the memory that can be done while the machine runs.
func (s *saving) begin(ctx context.Context) error {
	region, base, err := s.region(ctx)
	if err != nil {
		return err
	}
	if base != nil {
		defer base.Close()
	}
	s.layout = layout(model.Bytes(region.Size))
	s.memory, err = s.read(ctx, region, base, s.req.Memory)
	if memory.Denied(err) {
		s.in.log.Warn("this process may not read the guest's memory: QEMU writes all of it while the machine is halted", "error", err)
		s.memory, err = newPhysical(ctx, s.in, region, s.req.Memory, err)
	}
	return err
}

// halt halts the machine, unless it is halted already, calls still, and continues the machine.
func (s *saving) halt(ctx context.Context) error {
	return s.in.locked(ctx, func(running bool) error {
		if !running {
			return s.still(ctx)
		}
		began := time.Now()
		err := s.in.ask(ctx, "stop", nil, nil)
		if err == nil {
			err = s.still(ctx)
		}
		if s.halted = err == nil && s.req.Halt; s.halted {
			return nil
		}
		err = errors.Join(err, s.in.cont(ctx))
		s.pause = time.Since(began)
		if s.req.After != nil {
			s.req.After()
		}
		return err
	})
}

// still does what must be done while the machine is halted.
func (s *saving) still(ctx context.Context) error {
	if err := drainWire(ctx, s.in); err != nil {
		return err
	}
	// In spite of its name, every QEMU has this command. It saves everything except RAM. With
	// "live": false it does not touch the drives (qapi/migration.json).
	state := map[string]any{"filename": s.lent.path, "live": false}
	if err := s.in.ask(ctx, "xen-save-devices-state", state, nil); err != nil {
		return err
	}
	if err := s.memory.Last(ctx); err != nil {
		return err
	}
	return call(ctx, s.req.Still)
}

func call(ctx context.Context, f func(context.Context) error) error {
	if f != nil {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// flush writes the page cache of the drives' files to the disk. QEMU does this while it halts the
// machine: a flush before makes the halt shorter. So an error does not matter. The state names the
// files, because a VMM that a guest has taken over could name others.
func (s *saving) flush() {
	var err error
	for _, path := range s.in.s.Drives {
		err = errors.Join(err, fdatasync(path))
	}
	if err != nil {
		s.in.log.Debug("flushing drives before a halt", "error", err)
	}
}

func fdatasync(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe has no writer
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fdatasync(int(f.Fd()))
}
