package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/socket"
)

// Records is the part of the database that Claim needs.
type Records interface {
	Meta(ctx context.Context, key string) (string, error)
	SetMeta(ctx context.Context, key, value string) error
	VMs(ctx context.Context) ([]model.VM, error)
}

// Check is Claim without the marks: it changes nothing. It also reads a database whose schema is to
// be updated.
func (h *Held) Check(ctx context.Context, db Records, keys Keys) error {
	_, err := h.check(ctx, db, keys)
	return err
}

// Look is Check without the home's locks. Its error counts only if no daemon works meanwhile.
func Look(ctx context.Context, layout paths.Layout, db Records, keys Keys) (err error) {
	if layout.Runtime, err = runtimeInUse(layout); err != nil {
		return err
	}
	return (&Held{layout: layout}).Check(ctx, db, keys)
}

// Claim checks that database and roots belong to one home, and marks the roots that have no mark
// yet. The caller holds the locks. If a root belongs to another home, or the database is an older
// one, nothing has changed, and the error says so.
func (h *Held) Claim(ctx context.Context, db Records, keys Keys) error {
	c, err := h.check(ctx, db, keys)
	if err != nil {
		return err
	}
	return h.mark(ctx, c, db, keys)
}

func (h *Held) check(ctx context.Context, db Records, keys Keys) (*claim, error) {
	if err := h.CheckState(); err != nil {
		return nil, err
	}
	c := &claim{layout: h.layout}
	if err := c.look(ctx, db, keys); err != nil {
		return nil, err
	}
	if err := c.checkState(); err != nil {
		return nil, err
	}
	if err := c.checkCache(); err != nil {
		return nil, err
	}
	return c, c.checkRuntime(ctx)
}

// Keys are the keys of what the database knows of its home: its id, the starts of its daemon, and
// the path of its state directory.
type Keys struct{ ID, Starts, State string }

// claim is what was found in a home's roots, and the id that the home will have.
type claim struct {
	layout              paths.Layout
	id                  string
	database            string // the id in the database
	starts              uint64 // how often a daemon has started, as the database knows it
	stateWas            string // the path of the state directory, as the database knows it
	state, cache, run   mark
	records             []model.VM
	dirs, runs, unknown []string // ids: VM directories, run directories, dirs without a record
}

func (c *claim) look(ctx context.Context, db Records, keys Keys) (err error) {
	if c.database, err = db.Meta(ctx, keys.ID); err != nil {
		return err
	}
	starts, err := db.Meta(ctx, keys.Starts)
	if err != nil {
		return err
	}
	c.starts = parseStarts(starts)
	if c.stateWas, err = db.Meta(ctx, keys.State); err != nil {
		return err
	}
	if c.records, err = db.VMs(ctx); err != nil {
		return err
	}
	for _, root := range []struct {
		dir  string
		mark *mark
	}{{c.layout.State, &c.state}, {c.layout.Cache, &c.cache}, {c.layout.Runtime, &c.run}} {
		if *root.mark, err = readMark(root.dir); err != nil {
			return err
		}
	}
	if c.dirs, err = machines(c.layout.VMs()); err != nil {
		return err
	}
	c.runs, err = machines(filepath.Join(c.layout.Runtime, "vms"))
	for _, id := range c.dirs {
		if !slices.ContainsFunc(c.records, func(v model.VM) bool { return v.ID == id }) {
			c.unknown = append(c.unknown, id)
		}
	}
	return err
}

// checkState compares the database with the state directory, and chooses the home's id.
func (c *claim) checkState() error {
	proven := c.database != "" && c.database == c.state.ID
	switch {
	case c.database != "" && c.state.ID != "" && !proven:
		return lostDatabase(c.layout, len(c.dirs), "the database %s belongs to another home (id %s) than its directory %s (id %s)",
			c.layout.Database(), c.database, c.layout.State, c.state.ID)
	case proven && len(c.dirs) > 0 && c.starts < c.state.Starts:
		return lostDatabase(c.layout, len(c.dirs), "the database %s is older than the VMs: it knows %d starts of the daemon, and there were %d",
			c.layout.Database(), c.starts, c.state.Starts).
			WithHint("Bring the records up to date from what lies beside the disks: banger daemon recover")
	case !proven && len(c.dirs) > 0 && len(c.unknown) == len(c.dirs):
		return lostDatabase(c.layout, len(c.dirs), "the database %s knows none of the VMs in %s", c.layout.Database(), c.layout.VMs())
	}
	c.id = c.database
	if c.id == "" {
		c.id = c.state.ID
	}
	original := c.original()
	if c.id == "" || original.copied(c.layout.State) && original.alive(original.Root) {
		if i := slices.IndexFunc(c.records, func(v model.VM) bool { return v.State.Live() }); c.id != "" && i >= 0 {
			return fault.New(fault.WrongState, "the state directory %s is a copy of %s with the running VM %q: the machine belongs to the original",
				c.layout.State, original.Root, c.records[i].Spec.Name).
				WithHint("Stop all VMs of the original and its daemon, and copy the directory again.")
		}
		c.id = model.NewID()
	}
	return nil
}

// original is the mark of the state directory that this one may be a copy of. A copy without its
// mark has what the database knows.
func (c *claim) original() mark {
	if c.state.ID == "" && filepath.IsAbs(c.stateWas) {
		return mark{ID: c.database, Root: c.stateWas}
	}
	return c.state
}

// checkCache adopts a cache that was copied, or whose home is gone: a cache holds no machines.
func (c *claim) checkCache() error {
	if c.ours(c.cache) || c.cache.copied(c.layout.Cache) || !c.cache.alive(c.cache.State) {
		return nil
	}
	return c.foreign("cache", c.layout.Cache, c.cache).
		WithHint("Set BANGER_HOME or XDG_CACHE_HOME to another directory. If the other home is out of use: rm %s", paths.MarkIn(c.layout.Cache))
}

