package template

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
)

const (
	settleTime   = 5 * time.Minute  // for an image's init to reach its target
	warmUpTime   = 20 * time.Second // for one command to run in the guest
	buildTimeout = 10 * time.Minute
)

// Build makes the templates that a VM with this spec would be restored from, unless they exist. The
// spec is complete. A template may already be evicted again, or be made once more in the
// background.
func (p *Pool) Build(ctx context.Context, spec model.Spec, report step.Reporter) ([]model.Template, error) {
	if err := p.CheckOn(); err != nil {
		return nil, err
	}
	fingerprint, err := p.fingerprint(ctx, spec)
	if err != nil {
		return nil, err
	}
	j := job{spec: spec, fingerprint: fingerprint, urgent: true}
	keys := []string{universalKeyOf(fingerprint), imageKeyOf(fingerprint, spec)}
	for _, j.key = range keys {
		end := report.Track("template", j.key)
		err := p.ensure(ctx, j)
		end(err)
		if err != nil {
			return nil, err
		}
	}
	var made []model.Template
	for _, j.key = range keys {
		t, err := p.describe(ctx, j.key)
		switch {
		case err == nil:
			made = append(made, t.Template)
		case fault.KindOf(err) != fault.NotFound:
			return made, err
		case p.wants(j.key):
			made = append(made, *j.beingMade())
		}
	}
	return made, nil
}

// CheckOn fails if templates are off.
func (p *Pool) CheckOn() error {
	if !p.Off {
		return nil
	}
	return fault.New(fault.Unsupported, "templates are off, or the driver %s cannot save machines", p.host.Drivers.Default().Name()).
		WithHint("`banger config show` tells where they were turned off")
}

// fingerprint is that of the machine that a VM with this spec would have.
func (p *Pool) fingerprint(ctx context.Context, spec model.Spec) (string, error) {
	return p.host.Fingerprint(ctx, machine.Subject{ID: model.NewID(), Spec: spec, Fresh: true})
}

// build brings a machine up without an identity and saves it.
func (p *Pool) build(ctx context.Context, j job) (err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	l, err := p.machineFor(ctx, j)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.tearDown(ctx, l)) }()
	if !j.universal() {
		if err := p.settle(ctx, l); err != nil {
			return err
		}
	}
	// so that the guest waits for a host when it is restored
	if err := l.Machine.Agent.Close(); err != nil {
		return err
	}
	c, err := p.capture(ctx, j, l, true)
	if err != nil {
		return err
	}
	return c.commit(ctx)
}

// machineFor brings up the machine that a template is made of. An image's begins with the universal
// template, if that works. If the machine comes up only by a boot, the universal template is
// removed and made anew.
func (p *Pool) machineFor(ctx context.Context, j job) (*machine.Launch, error) {
	if j.universal() {
		return p.bringUp(ctx, j, machine.Boot{})
	}
	universal := j
	universal.key, universal.urgent = universalKeyOf(j.fingerprint), false
	from, err := p.open(ctx, universal.key)
	if err != nil {
		return p.bringUp(ctx, j, machine.Boot{})
	}
	l, err := p.bringUp(ctx, j, from)
	if err == nil || ctx.Err() != nil {
		return l, err
	}
	p.log.WarnContext(ctx, "making a template failed; booting for it instead", "template", j.key, "from", universal.key, "error", err)
	if l, err = p.bringUp(ctx, j, machine.Boot{}); err != nil {
		return nil, err // the fault was not the universal template's
	}
	p.Failed(ctx, universal.key)
	p.want(universal)
	return l, nil
}

// bringUp brings up a machine without a record. If it fails, nothing is left.
func (p *Pool) bringUp(ctx context.Context, j job, from machine.Source) (*machine.Launch, error) {
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
	l, err := p.host.Launch(ctx, o, time.Now())
	if err == nil && l.Fingerprint != "" && l.Fingerprint != j.fingerprint {
		err = fault.New(fault.Unavailable, "the machine has changed since the template was wanted")
	}
	if err != nil {
		return nil, errors.Join(err, p.tearDown(ctx, l))
	}
	return l, nil
}

// tearDown ends a machine and removes all that was made for it but the template.
func (p *Pool) tearDown(ctx context.Context, l *machine.Launch) error {
	return p.host.TearDown(context.WithoutCancel(ctx), machine.Remains{Subject: l.Subject, Machine: l.Machine})
}

// settle lets the image's init reach its target, runs one command so that what every command needs
// is in the guest's memory, writes the disks, and freezes all processes.
func (p *Pool) settle(ctx context.Context, l *machine.Launch) error {
	agent := l.Machine.Agent
	if l.HasInit() {
		if err := try(ctx, agent, settleTime, "/bin/sh", "-c", awaitTarget); err != nil {
			return fmt.Errorf("waiting for the image's init: %w", err)
		}
	}
	if err := try(ctx, agent, warmUpTime, "true"); err != nil {
		return err
	}
	// here once, otherwise in each machine that is restored
	if err := l.Machine.Sync(ctx); err != nil {
		return err
	}
	_, err := agent.Freeze(ctx)
	return err
}

// awaitTarget is a shell script that ends when systemd has reached its default target, and at once
// where there is none. systemctl itself does not wait for a systemd that does not listen yet.
const awaitTarget = `command -v systemctl >/dev/null || exit 0
n=0; until [ -e /run/systemd/private ] || [ $n -ge 300 ]; do sleep 0.1; n=$((n+1)); done
systemctl is-system-running --wait`

// try runs a command in the guest and waits for its end. How it ended does not matter: the command
// need not even exist.
func try(ctx context.Context, agent machine.Agent, limit time.Duration, argv ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := agent.Upgrade(ctx, "/v1/exec")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := proto.NewWriter(conn).WriteJSON(proto.FrameStart, proto.ExecRequest{Argv: argv}); err != nil {
		return err
	}
	in := proto.NewReader(conn)
	for {
		t, _, err := in.ReadFrame()
		if ctx.Err() != nil {
			return fmt.Errorf("running %s in the guest: %w", argv[0], context.Cause(ctx))
		}
		if err != nil {
			return fmt.Errorf("running %s in the guest: %w", argv[0], err)
		}
		if t == proto.FrameExit || t == proto.FrameError {
			return nil
		}
	}
}

// capture is a template that is not there yet.
type capture struct {
	draft *snapshot.Draft
	meta  snapshot.Meta
}

// capture saves a machine, and its disks if the template is to have any.
func (p *Pool) capture(ctx context.Context, j job, l *machine.Launch, halt bool) (*capture, error) {
	draft, err := snapshot.Create(p.dir(j.key))
	if err != nil {
		return nil, err
	}
	draft.SumDisks = true
	c := machine.Capture{Draft: draft, Halt: halt}
	if !j.universal() {
		c.Disks = machine.Disks(p.host.Layout.VM(l.Subject.ID))
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
