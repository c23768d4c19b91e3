package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"banger/internal/fault"
	"banger/internal/firstboot"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/snapshot"
)

// Nominal times: see package pace.
const (
	settleTime   = 5 * time.Minute  // for an image's init to reach its target
	warmUpTime   = 20 * time.Second // for one command to run in the guest
	buildTimeout = 10 * time.Minute
)

// builder makes templates. Its methods are safe for concurrent use.
type builder struct {
	cfg    *Config
	shelf  *shelf
	queue  *queue
	making chan struct{} // holds one element while a template is made
}

// fingerprint is that of the machine that a VM with this spec would have.
func (b *builder) fingerprint(ctx context.Context, spec model.Spec) (string, error) {
	return b.shelf.host.Fingerprint(ctx, machine.Subject{ID: model.NewID(), Spec: spec, Fresh: true})
}

// failed judges the template of a launch that failed, and returns the blame. Proof removes it, and
// so does doubt that repeats before the template serves a start.
func (b *builder) failed(ctx context.Context, l *machine.Launch, err error) machine.Blame {
	key := l.Template()
	blame, witness := l.Blame(err)
	switch {
	case blame == machine.NoBlame:
		return blame
	case blame == machine.Doubt && b.isDamaged(ctx, key): // which is proof
	case blame == machine.Doubt && b.queue.doubt(key, witness) < maxDoubts:
		b.shelf.log.WarnContext(ctx, "a template did not serve a start, which proves nothing against it", "template", key, "error", err)
		return blame
	}
	b.shelf.log.WarnContext(ctx, "a template does not work and is removed", "template", key, "error", err)
	b.queue.didNotWork(key)
	b.shelf.drop(ctx, key)
	return blame
}

// isDamaged reports whether a template is not what was saved. A start does not check that, because
// it takes as long as reading all of it.
func (b *builder) isDamaged(ctx context.Context, key string) bool {
	snap, err := snapshot.Open(ctx, b.shelf.dir(key))
	if err == nil {
		err = snap.Verify(ctx)
	}
	return fault.KindOf(err) == fault.Invalid
}

// build brings a machine up without an identity and saves it.
func (b *builder) build(ctx context.Context, j job) (err error) {
	ctx, cancel := pace.Context(ctx, buildTimeout, "template")
	defer cancel()
	l, err := b.machineFor(ctx, j)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown(ctx, l)) }()
	if !j.universal() {
		unready, err := b.settle(ctx, l, true)
		if err != nil {
			return err
		}
		if err := b.judge(ctx, j, l, unready); err != nil {
			return err
		}
	}
	// so that the guest waits for a host when it is restored
	if err := l.Machine.Agent.Close(); err != nil {
		return err
	}
	c, err := b.capture(ctx, j, l, true)
	if err != nil {
		return err
	}
	if err := b.permit(j); err != nil { // turned off meanwhile
		return errors.Join(err, c.draft.Discard())
	}
	return c.commit(ctx)
}

// machineFor brings up the machine that a template is made of. An image's begins with the universal
// template, if that works. If the machine comes up only by a boot, the universal template is
// judged: see failed.
func (b *builder) machineFor(ctx context.Context, j job) (*machine.Launch, error) {
	if j.universal() {
		return b.bringUp(ctx, j, machine.Boot{})
	}
	universal := j
	universal.key, universal.urgent = universalKeyOf(j.fingerprint), false
	from, err := b.shelf.open(ctx, universal.key)
	if err != nil {
		return b.bringUp(ctx, j, machine.Boot{})
	}
	l, err := b.bringUp(ctx, j, from)
	if err == nil || ctx.Err() != nil {
		return l, err
	}
	b.shelf.log.WarnContext(ctx, "making a template failed; booting for it instead", "template", j.key, "from", universal.key, "error", err)
	booted, bootErr := b.bringUp(ctx, j, machine.Boot{})
	if bootErr != nil {
		return nil, bootErr // the fault was not the universal template's
	}
	b.failed(ctx, l, err)
	if _, err := os.Stat(b.shelf.dir(universal.key)); err != nil {
		b.queue.want(universal)
	}
	return booted, nil
}

