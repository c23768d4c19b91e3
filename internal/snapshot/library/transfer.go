package library

import (
	"context"
	"encoding/json"
	"fmt"
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
// random one if that is taken, and a notice says so. The stream is hostile: nothing of it is
// believed unchecked, and its description is checked before anything is made.
func (l *Library) Import(ctx context.Context, r io.Reader, name string, report step.Reporter) (model.Snapshot, error) {
	if name != "" {
		if err := model.CheckName(name); err != nil {
			return model.Snapshot{}, fault.New(fault.Invalid, "%w", err)
		}
		if _, err := l.FreeName(name); err != nil { // now, rather than after all of the stream
			return model.Snapshot{}, err
		}
	}
	unlock := func() {}
	defer func() { unlock() }()
	var notices []model.Notice
	snap, err := snapshot.Import(ctx, r, l.Dir(model.NewID()), snapshot.Incoming{
		Progress: progress(report, "import"), Room: l.Room,
		Check: func(meta snapshot.Meta) error {
			_, err := checkForeign(meta)
			return err
		},
		Label: func(meta snapshot.Meta) (json.RawMessage, error) {
			label, err := checkForeign(meta)
			if err != nil {
				return nil, err
			}
			l.naming.Lock() // until Import has returned, when the snapshot has its name
			unlock = l.naming.Unlock
			label.Name, notices, err = l.nameImported(label.Name, name)
			if err != nil {
				return nil, err
			}
			return json.Marshal(label)
		},
	})
	if err != nil {
		return model.Snapshot{}, err
	}
	s, err := l.describe(snap)
	s.Notices = notices
	return s, err
}

// nameImported chooses the name of an imported snapshot. Its own name replaces nothing.
func (l *Library) nameImported(own, asked string) (string, []model.Notice, error) {
	if asked != "" {
		free, err := l.FreeName(asked)
		return free, nil, err
	}
	if model.CheckName(own) == nil {
		free, err := l.FreeName(own)
		if fault.KindOf(err) != fault.Exists {
			return free, nil, err
		}
	}
	free, err := l.FreeName("")
	return free, []model.Notice{{
		Text: fmt.Sprintf("the snapshot does not keep the name %q, which is taken or not allowed here: it is called %s", own, free),
		Hint: "To choose its name, import it with --name",
	}}, err
}

func progress(report step.Reporter, name string) func(done, total int64) {
	return func(done, total int64) {
		report.Report(step.Event{Step: name, Phase: step.Progress, Done: done, Total: total, Unit: "bytes"})
	}
}
