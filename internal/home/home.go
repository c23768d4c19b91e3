// Package home keeps the directories of one home together and the directories of two homes apart.
//
// A home is a set of roots: state, cache and runtime directory. With XDG variables, two homes can
// share one root by accident. The other home's machines would then look like orphans.
//
// A home has a random id. The database holds it, and each root has a mark: a small file with the
// id, the root's own path, and the path of the home's state. Claim compares them before the daemon
// touches anything. The paths tell a copied root from one that is shared, and name the other home.
//
// A daemon holds a lock in each root while it runs. The kernel releases the locks when the process
// ends for any reason. Lock order: state, cache, runtime.
//
// The database and the state's mark count the daemon's starts. A database that knows fewer starts
// than the mark is an older one that somebody put back. Its records no longer fit what lies beside
// the disks, so Claim refuses it. Each backup is made before its start is counted, so Claim refuses
// a backup, too. A database that was copied while this daemon ran has the right count: package
// vmdir compares the records with the copies beside the disks.
//
// The mark of the runtime directory counts, too. If it counts more than the state's mark, all of
// the state is an older one. That is refused while machines run: see Held.CheckState.
package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"banger/internal/fault"
	"banger/internal/paths"
	"banger/internal/regular"
)

// Held holds the locks of all roots of a home. It is safe for concurrent use.
type Held struct {
	layout paths.Layout
	mu     sync.Mutex
	locks  []*lock
	state  *os.Root // the state directory; open, so that no new one gets its inode
	id     string   // after Claim
}

// Acquire makes missing roots, and takes the locks of all. If another daemon holds one and is not
// stopping, the error is of kind fault.Locked.
func Acquire(ctx context.Context, layout paths.Layout) (_ *Held, err error) {
	if err := errors.Join(CheckOwners(layout), checkPlace(ctx, layout)); err != nil {
		return nil, err
	}
	for _, root := range []struct{ name, dir string }{{"state", layout.State}, {"cache", layout.Cache}} {
		if err := os.MkdirAll(root.dir, 0o700); err != nil {
			return nil, Unusable(fault.Denied, fmt.Errorf("making the %s directory: %w", root.name, err))
		}
	}
	h := &Held{layout: layout}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Release())
		}
	}()
	if err := h.acquire(ctx, layout.State); err != nil {
		return nil, err
	}
	if err := h.acquire(ctx, layout.Cache); err != nil {
		return nil, err
	}
	if h.layout.Runtime, err = runtimeInUse(layout); err != nil {
		return nil, err
	}
	if err := PrivateDir(h.layout.Runtime); err != nil {
		return nil, err
	}
	if err := h.acquire(ctx, h.layout.Runtime); err != nil {
		return nil, err
	}
	if h.state, err = os.OpenRoot(layout.State); err != nil {
		return nil, Unusable(fault.Denied, fmt.Errorf("opening the state directory: %w", err))
	}
	return h, nil
}

func (h *Held) acquire(ctx context.Context, root string) error {
	l, err := acquire(ctx, root)
	if err == nil {
		h.locks = append(h.locks, l)
	}
	return err
}

// Layout returns the home's directories. The runtime directory is the one that the home uses: with
// another XDG_RUNTIME_DIR than before, it is the earlier one as long as machines are in it.
func (h *Held) Layout() paths.Layout { return h.layout }

// Stopping notes in the lock files that the holder is about to end. A new daemon then waits for it.
func (h *Held) Stopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.locks {
		_ = l.say(stopping)
	}
}

// Release releases the locks, that of the state last, because others wait for it.
func (h *Held) Release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for i := len(h.locks) - 1; i >= 0; i-- {
		errs = append(errs, h.locks[i].release())
	}
	h.locks = nil
	if h.state != nil {
		errs = append(errs, h.state.Close())
		h.state = nil
	}
	return errors.Join(errs...)
}

// CheckCurrent fails if the state directory was removed, replaced or emptied since its lock was
// taken. What the daemon has open is then not what is there, and it must end. If nobody can look,
// nothing is wrong.
func (h *Held) CheckCurrent() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == nil {
		return nil
	}
	var why string
	held, heldErr := h.state.Stat(".")
	named, err := os.Stat(h.layout.State)
	lock, lockErr := os.Lstat(h.locks[0].f.Name())
	heldLock, heldLockErr := h.locks[0].f.Stat()
	_, databaseErr := os.Lstat(h.layout.Database())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "removed"
	case err == nil && heldErr == nil && !os.SameFile(named, held):
		why = "replaced"
	case errors.Is(lockErr, fs.ErrNotExist) && errors.Is(databaseErr, fs.ErrNotExist):
		why = "emptied"
	case lockErr == nil && heldLockErr == nil && !os.SameFile(lock, heldLock):
		why = "given another lock file"
	default:
		return nil
	}
	return fault.New(fault.WrongState, "the state directory %s was %s while the daemon runs", h.layout.State, why)
}

// KeepRuntime makes the runtime directory again if it was removed, and takes its lock. A socket may
// be made or removed in the directory only after this.
func (h *Held) KeepRuntime() error {
	if err := h.CheckCurrent(); err != nil { // somebody may be putting the home back
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := PrivateDir(h.layout.Runtime); err != nil {
		return err
	}
	last := len(h.locks) - 1
	if last < 0 {
		return errors.New("the locks of the home were released")
	}
	if h.locks[last].isCurrent() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killedGrace)
	defer cancel()
	l, err := acquire(ctx, h.layout.Runtime)
	if err != nil {
		return err
	}
	err = h.locks[last].release()
	h.locks[last] = l
	return errors.Join(err, h.markRoot(h.layout.Runtime))
}

// CheckDatabase refuses a home whose database is missing beside directories of VMs. A new database
// would know none of them, and it would be in the way of the lost one.
func CheckDatabase(layout paths.Layout) error {
	f, err := regular.OpenFile(layout.Database(), os.O_RDWR, 0)
	if err == nil {
		info, err := f.Stat()
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("looking at the database: %w", err)
		}
		if info.Size() > 0 {
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return unusableDatabase(layout.Database(), err)
	}
	ids, err := machines(layout.VMs())
	if err != nil || len(ids) == 0 {
		return err
	}
	return lostDatabase(layout, len(ids), "the database %s is missing or empty", layout.Database())
}
