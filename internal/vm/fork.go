package vm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
	"banger/internal/vm/explain"
	"banger/internal/vm/moment"
)

// Fork makes new VMs from a running, paused or suspended one, all from the same moment. Each child
// has an identity of its own, and its own success or error: Fork itself fails only if no child was
// begun.
func (m *Manager) Fork(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	parent, err := m.Get(ref)
	if err != nil {
		return model.Forked{}, err
	}
	names, err := req.Names(parent.Spec)
	if err != nil {
		return model.Forked{}, fault.New(fault.Invalid, "%w", err)
	}
	m.deleteUnwanted(ctx, names...)                  // one may have a name that is asked for
	if err := m.records.AnyFree(names); err != nil { // before the parent has to stand still for it
		return model.Forked{}, err
	}
	c, err := m.captureFork(ctx, ref, report)
	if err != nil {
		return model.Forked{}, err
	}
	forked := m.makeChildren(ctx, c, names, req, report)
	made := 0
	for _, child := range forked.Children {
		if child.VM != nil {
			made++
		}
	}
	m.Meter.Forked(made, forked.Pause)
	if err := c.Close(); err != nil {
		m.Log.ErrorContext(ctx, "removing what a fork needed", "error", err)
	}
	m.observe(ctx)
	return forked, nil
}

// captureFork saves the parent. Other operations on it wait no longer than that.
func (m *Manager) captureFork(ctx context.Context, ref string, report step.Reporter) (*moment.Capture, error) {
	return perform(ctx, m.core, ref, opFork, report, func(ctx context.Context, op *operation) (*moment.Capture, error) {
		switch v := op.record(); v.State {
		case model.Running, model.Paused, model.Suspended:
		default:
			return nil, explain.NotRunning(v)
		}
		memory, err := moment.Unnamed()
		if err != nil {
			return nil, err
		}
		draft, err := m.library.Draft()
		if err != nil {
			return nil, errors.Join(err, memory.Close())
		}
		end := report.Track("capture", op.name())
		c, err := moment.Of(step.WithWaits(ctx, report), op.captured(), draft, memory)
		end(err)
		if err == nil {
			report.Report(step.Event{Step: "pause", Phase: step.Done, Detail: op.name(), Duration: c.Pause})
		}
		return c, err
	})
}

// makeChildren makes the children side by side, as many at a time as the host has CPUs for.
func (c *core) makeChildren(ctx context.Context, from *moment.Capture, names []string, req model.Fork, report step.Reporter) model.Forked {
	from.Alone = len(names) == 1
	forked := model.Forked{Pause: from.Pause, Children: make([]model.Child, len(names))}
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			child := &forked.Children[i]
			child.Name = name
			v, err := c.makeChild(ctx, from, name, req)
			if err != nil {
				child.Kind, child.Error, child.Hint = string(fault.KindOf(err)), err.Error(), fault.HintOf(err)
				report.Report(step.Event{Step: "child", Phase: step.Failed, Detail: name, Error: child.Error})
				return
			}
			child.Name, child.VM = v.Spec.Name, &v
			done := step.Event{Step: "child", Phase: step.Done, Detail: child.Name, Done: int64(i + 1), Total: int64(len(names))}
			if v.Boot != nil { // a child that got disks only has none
				done.Duration = v.Boot.Duration
			}
			report.Report(done)
		})
	}
	wg.Wait()
	return forked
}

// makeChild makes one VM from a capture, and starts it if the capture has memory. If that fails,
// nothing of the VM is left.
func (c *core) makeChild(ctx context.Context, from *moment.Capture, name string, req model.Fork) (model.VM, error) {
	select {
	case c.forking <- struct{}{}:
		defer func() { <-c.forking }()
	case <-ctx.Done():
		return model.VM{}, context.Cause(ctx)
	}
	return c.enter(ctx, newVM{vm: from.Child(req), name: name, kind: opStart, disks: from.Disks}, func(ctx context.Context, op *operation) (model.VM, error) {
		err := op.startChild(ctx, from)
		if err == nil || op.record().State == model.Broken {
			return op.record(), err
		}
		return model.VM{}, errors.Join(err, op.delete(ctx))
	})
}

func (op *operation) startChild(ctx context.Context, from *moment.Capture) error {
	source, err := from.Source()
	if err != nil {
		return err
	}
	if source == nil {
		if err := machine.SyncDisks(op.dirs()); err != nil {
			return fmt.Errorf("syncing the disks of VM %s: %w", op.name(), err)
		}
		return nil
	}
	return op.start(ctx, source, from.Meta.Driver, nil)
}
