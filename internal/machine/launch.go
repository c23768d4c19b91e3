package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/step"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// Nominal deadlines of single steps: see package pace. The agent's has one of the configuration or
// the driver.
const (
	lookTimeout    = 10 * time.Second
	prepareTimeout = time.Minute
	vmmTimeout     = 2 * time.Minute // longer than any wait of a driver in it
	keepTimeout    = 10 * time.Second
	// an emulated guest may have an init to start, and a work disk to fill
	assumeTimeout = 2 * time.Minute
)

func stepDeadline(ctx context.Context, nominal time.Duration) (context.Context, context.CancelFunc) {
	return pace.Context(ctx, nominal, "result")
}

// Launch brings a machine up and closes the order's source. If a step fails, or ctx ends before the
// last one, everything that was made is removed and the error is a *step.Error.
// The Launch is returned in any case. began is when the user's request began.
func (h *Host) Launch(ctx context.Context, o Order, began time.Time) (*Launch, error) {
	l := &Launch{Subject: o.Subject, Source: o.Source, host: h, order: o, journal: o.Journal, began: began}
	if l.journal == nil {
		l.journal = noJournal{}
	}
	if s, ok := l.Source.(*Standby); ok {
		l.Machine = s.Machine // the undo of every step ends it first
	}
	runner := step.Runner{Log: h.Log.With("vm", o.Subject.ID, "name", o.Subject.Spec.Name), Report: o.Report, Deadline: stepDeadline, Leave: o.Leave}
	var err error
	l.Records, err = runner.Run(ctx, l.plan())
	var failed *step.Error
	if l.killed && errors.As(err, &failed) {
		failed.Err = ErrKilled
	}
	if l.Source == nil {
		return l, err
	}
	_ = l.Source.Close() // files that were only read
	// it existed before the step whose undo would end it
	if l.Source.traits().prepared && errors.As(err, &failed) {
		failed.Undo = errors.Join(failed.Undo, l.tearDown(context.WithoutCancel(ctx)))
	}
	return l, err
}

// tearDown removes all of a machine that existed before the launch.
func (l *Launch) tearDown(ctx context.Context) error {
	if err := l.endMachine(ctx); err != nil {
		return err
	}
	return l.host.Release(ctx, Remains{Subject: l.Subject, Prepared: l.host.Cleaners(), StoreFact: l.journal.StoreFact})
}

// plan lists the steps in order. A guest has two moments, kept apart because a template is taken
// between them: up to "agent" it knows nothing of its subject, and from "assume" on it is the
// subject.
func (l *Launch) plan() []step.Step {
	steps := []step.Step{
		{Name: "preflight", Do: l.preflight, Timeout: lookTimeout},
		{Name: "run-dir", Do: l.makeRunDir, Undo: l.afterEnd(l.removeRunDir)},
		{Name: "initramfs", Do: l.findInitramfs, Timeout: prepareTimeout},
		{Name: "origin", Do: l.chooseSource, Timeout: lookTimeout},
		{Name: "system-disk", Do: l.makeDisks, Undo: l.afterEnd(l.removeFreshDisk), Timeout: prepareTimeout},
	}
	for _, c := range l.host.Capabilities {
		if p, ok := c.(HostPreparer); ok {
			steps = append(steps, l.prepareStep(c, p))
		}
	}
	steps = append(steps,
		step.Step{Name: "vmm", Do: l.startMachine, Undo: l.endMachine, Timeout: vmmTimeout},
		step.Step{Name: "agent", Do: l.awaitAgent},
	)
	if l.order.Identity == Own {
		steps = append(steps, step.Step{Name: "template", Do: l.offer, Timeout: keepTimeout})
	}
	if l.order.Identity != None {
		steps = append(steps, step.Step{Name: "assume", Do: l.assume, Timeout: assumeTimeout})
	}
	if l.order.Identity == Own {
		return append(steps, postStartSteps(l)...)
	}
	for i := range steps {
		// nobody waits, and at the lowest priority a busy host takes long; ctx is the bound
		steps[i].Timeout = 0
	}
	return steps
}