// bringUp brings up a machine without a record. If it fails, nothing is left but the launch.
func (b *builder) bringUp(ctx context.Context, j job, from machine.Source) (*machine.Launch, error) {
	spec := j.spec
	spec.Name, spec.Env, spec.Labels = "template", nil, nil
	o := machine.Order{
		Subject:  machine.Subject{ID: model.NewID(), Spec: spec, Fresh: true},
		Identity: machine.Anonymous, Source: from,
		// a machine on standby serves soon, and a priority cannot be raised again
		Idle: !j.standby && !j.urgent,
	}
	if j.universal() {
		o.Identity = machine.None
	}
	l, err := b.shelf.host.Launch(ctx, o, time.Now())
	if err == nil && l.Fingerprint != "" && l.Fingerprint != j.fingerprint {
		err = fault.New(fault.Unavailable, "the machine has changed since the template was wanted")
	}
	if err != nil {
		return l, errors.Join(err, b.tearDown(ctx, l))
	}
	return l, nil
}

// tearDown ends a machine and removes all that was made for it but the template.
func (b *builder) tearDown(ctx context.Context, l *machine.Launch) error {
	return b.shelf.host.TearDown(context.WithoutCancel(ctx), machine.Remains{Subject: l.Subject, Machine: l.Machine})
}

// settle lets the image's init reach its target, runs one command so that what every command needs
// is in the guest's memory, writes the disks, and freezes all processes. first is a first boot.
// unready reports that the init has no signal of its readiness, so that services may still start.
func (b *builder) settle(ctx context.Context, l *machine.Launch, first bool) (unready bool, err error) {
	agent := l.Machine.Agent
	if l.HasInit() {
		status, err := try(ctx, agent, settleTime, "/bin/sh", "-c", awaitTarget)
		if err != nil {
			return false, fmt.Errorf("waiting for the image's init: %w", err)
		}
		if unready = status != reached; status == notReached {
			return false, fault.New(fault.Unavailable, "the init of image %s has not reached its target", l.Subject.Spec.Image)
		}
	}
	if _, err := try(ctx, agent, warmUpTime, "true"); err != nil {
		return false, err
	}
	if first && l.HasInit() {
		if err := awaitQuiet(ctx, agent); err != nil {
			return false, err
		}
	}
	// Sync once here. Otherwise every restored machine would repeat it.
	if err := l.Machine.Sync(ctx); err != nil {
		return false, err
	}
	return unready, l.Machine.Freeze(ctx)
}

// awaitTarget is a shell script that ends when systemd has reached its default target, and at once
// if the init is another one. systemctl does not wait for a systemd that does not listen yet.
const awaitTarget = `case $(readlink /proc/1/exe) in */systemd) ;; *) exit 42;; esac
until [ -e /run/systemd/private ]; do sleep 0.1; done
case $(systemctl is-system-running --wait) in running|degraded) exit 0;; esac; exit 43`

// How awaitTarget ends. Any other end means that it could not run.
const (
	reached    = 0
	notReached = 43
)

