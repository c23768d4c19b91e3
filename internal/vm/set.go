package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/vmm"
)

// Set changes a VM's spec and says what has taken effect and what will at the next start. Either the whole change is taken or nothing of it.
func (m *Manager) Set(ctx context.Context, ref string, change model.Change) (model.Changed, error) {
	e, ctx, release, err := m.begin(ctx, ref, "set")
	if err != nil {
		return model.Changed{}, err
	}
	defer release()
	old := e.record()
	switch old.State {
	case model.Suspended:
		return model.Changed{}, fault.New(fault.WrongState, "VM %s is suspended: its memory knows the machine as it is", old.Spec.Name).
			WithHint("resume it first, or stop it")
	case model.Paused:
		return model.Changed{}, fault.New(fault.WrongState, "VM %s is paused: its guest cannot take anything up", old.Spec.Name).
			WithHint("resume it first, or stop it")
	}
	if old.State.Between() || old.State == model.Broken {
		return model.Changed{}, fault.New(fault.WrongState, "VM %s is %s", old.Spec.Name, old.State)
	}
	next := old
	next.Spec = apply(old.Spec, change)
	if err := m.chooseVCPUs(ctx, old.Spec, &next.Spec); err != nil {
		return model.Changed{}, err
	}
	if err := checkChange(old.Spec, next.Spec); err != nil {
		return model.Changed{}, err
	}
	if err := m.resolveChange(old.Spec, &next.Spec); err != nil {
		return model.Changed{}, err
	}
	changed := changedFields(old.Spec, next.Spec)
	applied, err := m.applyChange(ctx, e, old, next)
	if err != nil {
		return model.Changed{}, fmt.Errorf("changing VM %s: %w", old.Spec.Name, err)
	}
	if e.machine() == nil {
		applied = changed // the next start is the only time at which it matters
	}
	// Held only now: applying may wait for a guest, and nobody else shall.
	m.refs.RLock()
	defer m.refs.RUnlock()
	if err := m.resolveChange(old.Spec, &next.Spec); err != nil { // deleted meanwhile
		return model.Changed{}, err
	}
	pending := slices.DeleteFunc(slices.Clone(changed), func(f string) bool { return slices.Contains(applied, f) })
	err = m.update(ctx, e, func(v *model.VM) {
		v.Spec = next.Spec
		v.Pending = union(v.Pending, pending)
		if v.Runtime != nil && v.Runtime.Spec != nil {
			spec := withFields(*v.Runtime.Spec, next.Spec, applied)
			v.Runtime.Spec = &spec
		}
	})
	if err != nil {
		return model.Changed{}, err
	}
	m.observe(ctx)
	return model.Changed{VM: e.record(), Applied: orEmpty(applied), Pending: orEmpty(pending)}, nil
}

// Rename gives the VM another name. Its guest learns its new host name at the next start.
func (m *Manager) Rename(ctx context.Context, ref, name string) (model.VM, error) {
	if err := model.CheckName(name); err != nil {
		return model.VM{}, fault.New(fault.Invalid, "%w", err)
	}
	e, ctx, release, err := m.begin(ctx, ref, "rename")
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	v := e.record()
	if v.Spec.Name == name {
		return v, nil
	}
	if err := m.checkNameFree(name); err != nil {
		return v, err
	}
	// Two renames to one name that both find it free are told apart by the store, whose names are unique.
	if err := m.update(ctx, e, func(v *model.VM) {
		v.Spec.Name = name
		if e.machine() != nil || v.State == model.Suspended {
			v.Pending = union(v.Pending, []string{"name"})
		}
	}); err != nil {
		return v, err
	}
	m.observe(ctx)
	return e.record(), nil
}

// apply returns spec with the change made; spec itself stays as it is.
func apply(spec model.Spec, c model.Change) model.Spec {
	assign(&spec.VCPUs, c.VCPUs)
	assign(&spec.Memory, c.Memory)
	assign(&spec.DiskSize, c.DiskSize)
	assign(&spec.WorkDiskSize, c.WorkDiskSize)
	assign(&spec.Net, c.Net)
	assign(&spec.Workdir, c.Workdir)
	assign(&spec.User, c.User)
	assign(&spec.IdleSuspend, c.IdleSuspend)
	assign(&spec.Kernel, c.Kernel)
	assign(&spec.Image, c.Image)
	spec.Env = merge(spec.Env, c.Env)
	for _, name := range c.UnsetEnv {
		delete(spec.Env, name)
	}
	spec.Labels = merge(spec.Labels, c.Labels)
	maps.DeleteFunc(spec.Labels, func(_, value string) bool { return value == "" })
	return spec
}

