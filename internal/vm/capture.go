package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/vmm"
)

// The disks of a VM in a snapshot.
const (
	systemDiskName = "system"
	workDiskName   = "work"
)

// disksOf lists the disks that a VM has, by their names in a snapshot.
func disksOf(files paths.VM) map[string]string {
	disks := map[string]string{}
	for name, path := range map[string]string{systemDiskName: files.SystemDisk(), workDiskName: files.WorkDisk()} {
		if _, err := os.Stat(path); err == nil {
			disks[name] = path
		}
	}
	return disks
}

// disksIn lists the disks of a snapshot.
func disksIn(snap *snapshot.Snapshot) map[string]string {
	disks := map[string]string{}
	for _, name := range []string{systemDiskName, workDiskName} {
		if path, ok := snap.DiskPath(name); ok {
			disks[name] = path
		}
	}
	return disks
}

// saveInto is the request that saves a machine into a draft.
func saveInto(draft *snapshot.Draft) (vmm.SaveRequest, error) {
	memory, err := draft.Memory()
	return vmm.SaveRequest{Memory: memory, Device: draft.Device()}, err
}

// save is saver.Save, whose errors say what to do about a full disk.
func save(ctx context.Context, saver vmm.Saver, req vmm.SaveRequest) error {
	_, err := saver.Save(ctx, req)
	return disk.Suspect(err, req.Device)
}

// metaOf describes a VM's machine for a snapshot of it. at is the moment that the snapshot keeps.
func (m *Manager) metaOf(ctx context.Context, v model.VM, at time.Time) (snapshot.Meta, error) {
	meta := snapshot.Meta{Created: at, Spec: v.Spec}
	if v.Runtime == nil || v.Runtime.Spec == nil {
		return meta, nil
	}
	meta.Spec, meta.Driver, meta.Generation = *v.Runtime.Spec, m.Driver.Name(), proto.Generation
	meta.Spec.Name = v.Spec.Name
	r, err := restorer(m.Driver)
	if err != nil {
		return meta, err
	}
	v.Spec = meta.Spec
	machine, err := m.describe(ctx, v, model.Image{}, model.Kernel{}, nil)
	if err != nil {
		return meta, err
	}
	meta.Fingerprint, err = shapeOf(ctx, r, machine)
	return meta, err
}

// capture is a VM at one moment, from which others can be made.
type capture struct {
	parent model.Parent
	meta   snapshot.Meta
	kind   model.OriginKind
	pause  time.Duration // that the VM's processes stood still
	single bool          // one VM is made of it, and no more

	memory     *os.File // for forks; nil in a capture that is to be stored, and in one of disks only
	openDevice func() (*os.File, error)
	disks      map[string]string // path by name
	draft      *snapshot.Draft   // holds what is not the snapshot's; nil when all is
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

// origin is what a child starts from. Each child has descriptors of its own.
func (c *capture) origin() (origin, error) {
	o := origin{Origin: model.Origin{Kind: c.kind, Of: c.parent.VM, Name: c.parent.Name}, shape: c.meta.Fingerprint, single: c.single}
	if c.parent.Snapshot != "" {
		o.Of = c.parent.Snapshot
	}
	if c.memory == nil {
		return o, nil
	}
	var err error
	if o.memory, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(c.memory.Fd())), os.O_RDWR, 0); err != nil {
		return o, fmt.Errorf("opening the memory for a fork: %w", err)
	}
	if o.device, err = c.openDevice(); err != nil {
		o.close()
		return origin{}, fmt.Errorf("opening the devices' state for a fork: %w", err)
	}
	return o, nil
}

