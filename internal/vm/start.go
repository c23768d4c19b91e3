package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Start brings a VM up and returns when its guest has its identity. Starting a running VM succeeds and says so in the report. When ctx ends before
// the VM runs, what was made is undone.
func (m *Manager) Start(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, opStart)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	switch v := e.record(); v.State {
	case model.Running:
		report.Report(step.Event{Step: "start", Phase: step.Skipped, Detail: "already running"})
		return v, nil
	case model.Broken:
		if err := m.settle(ctx, e, nil); err != nil {
			return e.record(), fmt.Errorf("taking away what an earlier run left: %w", err)
		}
	case model.Stopped, model.Failed:
	case model.Paused, model.Suspended:
		err := m.resume(ctx, e, report)
		return e.record(), err
	default:
		return v, fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
	}
	return m.bringUp(ctx, e, how, report)
}

// bringUp starts a VM that is at rest, and deletes one whose start fails if it was made to be thrown away.
func (m *Manager) bringUp(ctx context.Context, e *entry, how model.Start, report step.Reporter) (model.VM, error) {
	err := m.start(ctx, e, origin{cold: how.Cold}, report)
	v := e.record()
	if err != nil && v.Spec.Remove == model.RemoveOnStop && v.State != model.Broken {
		err = errors.Join(err, m.delete(ctx, e)) // nobody will stop what has never run
	}
	m.observe(ctx)
	return v, err
}

// The operations that a delete may call off.
const (
	opStart   = "start"
	opRestart = "restart"
)

// start starts a VM that is at rest from what is given, which it closes. A template that turns out to be broken is thrown away, and the VM booted instead.
func (m *Manager) start(ctx context.Context, e *entry, from origin, report step.Reporter) error {
	began := time.Now()
	if err := m.update(ctx, e, func(v *model.VM) {
		v.State = model.Starting
		// All at once, before any of them makes something: a crash must leave a trace of whom to clean up, and writing a record costs an fsync.
		spec := v.Spec
		if from.spec != nil {
			spec = *from.spec
		} else {
			v.Pending = nil
		}
		v.Runtime = &model.Runtime{Driver: m.Driver.Name(), Prepared: m.cleaners(), Spec: &spec, Fork: v.Runtime != nil && v.Runtime.Fork}
		v.LastError, v.Boot, v.Network = nil, nil, nil
	}); err != nil {
		from.close()
		return err
	}
	if sb := e.standby; sb != nil {
		from, e.standby = sb.origin(), nil
	}
	s := &start{m: m, e: e, report: report, began: began, from: from}
	records, err := m.runner(e.record(), report).Run(ctx, s.plan())
	s.from.close()
	if err != nil && s.from.standby != nil { // it was there before the step that would undo it
		err = errors.Join(err, m.endMachine(context.WithoutCancel(ctx), e))
	}
	if err != nil && ctx.Err() == nil && s.templateFailed(err) {
		m.logger(e.record()).WarnContext(ctx, "a template does not work; booting instead", "template", s.from.Of, "error", err)
		m.templates.failed(ctx, s.from.Of)
		s = &start{m: m, e: e, report: report, began: began, from: origin{again: true}}
		records, err = m.runner(e.record(), report).Run(ctx, s.plan())
	}
	if err == nil {
		if err = s.finish(ctx, records); err == nil {
			return nil
		}
		// The machine is up but could not be recorded as running, so nothing would ever look after it.
		err = &step.Error{Step: "record", Err: err, Undo: m.cleanup(context.WithoutCancel(ctx), e)}
	}
	suspended := from.same && m.memoryIsCurrent(ctx, e.record())
	err = m.startFailed(ctx, e, suspended, err)
	if from.same && !suspended {
		err = errors.Join(err, removeAll(m.Layout.VM(e.record().ID).Suspended()))
	}
	return err
}

// cleaners names the capabilities that have something to clean up after a run.
func (m *Manager) cleaners() []string {
	var names []string
	for _, c := range m.Capabilities {
		if _, ok := c.(Cleaner); ok {
			names = append(names, c.Name())
		}
	}
	return names
}

