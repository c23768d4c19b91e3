package home

import (
	"context"
	"strconv"
)

// Count counts this start of the daemon in the database, and then in the state's mark: see the
// package comment. Call it after Claim, and after the database was backed up. Nothing is lost if it
// fails, as on a full disk: then the next start counts.
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
	return writeMark(h.layout.State, m)
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
