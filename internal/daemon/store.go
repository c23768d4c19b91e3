package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/vmdir"
)

// topUp is how often the daemon looks whether there is room for the database's reserve again.
const topUp = 30 * time.Second

func openStore(ctx context.Context, layout paths.Layout, held *home.Held) (*store.Store, error) {
	return store.OpenWith(ctx, layout.Database(), store.Options{
		Backups: layout.Backups(), Reserve: layout.Reserve(),
		Check: func(ctx context.Context, s *store.Store) error { return checkCurrent(ctx, s, layout, held.Check) },
	})
}

// checkCurrent refuses a database that is older than the VMs, or of another home. It also reads a
// database whose schema is to be updated.
func checkCurrent(
	ctx context.Context, s *store.Store, layout paths.Layout, check func(context.Context, home.Records, home.Keys) error,
) error {
	if err := check(ctx, s, homeKeys); err != nil {
		return err
	}
	records, err := s.VMs(ctx)
	if err != nil {
		return err
	}
	for i := range records { // an older schema counts no revisions; the update begins with 1
		records[i].Revision = max(records[i].Revision, 1)
	}
	return vmdir.CheckCurrent(layout, records)
}

// secureRecords backs the database up, before this daemon changes a record, and keeps its reserve
// whole. Errors are logged: on a full disk, the daemon must start so that VMs can be deleted.
func (d *daemon) secureRecords(ctx context.Context) {
	began := time.Now()
	made, err := d.store.Backup(ctx, began)
	if err != nil {
		d.log.WarnContext(ctx, "backing up the records", "error", err)
	} else if made {
		d.log.InfoContext(ctx, "backed up the records", "took", time.Since(began))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { d.keepReserve(ctx) })
	d.endTopUp = func() {
		cancel()
		wg.Wait()
	}
}

// rootsEvery is how often the daemon looks whether its state directory is still there.
const rootsEvery = 2 * time.Second

// watchRoots ends the daemon if its state directory was removed or replaced: its database is not
// the one that is there, so it must store nothing more. VMs continue, and the next daemon finds
// them.
func (d *daemon) watchRoots(ctx context.Context, held *home.Held) {
	tick := time.NewTicker(rootsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := held.CheckCurrent(); err != nil {
			d.log.ErrorContext(ctx, "bangerd ends", "error", err)
			d.shutdown()
			return
		}
	}
}

// checkMachines refuses a new runtime directory beside machines that an earlier one had and that
// this home does not know: somebody has removed the home while they ran. Nobody else finds them.
func checkMachines(layout paths.Layout) error {
	if id, err := home.ID(layout.Runtime); id != "" || err != nil {
		return err
	}
	machines, err := vmdir.Machines(layout)
	if err != nil {
		return err
	}
	for _, m := range machines {
		if !vmdir.IsMissing(layout.VM(m.ID)) {
			continue
		}
		return fault.New(fault.WrongState, "the machine %s (process %d) runs, and its files in %s and %s were removed", m.ID, m.PID, layout.State, layout.Runtime).
			WithHint("Nothing was ended. If you have the files, put them back. If you do not need the machine: kill %d. `banger doctor` lists all of them.", m.PID)
	}
	return nil
}

// checkPlace is checkMachines before anything is made: a new state directory would be in the way
// of the one that is put back.
func checkPlace(layout paths.Layout) error {
	if _, err := os.Lstat(layout.State); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return checkMachines(layout)
}

// keepReserve makes the reserve whole again whenever there is room for it, until ctx ends.
func (d *daemon) keepReserve(ctx context.Context) {
	tick := time.NewTicker(topUp)
	defer tick.Stop()
	for {
		if err := d.store.Replenish(); err != nil {
			d.log.WarnContext(ctx, "keeping space for records", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
