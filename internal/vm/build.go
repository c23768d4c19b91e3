package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// job is a template to be made: all that a start had found out about the machine that it would have served.
type job struct {
	key         string
	spec        model.Spec
	image       model.Image
	kernel      model.Kernel
	initramfs   []string
	fingerprint string
	standby     bool // not the template but machines on standby from it
	urgent      bool // somebody waits for it
}

func (j job) universal() bool { return j.key[:1] == universalKey }

// beingMade describes the template that is going to be there.
func (j job) beingMade() model.Template {
	tpl := templateOf(j.key, j.spec, time.Now())
	tpl.Building = true
	return tpl
}

// name tells jobs apart.
func (j job) name() string {
	if j.standby {
		return j.key + "+"
	}
	return j.key
}

const (
	quietTime    = time.Second      // without any operation, before a build begins: a user's command comes first
	settleTime   = 5 * time.Minute  // for an image's init to reach its target
	warmUpTime   = 20 * time.Second // for one command to run in the template
	buildTimeout = 10 * time.Minute
	buildNice    = 19 // the lowest priority that there is (setpriority(2))
)

// started is told of each start that has succeeded: what it did not find is made for the next one.
func (t *templates) started(s *start) {
	if t.Off || s.fingerprint == "" || s.from.cold {
		return
	}
	if s.from.template {
		t.served(s.e.record(), s.from.Of)
	}
	j := job{spec: s.vm().Spec, image: s.image, kernel: s.kernel, initramfs: s.initramfs, fingerprint: s.fingerprint}
	switch s.from.Kind {
	case "":
		j.key = keyOf(universalKey, s.fingerprint)
		t.want(j)
	case model.FromUniversal, model.FromTemplate:
	default:
		return
	}
	if !s.fresh && s.from.standby == nil { // it had disks of its own to go on with, so it could not have used the image's
		return
	}
	j.key = imageKeyOf(s.fingerprint, j.spec)
	if s.from.Of != j.key { // one with smaller disks will do, but not for long
		t.want(j)
	}
	if t.Standby > 0 {
		j.standby = true
		t.want(j)
	}
}

// served is told of each start that has succeeded from a template.
func (t *templates) served(v model.VM, key string) {
	t.mu.Lock()
	delete(t.setbacks, key)
	t.mu.Unlock()
	if err := t.countUse(key); err != nil {
		t.m.logger(v).Warn("counting the use of a template", "template", key, "error", err)
	}
}

// setback is what has gone wrong with a template, or with standby from it, since it last served a start.
type setback struct {
	n     int       // failures to make it
	until time.Time // no start has it made before
	broke bool      // one was made that did not work
}

// A failure may have a cause that passes, such as a full disk, or one that stays, such as an init that never comes up. So a start that would have a
// template made which could not be made does so after a while, that grows by the factor with each failure.
const (
	retryFirst  = time.Minute
	retryFactor = 4
	retryLast   = 4 * time.Hour
)

// setBackLocked notes that a job failed.
func (t *templates) setBackLocked(name string) {
	s := t.setbacks[name]
	s.n++
	wait := retryFirst
	for range s.n - 1 {
		if wait = min(wait*retryFactor, retryLast); wait == retryLast {
			break
		}
	}
	s.until = time.Now().Add(wait)
	t.setbacks[name] = s
}

// succeeded notes that a job was done. That what was made works is another thing: see started.
func (t *templates) succeeded(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.setbacks[name]; ok {
		s.until = time.Time{}
		t.setbacks[name] = s
	}
}

// want puts a build into the queue, unless it is there or has failed a short while ago.
func (t *templates) want(j job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Now().Before(t.setbacks[j.name()].until) || t.building == j.key && !j.standby {
		return
	}
	for _, other := range t.wanted {
		if other.name() == j.name() {
			return
		}
	}
	t.wanted = append(t.wanted, j)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// next takes the first build from the queue.
func (t *templates) next() (job, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wanted) == 0 {
		t.building = ""
		return job{}, false
	}
	j := t.wanted[0]
	t.wanted = t.wanted[1:]
	t.building = j.key
	return j, true
}

