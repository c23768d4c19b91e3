package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vmm"
)

const (
	settleTime   = 5 * time.Minute  // for an image's init to reach its target
	warmUpTime   = 20 * time.Second // for one command to run in the template
	buildTimeout = 10 * time.Minute
	buildNice    = 19 // the lowest priority that there is (setpriority(2))
)

// build brings up a machine without an identity and saves it. It has a VM's id and folders but no record: what a crash leaves of it is found as
// an orphan at the next start-up.
func (t *templates) build(ctx context.Context, j job) (err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	b, err := t.machine(ctx, j)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.takeAway(context.WithoutCancel(ctx))) }()
	if !j.universal() {
		if err := b.settle(ctx); err != nil {
			return err
		}
	}
	return b.save(ctx)
}

// machine brings up the machine that a template is made of: an image's from the universal template, if there is one that works. One with which it does
// not come up although it boots well is thrown away, and made anew.
func (t *templates) machine(ctx context.Context, j job) (*build, error) {
	if j.universal() {
		return t.bringUp(ctx, j, &origin{})
	}
	universal := j
	universal.key, universal.urgent = keyOf(universalKey, j.fingerprint), false
	from, err := t.open(ctx, universal.key)
	if err != nil {
		return t.bringUp(ctx, j, &origin{})
	}
	from.Kind = model.FromUniversal
	b, err := t.bringUp(ctx, j, &from)
	from.close()
	if err == nil || ctx.Err() != nil {
		return b, err
	}
	t.m.Log.WarnContext(ctx, "making a template failed; booting for it instead", "template", j.key, "from", universal.key, "error", err)
	if b, err = t.bringUp(ctx, j, &origin{}); err != nil {
		return nil, err // the fault was not the universal one's
	}
	t.failed(ctx, universal.key)
	t.want(universal)
	return b, nil
}

// bringUp makes a machine that goes on from the given origin. For an image's template, and for standby, it has an identity when it returns.
func (t *templates) bringUp(ctx context.Context, j job, from *origin) (_ *build, err error) {
	b := t.newBuild(j)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.takeAway(context.WithoutCancel(ctx)))
		}
	}()
	if err := b.prepare(ctx, from.disks); err != nil {
		return nil, err
	}
	if err := b.boot(ctx, from); err != nil {
		return nil, err
	}
	if j.universal() {
		return b, nil
	}
	return b, b.introduce(ctx)
}

// build is one template in the making.
type build struct {
	m    *Manager
	j    job
	v    model.VM
	live *live
}

func (t *templates) newBuild(j job) *build {
	b := &build{m: t.m, j: j, v: model.VM{ID: model.NewID(), Spec: j.spec, State: model.Starting}}
	b.v.Spec.Name, b.v.Spec.Env, b.v.Spec.Labels = "template", nil, nil
	return b
}

