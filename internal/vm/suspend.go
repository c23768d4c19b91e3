package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
	"banger/internal/vmm"
)

// holdTimeout bounds how long a guest may take to halt its processes, or to let them go on.
const holdTimeout = 20 * time.Second

// Pause halts a running VM in memory: first its processes, so that none of them sees the clock jump, then its machine.
func (m *Manager) Pause(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, "pause")
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	switch v := e.record(); v.State {
	case model.Paused:
		report.Report(step.Event{Step: "pause", Phase: step.Skipped, Detail: "already paused"})
		return v, nil
	case model.Running:
	default:
		return v, notRunning(v)
	}
	err = m.pause(context.WithoutCancel(ctx), e)
	m.observe(ctx)
	return e.record(), err
}

func (m *Manager) pause(ctx context.Context, e *entry) error {
	v := e.record()
	p, ok := e.machine().inst.(vmm.Pauser)
	if !ok {
		return fault.New(fault.Unsupported, "VM %s: the driver %s cannot halt machines", v.Spec.Name, m.Driver.Name())
	}
	if err := m.update(ctx, e, func(v *model.VM) { v.State = model.Pausing }); err != nil {
		return err
	}
	err := m.freeze(ctx, e)
	if err == nil {
		err = p.Pause(ctx)
	}
	if err == nil {
		err = m.update(ctx, e, func(v *model.VM) { v.State = model.Paused })
	}
	if err != nil { // whatever has failed may have had its effect all the same
		return errors.Join(fmt.Errorf("pausing VM %s: %w", v.Spec.Name, err), m.letGoOn(ctx, e),
			m.update(ctx, e, func(v *model.VM) { v.State = model.Running }))
	}
	return nil
}

// syncTimeout bounds how long a guest may take to write what it has in memory.
const syncTimeout = 30 * time.Second

// sync has a running guest write what it has in memory, so that its disks are of use without that. It is no more than that: what is saved is of one
// moment anyway.
func (m *Manager) sync(ctx context.Context, e *entry) {
	if e.record().State != model.Running {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if err := e.machine().agent.Sync(ctx); err != nil {
		m.logger(e.record()).WarnContext(ctx, "a guest does not write what it has in memory", "error", err)
	}
}

// freeze halts the guest's processes.
func (m *Manager) freeze(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if _, err := e.machine().agent.Freeze(ctx); err != nil {
		return fmt.Errorf("holding the guest's processes: %w", err)
	}
	return nil
}

// thaw lets a running machine's processes go on.
func (m *Manager) thaw(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if err := e.machine().agent.Thaw(ctx, wakeUp()); err != nil {
		return fmt.Errorf("letting the guest's processes go on: %w", err)
	}
	return nil
}

// letGoOn lets a halted machine and its processes go on.
func (m *Manager) letGoOn(ctx context.Context, e *entry) error {
	if err := m.resumeMachine(ctx, e); err != nil {
		return err
	}
	return m.thaw(ctx, e)
}

func (m *Manager) resumeMachine(ctx context.Context, e *entry) error {
	p, ok := e.machine().inst.(vmm.Pauser)
	if !ok {
		return fault.New(fault.Unsupported, "the driver %s cannot halt machines", m.Driver.Name())
	}
	return p.Resume(ctx)
}

// isHeld tells whether a running VM was not let go on after it had been saved.
func (m *Manager) isHeld(v model.VM) bool {
	_, err := os.Stat(m.Layout.VM(v.ID).Held())
	return v.State == model.Running && err == nil
}

// letHeldGoOn tries again to let a VM go on that is held.
func (m *Manager) letHeldGoOn(ctx context.Context, e *entry) {
	v := e.record()
	if e.machine() == nil || !m.isHeld(v) {
		return
	}
	err := m.letGoOn(context.WithoutCancel(ctx), e)
	if err == nil {
		err = removeAll(m.Layout.VM(v.ID).Held())
	}
	if err != nil {
		m.logger(v).WarnContext(ctx, "letting a VM go on that is held", "error", err)
	}
}

// Resume lets a paused or suspended VM go on. A running one says so.
func (m *Manager) Resume(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, opStart)
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	v := e.record()
	if v.State == model.Running {
		report.Report(step.Event{Step: "resume", Phase: step.Skipped, Detail: "already running"})
		return v, nil
	}
	err = m.resume(ctx, e, report)
	return e.record(), err
}

func (m *Manager) resume(ctx context.Context, e *entry, report step.Reporter) error {
	defer m.observe(ctx)
	switch v := e.record(); v.State {
	case model.Paused:
		ctx := context.WithoutCancel(ctx)
		if err := m.letGoOn(ctx, e); err != nil {
			return fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err)
		}
		return m.update(ctx, e, func(v *model.VM) { v.State, v.LastError = model.Running, nil })
	case model.Suspended:
		if v.Runtime != nil {
			if err := m.endSuspended(context.WithoutCancel(ctx), e); err != nil {
				return fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err)
			}
		}
		from, err := m.suspended(ctx, v)
		if err != nil {
			return fmt.Errorf("resuming VM %s: %w", v.Spec.Name, err)
		}
		return m.start(ctx, e, from, report)
	default:
		return fault.New(fault.WrongState, "VM %s is neither paused nor suspended: it is %s", v.Spec.Name, v.State)
	}
}

// suspended opens what a VM's suspension has kept, and checks all of it.
func (m *Manager) suspended(ctx context.Context, v model.VM) (origin, error) {
	snap, err := snapshot.Open(ctx, m.Layout.VM(v.ID).Suspended())
	if err == nil {
		err = snap.Verify(ctx)
	}
	if err != nil {
		f := fault.New(fault.KindOf(err), "reading its memory: %w", err)
		return origin{}, f.WithHint("`banger vm kill %s` gives its memory up; its disks stay, and it can be started again", v.Spec.Name)
	}
	spec := snap.Meta().Spec
	from := origin{same: true, spec: &spec, shape: snap.Meta().Fingerprint, Origin: model.Origin{Kind: model.FromSuspended, Of: v.ID}}
	return from, from.open(snap)
}