// checkRuntime adopts a runtime directory only if no machine of another home can be in it.
func (c *claim) checkRuntime(ctx context.Context) error {
	dir := c.layout.Runtime
	hint := func(e *fault.Error) error {
		return e.WithHint("Set BANGER_HOME or XDG_RUNTIME_DIR to another directory. If all VMs of the other home have ended: rm -r %s", dir)
	}
	switch {
	case c.ours(c.run):
		return nil
	case c.run.ID != "" && !c.run.copied(dir) && (c.run.alive(c.run.State) || len(c.runs) > 0):
		err := c.foreign("runtime", dir, c.run)
		if same(c.run.State, c.layout.State) {
			return err.WithHint("If you moved the state directory away, move it back. If you do not need it, and its VMs have ended: rm -r %s", dir)
		}
		return hint(err)
	case filepath.Dir(dir) == filepath.Dir(c.layout.State): // it is below the same BANGER_HOME
		return nil
	}
	for _, id := range c.runs {
		known := func(v model.VM) bool { return v.ID == id }
		if !slices.Contains(c.dirs, id) && !slices.ContainsFunc(c.records, known) {
			return hint(fault.New(fault.WrongState, "the runtime directory %s has the machine %s, which the state directory %s does not know: it may belong to another home",
				dir, id, c.layout.State))
		}
	}
	if conn, err := socket.Dial(ctx, c.layout.Socket()); err == nil {
		conn.Close()
		return hint(fault.New(fault.Locked, "another bangerd, which does not belong to the state directory %s, listens on %s", c.layout.State, c.layout.Socket()))
	}
	return nil
}

// checkPlace refuses a state directory that is missing beside machines of its home: somebody has
// moved it away. A new one would be in its way when it is moved back. One that a daemon has begun
// to make anew, as it ended, is missing, too.
func checkPlace(ctx context.Context, layout paths.Layout) error {
	for _, file := range []string{paths.MarkIn(layout.State), layout.Database()} {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	c := &claim{layout: layout}
	above, err := filepath.EvalSymlinks(filepath.Dir(layout.State))
	if err == nil { // the mark has a path without links
		c.layout.State = filepath.Join(above, filepath.Base(layout.State))
	}
	if c.run, err = readMark(layout.Runtime); err != nil || c.run.State != c.layout.State {
		return err
	}
	if c.dirs, err = machines(layout.VMs()); err != nil || len(c.dirs) > 0 {
		return err
	}
	if c.runs, err = machines(filepath.Join(layout.Runtime, "vms")); err != nil || len(c.runs) == 0 {
		return err
	}
	return c.checkRuntime(ctx)
}

// ours reports whether a mark names this home. A second state with the same id is another home.
func (c *claim) ours(m mark) bool {
	return m.ID == c.id && (same(m.State, c.layout.State) || !m.alive(m.State))
}

func (c *claim) foreign(what, dir string, m mark) *fault.Error {
	if same(m.State, c.layout.State) {
		return fault.New(fault.WrongState, "the %s directory %s belongs to another home (id %s), whose state directory %s was lost or replaced",
			what, dir, m.ID, m.State)
	}
	return fault.New(fault.WrongState, "the %s directory %s belongs to another home, whose state directory is %s; this home's one is %s",
		what, dir, m.State, c.layout.State)
}

// mark stores the id. The order lets a claim that was cut off be repeated: without a mark, the
// state follows the database.
func (h *Held) mark(ctx context.Context, c *claim, db Records, keys Keys) error {
	if c.id != c.database {
		if c.state.ID != "" && c.state.ID != c.id {
			if err := os.Remove(paths.MarkIn(c.layout.State)); err != nil {
				return fmt.Errorf("renewing the home's id: %w", err)
			}
		}
		if err := db.SetMeta(ctx, keys.ID, c.id); err != nil {
			return err
		}
	}
	state, err := real(h.layout.State)
	if err != nil {
		return err
	}
	if state != c.stateWas {
		if err := db.SetMeta(ctx, keys.State, state); err != nil {
			return err
		}
	}
	h.id = c.id
	for _, root := range h.layout.Roots() {
		if err := h.markRoot(root); err != nil {
			return err
		}
	}
	return nil
}

func (h *Held) markRoot(root string) error {
	state, err := real(h.layout.State)
	if err != nil {
		return err
	}
	dir, err := real(root)
	if err != nil {
		return err
	}
	run, err := real(h.layout.Runtime)
	if err != nil {
		return err
	}
	m, err := readMark(root)
	if err != nil {
		return err
	}
	if root == h.layout.Runtime { // it counts what the state counts
		if m, err = readMark(h.layout.State); err != nil {
			return err
		}
	}
	return writeMark(root, mark{Starts: m.Starts, ID: h.id, Root: dir, State: state, Runtime: run})
}

// machines returns the ids of the machines that have a directory in dir.
func machines(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for VMs: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if (e.IsDir() || e.Type() == fs.ModeSymlink) && model.IsID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// lostDatabase is the error of a state directory whose database is missing, or is not its own.
func lostDatabase(layout paths.Layout, vms int, format string, args ...any) *fault.Error {
	return fault.New(fault.WrongState, "%s; directories of VMs in %s: %d; nothing was changed",
		fmt.Sprintf(format, args...), layout.VMs(), vms).
		WithHint("If the database was moved away, move it back to %s. An older one, such as a backup, does not do: "+
			"rebuild the records from what lies beside the disks: banger daemon recover", layout.Database())
}