// start is one start under way. Its fields are filled in by the steps in the order of the plan.
type start struct {
	m      *Manager
	e      *entry
	report step.Reporter
	began  time.Time

	info      vmm.Info
	image     model.Image
	kernel    model.Kernel
	initramfs []string
	hello     proto.Hello
	helloAt   time.Time
	assumed   proto.Assumed
	live      *live
	stuck     bool // the machine could not be ended: what it may use stays
	fresh     bool // the disks were made by this start

	from        origin // what to go on from; chosen in step "origin" unless the caller did
	fingerprint string // of the machine; "" when the driver cannot restore one
}

// Deadlines of single steps. What depends on the host's speed has a deadline of the configuration or the driver.
const (
	lookTimeout    = 10 * time.Second
	prepareTimeout = time.Minute
	vmmTimeout     = 30 * time.Second
	keepTimeout    = 10 * time.Second
	assumeTimeout  = 2 * time.Minute // an emulated guest may have an init to start, and a work disk to fill
)

// plan lists the steps of a start in order. The boot has two moments, kept apart because a template is taken between them: up to
// "agent" the guest knows nothing of this VM; from "assume" on it is this VM.
func (s *start) plan() []step.Step {
	steps := []step.Step{
		{Name: "preflight", Do: s.preflight, Timeout: lookTimeout},
		{Name: "run-dir", Do: s.makeRunDir, Undo: s.unlessStuck(s.removeRunDir)},
		{Name: "initramfs", Do: s.findInitramfs, Timeout: prepareTimeout},
		{Name: "origin", Do: s.chooseOrigin, Timeout: lookTimeout},
		{Name: "system-disk", Do: s.makeDisks, Undo: s.unlessStuck(s.removeFreshDisk), Timeout: prepareTimeout},
	}
	for _, c := range s.m.Capabilities {
		if p, ok := c.(HostPreparer); ok {
			steps = append(steps, s.prepareStep(c, p))
		}
	}
	steps = append(steps,
		step.Step{Name: "vmm", Do: s.startMachine, Undo: s.endMachine, Timeout: vmmTimeout},
		step.Step{Name: "agent", Do: s.awaitAgent},
		step.Step{Name: "template", Do: s.keep, Timeout: keepTimeout},
		step.Step{Name: "assume", Do: s.assume, Timeout: assumeTimeout},
	)
	for _, c := range s.m.Capabilities {
		if p, ok := c.(PostStarter); ok {
			steps = append(steps, s.postStartStep(c, p))
		}
	}
	return steps
}

// vm is the record, with the spec that the machine has.
func (s *start) vm() model.VM {
	v := s.e.record()
	if s.from.spec != nil {
		v.Spec = withOwn(*s.from.spec, v.Spec)
	}
	return v
}

// withOwn is a spec whose machine is another VM's, or an earlier one's, and all else own's.
func withOwn(machine, own model.Spec) model.Spec {
	machine.Name, machine.Labels, machine.Remove = own.Name, own.Labels, own.Remove
	return machine
}

