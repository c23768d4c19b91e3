package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger/internal/disk"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vm/moment"
	"banger/internal/vmm"
)

// launching is one start of a VM: of what, and who hears of it.
type launching struct {
	*operation
	from   machine.Source // nil: the best template, or a boot
	driver string         // that saved the source's state; "": the default one
	report step.Reporter
	began  time.Time

	console fs.FileInfo // its log before the start; nil: none
	left    bool        // the start is left to the next daemon, with its machine
}

// start starts a VM that is at rest. It closes the source. If a template does not serve the start,
// the VM boots instead.
func (op *operation) start(ctx context.Context, from machine.Source, driver string, report step.Reporter) error {
	s := &launching{operation: op, from: from, driver: driver, report: report, began: time.Now()}
	s.console, _ = os.Stat(op.dirs().ConsoleLog())
	if err := s.begin(ctx); err != nil {
		if from != nil {
			_ = from.Close()
		}
		if op.standby != nil { // whose machine nobody will take over
			op.standby = nil
			err = errors.Join(err, op.tearDown(context.WithoutCancel(ctx)))
		}
		return err
	}
	if sb := op.standby; sb != nil {
		s.from, op.standby = sb, nil
	}
	l, err := s.launch(ctx)
	if err != nil && ctx.Err() == nil && op.templates.Failed(ctx, l, err) {
		s.from = machine.Boot{}
		l, err = s.launch(ctx)
	}
	if s.left {
		return fmt.Errorf("starting VM %s: %w", s.name(), errors.Join(errEnding, err))
	}
	if err == nil {
		if err = s.finish(ctx, l); err == nil {
			return nil
		}
		// The machine is up but not recorded as running, so nobody would ever look after it.
		err = &step.Error{Step: "record", Err: err, Undo: op.tearDown(context.WithoutCancel(ctx))}
	}
	return s.failed(ctx, err)
}

// resumes is the source if the VM's own machine is resumed; otherwise nil.
func (s *launching) resumes() *machine.Resume {
	r, _ := s.from.(*machine.Resume)
	return r
}

// begin records the start with all that it may make, before any of it is made: a crash must leave a
// trace of what to clean up, and one write costs one fsync.
func (s *launching) begin(ctx context.Context) error {
	memory := moment.SavedAt(s.dirs())
	return s.update(ctx, func(v *model.VM) {
		v.State = model.Starting
		spec := v.Spec
		if r := s.resumes(); r != nil {
			spec = r.Spec
		} else {
			v.Pending = nil
		}
		v.Runtime = &model.Runtime{
			Driver: cmp.Or(s.driver, s.Drivers.Default().Name()), Prepared: s.host.Cleaners(), Spec: &spec,
			Fork: v.Runtime != nil && v.Runtime.Fork, Resumed: s.resumes() != nil, Memory: memory,
		}
		v.LastError, v.Boot, v.Network = nil, nil, nil
	})
}

// launch brings the machine up.
func (s *launching) launch(ctx context.Context) (*machine.Launch, error) {
	subject := s.subject()
	if r := s.resumes(); r != nil {
		subject.Spec = r.Spec.For(subject.Spec)
	}
	return s.host.Launch(ctx, machine.Order{
		Subject: subject, Driver: s.driver, Source: s.from,
		Choose: s.templates.Choose, Answered: s.templates.Keep,
		Journal: journal{s.operation, subject.Spec.ImageID}, Report: s.report, Leave: s.leave,
	}, s.began)
}

// leave leaves a start from the VM's memory to the next daemon if this one ends: the guest may have
// written to a disk, and then the memory is of no use without its machine.
func (s *launching) leave() bool {
	s.left = s.waits.Err() != nil && moment.CutOff(s.record(), s.dirs()) != nil
	return s.left
}

// journal records what a launch is about to have on the host. image is the one that the machine
// has.
type journal struct {
	op    *operation
	image string
}

// Intend also records the disk's image: from here on a guest may write to the disk.
func (j journal) Intend(ctx context.Context, s vmm.State) error {
	return j.op.update(ctx, func(v *model.VM) { v.Runtime.State = s; v.LayOver(j.image) })
}

