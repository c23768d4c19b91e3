package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Fork makes new VMs that go on from where a running, paused or suspended one is, at one moment for all of them. Each child has an identity
// of its own, and its own success or error: Fork itself fails only when no child could be begun.
func (m *Manager) Fork(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	parent, err := m.Get(ref)
	if err != nil {
		return model.Forked{}, err
	}
	names, err := childNames(parent, req)
	if err != nil {
		return model.Forked{}, err
	}
	m.removeUnwanted(ctx)                    // one may have a name that is asked for
	if err := m.anyFree(names); err != nil { // before the parent has to stand still for it
		return model.Forked{}, err
	}
	c, err := m.captureFork(ctx, ref, report)
	if err != nil {
		return model.Forked{}, err
	}
	forked := m.makeChildren(ctx, c, names, req, report)
	if err := c.close(); err != nil {
		m.Log.ErrorContext(ctx, "removing what a fork needed", "error", err)
	}
	m.observe(ctx)
	return forked, nil
}

// childNames are the names that the children shall have; "" is a random one.
func childNames(parent model.VM, req model.Fork) ([]string, error) {
	count := max(req.Count, 1)
	if req.Count < 0 || count > model.MaxForks {
		return nil, fault.New(fault.Invalid, "count: %d is not between 1 and %d", req.Count, model.MaxForks)
	}
	asked := parent.Spec
	asked.Name, asked.Remove = "unnamed", req.Remove // what the VM itself is called or is to be is not asked for
	if err := asked.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	names := make([]string, count)
	if count == 1 {
		names[0] = req.Name
	}
	for i := range names {
		if count > 1 {
			names[i] = firstOf(req.Name, parent.Spec.Name) + "-" + strconv.Itoa(i+1)
		}
		if names[i] == "" {
			continue
		}
		if err := model.CheckName(names[i]); err != nil {
			return nil, fault.New(fault.Invalid, "%w", err)
		}
	}
	return names, nil
}

// anyFree fails if all names are taken.
func (m *Manager) anyFree(names []string) error {
	var first error
	for _, name := range names {
		var err error
		if name != "" {
			err = m.checkNameFree(name)
		}
		if err == nil {
			return nil
		}
		first = cmp.Or(first, err)
	}
	return first
}

// captureFork saves the parent, which other operations wait for no longer than that.
func (m *Manager) captureFork(ctx context.Context, ref string, report step.Reporter) (*capture, error) {
	e, ctx, release, err := m.begin(ctx, ref, "fork")
	if err != nil {
		return nil, err
	}
	defer release()
	switch v := e.record(); v.State {
	case model.Running, model.Paused, model.Suspended:
	default:
		return nil, notRunning(v)
	}
	memory, err := memoryFile()
	if err != nil {
		return nil, err
	}
	end := report.Track("capture", e.record().Spec.Name)
	c, err := m.capture(ctx, e, filepath.Join(m.Layout.Snapshots(), model.NewID()), memory)
	end(err)
	if err == nil {
		report.Report(step.Event{Step: "pause", Phase: step.Done, Detail: e.record().Spec.Name, Duration: c.pause})
	}
	return c, err
}

// makeChildren makes the children side by side, as many at a time as the host has CPUs for.
func (m *Manager) makeChildren(ctx context.Context, c *capture, names []string, req model.Fork, report step.Reporter) model.Forked {
	c.single = len(names) == 1
	forked := model.Forked{Pause: c.pause, Children: make([]model.Child, len(names))}
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			child := &forked.Children[i]
			child.Name = name
			v, err := m.makeChild(ctx, c, name, req)
			if err != nil {
				child.Kind, child.Error, child.Hint = string(fault.KindOf(err)), err.Error(), fault.HintOf(err)
				report.Report(step.Event{Step: "child", Phase: step.Failed, Detail: name, Error: child.Error})
				return
			}
			child.Name, child.VM = v.Spec.Name, &v
			done := step.Event{Step: "child", Phase: step.Done, Detail: child.Name, Done: int64(i + 1), Total: int64(len(names))}
			if v.Boot != nil { // not one that got disks only
				done.Duration = v.Boot.Duration
			}
			report.Report(done)
		})
	}
	wg.Wait()
	return forked
}

