package vm

import (
	"context"

	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/vm/moment"
)

// memoryServes reports whether a VM can still start from its memory, after a run that has ended. An
// error means that nobody can tell now.
func (op *operation) memoryServes(ctx context.Context) (bool, error) {
	return moment.Serves(ctx, op.library, op.record(), op.dirs())
}

// continueGuest lets a halted machine and its processes continue, also if the caller is gone.
func (op *operation) continueGuest(ctx context.Context) error {
	ctx, cancel := oplock.Outlive(ctx, thawGrace)
	defer cancel()
	l := op.e.Machine()
	if err := l.Resume(ctx); err != nil {
		return err
	}
	return op.thaw(ctx)
}

func (op *operation) thaw(ctx context.Context) error {
	doc, err := op.host.Thaw(ctx, op.machineSubject())
	if err != nil {
		return err
	}
	return op.e.Machine().Thaw(ctx, doc)
}

// machineSubject is the subject with the spec that the machine was started as.
func (op *operation) machineSubject() machine.Subject {
	s := op.subject()
	if rt := op.record().Runtime; rt != nil && rt.Spec != nil {
		s.Spec = rt.Spec.For(s.Spec)
	}
	return s
}

// sync has a running guest write what it has in memory, so that its disks are of use without that.
// A failure is logged: what is saved is of one moment anyway.
func (op *operation) sync(ctx context.Context) {
	if op.record().State != model.Running {
		return
	}
	if err := op.e.Machine().Sync(ctx); err != nil {
		op.logger(op.record()).WarnContext(ctx, "a guest does not write what it has in memory", "error", err)
	}
}

// captured is the VM as package moment sees it.
func (op *operation) captured() moment.VM {
	return moment.VM{Record: op.record(), Subject: op.subject(), Files: op.dirs(), Machine: op.e.Machine(), Host: op.host}
}
