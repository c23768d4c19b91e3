package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// capture is a VM at one moment, from which others can be made.
type capture struct {
	parent model.Parent
	meta   snapshot.Meta
	kind   model.OriginKind
	pause  time.Duration // that the VM's processes stood still
	alone  bool          // only one VM is made of it

	// for forks; nil in a capture that is to be stored, and in one of disks only
	memory     *os.File
	openDevice func() (*os.File, error)
	disks      map[string]string // path by name
	draft      *snapshot.Draft   // holds what is not a stored snapshot's; nil if all is
}

func (c *capture) close() error {
	var err error
	if c.memory != nil {
		err = c.memory.Close()
	}
	if c.draft != nil {
		err = errors.Join(err, c.draft.Discard())
	}
	return err
}

// source is what one child starts from, with descriptors of its own; nil if there are disks only.
func (c *capture) source() (machine.Source, error) {
	if c.memory == nil {
		return nil, nil
	}
	f := &machine.Fork{
		From:  model.Origin{Kind: c.kind, Of: c.parent.VM, Name: c.parent.Name},
		Shape: c.meta.Fingerprint, Alone: c.alone,
	}
	if c.parent.Snapshot != "" {
		f.From.Of = c.parent.Snapshot
	}
	var err error
	if f.Layout, err = vmm.DecodeMemoryLayout(c.meta.Layout); err != nil {
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

func (c *capture) deviceInDraft() (*os.File, error) { return os.Open(c.draft.Device()) }

// keepDisks copies disks into the draft.
func (c *capture) keepDisks(ctx context.Context, disks map[string]string) error {
	c.nameDisks(disks)
	return machine.CloneDisks(ctx, disks, c.draft)
}

func (c *capture) nameDisks(disks map[string]string) {
	for name := range disks {
		c.disks[name] = c.draft.DiskPath(name)
	}
}

// target is where the memory goes. A draft closes its own file.
func (c *capture) target() (*os.File, error) {
	if c.memory != nil {
		return c.memory, nil
	}
	return c.draft.Memory()
}

// capturing is an operation that captures its VM.
type capturing struct{ *operation }

// capture keeps what the VM is at this moment in a draft, and lets the VM continue. Memory goes to
// memory, or into the draft if that is nil. A VM at rest has disks only.
func (op capturing) capture(ctx context.Context, draft *snapshot.Draft, memory *os.File) (*capture, error) {
	v := op.record()
	c := &capture{
		parent: model.Parent{VM: v.ID, Name: v.Spec.Name}, kind: model.FromFork,
		memory: memory, disks: map[string]string{}, draft: draft,
	}
	var err error
	switch v.State {
	case model.Running, model.Paused:
		err = op.captureMachine(ctx, c)
	case model.Suspended:
		err = op.captureSuspended(ctx, c)
	case model.Stopped, model.Failed:
		err = op.captureDisks(ctx, c)
	default:
		err = fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (op capturing) captureDisks(ctx context.Context, c *capture) (err error) {
	v := op.record()
	disks := machine.Disks(op.dirs())
	// it would not fit the image that the snapshot names
	if disks[machine.SystemDisk] == "" || v.DiskImage != v.Spec.ImageID {
		return fault.New(fault.WrongState, "VM %s has not run with image %s yet: there is nothing to keep", v.Spec.Name, v.Spec.Image).
			WithHint("start it first: `banger vm start %s`", v.Spec.Name)
	}
	if c.meta, err = op.metaOf(ctx, time.Now()); err != nil {
		return err
	}
	return c.keepDisks(ctx, disks)
}

// captureMachine saves a machine that exists. While its processes are frozen, a mark in the run
// directory says so, for whoever recovers the VM if this is cut off.
func (op capturing) captureMachine(ctx context.Context, c *capture) error {
	v, held := op.record(), op.dirs().Held()
	req := machine.Capture{
		Draft: c.draft, Memory: c.memory, Disks: machine.Disks(op.dirs()), Early: true, Halt: v.State == model.Paused,
	}
	c.nameDisks(req.Disks)
	if v.State == model.Running {
		req.Freeze = true
		req.BeforeFreeze = func() error { return os.WriteFile(held, nil, 0o600) }
	}
	done, err := op.e.machine().Capture(ctx, req)
	c.pause = done.Pause
	if done.Thawed {
		err = errors.Join(err, machine.RemoveAll(held))
	}
	if err != nil {
		return fmt.Errorf("saving VM %s: %w", v.Spec.Name, err)
	}
	c.openDevice = c.deviceInDraft
	c.meta, err = op.metaOf(ctx, done.At)
	c.meta.Layout = done.Layout
	return err
}

// captureSuspended copies the files of a suspended VM, which nobody writes during this operation.
func (op capturing) captureSuspended(ctx context.Context, c *capture) error {
	snap, err := snapshot.Open(ctx, op.dirs().Suspended())
	if err != nil {
		return err
	}
	memory, err := c.target()
	if err != nil {
		return err
	}
	if err := copyFile(ctx, snap.OpenMemory, memory); err != nil {
		return err
	}
	device, err := os.OpenFile(c.draft.Device(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(copyFile(ctx, snap.OpenDevice, device), device.Close()); err != nil {
		return err
	}
	c.meta, c.openDevice = snap.Meta(), c.deviceInDraft
	return c.keepDisks(ctx, machine.Disks(op.dirs()))
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

// memoryFile is memory without a name: when nobody uses it any more, nothing of it is left.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("banger-fork", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making memory for a fork: %w", err)
	}
	return os.NewFile(uintptr(fd), "fork"), nil
}
