package home

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/regular"
)

// mark says to which home a root belongs. The zero mark is that of a root without one.
type mark struct {
	ID    string
	Root  string // the path of the root when it was marked
	State string // the path of the home's state directory

	// Runtime is the path of the home's runtime directory, or "" in a mark of an earlier version.
	Runtime string

	// Starts is how often a daemon has started, in the marks of the state and of the runtime
	// directory: see Held.Count.
	Starts uint64
}

// maxMark bounds a mark, bytes: three paths.
const maxMark = 16 << 10

// readMark returns the mark of a root, or the zero mark if it has none.
func readMark(root string) (mark, error) {
	f, err := regular.Open(paths.MarkIn(root))
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil && fault.KindOf(err) != fault.Damaged {
		return mark{}, fmt.Errorf("reading the home's id: %w", err)
	}
	var m mark
	if err == nil {
		m, err = parseMark(f)
		_ = f.Close()
	}
	if err != nil {
		path := paths.MarkIn(root)
		return mark{}, fault.New(fault.WrongState, "reading the home's id in %s: %w", path, err).
			WithHint("If %s belongs to this home: rm %s", root, path)
	}
	return m, nil
}

// ID returns the id of the home to which a root belongs, or "" if the root has no mark.
func ID(root string) (string, error) {
	m, err := readMark(root)
	return m.ID, err
}

// parseMark reads lines of a name and a value. It ignores names of newer versions.
func parseMark(r io.Reader) (mark, error) {
	var m mark
	lines := bufio.NewScanner(io.LimitReader(r, maxMark))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case "id":
			m.ID = value
		case "root":
			m.Root = value
		case "state":
			m.State = value
		case "runtime":
			m.Runtime = value
		case "starts":
			m.Starts = parseStarts(value)
		}
	}
	if err := lines.Err(); err != nil {
		return mark{}, err
	}
	if !model.IsID(m.ID) || !filepath.IsAbs(m.Root) || !filepath.IsAbs(m.State) {
		return mark{}, errors.New("it has no id or no paths")
	}
	return m, nil
}

// writeMark replaces the mark of a root if it differs. It never writes in place, because a cache
// may have been copied by hard links.
func writeMark(root string, m mark) error {
	if old, err := readMark(root); err == nil && old == m {
		return nil
	}
	f, err := os.CreateTemp(root, ".home-id-")
	if err != nil {
		return fmt.Errorf("storing the home's id: %w", err)
	}
	_, err = fmt.Fprintf(f, "id %s\nroot %s\nstate %s\nruntime %s\nstarts %d\n", m.ID, m.Root, m.State, m.Runtime, m.Starts)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), paths.MarkIn(root))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("storing the home's id: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// copied reports whether the mark came with a copy of the root to which it belongs.
func (m mark) copied(root string) bool { return m.ID != "" && !same(m.Root, root) }

// alive reports whether the state directory still belongs to the mark's home.
func (m mark) alive(state string) bool {
	if m.ID == "" {
		return false
	}
	there, err := readMark(state)
	return err == nil && there.ID == m.ID
}

// same reports whether two paths name one directory.
func same(a, b string) bool {
	if a == b {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// real returns a directory's path without symbolic links.
func real(dir string) (string, error) {
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("looking at %s: %w", dir, err)
	}
	return path, nil
}

// RuntimeElsewhere returns the runtime directory of this home's daemon if it was started with
// another one, and otherwise "". A login session has XDG_RUNTIME_DIR, and a scheduled job has none.
func RuntimeElsewhere(layout paths.Layout) string {
	m, err := readMark(layout.State)
	if err != nil || !filepath.IsAbs(m.Runtime) || m.copied(layout.State) || same(m.Runtime, layout.Runtime) {
		return ""
	}
	return m.Runtime
}

// runtimeInUse returns the runtime directory that a home uses. Machines stay where they were
// started, so as long as an earlier directory of the home has machines, it is that one. The caller
// holds the lock of the state, so no daemon starts a machine there meanwhile.
func runtimeInUse(layout paths.Layout) (string, error) {
	earlier := RuntimeElsewhere(layout)
	if earlier == "" {
		return layout.Runtime, nil
	}
	own, err := readMark(layout.State)
	if err != nil {
		return "", err
	}
	m, err := readMark(earlier)
	if err != nil {
		return "", err
	}
	if m.ID != own.ID || m.copied(earlier) || !same(m.State, layout.State) {
		return layout.Runtime, nil
	}
	ids, err := machines(filepath.Join(earlier, "vms"))
	if err != nil || len(ids) == 0 {
		return layout.Runtime, err
	}
	return earlier, nil
}

// CheckClient refuses to use a daemon that serves another home through a shared runtime directory,
// and a home that others may change. Every command calls it.
func CheckClient(layout paths.Layout) error {
	if err := CheckOwners(layout); err != nil {
		return err
	}
	m, err := readMark(layout.Runtime)
	if err != nil || m.ID == "" || same(m.State, layout.State) {
		return err
	}
	if _, err := os.Stat(m.State); err != nil {
		return nil // the home was moved; the daemon will say so in the mark when it starts again
	}
	return fault.New(fault.WrongState, "the daemon in %s belongs to the home whose state directory is %s; this home's one is %s",
		layout.Runtime, m.State, layout.State).
		WithHint("Set BANGER_HOME or XDG_RUNTIME_DIR to another directory, or XDG_STATE_HOME to that home's one.")
}