// preflight looks whether the launch can succeed. Only a VM asks the capabilities: the files of the
// user that some look for never reach an anonymous machine.
func (l *Launch) preflight(ctx context.Context) (err error) {
	spec := l.Subject.Spec
	if l.driver, err = l.host.driver(l.order.Driver); err != nil {
		return err
	}
	if err := checkLimits(l.host.Layout.VM(l.Subject.ID), spec); err != nil {
		return err
	}
	if l.info, err = l.driver.Info(ctx); err != nil { // runs the VMM, which needs memory
		return err
	}
	if l.image, err = l.host.Images.ByID(spec.ImageID); err != nil {
		return fmt.Errorf("image %s: %w", spec.Image, err)
	}
	if l.kernel, err = l.host.Kernels.ByID(spec.KernelID); err != nil {
		return fmt.Errorf("kernel %s: %w", spec.Kernel, err)
	}
	if l.order.Identity != Own {
		return nil
	}
	if l.Source == nil || !l.Source.traits().prepared && len(l.Source.traits().disks) == 0 {
		if err := checkDisks(l.host.Layout.VM(l.Subject.ID), l.Subject); err != nil {
			return err
		}
	}
	for _, c := range l.host.Capabilities {
		if p, ok := c.(Preflighter); ok {
			if err := p.Preflight(ctx, PreflightRequest{l.Subject}); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return nil
}

// makeRunDir also makes the directory of a machine without a record. A VM has one since its
// creation. If the machine has no disks yet, those that the launch makes are unused. A machine on
// standby that a VM has taken loses its mark here, before its guest continues.
func (l *Launch) makeRunDir(context.Context) error {
	files := l.host.Layout.VM(l.Subject.ID)
	err := os.MkdirAll(files.Run, 0o700)
	switch {
	case err != nil:
	case l.order.Journal != nil:
		err = vmdir.MarkRecorded(files)
	default:
		err = errors.Join(vmdir.MarkUnrecorded(files), disk.Mkdir(l.host.Layout.VMs(), files.Dir))
	}
	if err == nil && !vmdir.HasDisk(files) {
		err = vmdir.MarkUnused(files)
	}
	return err
}

func (l *Launch) removeRunDir(context.Context) error {
	return errors.Join(l.host.removeRunDir(l.Subject.ID), dropMark(l.host.Layout.VM(l.Subject.ID)))
}

func (l *Launch) findInitramfs(ctx context.Context) (err error) {
	l.initramfs, err = l.host.Kernels.Initramfs(ctx, l.kernel)
	return err
}

// chooseSource completes the order: a source that was given is checked, otherwise one is chosen.
func (l *Launch) chooseSource(ctx context.Context) error {
	if s, ok := l.Source.(*Standby); ok {
		l.Fingerprint = s.Fingerprint
		return nil
	}
	r, ok := l.driver.(vmm.Restorer)
	if !ok {
		if l.Source == nil {
			l.Source = Boot{}
		}
		return nil
	}
	m, err := l.describe(ctx)
	if err != nil {
		return err
	}
	if _, boots := l.Source.(Boot); l.Source != nil && !boots {
		return checkShape(ctx, r, m, l.Source.traits().shape)
	}
	if l.Fingerprint, err = r.Fingerprint(ctx, m); err != nil {
		return err
	}
	if l.Source == nil && l.order.Choose != nil {
		l.Source = l.order.Choose(ctx, l)
	}
	if l.Source == nil {
		l.Source = Boot{}
	}
	return nil
}

// makeDisks makes the system disk at a VM's first start, and anew if the VM has got another image:
// the old disk has changes of the old image's files. A disk that the record does not know is kept.
// If the size has grown, the guest's kernel grows the file system: the host never reads it.
func (l *Launch) makeDisks(ctx context.Context) error {
	has := l.Source.traits()
	if has.prepared {
		return nil
	}
	files := l.host.Layout.VM(l.Subject.ID)
	if len(has.disks) > 0 {
		err := PlaceDisks(ctx, files, has.disks)
		l.FreshDisks = err == nil
		return err
	}
	spec, path := l.Subject.Spec, files.SystemDisk()
	if l.Subject.ServesDisk(spec.ImageID) {
		if err := FitDisk(path, spec.DiskSize); fault.KindOf(err) != fault.NotFound {
			return err
		}
	}
	err := disk.Create(ctx, path, spec.DiskSize)
	l.FreshDisks = err == nil
	return err
}

// removeFreshDisk also removes the disk that a VM has got with another image: a later boot must not
// find what a machine from a template left there.
func (l *Launch) removeFreshDisk(context.Context) error {
	files := l.host.Layout.VM(l.Subject.ID)
	if l.FreshDisks || l.Subject.isUnused(files) {
		return RemoveAll(files.SystemDisk())
	}
	return nil
}

func (l *Launch) prepareStep(c Capability, p HostPreparer) step.Step {
	return step.Step{
		Name:    "prepare/" + c.Name(),
		Timeout: prepareTimeout,
		Do: func(ctx context.Context) error {
			return p.PrepareHost(ctx, HostRequest{Subject: l.Subject, StoreFact: l.factWriter(c), Report: l.order.Report})
		},
		Undo: l.afterEnd(func(ctx context.Context) error { return l.clean(ctx, c) }),
	}
}

func (l *Launch) clean(ctx context.Context, c Capability) error {
	return l.host.clean(ctx, c, CleanupRequest{Subject: l.Subject, StoreFact: l.factWriter(c)})
}

// factWriter stores a capability's fact in the journal and shows it to the hooks that follow.
func (l *Launch) factWriter(c Capability) FactWriter {
	return NewFactWriter(c.Name(), func(ctx context.Context, name string, f model.Fact) error {
		if err := l.journal.StoreFact(ctx, name, f); err != nil {
			return err
		}
		l.Subject.Facts = l.Subject.Facts.With(name, f)
		return nil
	})
}

// afterEnd is undo, except that nothing is removed from under a machine that has not ended.
func (l *Launch) afterEnd(undo func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := l.endMachine(ctx); err != nil {
			return errors.New("kept for the machine, which has not ended")
		}
		return undo(ctx)
	}
}

// endMachine ends the machine if there may be one. After a failure it does not try again.
func (l *Launch) endMachine(ctx context.Context) error {
	if l.ended != nil || l.Machine == nil && l.intended == nil {
		return l.ended
	}
	l.killed = l.killed || l.Machine != nil && l.Machine.killed.Load()
	l.ended = l.host.End(ctx, Remains{Subject: l.Subject, Machine: l.Machine, Driver: l.order.Driver, State: l.intended})
	if l.ended == nil {
		l.Machine, l.intended = nil, nil
		l.journal.Ended()
	}
	return l.ended
}

func (l *Launch) startMachine(ctx context.Context) error {
	if s, ok := l.Source.(*Standby); ok {
		return l.takeOver(ctx, s)
	}
	start, err := l.Source.starter(l.driver)
	if err != nil {
		return err
	}
	described, err := l.describe(ctx)
	if err != nil {
		return err
	}
	inst, err := start(ctx, described, func(s vmm.State) error {
		l.intended = slices.Clone(s)
		return l.journal.Intend(ctx, s)
	})
	if err != nil {
		return err
	}
	l.Machine = l.host.machine(l.driver, inst)
	if err := l.journal.Started(ctx, l.Machine, l.info); err != nil || !l.order.Idle {
		return err
	}
	if err := lowerPriority(inst.PID()); err != nil {
		l.host.Log.WarnContext(ctx, "running a machine at the usual priority", "vm", l.Subject.ID, "error", err)
	}
	return nil
}

// takeOver makes a machine on standby the launch's own and lets it continue.
func (l *Launch) takeOver(ctx context.Context, s *Standby) error {
	if err := l.host.CheckOpen(ctx, l.Subject, s.Machine); err != nil {
		return err
	}
	if err := l.journal.Started(ctx, s.Machine, l.info); err != nil {
		return err
	}
	if s.Machine.CanPause() != nil { // so it was not halted either
		return nil
	}
	return s.Machine.Resume(ctx)
}

func (l *Launch) describe(ctx context.Context) (vmm.Machine, error) {
	return l.host.Describe(ctx, l.Subject, Parts{l.image, l.kernel, l.initramfs})
}

// answerTimeout is the nominal time in which the agent answers: that of the configuration or of the
// driver. A restore takes far less than a boot, and after a template that does not answer follows a
// boot.
func answerTimeout(l *Launch) time.Duration {
	if l.host.BootTimeout > 0 {
		return l.host.BootTimeout
	}
	if l.Template() != "" && l.order.Identity == Own {
		return max(l.info.Grace/4, min(l.info.Grace, restoreFloor))
	}
	return l.info.Grace
}

// restoreFloor is the shortest nominal time for a restored agent to answer, unless the driver's for
// a boot is shorter.
const restoreFloor = 20 * time.Second

// awaitAgent waits for the guest's agent, as long as the machine exists to run it.
func (l *Launch) awaitAgent(ctx context.Context) error {
	has := l.Source.traits()
	ctx, cancel := pace.Cause(ctx, answerTimeout(l), func(waited time.Duration) error {
		return fault.New(fault.Unavailable, "the guest's agent did not answer within %v", waited)
	})
	defer cancel()
	return l.Machine.whileItRuns(ctx, func(ctx context.Context) (err error) {
		hello := l.Machine.Agent.Hello
		if l.rehearses(has) {
			hello = l.Machine.Agent.Wake
		}
		l.hello, err = hello(ctx)
		l.helloAt = time.Now()
		if err == nil {
			err = l.Source.check(l.hello)
		}
		return err
	})
}

// rehearses reports whether the guest was just restored by an emulator and will run a command at
// once. Forks that are made side by side compete for the CPU, and a machine on standby has run a
// command.
func (l *Launch) rehearses(has traits) bool {
	return l.order.Identity == Own && l.info.Accel == vmm.AccelTCG && has.awaited
}

// offer lets somebody keep the machine as a template. That is never worth a failed start.
func (l *Launch) offer(ctx context.Context) error {
	if l.order.Answered != nil {
		l.order.Answered(ctx, l)
	}
	return nil
}

func postStartSteps(l *Launch) (steps []step.Step) {
	for _, c := range l.host.Capabilities {
		if p, ok := c.(PostStarter); ok {
			steps = append(steps, l.postStartStep(c, p))
		}
	}
	return steps
}

// postStartStep has no undo if the capability prepares: the undo of preparing removes what both
// made, and not before the machine has ended.
func (l *Launch) postStartStep(c Capability, p PostStarter) step.Step {
	var undo func(context.Context) error
	if _, prepares := c.(HostPreparer); !prepares {
		undo = func(ctx context.Context) error { return l.clean(ctx, c) }
	}
	return step.Step{
		Name:    "post-start/" + c.Name(),
		Timeout: prepareTimeout,
		Do: func(ctx context.Context) error {
			return l.Machine.whileItRuns(ctx, func(ctx context.Context) error {
				return p.PostStart(ctx, PostStartRequest{Subject: l.Subject, StoreFact: l.factWriter(c), Agent: l.Machine.Agent})
			})
		},
		Undo: undo,
	}
}