func (s *start) preflight(ctx context.Context) (err error) {
	v := s.vm()
	if s.info, err = s.m.Driver.Info(ctx); err != nil {
		return err
	}
	if s.image, err = s.m.Images.Get(v.Spec.ImageID); err != nil {
		return fmt.Errorf("image %s: %w", v.Spec.Image, err)
	}
	if s.kernel, err = s.m.Kernels.Get(v.Spec.KernelID); err != nil {
		return fmt.Errorf("kernel %s: %w", v.Spec.Kernel, err)
	}
	for _, c := range s.m.Capabilities {
		if p, ok := c.(Preflighter); ok {
			if err := p.Preflight(ctx, PreflightRequest{VM: v}); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return nil
}

func (s *start) makeRunDir(context.Context) error {
	return os.MkdirAll(s.m.Layout.VM(s.vm().ID).Run, 0o700)
}

func (s *start) removeRunDir(context.Context) error { return s.m.removeRunDir(s.e) }

// makeDisks makes the system disk at the VM's first start, and a fresh one when the VM has got another image since: the changes that
// it holds are changes of the old image's files. A size that has grown is taken up here by the file, and by the guest's kernel when the agent
// mounts it: the host never reads a file system that a guest wrote. From an image's template come all disks: its guest has them mounted.
func (s *start) makeDisks(ctx context.Context) error {
	if s.from.standby != nil { // it has them
		return nil
	}
	if len(s.from.disks) > 0 {
		err := s.m.placeDisks(ctx, s.e, s.from.disks)
		s.fresh = err == nil
		return err
	}
	v := s.vm()
	path := s.m.Layout.VM(v.ID).SystemDisk()
	if v.DiskImage == v.Spec.ImageID {
		if err := FitDisk(path, v.Spec.DiskSize); fault.KindOf(err) != fault.NotFound {
			return err
		}
	}
	err := disk.Create(ctx, path, v.Spec.DiskSize)
	s.fresh = err == nil
	return err
}

// removeFreshDisk also removes the disk that a VM has got with another image: a boot after it must not find what a machine from a template left there.
func (s *start) removeFreshDisk(context.Context) error {
	if s.fresh {
		return removeAll(s.m.Layout.VM(s.vm().ID).SystemDisk())
	}
	return s.m.removeFreshDisk(s.e)
}

func (s *start) prepareStep(c Capability, p HostPreparer) step.Step {
	return step.Step{
		Name:    "prepare/" + c.Name(),
		Timeout: prepareTimeout,
		Do:      func(ctx context.Context) error { return p.PrepareHost(ctx, HostRequest{VM: s.vm(), Report: s.report}) },
		Undo:    s.unlessStuck(func(ctx context.Context) error { return s.m.cleanCapability(ctx, s.e, c) }),
	}
}

// unlessStuck is undo, except that it takes nothing from under a machine that would not end: see Manager.cleanup.
func (s *start) unlessStuck(undo func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if s.stuck {
			return errors.New("kept for the machine, which has not ended")
		}
		return undo(ctx)
	}
}

func (s *start) findInitramfs(ctx context.Context) (err error) {
	s.initramfs, err = s.m.Kernels.Initramfs(ctx, s.kernel)
	return err
}

func (s *start) startMachine(ctx context.Context) error {
	if s.from.standby != nil {
		return s.takeStandby(ctx, s.from.standby)
	}
	machine, err := s.describe(ctx)
	if err != nil {
		return err
	}
	image := s.vm().Spec.ImageID // of a VM that goes on it need not be the one that its record asks for by now
	inst, err := s.from.start(ctx, s.m.Driver, machine, func(state vmm.State) error {
		// The disk lies over this image from the moment on when a guest may write to it; before that it can as well be made again.
		return s.m.update(ctx, s.e, func(v *model.VM) { v.Runtime.State, v.DiskImage = state, image })
	})
	if err != nil {
		return err
	}
	s.live = &live{inst: inst, agent: s.m.NewAgent(inst.DialAgent)}
	s.e.setMachine(s.live)
	return s.m.update(ctx, s.e, func(v *model.VM) {
		v.Runtime.State, v.Runtime.PID, v.Runtime.Accel = inst.State(), inst.PID(), s.info.Accel
	})
}

func (s *start) endMachine(ctx context.Context) error {
	err := s.m.endMachine(ctx, s.e)
	s.stuck = err != nil
	return err
}

// describe says what machine the driver shall build.
func (s *start) describe(ctx context.Context) (vmm.Machine, error) {
	return s.m.describe(ctx, s.vm(), s.image, s.kernel, s.initramfs)
}

// describe says what machine the driver shall build for a VM.
func (m *Manager) describe(ctx context.Context, v model.VM, img model.Image, k model.Kernel, initramfs []string) (vmm.Machine, error) {
	files := m.Layout.VM(v.ID)
	machine := vmm.Machine{
		ID:        v.ID,
		RunDir:    files.Run,
		Kernel:    k.Vmlinux,
		Initramfs: initramfs,
		VCPUs:     v.Spec.VCPUs,
		Memory:    v.Spec.Memory,
		Drives: []vmm.Drive{
			{Name: proto.SerialImage, Path: img.Path, ReadOnly: true},
			{Name: proto.SerialSystem, Path: files.SystemDisk()},
		},
		ConsoleLog: files.ConsoleLog(),
		ConsoleMax: consoleMax,
		VMMLog:     files.VMMLog(),
	}
	for _, c := range m.Capabilities {
		if p, ok := c.(MachineContributor); ok {
			if err := p.ContributeMachine(ctx, MachineRequest{VM: v, Machine: &machine}); err != nil {
				return vmm.Machine{}, fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return machine, nil
}

// consoleMax bounds what is kept of a guest's console: a guest can write there for ever.
const consoleMax = 1 * model.MiB

// awaitAgent waits for the guest's agent, as long as the machine is there to run it.
func (s *start) awaitAgent(ctx context.Context) error {
	timeout := s.m.BootTimeout
	if timeout == 0 {
		timeout = s.info.Grace
	}
	if s.from.template { // a boot takes far longer than going on: one that needs so long is broken
		timeout /= 4
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fault.New(fault.Unavailable, "the guest's agent did not answer within %v", timeout))
	defer cancel()
	return s.withMachine(ctx, func(ctx context.Context, l *live) (err error) {
		hello := l.agent.Hello
		if s.worksAtOnce() {
			hello = l.agent.Wake
		}
		s.hello, err = hello(ctx)
		s.helloAt = time.Now()
		if err == nil {
			err = s.from.check(s.hello)
		}
		return err
	})
}

// worksAtOnce tells whether the guest was just restored by an emulator, and somebody waits for it: to run a command in it, most likely. Forks
// that are made side by side are in each other's way, and may be there to wait themselves. A machine on standby has run a command.
func (s *start) worksAtOnce() bool {
	return s.info.Accel == vmm.AccelTCG && (s.from.template || s.from.same || s.from.single) && s.from.standby == nil
}

// assume gives the guest its identity, or lets it go on as the one that it was.
func (s *start) assume(ctx context.Context) error {
	if s.from.same {
		return s.withMachine(ctx, func(ctx context.Context, l *live) error { return l.agent.Thaw(ctx, wakeUp()) })
	}
	doc, err := s.identity(ctx)
	if err != nil {
		return err
	}
	return s.withMachine(ctx, func(ctx context.Context, l *live) error {
		if s.assumed, err = l.agent.Assume(ctx, doc); err != nil {
			return err
		}
		return s.growDisks(ctx, l)
	})
}

// growDisks makes the file systems that came mounted with a template as large as this VM's disks. Elsewhere the guest does so when it mounts a
// disk.
func (s *start) growDisks(ctx context.Context, l *live) error {
	v := s.vm()
	files := s.m.Layout.VM(v.ID)
	for _, d := range []struct {
		name      string
		was, want model.Bytes
		Drive
	}{
		{systemDiskName, s.from.made.DiskSize, v.Spec.DiskSize, Drive{Path: files.SystemDisk(), Serial: proto.SerialSystem}},
		{workDiskName, s.from.made.WorkDiskSize, v.Spec.WorkDiskSize, Drive{Path: files.WorkDisk(), Serial: proto.SerialWork}},
	} {
		if d.was == 0 || d.was >= d.want {
			continue
		}
		d.Size = d.want
		if _, err := GrowDisk(ctx, ChangeRequest{Old: v, New: v, Machine: l.inst, Agent: l.agent}, d.Drive); err != nil {
			return err
		}
	}
	return nil
}

// wakeUp is what a guest is told that goes on after a while.
func wakeUp() proto.Thaw {
	doc := proto.Thaw{Entropy: make([]byte, entropySize)}
	rand.Read(doc.Entropy) // never fails
	doc.Time = time.Now()
	return doc
}

// withMachine calls f with a context that also ends when the machine does, so that a dead VMM is reported at once and as such.
func (s *start) withMachine(ctx context.Context, f func(context.Context, *live) error) error {
	l := s.e.machine()
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if exit, err := l.inst.Wait(ctx); err == nil {
			cancel(machineEnded(exit))
		}
	}()
	err := f(ctx, l)
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	if err != nil && cause != nil {
		return cause
	}
	return err
}

func machineEnded(exit vmm.Exit) error {
	msg := "the machine ended (" + string(exit.Reason) + ")"
	if exit.Detail != "" {
		msg += ": " + exit.Detail
	}
	return fault.New(fault.Unavailable, "%s", msg)
}

// identity is what the guest is told to be.
func (s *start) identity(ctx context.Context) (proto.Assume, error) {
	v := s.vm()
	doc := anonymous(v, s.image)
	doc.Env = guestEnv(s.image, v.Spec)
	doc.User = firstOf(v.Spec.User, s.image.Config.User)
	doc.Workdir = firstOf(v.Spec.Workdir, s.image.Config.WorkingDir)
	size, _, err := disk.Usage(s.m.Layout.VM(v.ID).SystemDisk())
	if err != nil {
		return doc, err
	}
	doc.Root.SystemSize = int64(size)
	for _, c := range s.m.Capabilities {
		if p, ok := c.(GuestContributor); ok {
			if err := p.ContributeGuest(ctx, GuestRequest{VM: v, Assume: &doc}); err != nil {
				return doc, fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	doc.Time = time.Now()
	return doc, nil
}

// anonymous is the part of an identity that needs neither a user nor capabilities.
func anonymous(v model.VM, img model.Image) proto.Assume {
	doc := proto.Assume{
		Entropy:  make([]byte, entropySize),
		Time:     time.Now(),
		Hostname: v.Spec.Name,
		Root: proto.Root{
			Image: proto.SerialImage, ImageSize: int64(img.Size), System: proto.SerialSystem,
		},
		MachineID: v.ID + v.ID, // 128 bits are asked for, and the id is unique
	}
	if img.Init != "" {
		doc.Init = []string{img.Init}
	}
	rand.Read(doc.Entropy) // never fails
	return doc
}

// entropySize is what the kernel's generator takes in at once (drivers/char/random.c: the input pool holds 256 bits), twice over.
const entropySize = 64

// guestEnv is the image's environment with the VM's own on top, in a fixed order.
func guestEnv(img model.Image, spec model.Spec) []string {
	env := slices.Clone(img.Config.Env)
	for _, name := range sortedKeys(spec.Env) {
		env = append(env, name+"="+spec.Env[name])
	}
	return env
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// postStartStep has no undo where preparing has one: that takes away what both have made, and not before the machine has ended.
func (s *start) postStartStep(c Capability, p PostStarter) step.Step {
	var undo func(context.Context) error
	if _, prepares := c.(HostPreparer); !prepares {
		undo = func(ctx context.Context) error { return s.m.cleanCapability(ctx, s.e, c) }
	}
	return step.Step{
		Name:    "post-start/" + c.Name(),
		Timeout: prepareTimeout,
		Do: func(ctx context.Context) error {
			return s.withMachine(ctx, func(ctx context.Context, l *live) error {
				return p.PostStart(ctx, PostStartRequest{VM: s.vm(), Agent: l.agent})
			})
		},
		Undo: undo,
	}
}

// finish records that the VM runs, and watches its machine from now on.
func (s *start) finish(ctx context.Context, records []step.Record) error {
	now := time.Now().UTC()
	err := s.m.update(ctx, s.e, func(v *model.VM) {
		v.State = model.Running
		if !s.from.same || v.Started == nil {
			v.Started = &now
		}
		v.Stopped = nil
		v.Boot = s.timeline(records)
		v.Network = &model.Network{Mode: v.Spec.Net}
	})
	if err != nil {
		return err
	}
	s.m.watch(s.e)
	s.m.templates.started(s)
	if s.from.warm() && !s.from.same && s.vm().Spec.Remove != model.RemoveOnDetach { // nobody has to wait for that
		s.m.wg.Go(func() {
			if err := s.m.syncDisks(s.e); err != nil && s.e.machine() != nil {
				s.m.logger(s.vm()).ErrorContext(ctx, "syncing the disks of a forked VM", "error", err)
			}
		})
	}
	if s.from.same { // it is history from now on
		if err := snapshot.Remove(s.m.Layout.VM(s.vm().ID).Suspended()); err != nil {
			s.m.logger(s.vm()).ErrorContext(ctx, "removing the memory of a VM that has gone on", "error", err)
		}
	}
	return nil
}