// awaitQuiet returns when the boot has written no further files for a pause. A service that has
// begun may still hold a new secret in memory.
func awaitQuiet(ctx context.Context, agent machine.Agent) error {
	const looks, between = 20, 500 * time.Millisecond
	last, err := agent.Writes(ctx)
	for range looks {
		if err != nil {
			return fmt.Errorf("checking which files the boot wrote: %w", err)
		}
		select {
		case <-time.After(between):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		next, nextErr := agent.Writes(ctx)
		if nextErr == nil && reflect.DeepEqual(last, next) {
			return nil
		}
		last, err = next, nextErr
	}
	return fault.New(fault.Unavailable, "the boot does not stop writing new files")
}

// try runs a command in the guest and waits for its end. It returns the exit status, or -1 if the
// command could not run.
func try(ctx context.Context, agent machine.Agent, limit time.Duration, argv ...string) (int, error) {
	ctx, cancel := pace.Context(ctx, limit, "end of the command")
	defer cancel()
	conn, err := agent.Upgrade(ctx, "/v1/exec")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := proto.NewWriter(conn).WriteJSON(proto.FrameStart, proto.ExecRequest{Argv: argv}); err != nil {
		return 0, err
	}
	in := proto.NewReader(conn)
	for {
		t, payload, err := in.ReadFrame()
		if ctx.Err() != nil {
			return 0, fmt.Errorf("running %s in the guest: %w", argv[0], context.Cause(ctx))
		}
		if err != nil {
			return 0, fmt.Errorf("running %s in the guest: %w", argv[0], err)
		}
		switch t {
		case proto.FrameExit:
			exit, err := relay.ParseExit(payload)
			return exit.Code, err
		case proto.FrameError:
			return -1, nil
		}
	}
}

// capture is a template that is not there yet.
type capture struct {
	draft *snapshot.Draft
	meta  snapshot.Meta
}

// capture saves a machine, and its disks if the template is to have any.
func (b *builder) capture(ctx context.Context, j job, l *machine.Launch, halt bool) (*capture, error) {
	if !j.universal() {
		if err := b.shelf.host.CheckOpen(ctx, l.Subject, l.Machine); err != nil {
			return nil, err
		}
	}
	draft, err := snapshot.Create(b.shelf.dir(j.key))
	if err != nil {
		return nil, err
	}
	draft.SumDisks = true
	c := machine.Capture{Draft: draft, Halt: halt}
	if !j.universal() {
		c.Disks = machine.Disks(b.shelf.host.Layout.VM(l.Subject.ID))
	}
	done, err := l.Machine.Capture(ctx, c)
	if err != nil {
		return nil, errors.Join(err, draft.Discard())
	}
	spec := l.Subject.Spec
	spec.Name, spec.Env, spec.Labels = "template", nil, nil
	return &capture{draft, snapshot.Meta{
		Driver: l.Machine.Driver.Name(), Fingerprint: j.fingerprint, Generation: proto.Generation, Spec: spec, Layout: done.Layout,
	}}, nil
}

// commit makes the capture a template.
func (c *capture) commit(ctx context.Context) error {
	_, err := c.draft.Commit(ctx, c.meta)
	return errors.Join(err, c.draft.Discard())
}

// ensure makes a template unless it exists. One is made at a time.
func (b *builder) ensure(ctx context.Context, j job) (err error) {
	select {
	case b.making <- struct{}{}:
		defer func() { <-b.making }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := b.ensureAlone(ctx, j); err != nil {
		return err
	}
	b.queue.succeeded(j.name())
	return nil
}

func (b *builder) ensureAlone(ctx context.Context, j job) error {
	if _, err := snapshot.Open(ctx, b.shelf.dir(j.key)); err == nil {
		return nil
	} else if fault.KindOf(err) != fault.NotFound {
		b.shelf.drop(ctx, j.key)
	}
	if err := b.permit(j); err != nil {
		return err
	}
	began := time.Now()
	log := b.shelf.log.With("template", j.key, "image", j.spec.Image, "kernel", j.spec.Kernel)
	log.InfoContext(ctx, "making a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	b.queue.setUnderWay(j.beingMade())
	defer b.queue.setUnderWay(nil)
	if err := b.build(ctx, j); err != nil {
		return err
	}
	log.InfoContext(ctx, "made a template", "took", time.Since(began))
	b.shelf.markUsed(ctx, j.key)
	b.shelf.evict(ctx, b.cfg.Budget)
	return nil
}

// noteOf returns what is known of an image's templates. Without notes, nothing is against them.
func (b *builder) noteOf(imageID string) model.ImageTemplate {
	if b.cfg.Notes == nil {
		return model.ImageTemplate{Mode: model.TemplateAuto}
	}
	note, err := b.cfg.Notes.Template(imageID)
	if err != nil { // then it is not known whether the user has turned them off
		b.shelf.log.Error("reading what is known of an image's templates", "image", imageID, "error", err)
		note.Mode = model.TemplateOff
	}
	return note
}

// permit fails if no template of the job's image is to be made.
func (b *builder) permit(j job) error {
	if j.universal() {
		return nil
	}
	note := b.noteOf(j.spec.ImageID)
	if !note.Refused() {
		return nil
	}
	return refused(j.spec.Image, note)
}

// judge checks which files the boot of an image wrote. If VMs must not share them, or if the boot
// may not be over, it notes so and fails.
func (b *builder) judge(ctx context.Context, j job, l *machine.Launch, unready bool) error {
	written, err := l.Machine.Agent.Writes(ctx)
	if err != nil {
		return fmt.Errorf("checking which files the boot wrote: %w", err)
	}
	v := firstboot.Judge(written)
	note := b.noteOf(j.spec.ImageID)
	note.Shared, note.Cut, note.Unready = v.Shared, v.Cut, unready
	if b.cfg.Notes != nil && (!v.Harmless() || unready) {
		if err := b.cfg.Notes.SetTemplate(ctx, j.spec.ImageID, note); err != nil {
			return err
		}
	}
	if note.Refused() {
		return refused(j.spec.Image, note)
	}
	return nil
}
