package vmdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/model"
	"banger/internal/regular"
)

// doom notes that a VM is to be deleted, which its record could not. An empty file needs no block
// of a full disk. Without the note, a crash would bring the VM back without its directory.
func (k *Keeper) doom(ctx context.Context, id string) {
	if !k.isCurrent() {
		return
	}
	f, err := regular.OpenFile(k.layout.Doomed(id), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		k.log.WarnContext(ctx, "noting that a VM is to be deleted", "vm", id, "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doomed[id] = true
}

// spare removes the note: the record says what is true, or is gone.
func (k *Keeper) spare(ctx context.Context, id string) {
	if !k.isDoomed(id) || !k.isCurrent() {
		return
	}
	if err := os.Remove(k.layout.Doomed(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.WarnContext(ctx, "removing the note that a VM is to be deleted", "vm", id, "error", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.doomed, id)
}

func (k *Keeper) isDoomed(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.doomed[id]
}

// findDoomed finds the notes that an earlier daemon has left.
func (k *Keeper) findDoomed() error {
	entries, err := os.ReadDir(k.layout.VMs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for VMs that are to be deleted: %w", err)
	}
	suffix := filepath.Base(k.layout.Doomed(""))
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok && model.IsID(id) {
			k.doomed[id] = true
		}
	}
	return nil
}

// spareUnknown removes the notes of VMs that are gone.
func (k *Keeper) spareUnknown(ctx context.Context, vms []model.VM) {
	k.mu.Lock()
	unknown := slices.Collect(maps.Keys(k.doomed))
	k.mu.Unlock()
	for _, id := range unknown {
		if !slices.ContainsFunc(vms, func(v model.VM) bool { return v.ID == id }) {
			k.spare(ctx, id)
		}
	}
}
