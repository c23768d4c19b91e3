package home

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/fault"
	"banger/internal/flock"
	"banger/internal/paths"
	"banger/internal/regular"
)

// Count counts this start of the daemon in the database, and then in the marks of the state and of
// the runtime directory: see the package comment. Call it after Claim, and after a backup of the
// database. Nothing is lost if it fails, as on a full disk: then the next start counts.
func (h *Held) Count(ctx context.Context, db Records, keys Keys) error {
	m, err := readMark(h.layout.State)
	if err != nil {
		return err
	}
	value, err := db.Meta(ctx, keys.Starts)
	if err != nil {
		return err
	}
	m.Starts = max(m.Starts, parseStarts(value)) + 1
	if err := db.SetMeta(ctx, keys.Starts, strconv.FormatUint(m.Starts, 10)); err != nil {
		return err
	}
	if err := writeMark(h.layout.State, m); err != nil {
		return err
	}
	return h.markRoot(h.layout.Runtime)
}

// CheckState refuses a state directory that is older than the machines that run beside it. They
// have the files of the later one open, which may have no name any more. The caller holds the
// locks, so no machine starts. A machine that never had a record does not count: start-up ends it.
func (h *Held) CheckState() error {
	state, err := readMark(h.layout.State)
	if err != nil {
		return err
	}
	run, err := readMark(h.layout.Runtime)
	if err != nil || state.ID == "" || run.ID != state.ID || run.Starts <= state.Starts {
		return err
	}
	ids, err := machines(filepath.Join(h.layout.Runtime, "vms"))
	if err != nil {
		return err
	}
	var up []string
	for _, id := range ids {
		files := h.layout.VM(id)
		if _, err := os.Lstat(files.Unrecorded()); err != nil && isUp(files) {
			up = append(up, id)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return fault.New(fault.WrongState, "the state directory %s is older than VMs that run (%s): it knows %d starts of the daemon, and there were %d; nothing was changed",
		h.layout.State, strings.Join(up, ", "), state.Starts, run.Starts).
		WithHint("If you have the later state directory, put it back. Otherwise only these machines have what they have written: `banger doctor` lists their processes. If you do not need them, end them with kill.")
}

// isUp reports whether a machine runs: each VMM holds the lock in its run directory.
func isUp(files paths.VM) bool {
	f, err := regular.OpenFile(paths.LockIn(files.Run), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	free, err := flock.TryLock(f)
	return err == nil && !free
}

// Starts returns how often a daemon has started in a state directory.
func Starts(state string) (uint64, error) {
	m, err := readMark(state)
	return m.Starts, err
}

// Older reports whether a database that knows some starts is older than a state directory with
// others.
func Older(database string, state uint64) bool { return parseStarts(database) < state }

// parseStarts reads a number of starts. A missing or strange one is 0: then nothing is refused.
func parseStarts(value string) uint64 {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