func assign[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

func merge(base, more map[string]string) map[string]string {
	merged := map[string]string{}
	maps.Copy(merged, base)
	maps.Copy(merged, more)
	return merged
}

// chooseVCPUs decides anew, as when the VM was created, if the change leaves that to us.
func (m *Manager) chooseVCPUs(ctx context.Context, old model.Spec, next *model.Spec) error {
	if next.VCPUs != 0 {
		return nil
	}
	ref := next.ImageID
	if next.Image != old.Image {
		ref = next.Image
	}
	img, err := m.Images.Get(ref)
	if err == nil {
		next.VCPUs = m.vcpusFor(ctx, img)
	}
	return err
}

func checkChange(old, next model.Spec) error {
	if err := next.Validate(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	if next.DiskSize < old.DiskSize {
		return shrinks("disk size", old.DiskSize, next.DiskSize)
	}
	if next.WorkDiskSize < old.WorkDiskSize {
		return shrinks("work disk size", old.WorkDiskSize, next.WorkDiskSize)
	}
	return nil
}

func shrinks(what string, old, next model.Bytes) error {
	return fault.New(fault.Invalid, "%s: %v is less than the present %v, and disks only grow", what, next, old)
}

// resolveChange pins an image or kernel that the change names, without making one: a change is quick. What it finds is sure to stay only as long as
// m.refs is held for reading.
func (m *Manager) resolveChange(old model.Spec, next *model.Spec) error {
	if next.Image != old.Image {
		img, err := m.Images.Get(next.Image)
		if err != nil {
			return err
		}
		next.ImageID = img.ID
	}
	if next.Kernel != old.Kernel {
		k, err := m.Kernels.Get(next.Kernel)
		if err != nil {
			return err
		}
		next.KernelID = k.ID
	}
	return nil
}

// changeTimeout bounds how long a change waits for the guest that shall take it up, which keeps the VM's operation lock.
const changeTimeout = time.Minute

// applyChange makes the change take effect as far as that is possible now.
func (m *Manager) applyChange(ctx context.Context, e *entry, old, next model.VM) (applied []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, changeTimeout, fault.New(fault.Unavailable, "it was not taken up within %v", changeTimeout))
	defer cancel()
	req := ChangeRequest{Old: old, New: next}
	if l := e.machine(); l != nil {
		req.Machine, req.Agent = l.inst, l.agent
	}
	if next.Spec.DiskSize != old.Spec.DiskSize {
		path := m.Layout.VM(next.ID).SystemDisk()
		done, err := GrowDisk(ctx, req, Drive{Path: path, Serial: proto.SerialSystem, Size: next.Spec.DiskSize})
		if err != nil {
			return nil, err
		}
		if done {
			applied = append(applied, "disk_size")
		}
	}
	for _, name := range hostFields {
		if slices.Contains(changedFields(old.Spec, next.Spec), name) {
			applied = append(applied, name)
		}
	}
	var errs []error
	for _, c := range m.Capabilities {
		if changer, ok := c.(ConfigChanger); ok {
			fields, err := changer.ApplyConfigChange(ctx, req)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.Name(), err))
			}
			applied = append(applied, fields...)
		}
	}
	return applied, errors.Join(errs...)
}

// hostFields are those that neither machine nor guest knows of: they have taken effect when they are recorded.
var hostFields = []string{"labels", "idle_suspend"}

// Drive is one of a VM's writable disks.
type Drive struct {
	Path   string
	Serial string
	Size   model.Bytes // what it shall have
}

// GrowDisk grows a disk, and, where the VM runs and its driver can, the file system on it without a restart: the file, then the drive, then the file
// system by the guest's own kernel. It tells whether the guest has the new size now. A disk that does not exist yet gets its size when it is
// made.
func GrowDisk(ctx context.Context, req ChangeRequest, d Drive) (done bool, err error) {
	if err := disk.Grow(d.Path, d.Size); err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return false, nil
		}
		return false, err
	}
	if req.Machine == nil {
		return true, nil
	}
	r, ok := req.Machine.(vmm.Resizer)
	if !ok {
		return false, nil
	}
	if err := r.ResizeDrive(ctx, d.Serial, d.Size); err != nil {
		return false, fmt.Errorf("telling the machine that drive %s has grown: %w", d.Serial, err)
	}
	if err := req.Agent.Resize(ctx, d.Serial, d.Size); err != nil {
		return false, fmt.Errorf("growing the file system on drive %s: %w", d.Serial, err)
	}
	return true, nil
}

// FitDisk grows a disk to size unless it is as large already: a change that was cut off between the disk and the record has left it larger, and disks
// never shrink. One that does not exist is fault.NotFound.
func FitDisk(path string, size model.Bytes) error {
	now, _, err := disk.Usage(path)
	if err != nil || now >= size {
		return err
	}
	return disk.Grow(path, size)
}

// changedFields lists the JSON names of the fields in which two specs differ, in the order of the struct. The pinned ids follow their references and
// are not listed.
func changedFields(old, next model.Spec) []string {
	var names []string
	a, b := reflect.ValueOf(old), reflect.ValueOf(next)
	for i := range a.NumField() {
		field := a.Type().Field(i)
		if field.Name == "ImageID" || field.Name == "KernelID" {
			continue
		}
		if !reflect.DeepEqual(normal(a.Field(i)), normal(b.Field(i))) {
			names = append(names, jsonName(field))
		}
	}
	return names
}

// withFields is spec with the named fields of another one.
func withFields(spec, from model.Spec, names []string) model.Spec {
	to, v := reflect.ValueOf(&spec).Elem(), reflect.ValueOf(from)
	for i := range v.NumField() {
		if slices.Contains(names, jsonName(v.Type().Field(i))) {
			to.Field(i).Set(v.Field(i))
		}
	}
	return spec
}

// normal makes a nil map and an empty one the same.
func normal(v reflect.Value) any {
	if v.Kind() == reflect.Map && v.Len() == 0 {
		return nil
	}
	return v.Interface()
}

func jsonName(f reflect.StructField) string {
	name := f.Tag.Get("json")
	for i := range name {
		if name[i] == ',' {
			return name[:i]
		}
	}
	return name
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
