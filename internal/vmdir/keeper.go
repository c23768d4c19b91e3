package vmdir

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/model"
	"banger/internal/paths"
)

// Store keeps records: see record.Store.
type Store interface {
	PutVM(ctx context.Context, v model.VM) error
	VMs(ctx context.Context) ([]model.VM, error)
	DeleteVM(ctx context.Context, id string) error
}

// delay is the time from a change to what need not be done at once: writing where a running machine
// is, and syncing copies. So a burst of starts does not wait for the disk.
const delay = 2 * time.Second

// retryAfter is the time until a copy is written again that could not be.
const retryAfter = 30 * time.Second

// Keeper is a Store that also keeps the copies of the records. A copy that cannot be written is
// logged and fails nothing: the record is in the database, and Keeper tries again. It is safe for
// concurrent use; calls for one VM must not overlap.
type Keeper struct {
	// Current fails if the state directory is no longer the one of the store. Copies there belong
	// to the home that somebody has put back, and stay as they are. It may be nil.
	Current func() error

	store  Store
	layout paths.Layout
	log    *slog.Logger

	mu      sync.Mutex          // held while a copy is written, but not while one is synced
	written map[string]sums     // by id; of the copies that are known to be right
	pending map[string]model.VM // records whose copies are written later
	dirty   map[string]model.VM // records whose copies are not synced
	doomed  map[string]bool     // ids whose deletion is noted: see doom
	removed map[string]bool     // ids whose copies were, or may have been, removed
	timer   *time.Timer         // nil if nothing is pending or dirty
	closed  bool
	working sync.WaitGroup
}

// sums stand for what a copy holds.
type sums struct{ lasting, all [sha256.Size]byte }

// Keep returns a Keeper over a store.
func Keep(store Store, layout paths.Layout, log *slog.Logger) *Keeper {
	return &Keeper{
		store: store, layout: layout, log: log,
		written: map[string]sums{}, pending: map[string]model.VM{}, dirty: map[string]model.VM{}, doomed: map[string]bool{}, removed: map[string]bool{},
	}
}

// PutVM stores a record, and its copy if what the copy holds has changed.
func (k *Keeper) PutVM(ctx context.Context, v model.VM) error {
	err := k.store.PutVM(ctx, v)
	if v.State == model.Deleting {
		if err != nil {
			k.doom(ctx, v.ID)
		}
		k.remove(ctx, v.ID) // half a VM must not be rebuilt
		return err
	}
	if err == nil {
		k.spare(ctx, v.ID)
	}
	if err == nil && isKept(v) {
		k.keep(ctx, v)
	}
	return err
}

// VMs returns all records, and brings their copies up to date. A VM whose deletion could not be
// recorded is being deleted.
func (k *Keeper) VMs(ctx context.Context) ([]model.VM, error) {
	vms, err := k.store.VMs(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.findDoomed(); err != nil {
		return nil, err
	}
	k.spareUnknown(ctx, vms)
	for i, v := range vms {
		if err := removeUnfinished(k.layout.VM(v.ID)); err != nil {
			k.log.WarnContext(ctx, "looking after the copies of records", "vm", v.ID, "error", err)
		}
		if k.isDoomed(v.ID) {
			vms[i].State = model.Deleting
		}
		if vms[i].State == model.Deleting {
			k.noteRemoved(v.ID)
			continue
		}
		if !isKept(v) {
			continue
		}
		if c, err := Read(k.layout.VM(v.ID), v.ID); err == nil {
			k.know(v.ID, sumsOf(c))
		}
		k.keep(ctx, v)
	}
	return vms, nil
}

// DeleteVM deletes a record. Its copy has gone with the VM's directory. That must last first: a
// copy without a record proves that the database is older.
func (k *Keeper) DeleteVM(ctx context.Context, id string) error {
	k.mu.Lock()
	removed := k.removed[id]
	k.mu.Unlock()
	if removed {
		if err := disk.SyncDir(k.layout.VMs()); err != nil {
			k.log.WarnContext(ctx, "syncing the end of a VM's directory", "vm", id, "error", err)
		}
	}
	if err := k.store.DeleteVM(ctx, id); err != nil {
		return err
	}
	k.forget(id)
	k.mu.Lock()
	delete(k.removed, id)
	k.mu.Unlock()
	k.spare(ctx, id)
	return nil
}

// Close writes and syncs what is left.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closed = true
	k.endTimerLocked()
	k.mu.Unlock()
	k.working.Wait()
	return k.catchUp()
}

