// Package moment keeps a VM as it is at one moment, so that other VMs can be made from it: forks,
// stored snapshots, and VMs that are restored from these.
//
// A Capture begins in one of two ways. Of saves a VM, whose operation lock the caller holds. Stored
// opens a snapshot. Each child gets a Source with descriptors of its own.
package moment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/regular"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// VM is what Of captures.
type VM struct {
	Record  model.VM
	Subject machine.Subject
	Files   paths.VM
	Machine *machine.Machine // nil unless one exists
	Host    *machine.Host
}

// Meta describes the VM's machine for a snapshot of it. at is the moment that the snapshot keeps.
func (vm VM) Meta(ctx context.Context, at time.Time) (snapshot.Meta, error) {
	v := vm.Record
	if v.Runtime == nil || v.Runtime.Spec == nil {
		return snapshot.Meta{Created: at, Spec: v.Spec}, nil
	}
	subject := vm.Subject
	subject.Spec = *v.Runtime.Spec
	subject.Spec.Name = v.Spec.Name
	return vm.Host.Meta(ctx, v.Runtime.Driver, subject, at)
}

// Capture is a VM at one moment.
type Capture struct {
	Parent model.Parent
	Meta   snapshot.Meta
	Pause  time.Duration     // that the VM's processes stood still
	Alone  bool              // only one VM is made of it
	Disks  map[string]string // path by name
	Draft  *snapshot.Draft   // holds what is not a stored snapshot's; nil if all is

	foreign bool // a stored snapshot without a seal of this home

	kind model.OriginKind
	// for forks; nil in a capture that is to be stored, and in one of disks only
	memory     *os.File
	openDevice func() (*os.File, error)
}

// HasMemory reports whether children start from the VM's memory, and not with disks only.
func (c *Capture) HasMemory() bool { return c.memory != nil }

// Child describes a VM that is made from a capture. Until it has its disks it is being created, so
// that nobody ever starts half of it.
func (c *Capture) Child(req model.Fork) model.VM {
	spec, parent := c.Meta.Spec, c.Parent
	spec.Remove = req.Remove
	if req.Labels != nil {
		spec.Labels = maps.Clone(req.Labels)
	}
	v := model.VM{
		ID: model.NewID(), Spec: spec, State: model.Creating, Created: time.Now().UTC(), Parent: &parent, DiskImage: spec.ImageID,
		Disks: machine.MeasureDisks(c.Disks)}
	if c.HasMemory() {
		v.Runtime = &model.Runtime{Driver: c.Meta.Driver, Fork: true}
	}
	return v
}

// Close releases the files, and removes the draft.
func (c *Capture) Close() error {
	var err error
	if c.memory != nil {
		err = c.memory.Close()
	}
	if c.Draft != nil {
		err = errors.Join(err, c.Draft.Discard())
	}
	return err
}

// Source is what one child starts from, with descriptors of its own; nil if there are disks only.
func (c *Capture) Source() (machine.Source, error) {
	if c.memory == nil {
		return nil, nil
	}
	f := &machine.Fork{
		From:  model.Origin{Kind: c.kind, Of: c.Parent.VM, Name: c.Parent.Name},
		Shape: c.Meta.Fingerprint, Alone: c.Alone,
	}
	if c.Parent.Snapshot != "" {
		f.From.Of = c.Parent.Snapshot
	}
	var err error
	if f.Layout, err = vmm.DecodeMemoryLayout(c.Meta.Layout); err != nil {
		return nil, err
	}
	if f.Memory, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(c.memory.Fd())), os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("opening the memory for a fork: %w", err)
	}
	if f.Device, err = c.openDevice(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the devices' state for a fork: %w", err), f.Close())
	}
	return f, nil
}

func (c *Capture) deviceInDraft() (*os.File, error) { return regular.Open(c.Draft.Device()) }

// keepDisks copies disks into the draft.
func (c *Capture) keepDisks(ctx context.Context, disks map[string]string) error {
	c.nameDisks(disks)
	return machine.CloneDisks(ctx, disks, c.Draft)
}

func (c *Capture) nameDisks(disks map[string]string) {
	for name := range disks {
		c.Disks[name] = c.Draft.DiskPath(name)
	}
}

// target is where the memory goes. A draft closes its own file.
func (c *Capture) target() (*os.File, error) {
	if c.memory != nil {
		return c.memory, nil
	}
	return c.Draft.Memory()
}