// capture keeps what a VM is at this moment in a draft for dir, and lets it go on. Memory goes to memory, or into the draft when that is nil. A VM
// that is at rest has disks only. The caller holds the operation lock.
func (m *Manager) capture(ctx context.Context, e *entry, dir string, memory *os.File) (*capture, error) {
	v := e.record()
	c := &capture{parent: model.Parent{VM: v.ID, Name: v.Spec.Name}, kind: model.FromFork, memory: memory, disks: map[string]string{}}
	if err := m.captureInto(ctx, e, c, dir); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (m *Manager) captureInto(ctx context.Context, e *entry, c *capture, dir string) (err error) {
	v := e.record()
	if c.draft, err = snapshot.Create(dir); err != nil {
		return err
	}
	switch v.State {
	case model.Running, model.Paused:
		return m.captureMachine(ctx, e, c)
	case model.Suspended:
		return m.captureSuspended(ctx, v, c)
	case model.Stopped, model.Failed:
		disks := disksOf(m.Layout.VM(v.ID))
		if disks[systemDiskName] == "" || v.DiskImage != v.Spec.ImageID { // which would not fit the image that the snapshot names
			return fault.New(fault.WrongState, "VM %s has not run with image %s yet: there is nothing to keep", v.Spec.Name, v.Spec.Image).
				WithHint("start it first: `banger vm start %s`", v.Spec.Name)
		}
		if c.meta, err = m.metaOf(ctx, v, time.Now()); err != nil {
			return err
		}
		return c.keepDisks(ctx, disks)
	}
	return fault.New(fault.WrongState, "VM %s is %s", v.Spec.Name, v.State)
}

// target is where memory goes. A draft closes its own.
func (c *capture) target() (*os.File, error) {
	if c.memory != nil {
		return c.memory, nil
	}
	return c.draft.Memory()
}

// captureMachine saves a machine that exists. Its processes are held from just before it stands still until just after it goes on.
func (m *Manager) captureMachine(ctx context.Context, e *entry, c *capture) error {
	v := e.record()
	saver, err := m.saver(e.machine())
	if err != nil {
		return err
	}
	memory, err := c.target()
	if err != nil {
		return err
	}
	req := vmm.SaveRequest{Memory: memory, Device: c.draft.Device(), Halt: v.State == model.Paused}
	disks := disksOf(m.Layout.VM(v.ID))
	early, err := c.keepDisksEarly(ctx, disks)
	if err != nil {
		return err
	}
	held := false
	var began time.Time
	if v.State == model.Running {
		if err := os.WriteFile(m.Layout.VM(v.ID).Held(), nil, 0o600); err != nil { // for whoever comes if we are cut off
			return fmt.Errorf("noting that the VM is held: %w", err)
		}
		req.Before = func(ctx context.Context) error {
			began, held = time.Now(), true
			return m.freeze(ctx, e)
		}
	}
	var at time.Time
	req.Still = func(ctx context.Context) error {
		at = time.Now()
		return early.renew(ctx, disks, c.draft)
	}
	var goOnErr error
	req.After = sync.OnceFunc(func() {
		if held {
			goOnErr = m.thaw(context.WithoutCancel(ctx), e)
			c.pause = time.Since(began)
		}
	})
	err = save(ctx, saver, req)
	req.After()
	if goOnErr == nil {
		goOnErr = removeAll(m.Layout.VM(v.ID).Held())
	}
	if err := errors.Join(err, goOnErr); err != nil {
		return fmt.Errorf("saving VM %s: %w", v.Spec.Name, err)
	}
	c.openDevice = c.deviceInDraft
	c.meta, err = m.metaOf(ctx, v, at)
	return err
}

// captureSuspended goes by the files of a suspended VM, which nobody writes while its operation lock is held.
func (m *Manager) captureSuspended(ctx context.Context, v model.VM, c *capture) error {
	snap, err := snapshot.Open(ctx, m.Layout.VM(v.ID).Suspended())
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
	return c.keepDisks(ctx, disksOf(m.Layout.VM(v.ID)))
}

func (c *capture) deviceInDraft() (*os.File, error) { return os.Open(c.draft.Device()) }

// keepDisks copies disks into the draft.
func (c *capture) keepDisks(ctx context.Context, disks map[string]string) error {
	for name := range disks {
		c.disks[name] = c.draft.DiskPath(name)
	}
	return cloneDisks(ctx, disks, c.draft)
}

// earlyDisks are copies of disks that may have been written to meanwhile.
type earlyDisks struct {
	began   time.Time
	written map[string]int64 // when each was last written to before it was copied, in nanoseconds since 1970
}

// settled is how long a disk must not have been written to before it is copied for its times to tell whether it is afterwards: file systems keep them
// in steps of up to two seconds.
const settled = 3 * time.Second

// keepDisksEarly copies disks into the draft while the machine may write to them, so that little is left to do when it stands still.
func (c *capture) keepDisksEarly(ctx context.Context, disks map[string]string) (earlyDisks, error) {
	written, err := timesOf(disks)
	if err != nil {
		return earlyDisks{}, err
	}
	early := earlyDisks{began: time.Now(), written: written}
	return early, c.keepDisks(ctx, disks)
}

// renew copies those again that may have changed.
func (early earlyDisks) renew(ctx context.Context, disks map[string]string, draft *snapshot.Draft) error {
	written, err := timesOf(disks)
	if err != nil {
		return err
	}
	changed := maps.Clone(disks)
	maps.DeleteFunc(changed, func(name, _ string) bool {
		then := early.written[name]
		return then == written[name] && then < early.began.Add(-settled).UnixNano()
	})
	return cloneDisks(ctx, changed, draft)
}

func cloneDisks(ctx context.Context, disks map[string]string, draft *snapshot.Draft) error {
	for name, path := range disks {
		if err := draft.CloneDisk(ctx, name, path); err != nil {
			return err
		}
	}
	return nil
}

// memoryFile is memory without a name: nothing of it is left when nobody uses it any more, however that comes.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("banger-fork", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making memory for a fork: %w", err)
	}
	return os.NewFile(uintptr(fd), "fork"), nil
}