// Suspend keeps a VM's memory on disk and ends its machine. The VM goes on at Resume, also after a reboot of the host.
func (m *Manager) Suspend(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	e, ctx, release, err := m.begin(ctx, ref, "suspend")
	if err != nil {
		return model.VM{}, err
	}
	defer release()
	v := e.record()
	switch v.State {
	case model.Suspended:
		report.Report(step.Event{Step: "suspend", Phase: step.Skipped, Detail: "already suspended"})
		if v.Runtime == nil {
			return v, nil
		}
		err := m.endSuspended(context.WithoutCancel(ctx), e)
		return e.record(), err
	case model.Running, model.Paused:
	default:
		return v, notRunning(v)
	}
	err = m.suspend(context.WithoutCancel(ctx), e, report)
	m.observe(ctx)
	return e.record(), err
}

// suspend saves the machine before anything is given up: up to the record that says "suspended" the VM can go on as if nothing had been.
func (m *Manager) suspend(ctx context.Context, e *entry, report step.Reporter) (err error) {
	before := e.record()
	m.sync(ctx, e)
	defer func() {
		if err != nil {
			err = fmt.Errorf("suspending VM %s: %w", before.Spec.Name, err)
		}
	}()
	if err := m.update(ctx, e, func(v *model.VM) { v.State = model.Pausing }); err != nil {
		return err
	}
	end := report.Track("memory", before.Runtime.Spec.Memory.String())
	err = m.keepMemory(ctx, e, before.State == model.Running)
	end(err)
	if err == nil {
		err = m.update(ctx, e, func(v *model.VM) { v.State = model.Suspended })
	}
	if err != nil {
		undo := removeAll(m.Layout.VM(before.ID).Suspended())
		if before.State == model.Running {
			undo = errors.Join(undo, m.letGoOn(ctx, e))
		}
		return errors.Join(err, undo, m.update(ctx, e, func(v *model.VM) { v.State = before.State }))
	}
	return m.endSuspended(ctx, e)
}

// endSuspended takes away what a VM still has on the host whose memory is kept. When something stays the VM is suspended all the same, and the Runtime on
// its record says that there is something left: it does not go on before that is gone, as the old machine may still have its disks.
func (m *Manager) endSuspended(ctx context.Context, e *entry) error {
	if err := m.cleanup(ctx, e); err != nil {
		failure := m.failure(e.record(), err)
		failure.Hint = "its memory is kept; banger tries again every so often, and when it is resumed"
		return errors.Join(fmt.Errorf("it is suspended, but not all of its run could be taken away: %w", err),
			m.update(ctx, e, func(v *model.VM) { v.LastError = failure }))
	}
	now := time.Now().UTC()
	return m.update(ctx, e, func(v *model.VM) { v.Runtime, v.Network, v.LastError, v.Stopped = nil, nil, nil, &now })
}

// keepMemory saves the VM's machine, which stands still from then on. Its disks are its own, and nobody writes them until it goes on.
func (m *Manager) keepMemory(ctx context.Context, e *entry, running bool) error {
	v := e.record()
	saver, err := m.saver(e.machine())
	if err != nil {
		return err
	}
	dir := m.Layout.VM(v.ID).Suspended()
	if err := snapshot.Remove(dir); err != nil { // what it went on from, when nobody came to remove that
		return err
	}
	draft, err := snapshot.Create(dir)
	if err != nil {
		return err
	}
	defer draft.Discard()
	req, err := saveInto(draft)
	if err != nil {
		return err
	}
	req.Halt = true
	if running {
		req.Before = func(ctx context.Context) error { return m.freeze(ctx, e) }
	}
	if err := save(ctx, saver, req); err != nil {
		return err
	}
	meta, err := m.metaOf(ctx, v, time.Now())
	if err != nil {
		return err
	}
	written, err := timesOf(disksOf(m.Layout.VM(v.ID)))
	if err != nil {
		return err
	}
	if meta.Extra, err = json.Marshal(suspension{written}); err != nil {
		return fmt.Errorf("describing the suspension: %w", err)
	}
	_, err = draft.Commit(ctx, meta)
	return err
}

func (m *Manager) saver(l *live) (vmm.Saver, error) {
	s, ok := l.inst.(vmm.Saver)
	if !ok {
		return nil, fault.New(fault.Unsupported, "the driver %s cannot save machines", m.Driver.Name())
	}
	return s, nil
}

// memoryIsCurrent tells whether a suspended VM can still go on after a start of it was cut off: not once its guest has written to a disk.
func (m *Manager) memoryIsCurrent(ctx context.Context, v model.VM) bool {
	files := m.Layout.VM(v.ID)
	snap, err := snapshot.Open(ctx, files.Suspended())
	if err != nil {
		return false
	}
	var then suspension
	now, err := timesOf(disksOf(files))
	return err == nil && json.Unmarshal(snap.Meta().Extra, &then) == nil && maps.Equal(now, then.Written)
}

// suspension is what a suspended VM's memory says of itself besides what it is.
type suspension struct {
	Written map[string]int64 `json:"written"` // when each disk was last written to, in nanoseconds since 1970: another time, earlier or later, is another disk
}

// timesOf tells when disks were last written to.
func timesOf(disks map[string]string) (map[string]int64, error) {
	times := map[string]int64{}
	for name, path := range disks {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("looking at disk %s: %w", name, err)
		}
		times[name] = info.ModTime().UnixNano()
	}
	return times, nil
}