// prepare makes the folders and the drives that the machine will know: copies of disks, or empty ones.
func (b *build) prepare(ctx context.Context, disks map[string]string) error {
	files := b.m.Layout.VM(b.v.ID)
	for _, dir := range []string{files.Dir, files.Run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making a folder: %w", err)
		}
	}
	err := b.m.placeDisks(ctx, &entry{vm: b.v}, disks)
	if err == nil && disks[systemDiskName] == "" {
		err = disk.Create(ctx, files.SystemDisk(), b.v.Spec.DiskSize)
	}
	if err != nil {
		return err
	}
	for _, c := range b.m.Capabilities {
		if p, ok := c.(HostPreparer); ok {
			if err := p.PrepareHost(ctx, HostRequest{VM: b.v}); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return nil
}

// boot starts the machine and waits for its agent. Building a template is not urgent; what goes on from one is about to serve.
func (b *build) boot(ctx context.Context, from *origin) error {
	info, err := b.m.Driver.Info(ctx)
	if err != nil {
		return err
	}
	machine, err := b.m.describe(ctx, b.v, b.j.image, b.j.kernel, b.j.initramfs)
	if err != nil {
		return err
	}
	inst, err := from.start(ctx, b.m.Driver, machine, func(vmm.State) error { return nil })
	if err != nil {
		return err
	}
	b.live = &live{inst: inst, agent: b.m.NewAgent(inst.DialAgent)}
	if b.j.standby || b.j.urgent {
		// A machine on standby serves soon, and its priority could not be raised again.
	} else if err := lowerPriority(inst.PID()); err != nil {
		b.m.Log.WarnContext(ctx, "making a template with the usual priority", "error", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, info.Grace, fault.New(fault.Unavailable, "the template's agent did not answer within %v", info.Grace))
	defer cancel()
	_, err = b.live.agent.Hello(ctx)
	return err
}

// introduce gives the machine an identity that means nothing, with which it mounts the image and the disks. No file of the user's is there.
func (b *build) introduce(ctx context.Context) error {
	doc := anonymous(b.v, b.j.image)
	doc.Root.SystemSize = int64(b.v.Spec.DiskSize)
	contributed := doc
	for _, c := range b.m.Capabilities {
		if p, ok := c.(GuestContributor); ok {
			if err := p.ContributeGuest(ctx, GuestRequest{VM: b.v, Assume: &contributed}); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	doc.Networks, doc.Mounts = contributed.Networks, contributed.Mounts // what all VMs of this shape have in common
	doc.Env = guestEnv(b.j.image, b.v.Spec)
	_, err := b.live.agent.Assume(ctx, doc)
	return err
}

// settle lets the image's init reach its target, runs one command so that what every command needs is in the guest's memory, and halts all processes.
func (b *build) settle(ctx context.Context) error {
	agent := b.live.agent
	if b.j.image.Init != "" {
		if err := try(ctx, agent, settleTime, "/bin/sh", "-c", awaitTarget); err != nil {
			return fmt.Errorf("waiting for the image's init: %w", err)
		}
	}
	if err := try(ctx, agent, warmUpTime, "true"); err != nil {
		return err
	}
	if err := b.sync(ctx); err != nil {
		return err
	}
	_, err := agent.Freeze(ctx)
	return err
}

// sync has the guest write what it has in memory: once, and not in each machine that goes on from here.
func (b *build) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return b.live.agent.Sync(ctx)
}

// awaitTarget is a shell script that ends when systemd has reached its default target, and at once where there is none. systemctl itself
// does not wait for a systemd that has not begun to listen.
const awaitTarget = `command -v systemctl >/dev/null || exit 0
n=0; until [ -e /run/systemd/private ] || [ $n -ge 300 ]; do sleep 0.1; n=$((n+1)); done
systemctl is-system-running --wait`

// try runs a command in the guest and waits for its end. How it ended does not matter: the command need not even be there.
func try(ctx context.Context, agent Agent, limit time.Duration, argv ...string) error {
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

// save makes the machine a template. It stands still from then on.
func (b *build) save(ctx context.Context) error {
	if err := b.live.agent.Close(); err != nil { // so that the guest waits for a host when it goes on
		return err
	}
	draft, err := b.capture(ctx, true)
	if err != nil {
		return err
	}
	return b.commit(ctx, draft)
}

// capture saves the machine, and its disks if the template is to have any.
func (b *build) capture(ctx context.Context, halt bool) (_ *snapshot.Draft, err error) {
	saver, err := b.m.saver(b.live)
	if err != nil {
		return nil, err
	}
	draft, err := snapshot.Create(b.m.templates.dir(b.j.key))
	if err != nil {
		return nil, err
	}
	draft.SumDisks = true
	req, err := saveInto(draft)
	if err == nil {
		req.Halt = halt
		if !b.j.universal() {
			req.Still = func(ctx context.Context) error { return cloneDisks(ctx, disksOf(b.m.Layout.VM(b.v.ID)), draft) }
		}
		err = save(ctx, saver, req)
	}
	if err != nil {
		return nil, errors.Join(err, draft.Discard())
	}
	return draft, nil
}

// commit makes what was captured a template.
func (b *build) commit(ctx context.Context, draft *snapshot.Draft) error {
	_, err := draft.Commit(ctx, snapshot.Meta{Driver: b.m.Driver.Name(), Fingerprint: b.j.fingerprint, Generation: proto.Generation, Spec: b.v.Spec})
	return errors.Join(err, draft.Discard())
}

// takeAway ends the machine and removes all that was made for it but the template.
func (b *build) takeAway(ctx context.Context) error {
	if b.live != nil {
		if err := b.m.endMachine(ctx, &entry{vm: b.v, live: b.live}); err != nil {
			return err // what it uses stays, for the next start-up to find
		}
	}
	var errs []error
	for _, c := range b.m.Capabilities {
		if cleaner, ok := c.(Cleaner); ok {
			errs = append(errs, cleaner.Cleanup(ctx, CleanupRequest{VM: b.v}))
		}
	}
	files := b.m.Layout.VM(b.v.ID)
	return errors.Join(append(errs, removeAll(files.Dir), removeAll(files.Run))...)
}

// lowerPriority puts all threads of a process behind everything else. Where the kernel schedules sessions as groups, the group's priority counts
// (sched(7), "The autogroup feature").
func lowerPriority(pid int) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	err := os.WriteFile(filepath.Join(proc, "autogroup"), []byte(strconv.Itoa(buildNice)), 0)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	threads, readErr := os.ReadDir(filepath.Join(proc, "task"))
	errs := []error{err, readErr}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			if err := unix.Setpriority(syscall.PRIO_PROCESS, tid, buildNice); !errors.Is(err, syscall.ESRCH) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// BuildTemplate makes the templates that a VM of this kind would go on from, unless they are there: what starts do in the background otherwise. In
// its answer the universal one is still being made when it turned out not to work.
func (m *Manager) BuildTemplate(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error) {
	if m.templates.Off {
		return nil, fault.New(fault.Unsupported, "templates are off, or the driver %s cannot save machines", m.Driver.Name()).
			WithHint("`banger config show` tells where they were turned off")
	}
	j, err := m.wish(ctx, req, report)
	if err != nil {
		return nil, err
	}
	j.urgent = true
	keys := []string{keyOf(universalKey, j.fingerprint), imageKeyOf(j.fingerprint, j.spec)}
	for _, j.key = range keys {
		end := report.Track("template", j.key)
		err := m.templates.ensure(ctx, j)
		end(err)
		if err != nil {
			return nil, err
		}
	}
	var made []model.Template
	for _, j.key = range keys {
		tpl, err := m.templates.describe(ctx, j.key)
		switch {
		case err == nil:
			made = append(made, tpl.Template)
		case fault.KindOf(err) != fault.NotFound:
			return made, err
		case m.templates.wants(j.key):
			made = append(made, j.beingMade())
		} // else it went already, to keep the budget
	}
	return made, nil
}

// wish finds out what a template for a VM of this kind is made from.
func (m *Manager) wish(ctx context.Context, req model.Create, report step.Reporter) (job, error) {
	spec := m.fill(req)
	spec.Name = "template"
	if err := checkUnresolved(spec); err != nil {
		return job{}, err
	}
	unlock, err := m.resolve(ctx, &spec, report)
	if err != nil {
		return job{}, err
	}
	unlock() // an image that is deleted meanwhile fails the build
	return m.jobFor(ctx, spec)
}

// jobFor finds out what machine a VM with this spec would have.
func (m *Manager) jobFor(ctx context.Context, spec model.Spec) (j job, err error) {
	j.spec = spec
	if j.image, err = m.Images.Get(spec.ImageID); err != nil {
		return j, err
	}
	if j.kernel, err = m.Kernels.Get(spec.KernelID); err != nil {
		return j, err
	}
	if j.initramfs, err = m.Kernels.Initramfs(ctx, j.kernel); err != nil {
		return j, err
	}
	r, err := restorer(m.Driver)
	if err != nil {
		return j, err
	}
	machine, err := m.describe(ctx, model.VM{ID: model.NewID(), Spec: spec}, j.image, j.kernel, j.initramfs)
	if err != nil {
		return j, err
	}
	j.fingerprint, err = r.Fingerprint(ctx, machine)
	return j, err
}
