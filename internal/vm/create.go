package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Create makes a stopped VM. What it needs and the host lacks (image, kernel) is made first, which is reported. Its disks are made at its
// first start.
func (m *Manager) Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	spec := m.fill(req)
	if spec.Name == "" { // a stand-in, so that all else can be checked before anything long begins
		spec.Name = "unnamed"
	}
	if err := spec.Validate(); err != nil {
		return model.VM{}, fault.New(fault.Invalid, "%w", err)
	}
	if req.Name != "" {
		if err := m.checkNameFree(req.Name); err != nil {
			return model.VM{}, err
		}
	}
	unlock, err := m.resolve(ctx, &spec, report)
	if err != nil {
		return model.VM{}, err
	}
	defer unlock()

	v := model.VM{ID: model.NewID(), Spec: spec, State: model.Creating, Created: time.Now().UTC()}
	e, release, err := m.reserve(ctx, v, req.Name)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	if err := m.establish(ctx, e); err != nil {
		return model.VM{}, errors.Join(err, m.remove(context.WithoutCancel(ctx), e))
	}
	m.observe(ctx)
	return e.record(), nil
}

// establish stores the record and makes the VM's folder.
func (m *Manager) establish(ctx context.Context, e *entry) error {
	v := e.record()
	if err := m.update(ctx, e, func(*model.VM) {}); err != nil {
		return err
	}
	if err := os.MkdirAll(m.Layout.VM(v.ID).Dir, 0o700); err != nil {
		return fmt.Errorf("making the VM's folder: %w", err)
	}
	return m.update(ctx, e, func(v *model.VM) { v.State = model.Stopped })
}

// fill turns a request into a spec with every default in place.
func (m *Manager) fill(req model.Create) model.Spec {
	s := m.Defaults
	s.Name, s.Remove, s.Labels = req.Name, req.Remove, req.Labels
	set(&s.Image, req.Image)
	set(&s.Kernel, req.Kernel)
	set(&s.VCPUs, req.VCPUs)
	set(&s.Memory, req.Memory)
	set(&s.DiskSize, req.DiskSize)
	if req.WorkDiskSize != nil {
		s.WorkDiskSize = *req.WorkDiskSize
	}
	set(&s.Net, req.Net)
	set(&s.Workdir, req.Workdir)
	set(&s.User, req.User)
	s.Env = maps.Clone(s.Env)
	if s.Env == nil {
		s.Env = map[string]string{}
	}
	maps.Copy(s.Env, req.Env)
	return s
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
		m.refs.RLock()
		_, imgErr := m.Images.Get(img.ID)
		_, kErr := m.Kernels.Get(k.ID)
		if imgErr == nil && kErr == nil {
			spec.ImageID, spec.KernelID = img.ID, k.ID
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
func (m *Manager) reserve(ctx context.Context, v model.VM, name string) (*entry, func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name == "" {
		name = model.NewName(func(n string) bool { return m.byNameLocked(n) != nil })
	} else if e := m.byNameLocked(name); e != nil {
		return nil, nil, nameTaken(e.record())
	}
	v.Spec.Name = name
	e := &entry{vm: v}
	_, release, err := e.lock.acquire(ctx, "create")
	if err != nil {
		return nil, nil, err
	}
	m.vms[v.ID] = e
	return e, release, nil
}

func (m *Manager) forget(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.vms, e.record().ID)
	e.lock.close()
}
