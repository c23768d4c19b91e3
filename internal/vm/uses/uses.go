// Package uses finds out which images and kernels VMs use, so that these are not deleted.
package uses

import (
	"cmp"
	"slices"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/vmdir"
)

// Uses are the users of images and kernels, by id.
type Uses struct{ Images, Kernels map[string][]string }

// New returns a Uses without users.
func New() Uses { return Uses{map[string][]string{}, map[string][]string{}} }

// Spec adds the image and the kernel of a spec.
func (u Uses) Spec(user string, spec model.Spec) {
	use(u.Images, spec.ImageID, user)
	use(u.Kernels, spec.KernelID, user)
}

func use(in map[string][]string, id, user string) {
	if id != "" && !slices.Contains(in[id], user) {
		in[id] = append(in[id], user)
	}
}

// VM adds what a VM uses: by its spec, and by its machine, live or saved, which may have others.
func (u Uses) VM(v model.VM, files paths.VM) error {
	u.Spec(v.Spec.Name, v.Spec)
	machine, err := machineSpec(v, files)
	if err != nil {
		return err
	}
	if v.Runtime != nil || v.State == model.Suspended { // its next start may use others
		use(u.Images, v.DiskImage, v.Spec.Name)
	}
	if machine != nil {
		u.Spec(v.Spec.Name, *machine)
	}
	return nil
}

// Lost adds what the lost VMs use: they may be brought back.
func (u Uses) Lost(layout paths.Layout) error {
	lost, err := vmdir.Lost(layout)
	if err != nil {
		return err
	}
	for _, l := range lost {
		if c, err := vmdir.Read(l.Files(), l.ID); err == nil {
			u.Spec(model.LostUser(c.VM.Spec.Name, l.Dir), c.VM.Spec)
		}
	}
	return nil
}

// machineSpec is what a VM's machine was started as, whether it runs or is suspended; nil without
// one.
func machineSpec(v model.VM, files paths.VM) (*model.Spec, error) {
	if v.Runtime != nil {
		return cmp.Or(v.Runtime.Spec, &v.Spec), nil
	}
	if v.State != model.Suspended {
		return nil, nil
	}
	meta, err := snapshot.ReadMeta(files.Suspended()) // to read the memory takes long
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
		return nil, nil // it will never be resumed
	}
	if err != nil {
		return nil, err
	}
	return &meta.Spec, nil
}