// run makes the wanted templates, one at a time and in the user's pauses, until ctx ends.
func (t *templates) run(ctx context.Context) {
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		for j, ok := t.next(); ok && ctx.Err() == nil; j, ok = t.next() {
			if err := t.m.ops.quiet(ctx, quietTime); err != nil {
				return
			}
			t.make(ctx, j)
		}
	}
}

// make does one job, and notes when that is not possible.
func (t *templates) make(ctx context.Context, j job) {
	do := t.ensure
	if j.standby {
		do = t.fill
	}
	if err := do(ctx, j); err != nil && ctx.Err() == nil {
		t.mu.Lock()
		t.setBackLocked(j.name())
		again := t.setbacks[j.name()].until
		t.mu.Unlock()
		t.m.Log.WarnContext(ctx, "no template could be made; VMs go on being booted", "template", j.key, "again", again, "error", err)
	}
}

// ensure makes a template unless it is there. One is made at a time.
func (t *templates) ensure(ctx context.Context, j job) (err error) {
	defer func() {
		if err == nil {
			t.succeeded(j.name())
		}
	}()
	select {
	case t.making <- struct{}{}:
		defer func() { <-t.making }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if _, err := snapshot.Open(ctx, t.dir(j.key)); err == nil {
		return nil
	} else if fault.KindOf(err) != fault.NotFound {
		t.drop(ctx, j.key)
	}
	began := time.Now()
	log := t.m.Log.With("template", j.key, "image", j.spec.Image, "kernel", j.spec.Kernel)
	log.InfoContext(ctx, "making a template", "vcpus", j.spec.VCPUs, "memory", j.spec.Memory)
	tpl := j.beingMade()
	t.setUnderWay(&tpl)
	defer t.setUnderWay(nil)
	if err := t.build(ctx, j); err != nil {
		return err
	}
	log.InfoContext(ctx, "made a template", "took", time.Since(began))
	t.evict(ctx)
	return nil
}

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
	return b.save(ctx, t.dir(j.key))
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
	b := &build{m: t.m, j: j, v: model.VM{ID: model.NewID(), Spec: j.spec, State: model.Starting}}
	b.v.Spec.Name, b.v.Spec.Env, b.v.Spec.Labels = "template", nil, nil
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
	doc.Network, doc.Mounts = contributed.Network, contributed.Mounts // what all VMs of this shape have in common
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
	_, err := agent.Freeze(ctx)
	return err
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

// save saves the machine, which stands still from then on.
func (b *build) save(ctx context.Context, dir string) error {
	saver, err := b.m.saver(b.live)
	if err != nil {
		return err
	}
	if err := b.live.agent.Close(); err != nil { // so that the guest waits for a host when it goes on
		return err
	}
	draft, err := snapshot.Create(dir)
	if err != nil {
		return err
	}
	defer draft.Discard()
	req, err := saveInto(draft)
	if err != nil {
		return err
	}
	req.Halt = true
	if !b.j.universal() {
		req.Still = func(ctx context.Context) error { return cloneDisks(ctx, disksOf(b.m.Layout.VM(b.v.ID)), draft) }
	}
	if err := save(ctx, saver, req); err != nil {
		return err
	}
	_, err = draft.Commit(ctx, snapshot.Meta{Driver: b.m.Driver.Name(), Fingerprint: b.j.fingerprint, Generation: proto.Generation, Spec: b.v.Spec})
	return err
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

// wants tells whether a template is going to be made in the background.
func (t *templates) wants(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.building == key || slices.ContainsFunc(t.wanted, func(j job) bool { return j.key == key && !j.standby })
}

// wish finds out what a template for a VM of this kind is made from.
func (m *Manager) wish(ctx context.Context, req model.Create, report step.Reporter) (job, error) {
	spec := m.fill(req)
	spec.Name = "template"
	if err := spec.Validate(); err != nil {
		return job{}, fault.New(fault.Invalid, "%w", err)
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
