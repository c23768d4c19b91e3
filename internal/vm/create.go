package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vmm"
)

// Create makes a stopped VM. What it needs and the host lacks (image, kernel) is made first, which is reported. Its disks are made at its
// first start.
func (m *Manager) Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	e, _, release, err := m.create(ctx, req, "create", report)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	return e.record(), nil
}

// Launch makes a VM and starts it, as one operation: a prune never finds it stopped in between. made is told of the VM when it has a record. When
// ctx ends before the VM runs, the VM is taken away again; one whose start fails stays for its error to be looked into, and is returned with it.
func (m *Manager) Launch(ctx context.Context, req model.Create, made func(model.VM), report step.Reporter) (model.VM, error) {
	e, opCtx, release, err := m.create(ctx, req, opStart, report)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	made(e.record())
	v, err := m.bringUp(opCtx, e, model.Start{Cold: req.Cold}, report)
	if err != nil && ctx.Err() != nil && v.State == model.Stopped { // not one that a delete has called off: that takes it away itself
		err = errors.Join(err, m.delete(ctx, e))
		m.observe(ctx)
	}
	return v, err
}

// create makes a stopped VM and returns it with its operation lock held by the named operation.
func (m *Manager) create(ctx context.Context, req model.Create, operation string, report step.Reporter) (*entry, context.Context, func(), error) {
	m.removeUnwanted(ctx) // one may have the name
	spec := m.fill(req)
	if err := checkUnresolved(spec); err != nil {
		return nil, nil, nil, err
	}
	if req.Name != "" {
		if err := m.checkNameFree(req.Name); err != nil {
			return nil, nil, nil, err
		}
	}
	unlock, err := m.resolve(ctx, &spec, report)
	if err != nil {
		return nil, nil, nil, err
	}
	defer unlock()

	v := model.VM{ID: model.NewID(), Spec: spec, State: model.Creating, Created: time.Now().UTC()}
	var sb *standby
	if operation == opStart && !req.Cold {
		if sb = m.templates.take(ctx, spec); sb != nil {
			v.ID = sb.v.ID
		}
	}
	e, opCtx, release, err := m.reserve(ctx, v, req.Name, operation)
	if err != nil {
		if sb != nil {
			err = errors.Join(err, sb.end(ctx, m))
		}
		return nil, nil, nil, err
	}
	if sb != nil { // from here on whatever takes the VM away ends the machine
		e.standby = sb
		e.setMachine(sb.live)
	}
	if err := m.establish(ctx, e); err != nil {
		defer release()
		return nil, nil, nil, errors.Join(err, m.remove(context.WithoutCancel(ctx), e))
	}
	m.observe(ctx)
	return e, opCtx, m.counted(release), nil
}

// establish stores the record and makes the VM's folder.
func (m *Manager) establish(ctx context.Context, e *entry) error {
	if err := m.update(ctx, e, func(*model.VM) {}); err != nil {
		return err
	}
	return m.furnish(ctx, e, nil)
}

// furnish makes the folder of a VM with a record, with copies of disks in it.
func (m *Manager) furnish(ctx context.Context, e *entry, disks map[string]string) error {
	if err := os.MkdirAll(m.Layout.VM(e.record().ID).Dir, 0o700); err != nil {
		return fmt.Errorf("making the VM's folder: %w", err)
	}
	if err := m.placeDisks(ctx, e, disks); err != nil {
		return err
	}
	return m.update(ctx, e, func(v *model.VM) { v.State = model.Stopped })
}

// fill turns a request into a spec with every default in place.
func (m *Manager) fill(req model.Create) model.Spec {
	s := m.Defaults
	s.Name, s.Remove, s.Labels = req.Name, req.Remove, req.Labels
	set(&s.Image, req.Image)
	set(&s.Kernel, req.Kernel)
	if req.VCPUs != nil {
		s.VCPUs = *req.VCPUs
	}
	set(&s.Memory, req.Memory)
	set(&s.DiskSize, req.DiskSize)
	if req.WorkDiskSize != nil {
		s.WorkDiskSize = *req.WorkDiskSize
	}
	set(&s.Net, req.Net)
	set(&s.Workdir, req.Workdir)
	set(&s.User, req.User)
	set(&s.IdleSuspend, req.IdleSuspend)
	s.Env = maps.Clone(s.Env)
	if s.Env == nil {
		s.Env = map[string]string{}
	}
	maps.Copy(s.Env, req.Env)
	return s
}

