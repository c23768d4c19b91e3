package vm

import (
	"context"
	"errors"
	"os"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vmm"
)

// origin is what a start goes on from. The zero value leaves the choice to the start: a template if there is a fitting one, else a cold
// boot.
type origin struct {
	model.Origin
	cold     bool // boot, whatever templates there are: the user wants it so
	again    bool // boot, because a template did not work
	template bool // thrown away when it does not work
	single   bool // no other machine goes on from it at this time
	same     bool // the guest goes on as the one that it was, instead of getting an identity

	spec  *model.Spec // what the machine was started as, when the record says something else by now
	shape string      // what the machine's shape must be; "" when that is known to be right

	standby        *standby // a machine that was restored already
	memory, device *os.File
	disks          map[string]string // what a VM begins with that has no disks yet, by name; nil for empty ones
	made           model.Spec        // of the template that has disks mounted: how large the guest believes them to be
}

// warm tells whether the start goes on from a saved machine.
func (o *origin) warm() bool { return o.memory != nil || o.standby != nil }

// record is what the VM's record keeps of it.
func (o *origin) record() *model.Origin {
	if !o.warm() && o.Kind == "" {
		return nil
	}
	kept := o.Origin
	return &kept
}

func (o *origin) close() {
	for _, f := range []*os.File{o.memory, o.device} {
		if f != nil {
			f.Close()
		}
	}
}

// open opens the files of a stored machine.
func (o *origin) open(s *snapshot.Snapshot) (err error) {
	if o.memory, err = s.OpenMemory(); err != nil {
		return err
	}
	if o.device, err = s.OpenDevice(); err != nil {
		o.memory.Close()
		o.memory = nil
	}
	return err
}

// start makes the machine.
func (o *origin) start(ctx context.Context, d vmm.Driver, m vmm.Machine, intend func(vmm.State) error) (vmm.Instance, error) {
	if !o.warm() {
		return d.Start(ctx, m, intend)
	}
	r, err := restorer(d)
	if err != nil {
		return nil, err
	}
	return r.Restore(ctx, m, vmm.Checkpoint{Memory: o.memory, Device: o.device}, intend)
}

func restorer(d vmm.Driver) (vmm.Restorer, error) {
	r, ok := d.(vmm.Restorer)
	if !ok {
		return nil, fault.New(fault.Unsupported, "the driver %s cannot go on from a saved machine", d.Name())
	}
	return r, nil
}

// check tells whether the guest that answers is the one that was saved.
func (o *origin) check(hello proto.Hello) error {
	switch {
	case !o.warm() || o.Kind == model.FromUniversal:
		if hello.Assumed {
			return fault.New(fault.Internal, "the guest has an identity already")
		}
	case !hello.Frozen:
		return fault.New(fault.Internal, "the guest's processes were not held when it went on")
	}
	return nil
}

// chooseOrigin looks for a template to go on from, unless the caller has said what to go on from.
func (s *start) chooseOrigin(ctx context.Context) error {
	r, ok := s.m.Driver.(vmm.Restorer)
	if !ok {
		return nil
	}
	if s.from.standby != nil {
		s.fingerprint = s.from.standby.j.fingerprint
		return nil
	}
	machine, err := s.describe(ctx)
	if err != nil {
		return err
	}
	if s.from.warm() {
		return checkShape(ctx, r, machine, s.from.shape)
	}
	if s.fingerprint, err = r.Fingerprint(ctx, machine); err != nil {
		return err
	}
	if !s.from.cold && !s.from.again {
		s.from = s.m.templates.choose(ctx, s)
	}
	return nil
}

// shapeOf is the fingerprint of a machine without what it was booted from, which a machine that goes on does not need any more.
func shapeOf(ctx context.Context, r vmm.Restorer, machine vmm.Machine) (string, error) {
	machine.Kernel, machine.Initramfs, machine.Cmdline = "", nil, nil
	return r.Fingerprint(ctx, machine)
}

func checkShape(ctx context.Context, r vmm.Restorer, machine vmm.Machine, want string) error {
	if want == "" {
		return nil
	}
	got, err := shapeOf(ctx, r, machine)
	if err != nil {
		return err
	}
	if got != want {
		return fault.New(fault.Unsupported, "the saved machine cannot go on here: it was saved with another version of the VMM, or on another CPU").
			WithHint("its disks can be used all the same: see --disks-only of `banger snapshot restore`, and `banger vm kill` for a suspended VM")
	}
	return nil
}

// hasDisks tells whether the VM has something on its disks that it shall go on with.
func (s *start) hasDisks() bool {
	v := s.vm()
	disks := disksOf(s.m.Layout.VM(v.ID))
	return disks[workDiskName] != "" || disks[systemDiskName] != "" && v.DiskImage == v.Spec.ImageID
}

// templateFailed tells whether a start failed because of the template that it went on from: its machine did not come up or died, and all of it could be
// undone.
func (s *start) templateFailed(err error) bool {
	var failed *step.Error
	if !s.from.template || !errors.As(err, &failed) || failed.Undo != nil || s.live != nil && s.live.killed.Load() {
		return false
	}
	switch failed.Step {
	case "system-disk": // of which one that goes away in this moment has none any more
		return len(s.from.disks) > 0
	case "vmm", "agent":
		return true
	case "assume":
		kind := fault.KindOf(failed.Err)
		return kind == fault.Unavailable || kind == fault.Internal
	}
	return false
}
