// Package rescue brings records back after the loss of the database, or of a part of it.
//
// Each VM's directory holds a copy of its record (package vmdir), and the daemon keeps backups of
// the database (package store). A plan is made from what is found, without changing anything; then
// it is carried out. Nothing is ever removed: a damaged database and directories that belong to no
// record are moved aside. The caller holds the home's lock.
package rescue

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/vmdir"
)

// plan is what there is to do.
type plan struct {
	layout paths.Layout
	home   string // the home's id; "" if it has none yet
	starts uint64 // how often a daemon has started
	result model.Rescue

	fresh   bool       // a new database replaces the present one
	records []model.VM // to be stored; in a new database these are all
	lost    []vmdir.LostDir
	back    map[string]string // id to the lost directory that becomes the VM's again
	lose    []string          // ids of directories that are moved to the lost ones

	present map[string]bool     // ids that have a record in the present database
	taken   map[string]bool     // names
	dirs    map[string]paths.VM // id to the VM's directory, wherever it is now
}

// makePlan looks at the home and changes nothing.
func makePlan(ctx context.Context, layout paths.Layout) (*plan, error) {
	p := &plan{
		layout: layout, back: map[string]string{},
		present: map[string]bool{}, taken: map[string]bool{}, dirs: map[string]paths.VM{},
	}
	var err error
	if p.home, err = home.ID(layout.State); err != nil {
		return nil, err
	}
	if p.starts, err = home.Starts(layout.State); err != nil {
		return nil, err
	}
	found, err := p.inspect(ctx)
	if err != nil {
		return nil, err
	}
	var outdated []model.VM
	if p.result.Database == model.DatabaseOlder { // it serves as a backup
		outdated, found.VMs = found.VMs, nil
	}
	for _, v := range found.VMs {
		p.keep(v)
	}
	old, err := p.backup(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range outdated {
		if b, ok := old[v.ID]; !ok || b.Revision < v.Revision {
			old[v.ID] = v
		}
	}
	if err := p.findDirs(old); err != nil {
		return nil, err
	}
	for _, id := range p.missing(old) {
		p.recover(id, old[id], slices.Contains(found.Unreadable, id))
	}
	p.listLost()
	return p, p.findMachines()
}

// listLost lists the lost directories of which no VM is known.
func (p *plan) listLost() {
	for _, l := range p.lost {
		isListed := func(r model.RescuedVM) bool { return r.ID == l.ID && (r.IsBack() || r.Dir == l.Dir) }
		if p.present[l.ID] || slices.ContainsFunc(p.result.VMs, isListed) {
			continue
		}
		p.result.VMs = append(p.result.VMs, model.RescuedVM{ID: l.ID, Outcome: model.Orphaned, Dir: l.Dir, Detail: unknown})
	}
}

// unknown is what there is to say of a lost directory.
const unknown = "nothing says which VM this was"

// findMachines notes which VMs run without their files: only their VMMs have what they write.
func (p *plan) findMachines() error {
	machines, err := vmdir.Machines(p.layout)
	for _, m := range machines {
		if len(m.Trouble) == 0 {
			continue
		}
		what := fmt.Sprintf("it runs (process %d): %s", m.PID, strings.Join(m.Trouble, "; "))
		i := slices.IndexFunc(p.result.VMs, func(r model.RescuedVM) bool { return r.ID == m.ID })
		if i < 0 {
			r := model.RescuedVM{ID: m.ID, Name: m.Name, Outcome: model.Replaced, Dir: p.layout.VM(m.ID).Dir, Detail: what}
			p.result.VMs = append(p.result.VMs, r)
		} else if r := &p.result.VMs[i]; r.Detail == "" {
			r.Detail = what
		} else {
			r.Detail += "; " + what
		}
	}
	return err
}

// inspect finds the present database's records.
func (p *plan) inspect(ctx context.Context) (store.Found, error) {
	found, err := store.Inspect(ctx, p.layout.Database(), p.room()...)
	switch fault.KindOf(err) {
	case "":
		p.result.Database = model.DatabaseWhole
		if found.Home != "" && p.home != "" && found.Home != p.home {
			p.result.Database, found = model.DatabaseForeign, store.Found{}
		} else if home.Older(found.Starts, p.starts) || len(vmdir.Older(p.layout, found.VMs)) > 0 {
			p.result.Database = model.DatabaseOlder
		} else if len(found.Unreadable) > 0 {
			p.result.Database = model.DatabaseDamaged
		}
	case fault.NotFound:
		p.result.Database = model.DatabaseMissing
	case fault.Damaged:
		p.result.Database, found = model.DatabaseDamaged, store.Found{}
	default:
		return found, err
	}
	p.fresh = p.result.Database != model.DatabaseWhole
	return found, nil
}

// room lists where copies of a database can be made. The temporary directory may be missing, and
// the state's disk may be full.
func (p *plan) room() []string { return []string{p.layout.State, os.TempDir()} }

// findDirs finds the directories of VMs. A lost one counts if its VM has no other, and if a copy or
// a record says which VM that is.
func (p *plan) findDirs(old map[string]model.VM) error {
	ids, err := vmdir.IDs(p.layout)
	if err != nil {
		return err
	}
	for _, id := range ids {
		p.dirs[id] = p.layout.VM(id)
	}
	if p.lost, err = vmdir.Lost(p.layout); err != nil {
		return err
	}
	for _, l := range p.lost {
		known := p.present[l.ID] || outlives(old[l.ID])
		if _, ok := p.dirs[l.ID]; !ok && (known || vmdir.HasCopy(l.Files())) {
			p.dirs[l.ID], p.back[l.ID] = l.Files(), l.Dir
		}
	}
	return nil
}

// keep takes over a record of the present database.
func (p *plan) keep(v model.VM) {
	p.present[v.ID], p.taken[v.Spec.Name] = true, true
	p.result.Kept++
	if p.fresh {
		p.records = append(p.records, v)
	}
}

// backup returns the records of the newest backup that is whole, if the database is not.
func (p *plan) backup(ctx context.Context) (map[string]model.VM, error) {
	records := map[string]model.VM{}
	if !p.fresh {
		return records, nil
	}
	backups, err := store.Backups(p.layout.Backups())
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Backward(backups) {
		found, err := store.Inspect(ctx, path, p.room()...)
		foreign := found.Home != "" && p.home != "" && found.Home != p.home
		if err != nil || len(found.Unreadable) > 0 || foreign {
			continue // an older one may be whole
		}
		if p.home == "" { // the state has lost its mark
			p.home = found.Home
		}
		p.result.Backup = path
		for _, v := range found.VMs {
			records[v.ID] = v
		}
		break
	}
	return records, nil
}

// missing lists the VMs without a record, those of a backup included.
func (p *plan) missing(old map[string]model.VM) []string {
	var ids []string
	for id := range p.dirs {
		ids = append(ids, id)
	}
	for id := range old {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return p.present[id] })
}

