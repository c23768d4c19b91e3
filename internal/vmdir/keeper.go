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

	"banger/internal/model"
	"banger/internal/paths"
)

// Store keeps records: see vm.Store.
type Store interface {
	PutVM(ctx context.Context, v model.VM) error
	VMs(ctx context.Context) ([]model.VM, error)
	DeleteVM(ctx context.Context, id string) error
}

// syncDelay is the time from the writing of a copy to its sync, so that a burst of starts does not
// wait for the disk.
const syncDelay = 2 * time.Second

// Keeper is a Store that also keeps the copies of the records. A copy that cannot be written is
// logged and fails nothing: the record is in the database, and the next change tries again. It is
// safe for concurrent use; calls for one VM must not overlap.
type Keeper struct {
	store  Store
	layout paths.Layout
	log    *slog.Logger

	mu      sync.Mutex
	written map[string]sum  // by id; of the copies that are known to be right
	dirty   map[string]bool // ids whose copies are not synced
	doomed  map[string]bool // ids whose deletion is noted: see doom
	timer   *time.Timer     // nil if nothing is dirty
	closed  bool
	syncing sync.WaitGroup
}

type sum [sha256.Size]byte

// Keep returns a Keeper over a store.
func Keep(store Store, layout paths.Layout, log *slog.Logger) *Keeper {
	return &Keeper{store: store, layout: layout, log: log, written: map[string]sum{}, dirty: map[string]bool{}, doomed: map[string]bool{}}
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
		if k.isDoomed(v.ID) {
			vms[i].State = model.Deleting
			continue
		}
		if !isKept(v) {
			continue
		}
		if c, err := Read(k.layout.VM(v.ID), v.ID); err == nil {
			k.know(v.ID, sumOf(c))
		}
		k.keep(ctx, v)
	}
	return vms, nil
}

// DeleteVM deletes a record. Its copy has gone with the VM's directory.
func (k *Keeper) DeleteVM(ctx context.Context, id string) error {
	if err := k.store.DeleteVM(ctx, id); err != nil {
		return err
	}
	k.forget(id)
	k.spare(ctx, id)
	return nil
}

// Close syncs the copies that are not synced yet.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closed = true
	if k.timer != nil && k.timer.Stop() {
		k.syncing.Done()
	}
	k.mu.Unlock()
	k.syncing.Wait()
	return k.sync()
}

// keep writes the copy of a record if it has changed.
func (k *Keeper) keep(ctx context.Context, v model.VM) {
	c := copyOf(v)
	now := sumOf(c)
	if k.knows(v.ID, now) {
		return
	}
	k.forget(v.ID)
	c.Written = time.Now().UTC()
	if err := write(k.layout.VM(v.ID), c); err != nil {
		k.log.WarnContext(ctx, "keeping a copy of a record", "vm", v.ID, "error", err)
		return
	}
	k.know(v.ID, now)
	k.syncLater(v.ID)
}

func (k *Keeper) remove(ctx context.Context, id string) {
	k.forget(id)
	if err := os.Remove(k.layout.VM(id).Record()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.WarnContext(ctx, "removing the copy of a record", "vm", id, "error", err)
	}
}

// sumOf stands for what a copy holds, without its time.
func sumOf(c Copy) sum {
	c.Written = time.Time{}
	data, err := json.Marshal(c)
	if err != nil { // write reports it
		return sum{}
	}
	return sha256.Sum256(data)
}

func (k *Keeper) knows(id string, s sum) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	known, ok := k.written[id]
	return ok && known == s
}

func (k *Keeper) know(id string, s sum) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written[id] = s
}

func (k *Keeper) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.written, id)
	delete(k.dirty, id)
}

func (k *Keeper) syncLater(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirty[id] = true
	if k.timer != nil || k.closed {
		return
	}
	k.syncing.Add(1)
	k.timer = time.AfterFunc(syncDelay, func() {
		defer k.syncing.Done()
		if err := k.sync(); err != nil {
			k.log.Warn("keeping copies of records", "error", err)
		}
	})
}

// sync syncs the copies that were written since the last call.
func (k *Keeper) sync() error {
	k.mu.Lock()
	dirty := k.dirty
	k.dirty, k.timer = map[string]bool{}, nil
	k.mu.Unlock()
	var errs []error
	for id := range dirty {
		errs = append(errs, syncCopy(k.layout.VM(id)))
	}
	return errors.Join(errs...)
}