// keep writes the copy of a record, now or later, if it has changed.
func (k *Keeper) keep(ctx context.Context, v model.VM) {
	now := sumsOf(copyOf(v))
	k.mu.Lock()
	defer k.mu.Unlock()
	known, ok := k.written[v.ID]
	delete(k.pending, v.ID)
	switch {
	case !ok || known.lasting != now.lasting:
		k.writeLocked(ctx, v, now)
	case known.all != now.all:
		k.pending[v.ID] = v
		k.laterLocked(delay)
	}
}

func (k *Keeper) writeLocked(ctx context.Context, v model.VM, now sums) {
	delete(k.written, v.ID)
	if !k.isCurrent() {
		return
	}
	c := copyOf(v)
	c.Written, c.Revision = time.Now().UTC(), v.Revision
	if err := write(k.layout.VM(v.ID), c); err != nil {
		k.log.WarnContext(ctx, "keeping a copy of a record", "vm", v.ID, "error", err)
		if !errors.Is(err, fs.ErrNotExist) { // there is a directory
			k.pending[v.ID] = v
			k.laterLocked(retryAfter)
		}
		return
	}
	k.written[v.ID] = now
	k.dirty[v.ID] = v
	k.laterLocked(delay)
}

func (k *Keeper) remove(ctx context.Context, id string) {
	k.forget(id)
	if !k.isCurrent() {
		return
	}
	err := os.Remove(k.layout.VM(id).Record())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.WarnContext(ctx, "removing the copy of a record", "vm", id, "error", err)
	}
	if err == nil {
		k.noteRemoved(id)
	}
}

func (k *Keeper) noteRemoved(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.removed[id] = true
}

func (k *Keeper) isCurrent() bool { return k.Current == nil || k.Current() == nil }

// sumsOf leaves out the time and the revision of a copy: they alone are not worth a write.
func sumsOf(c Copy) sums {
	return sums{sumOf(lasting(c.VM)), sumOf(c.VM)}
}

func sumOf(v model.VM) [sha256.Size]byte {
	data, err := json.Marshal(v)
	if err != nil { // write reports it
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(data)
}

func (k *Keeper) know(id string, s sums) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written[id] = s
}

func (k *Keeper) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.written, id)
	delete(k.pending, id)
	delete(k.dirty, id)
}

func (k *Keeper) laterLocked(after time.Duration) {
	if k.timer != nil || k.closed {
		return
	}
	k.working.Add(1)
	k.timer = time.AfterFunc(after, func() {
		defer k.working.Done()
		if err := k.catchUp(); err != nil {
			k.log.Warn("keeping copies of records", "error", err)
		}
	})
}

func (k *Keeper) endTimerLocked() {
	if k.timer != nil && k.timer.Stop() {
		k.working.Done()
	}
	k.timer = nil
}

// catchUp writes the pending copies, and syncs all copies that are not synced. What fails is
// pending again.
func (k *Keeper) catchUp() error {
	k.mu.Lock()
	k.endTimerLocked()
	pending := k.pending
	k.pending = map[string]model.VM{}
	for _, v := range pending {
		k.writeLocked(context.Background(), v, sumsOf(copyOf(v)))
	}
	dirty := k.dirty
	k.dirty = map[string]model.VM{}
	k.mu.Unlock()
	var errs []error
	for _, v := range dirty {
		if err := syncCopy(k.layout.VM(v.ID)); err != nil {
			errs = append(errs, err)
			k.writeAgain(v)
		}
	}
	return errors.Join(errs...)
}

// writeAgain has a copy written again that could not be synced: a second sync would report success.
// It does nothing if the VM is gone or has a newer copy.
func (k *Keeper) writeAgain(v model.VM) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known, ok := k.written[v.ID]; !ok || known != sumsOf(copyOf(v)) {
		return
	}
	delete(k.written, v.ID)
	if _, newer := k.pending[v.ID]; !newer {
		k.pending[v.ID] = v
	}
	k.laterLocked(retryAfter)
}