// usualVCPUs is how many virtual CPUs a VM has when nobody says another number.
const usualVCPUs = 2

// checkUnresolved refuses a spec that cannot be right, before anything long begins. What is chosen later has a stand-in.
func checkUnresolved(spec model.Spec) error {
	spec.Name = cmp.Or(spec.Name, "unnamed")
	spec.VCPUs = cmp.Or(spec.VCPUs, usualVCPUs)
	if err := spec.Validate(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	return nil
}

// vcpusFor chooses how many virtual CPUs a VM has for which nobody says so. A host without a driver, on which VMs can be made all the same, is taken for
// one of the better ones.
func (m *Manager) vcpusFor(ctx context.Context, img model.Image) int {
	if img.Init == "" {
		return usualVCPUs
	}
	info, err := m.Driver.Info(ctx)
	if r, ok := info.Recommended(vmm.MaxVCPUsWithInit); err == nil && ok {
		return min(usualVCPUs, r.Value)
	}
	return usualVCPUs
}

func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

// resolve finds or makes the image and the kernel and pins them in spec. On success m.refs is held for reading, so that neither can be deleted before
// a record names it; the caller calls unlock when one does.
func (m *Manager) resolve(ctx context.Context, spec *model.Spec, report step.Reporter) (unlock func(), err error) {
	const attempts = 3 // each lost to a prune that came between making and naming
	for range attempts {
		img, err := m.Images.Ensure(ctx, spec.Image, report)
		if err != nil {
			return nil, err // names the image
		}
		k, err := m.Kernels.Ensure(ctx, spec.Kernel, report)
		if err != nil {
			return nil, err
		}
		vcpus := spec.VCPUs
		if vcpus == 0 {
			vcpus = m.vcpusFor(ctx, img)
		}
		m.refs.RLock()
		_, imgErr := m.Images.Get(img.ID)
		_, kErr := m.Kernels.Get(k.ID)
		if imgErr == nil && kErr == nil {
			spec.ImageID, spec.KernelID = img.ID, k.ID
			spec.VCPUs = vcpus
			return m.refs.RUnlock, nil
		}
		m.refs.RUnlock()
	}
	return nil, fault.New(fault.Unavailable, "image %s or kernel %s is deleted as often as it is made", spec.Image, spec.Kernel)
}

func (m *Manager) checkNameFree(name string) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e := m.byNameLocked(name); e != nil {
		return nameTaken(e.record())
	}
	return nil
}

func nameTaken(v model.VM) error {
	return fault.New(fault.Exists, "a VM named %q exists already (%s)", v.Spec.Name, v.State).
		WithHint("choose another name, or delete it with `banger vm delete %s`", v.Spec.Name)
}

// reserve enters the VM under the given name, or under a random one, in memory. Nobody sees it before its operation lock is held, so this never waits
// for that lock although m.refs is held.
func (m *Manager) reserve(ctx context.Context, v model.VM, name, operation string) (*entry, context.Context, func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name == "" {
		name = model.NewName(func(n string) bool { return m.byNameLocked(n) != nil })
	} else if e := m.byNameLocked(name); e != nil {
		return nil, nil, nil, nameTaken(e.record())
	}
	v.Spec.Name = name
	e := &entry{vm: v}
	opCtx, release, err := e.lock.acquire(ctx, operation)
	if err != nil {
		return nil, nil, nil, err
	}
	m.vms[v.ID] = e
	return e, opCtx, release, nil
}

func (m *Manager) forget(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.vms, e.record().ID)
	e.lock.close()
}