func (j journal) Started(ctx context.Context, m *machine.Machine, info vmm.Info) error {
	j.op.e.SetMachine(m)
	return j.op.update(ctx, func(v *model.VM) {
		v.Runtime.State, v.Runtime.PID, v.Runtime.Accel = m.Instance.State(), m.Instance.PID(), info.Accel
		v.Runtime.Protection = vmm.ProtectionOf(m.Instance)
		v.LayOver(j.image)
	})
}

func (j journal) Ended() { j.op.e.SetMachine(nil) }

func (j journal) StoreFact(ctx context.Context, capability string, f model.Fact) error {
	return j.op.storeFact(ctx, capability, f)
}

// finish records that the VM runs, and watches its machine from now on.
func (s *launching) finish(ctx context.Context, l *machine.Launch) error {
	resumed := s.resumes() != nil
	now := time.Now().UTC()
	err := s.update(ctx, func(v *model.VM) {
		v.State = model.Running
		if !resumed || v.Started == nil {
			v.Started = &now
		}
		v.Stopped = nil
		v.Boot = l.Timeline()
		v.Network, v.Disks = &model.Network{Mode: l.Subject.Spec.Net}, machine.MeasureDisks(machine.Disks(s.dirs()))
	})
	if err != nil {
		return err
	}
	s.watch(s.e)
	s.useDisks(ctx)
	s.templates.Started(l)
	s.Meter.StartDone(machine.CountedAs(l.Source), s.record().Boot.Duration, l.Records)
	switch {
	case disk.MayExist(s.dirs().Suspended()): // its saved memory is history from now on
		if err := snapshot.Remove(s.dirs().Suspended()); err != nil {
			s.logger(s.record()).ErrorContext(ctx, "removing the memory that a VM has started from", "error", err)
		}
	case l.Restored() && s.record().Spec.Remove != model.RemoveOnDetach: // nobody waits for it
		s.wg.Go(func() {
			if err := machine.SyncDisks(s.dirs()); err != nil && s.e.Machine() != nil {
				s.logger(s.record()).ErrorContext(ctx, "syncing the disks of a forked VM", "error", err)
			}
		})
	}
	return nil
}

// failed records a failed start: error if everything could be undone, stopped if the user called it
// off, suspended if the VM can still be resumed from its memory, broken if something is left over.
func (s *launching) failed(ctx context.Context, cause error) error {
	var failed *step.Error
	var left error
	if errors.As(cause, &failed) {
		s.Meter.StartFailed(failed.Step)
		left = failed.Undo
	}
	rest, why := model.Failed, s.failure(s.record(), cause)
	if ctx.Err() != nil {
		rest = model.Stopped
	}
	killed := errors.Is(cause, machine.ErrKilled)
	if killed { // as if a VM that runs had been killed
		rest = model.Stopped
		if left == nil {
			why = nil
		}
	}
	err := ending{s.operation}.endStart(ctx, why, left, rest)
	if failed != nil && explain.InGuest(failed.Step) && ctx.Err() == nil && !killed {
		s.logConsole(ctx, s.record(), s.console)
	}
	if killed {
		return errors.Join(explain.Killed(s.record(), cause), err)
	}
	return errors.Join(fmt.Errorf("starting VM %s: %w", s.name(), cause), err)
}

// bringUp starts a VM that is at rest. If the start fails and the VM was made to be removed when it
// stops, the VM is deleted: nobody will stop what has never run.
func (op *operation) bringUp(ctx context.Context, how model.Start, report step.Reporter) (model.VM, error) {
	var from machine.Source
	if how.Cold {
		from = machine.Boot{Forced: true}
	}
	err := op.start(ctx, from, "", report)
	v := op.record()
	if err != nil && v.Spec.Remove == model.RemoveOnStop && v.State != model.Broken {
		err = errors.Join(err, op.delete(ctx))
	}
	op.observe(ctx)
	return v, err
}