// Of keeps what a VM is at this moment in a draft, and lets the VM continue. Memory goes to memory,
// a memfd that Of seals, or into the draft if that is nil. A VM at rest has disks only.
func Of(ctx context.Context, vm VM, draft *snapshot.Draft, memory *os.File) (*Capture, error) {
	v := vm.Record
	c := &Capture{
		Parent: model.Parent{VM: v.ID, Name: v.Spec.Name}, kind: model.FromFork,
		memory: memory, Disks: map[string]string{}, Draft: draft,
	}
	var err error
	switch v.State {
	case model.Running, model.Paused:
		err = c.saveMachine(ctx, vm)
	case model.Suspended:
		err = c.copySuspended(ctx, vm)
	case model.Stopped, model.Failed:
		err = c.copyDisks(ctx, vm)
	default:
		err = fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State.Phrase())
	}
	if err == nil && memory != nil { // the children share it
		err = vmm.SealMemory(memory)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Capture) copyDisks(ctx context.Context, vm VM) (err error) {
	v := vm.Record
	disks := machine.Disks(vm.Files)
	// it would not fit the image that the snapshot names
	if disks[machine.SystemDisk] == "" || v.DiskImage != v.Spec.ImageID {
		return fault.New(fault.WrongState, "VM %s has not run with image %s yet: there is nothing to keep", v.Spec.Name, v.Spec.Image).
			WithHint("start it first: `banger vm start %s`", v.Spec.Name)
	}
	if c.Meta, err = vm.Meta(ctx, time.Now()); err != nil {
		return err
	}
	return c.keepDisks(ctx, disks)
}

// saveMachine saves a machine that exists. While its processes are frozen, a mark in the run
// directory says so, for whoever recovers the VM if this is cut off.
func (c *Capture) saveMachine(ctx context.Context, vm VM) error {
	v := vm.Record
	req := machine.Capture{
		Draft: c.Draft, Memory: c.memory, Disks: machine.Disks(vm.Files), Early: true,
		Paused: v.State == model.Paused, Halt: v.State == model.Paused,
	}
	c.nameDisks(req.Disks)
	if v.State == model.Running {
		req.Freeze = true
		req.BeforeFreeze = func() error { return MarkHeld(vm.Files) }
	}
	done, err := vm.Machine.Capture(ctx, req)
	c.Pause = done.Pause
	if done.Thawed {
		err = errors.Join(err, machine.RemoveAll(vm.Files.Held()))
	}
	if err != nil {
		return fmt.Errorf("saving VM %s: %w", v.Spec.Name, err)
	}
	c.openDevice = c.deviceInDraft
	c.Meta, err = vm.Meta(ctx, done.At)
	c.Meta.Layout = done.Layout
	return err
}

// MarkHeld notes that the processes of a VM that runs may be frozen.
func MarkHeld(files paths.VM) error { return regular.Write(files.Held(), nil, 0o600) }

// copySuspended copies the files of a suspended VM, which nobody writes during this operation.
func (c *Capture) copySuspended(ctx context.Context, vm VM) error {
	name := vm.Record.Spec.Name
	snap, _, err := openKept(ctx, name, vm.Files)
	if err != nil {
		return fmt.Errorf("saving VM %s: %w", name, err)
	}
	memory, err := c.target()
	if err != nil {
		return err
	}
	if err := copyFile(ctx, snap.OpenMemory, memory); err != nil {
		return err
	}
	if err := copyDevice(ctx, snap.OpenDevice, c.Draft); err != nil {
		return err
	}
	c.Meta, c.openDevice = snap.Meta(), c.deviceInDraft
	return c.keepDisks(ctx, machine.Disks(vm.Files))
}

// copyFile copies a file of a snapshot, without its holes.
func copyFile(ctx context.Context, open func() (*os.File, error), to *os.File) error {
	from, err := open()
	if err != nil {
		return err
	}
	defer from.Close()
	return disk.CloneFile(ctx, from, to)
}

// copyDevice copies the state of the devices into a draft.
func copyDevice(ctx context.Context, open func() (*os.File, error), draft *snapshot.Draft) error {
	device, err := os.OpenFile(draft.Device(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copyFile(ctx, open, device), device.Close())
}

// Unnamed is memory without a name: when nobody uses it any more, nothing of it is left.
func Unnamed() (*os.File, error) {
	fd, err := unix.MemfdCreate("banger-fork", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making memory for a fork: %w", err)
	}
	return os.NewFile(uintptr(fd), "fork"), nil
}