// recover plans for one VM without a record. old is its record in a backup, if it has one.
// hadRecord is whether the present database has a record of it that cannot be read.
func (p *plan) recover(id string, old model.VM, hadRecord bool) {
	r := model.RescuedVM{ID: id}
	files, ok := p.dirs[id]
	if !ok {
		if outlives(old) {
			r.Outcome, r.Name = model.Vanished, old.Spec.Name
			r.Detail = "only a backup has its record: it was deleted after the backup, or its directory was lost"
			p.result.VMs = append(p.result.VMs, r)
		}
		return
	}
	c, err := vmdir.Read(files, id)
	switch {
	case err == nil:
		r.Outcome = model.Rebuilt
		p.add(r, rebuilt(c, files))
	case outlives(old):
		r.Outcome = model.Restored
		if fault.KindOf(err) != fault.NotFound {
			r.Detail = err.Error()
		}
		p.add(r, settled(old, files, old.Created))
	case fault.KindOf(err) != fault.NotFound:
		r.Outcome, r.Dir, r.Detail = model.Unclear, files.Dir, err.Error()
		delete(p.back, id)
		p.result.VMs = append(p.result.VMs, r)
	case hadRecord, vmdir.IsUsers(files):
		r.Outcome, r.Dir, r.Detail = model.Orphaned, p.layout.Lost(), unknown
		p.lose = append(p.lose, id)
		p.result.VMs = append(p.result.VMs, r)
	}
}

// add plans a record, under another name if the name is taken.
func (p *plan) add(r model.RescuedVM, v model.VM) {
	r.Name, r.Dir = v.Spec.Name, p.layout.VM(v.ID).Dir
	if p.taken[v.Spec.Name] {
		r.Was = v.Spec.Name
		r.Name = p.freeName(v.Spec.Name)
	}
	v.Spec.Name = r.Name
	p.taken[r.Name] = true
	p.records = append(p.records, v)
	p.result.VMs = append(p.result.VMs, r)
}

// freeName returns a name like another one that no VM has.
func (p *plan) freeName(name string) string {
	const most = 58 // of 63 characters: the number has room
	if len(name) > most {
		name = name[:most]
	}
	for n := 2; ; n++ {
		if free := name + "-" + strconv.Itoa(n); !p.taken[free] {
			return free
		}
	}
}

// rebuilt is the record that a copy stands for.
func rebuilt(c vmdir.Copy, files paths.VM) model.VM {
	v := c.VM
	v.Revision = c.Revision
	if !c.Written.IsZero() {
		return settled(v, files, c.Written)
	}
	return settled(v, files, v.Created)
}

// settled is a record in a state that the daemon can recover from, however old it is. If the VM has
// a machine, the daemon adopts it. If saved memory is there, the state is that of an interrupted
// start: without a machine, the VM is suspended. written is the time of the record.
func settled(v model.VM, files paths.VM, written time.Time) model.VM {
	keepDisks(&v, files, written)
	v.LastError, v.Pending = nil, nil
	switch {
	case disk.MayExist(files.Suspended()) && len(v.Restoring) == 0: // otherwise it may be older
		v.State, v.Runtime, v.Network = model.Starting, nil, nil
	case !vmdir.IsUp(v):
		v.State, v.Runtime, v.Network = model.Stopped, nil, nil
	}
	return v
}

// keepDisks makes the record of a VM that has disks know of them: it may be older than the VM's
// first start.
func keepDisks(v *model.VM, files paths.VM, written time.Time) {
	if !vmdir.HasDisk(files) || vmdir.IsUnused(files) {
		return
	}
	if v.Started == nil {
		v.Started = &written
	}
	v.DiskImage = cmp.Or(v.DiskImage, v.Spec.ImageID)
	v.Disks = maps.Clone(v.Disks)
	for name, path := range map[string]string{"system": files.SystemDisk(), "work": files.WorkDisk()} {
		_, known := v.Disks[name]
		if info, err := os.Stat(path); err == nil && !known {
			if v.Disks == nil {
				v.Disks = map[string]model.Bytes{}
			}
			v.Disks[name] = model.Bytes(info.Size())
		}
	}
}

// outlives reports whether a record of a backup is that of a VM that was complete and was not to be
// removed.
func outlives(v model.VM) bool {
	return v.ID != "" && v.State != model.Creating && v.State != model.Deleting && v.Spec.Remove != model.RemoveOnDetach
}

// stamp names what is moved aside at a time.
func stamp(now time.Time) string { return now.UTC().Format("20060102T150405.000000000Z") }

// describe adds to an error what was under way.
func describe(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