// makeChild makes one VM from a capture, and starts it if the capture has memory. When that fails, nothing of it is left.
func (m *Manager) makeChild(ctx context.Context, c *capture, name string, req model.Fork) (model.VM, error) {
	select {
	case m.forking <- struct{}{}:
		defer func() { <-m.forking }()
	case <-ctx.Done():
		return model.VM{}, context.Cause(ctx)
	}
	spec := c.meta.Spec
	spec.Remove = req.Remove
	if req.Labels != nil {
		spec.Labels = maps.Clone(req.Labels)
	}
	e, ctx, release, err := m.adoptSpec(ctx, spec, name, c)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	if c.memory != nil {
		var from origin
		if from, err = c.origin(); err == nil {
			err = m.start(ctx, e, from, nil)
		}
	} else {
		err = m.syncDisks(e)
	}
	if err != nil {
		if e.record().State == model.Broken {
			return model.VM{}, err
		}
		return model.VM{}, errors.Join(err, m.delete(ctx, e))
	}
	return e.record(), nil
}

// adoptSpec makes a stopped VM of a spec that is complete, that of another VM or of a snapshot, with copies of the capture's disks. It returns it
// with its operation lock held. Until it has its disks it is being created, so that nobody ever starts half of it.
func (m *Manager) adoptSpec(ctx context.Context, spec model.Spec, name string, c *capture) (*entry, context.Context, func(), error) {
	parent := c.parent
	v := model.VM{ID: model.NewID(), Spec: spec, State: model.Creating, Created: time.Now().UTC(), Parent: &parent, DiskImage: spec.ImageID}
	if c.memory != nil {
		v.Runtime = &model.Runtime{Driver: m.Driver.Name(), Fork: true}
	}
	e, opCtx, release, err := m.reserveWithParts(ctx, v, name)
	if err != nil {
		return nil, nil, nil, err
	}
	if err = m.update(opCtx, e, func(*model.VM) {}); err == nil {
		err = m.furnish(opCtx, e, c.disks)
	}
	if err != nil {
		defer release()
		return nil, nil, nil, errors.Join(err, m.remove(context.WithoutCancel(ctx), e))
	}
	return e, opCtx, m.counted(release), nil
}

// reserveWithParts enters a VM whose image and kernel are there, and which keeps them from being deleted from now on.
func (m *Manager) reserveWithParts(ctx context.Context, v model.VM, name string) (*entry, context.Context, func(), error) {
	m.refs.RLock()
	defer m.refs.RUnlock()
	if err := m.checkParts(v.Spec); err != nil {
		return nil, nil, nil, err
	}
	return m.reserve(ctx, v, name, opStart)
}

// checkParts tells whether the image and the kernel of a complete spec are there.
func (m *Manager) checkParts(spec model.Spec) error {
	if _, err := m.Images.Get(spec.ImageID); err != nil {
		return fault.New(fault.KindOf(err), "image %s (%.12s): %w", spec.Image, spec.ImageID, err).
			WithHint("its disks hold changes to that very image, so another one does not do")
	}
	if _, err := m.Kernels.Get(spec.KernelID); err != nil {
		return fmt.Errorf("kernel %s (%.12s): %w", spec.Kernel, spec.KernelID, err)
	}
	return nil
}

// placeDisks gives a VM copies of disks. They last once syncDisks was called.
func (m *Manager) placeDisks(ctx context.Context, e *entry, disks map[string]string) error {
	dir := m.Layout.VM(e.record().ID).Dir
	copies, err := copyDisks(ctx, disks, filepath.Join(dir, disk.TempPrefix), disk.Copy)
	if err != nil {
		return errors.Join(err, m.removeUnfinished(e))
	}
	return m.renameDisks(e, copies)
}

// syncDisks makes a VM's disks last.
func (m *Manager) syncDisks(e *entry) error {
	files := m.Layout.VM(e.record().ID)
	for _, path := range disksOf(files) {
		if err := disk.Sync(path); err != nil {
			return err
		}
	}
	return disk.SyncDir(files.Dir)
}

// copyDisks copies disks to files whose names begin with prefix.
func copyDisks(
	ctx context.Context, disks map[string]string, prefix string, copyOne func(ctx context.Context, src, dst string) error,
) (copies map[string]string, err error) {
	copies = map[string]string{}
	for name, from := range disks {
		copies[name] = prefix + name
		if err := copyOne(ctx, from, copies[name]); err != nil {
			return nil, err
		}
	}
	return copies, nil
}

// renameDisks makes files a VM's disks.
func (m *Manager) renameDisks(e *entry, disks map[string]string) error {
	files := m.Layout.VM(e.record().ID)
	for name, to := range map[string]string{systemDiskName: files.SystemDisk(), workDiskName: files.WorkDisk()} {
		if from, ok := disks[name]; ok {
			if err := os.Rename(from, to); err != nil {
				return fmt.Errorf("placing disk %s: %w", name, err)
			}
		}
	}
	return nil
}

// copyFile copies a file of a snapshot, holes left out.
func copyFile(ctx context.Context, open func() (*os.File, error), to *os.File) error {
	from, err := open()
	if err != nil {
		return err
	}
	defer from.Close()
	return disk.CloneFile(ctx, from, to)
}
