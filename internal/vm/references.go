package vm

import (
	"cmp"
	"context"
	"slices"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
)

// References calls f with the images and kernels that VMs and snapshots use (id to names of users).
// No VM that uses another one appears while f runs, so f may delete what nobody uses.
func (m *Manager) References(f func(images, kernels map[string][]string) error) error {
	m.refs.Lock()
	defer m.refs.Unlock()
	images, kernels := map[string][]string{}, map[string][]string{}
	use := func(in map[string][]string, id, user string) {
		if id != "" && !slices.Contains(in[id], user) {
			in[id] = append(in[id], user)
		}
	}
	for _, v := range m.List() {
		use(images, v.Spec.ImageID, v.Spec.Name)
		use(kernels, v.Spec.KernelID, v.Spec.Name)
		machine, err := m.machineSpec(v)
		if err != nil {
			return err
		}
		if v.Runtime != nil || v.State == model.Suspended { // its next start may use others
			use(images, v.DiskImage, v.Spec.Name)
		}
		if machine != nil {
			use(images, machine.ImageID, v.Spec.Name)
			use(kernels, machine.KernelID, v.Spec.Name)
		}
	}
	err := m.library.References(context.Background(), func(name string, spec model.Spec) {
		use(images, spec.ImageID, "snapshot "+name)
		use(kernels, spec.KernelID, "snapshot "+name)
	})
	if err != nil {
		return err
	}
	return f(images, kernels)
}

// machineSpec is what a VM's machine was started as, whether it runs or is suspended; nil without
// one.
func (c *core) machineSpec(v model.VM) (*model.Spec, error) {
	if v.Runtime != nil {
		return cmp.Or(v.Runtime.Spec, &v.Spec), nil
	}
	if v.State != model.Suspended {
		return nil, nil
	}
	snap, err := snapshot.Open(context.Background(), c.dirsOf(v).Suspended())
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
		return nil, nil // it will never be resumed
	}
	if err != nil {
		return nil, err
	}
	spec := snap.Meta().Spec
	return &spec, nil
}
