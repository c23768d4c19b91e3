package vm

import (
	"context"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/oplock"
	"banger/internal/snapshot"
	"banger/internal/vm/moment"
)

// memoryServes reports whether a VM can still start from its memory, after such a start whose
// machine has ended. An error means that nobody can tell now.
func (op *operation) memoryServes(ctx context.Context) (bool, error) {
	return moment.Serves(ctx, op.library, op.dirs(), op.record().Runtime != nil)
}

// continueGuest lets a halted machine and its processes continue, also if the caller is gone.
func (op *operation) continueGuest(ctx context.Context) error {
	ctx, cancel := oplock.Outlive(ctx, thawGrace)
	defer cancel()
	l := op.e.machine()
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
	return op.e.machine().Thaw(ctx, doc)
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
	if err := op.e.machine().Sync(ctx); err != nil {
		op.logger(op.record()).WarnContext(ctx, "a guest does not write what it has in memory", "error", err)
	}
}

// metaOf describes the VM's machine for a snapshot of it. at is the moment that the snapshot keeps.
func (op *operation) metaOf(ctx context.Context, at time.Time) (snapshot.Meta, error) {
	v := op.record()
	meta := snapshot.Meta{Created: at, Spec: v.Spec}
	if v.Runtime == nil || v.Runtime.Spec == nil {
		return meta, nil
	}
	meta.Spec, meta.Driver, meta.Generation = *v.Runtime.Spec, v.Runtime.Driver, proto.Generation
	meta.Spec.Name = v.Spec.Name
	subject := op.subject()
	subject.Spec = meta.Spec
	var err error
	meta.Fingerprint, err = op.host.Shape(ctx, meta.Driver, subject)
	return meta, err
}

// captured is the VM as package moment sees it.
func (op *operation) captured() moment.VM {
	return moment.VM{Record: op.record(), Files: op.dirs(), Machine: op.e.machine(), Meta: op.metaOf}
}
