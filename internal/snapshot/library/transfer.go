package library

import (
	"cmp"
	"context"
	"encoding/json"
	"io"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/snapshot"
	"banger/internal/step"
)

// Export writes a snapshot as one stream that Import reads.
func (l *Library) Export(ctx context.Context, ref string, w io.Writer, report step.Reporter) error {
	_, snap, err := l.Open(ctx, ref)
	if err != nil {
		return err
	}
	return snapshot.Export(ctx, snap, w, progress(report, "export"))
}

// Import stores an exported snapshot under a name. For "" it keeps the name that it had, or gets a
// random one if that is taken. The stream is hostile: nothing of it is believed unchecked.
func (l *Library) Import(ctx context.Context, r io.Reader, name string, report step.Reporter) (model.Snapshot, error) {
	if name != "" {
		if err := model.CheckName(name); err != nil {
			return model.Snapshot{}, fault.New(fault.Invalid, "%w", err)
		}
		if _, err := l.FreeName(ctx, name); err != nil { // now, rather than after all of the stream
			return model.Snapshot{}, err
		}
	}
	unlock := func() {}
	defer func() { unlock() }()
	relabel := func(meta snapshot.Meta) (json.RawMessage, error) {
		l.naming.Lock() // until Import has returned, when the snapshot has its name
		unlock = l.naming.Unlock
		return l.relabel(ctx, meta, name)
	}
	snap, err := snapshot.Import(ctx, r, l.Dir(model.NewID()), snapshot.Limits{}, progress(report, "import"), relabel)
	if err != nil {
		return model.Snapshot{}, err
	}
	return describe(snap)
}

// relabel checks the label of an imported snapshot and gives it a free name.
func (l *Library) relabel(ctx context.Context, meta snapshot.Meta, name string) (json.RawMessage, error) {
	var label Label
	if err := json.Unmarshal(meta.Extra, &label); err != nil {
		return nil, fault.New(fault.Invalid, "the snapshot does not say whose it is: %w", err)
	}
	if model.CheckName(label.VM) != nil || !model.IsID(label.VMID) || model.CheckName(label.Name) != nil || label.Pause < 0 {
		return nil, fault.New(fault.Invalid, "the snapshot's label is none of ours")
	}
	spec := meta.Spec
	spec.Name = label.VM
	if err := spec.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "the VM of the snapshot: %w", err)
	}
	free, err := l.FreeName(ctx, cmp.Or(name, label.Name))
	if fault.KindOf(err) == fault.Exists && name == "" {
		free, err = l.FreeName(ctx, "")
	}
	if err != nil {
		return nil, err
	}
	label.Name = free
	return json.Marshal(label)
}

func progress(report step.Reporter, name string) func(done, total int64) {
	return func(done, total int64) {
		report.Report(step.Event{Step: name, Phase: step.Progress, Done: done, Total: total, Unit: "bytes"})
	}
}
