package rescue

import (
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/vmdir"
)

// site is a home with VMs and no daemon.
type site struct {
	t      *testing.T
	layout paths.Layout
}

func newHome(t *testing.T) *site {
	t.Helper()
	h := &site{t: t, layout: paths.At(t.TempDir())}
	if err := os.MkdirAll(h.layout.State, 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

func idOf(n byte) string { return strings.Repeat(string([]byte{'0', 'a' + n}), 8) }

func vmOf(n byte, name string) model.VM {
	return model.VM{
		ID: idOf(n), State: model.Stopped, Created: time.Unix(int64(n)+1, 0).UTC(), DiskImage: "image",
		Spec: model.Spec{Name: name, VCPUs: 1, Memory: model.GiB, DiskSize: model.GiB, WorkDiskSize: model.GiB, Net: model.NetNone},
	}
}

// add makes a VM with a record, a copy of it and a work disk, as the daemon would.
func (h *site) add(vms ...model.VM) {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.layout.Database())
	if err != nil {
		h.t.Fatal(err)
	}
	k := vmdir.Keep(s, h.layout, slog.New(slog.DiscardHandler))
	for _, v := range vms {
		h.mkdir(v.ID)
		h.write(h.layout.VM(v.ID).WorkDisk(), "disk of "+v.Spec.Name)
		if err := k.PutVM(h.t.Context(), v); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := errors.Join(k.Close(), s.Close()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *site) mkdir(id string) {
	h.t.Helper()
	if err := os.MkdirAll(h.layout.VM(id).Dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
}

func (h *site) write(path, text string) {
	h.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *site) remove(path string) {
	h.t.Helper()
	if err := os.Remove(path); err != nil {
		h.t.Fatal(err)
	}
}

func (h *site) run(dryRun bool) model.Rescue {
	h.t.Helper()
	r, err := Run(h.t.Context(), h.layout, dryRun)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// records returns the records in the database by id; nil without a database.
func (h *site) records() map[string]model.VM {
	h.t.Helper()
	found, err := store.Inspect(h.t.Context(), h.layout.Database(), h.t.TempDir())
	if err != nil {
		return nil
	}
	if len(found.Unreadable) > 0 {
		h.t.Errorf("unreadable records: %v", found.Unreadable)
	}
	records := map[string]model.VM{}
	for _, v := range found.VMs {
		records[v.ID] = v
	}
	return records
}

// files lists everything in the state directory.
func (h *site) files() []string {
	h.t.Helper()
	var files []string
	err := filepath.WalkDir(h.layout.State, func(path string, _ fs.DirEntry, err error) error {
		files = append(files, path)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return files
}

func outcomes(r model.Rescue) []string {
	var all []string
	for _, v := range r.VMs {
		all = append(all, strings.TrimSpace(v.ID[1:2]+" "+string(v.Outcome)+" "+v.Name))
	}
	return all
}

func (h *site) want(r model.Rescue, state model.DatabaseState, kept int, want ...string) {
	h.t.Helper()
	if r.Database != state {
		h.t.Errorf("the database counts as %s, want %s", r.Database, state)
	}
	if r.Kept != kept {
		h.t.Errorf("%d records were kept, want %d", r.Kept, kept)
	}
	if got := outcomes(r); !slices.Equal(got, want) {
		h.t.Errorf("outcomes %q, want %q", got, want)
	}
}

func TestLostDatabaseIsRebuilt(t *testing.T) {
	h := newHome(t)
	started := time.Unix(77, 0).UTC()
	one := vmOf(0, "one")
	one.Started, one.Spec.Labels = &started, map[string]string{"team": "blue"}
	h.add(one, vmOf(1, "two"))
	h.remove(h.layout.VM(idOf(1)).WorkDisk()) // it was never started
	h.remove(h.layout.Database())

	before := h.files()
	h.want(h.run(true), model.DatabaseMissing, 0, "a rebuilt one", "b rebuilt two")
	if after := h.files(); !slices.Equal(before, after) {
		t.Errorf("a dry run has changed files from\n%q to\n%q", before, after)
	}

	h.want(h.run(false), model.DatabaseMissing, 0, "a rebuilt one", "b rebuilt two")
	got := h.records()
	v := got[idOf(0)]
	if v.State != model.Stopped || v.DiskImage != "image" || v.Spec.Labels["team"] != "blue" || !v.Created.Equal(one.Created) {
		t.Errorf("the record of one is %+v", v)
	}
	if v.Fresh() {
		t.Error("one counts as never started: a failed start would remove its disks")
	}
	if !got[idOf(1)].Fresh() {
		t.Error("two counts as started")
	}
	info, err := os.Stat(h.layout.Database())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the database: %v, %v", info, err)
	}
	h.want(h.run(false), model.DatabaseWhole, 2)
}

// TestRunningVMsKeepTheirMachines rebuilds the records of a running VM, and of one whose copy is
// older than its saved memory.
func TestRunningVMsKeepTheirMachines(t *testing.T) {
	h := newHome(t)
	runs, suspended := vmOf(0, "runs"), vmOf(1, "suspended")
	for _, v := range []*model.VM{&runs, &suspended} {
		started := time.Unix(77, 0).UTC()
		v.State, v.Started = model.Running, &started
		v.Runtime = &model.Runtime{Driver: "qemu", State: []byte("where it is"), Prepared: []string{"net"}}
	}
	h.add(runs, suspended)
	if err := os.Mkdir(h.layout.VM(idOf(1)).Suspended(), 0o700); err != nil {
		t.Fatal(err)
	}
	h.remove(h.layout.Database())
	h.want(h.run(false), model.DatabaseMissing, 0, "a rebuilt runs", "b rebuilt suspended")
	got := h.records()
	v := got[idOf(0)]
	if v.State != model.Running || !reflect.DeepEqual(v.Runtime, runs.Runtime) || !v.Started.Equal(*runs.Started) {
		t.Errorf("the running VM's record is %+v, with %+v", v, v.Runtime)
	}
	if v := got[idOf(1)]; v.State != model.Starting || v.Runtime != nil {
		t.Errorf("the suspended VM's record is %+v, with %+v", v, v.Runtime)
	}
}

// TestDamagedDatabaseIsMovedAside also checks that nothing that was in the database is lost.
func TestDamagedDatabaseIsMovedAside(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "one"))
	const text = "not SQLite at all, and long enough to tell that it is none\n"
	h.write(h.layout.Database(), text)
	r := h.run(false)
	h.want(r, model.DatabaseDamaged, 0, "a rebuilt one")
	if data, err := os.ReadFile(filepath.Join(r.Aside, "banger.db")); err != nil || string(data) != text {
		t.Errorf("the damaged database: %q, %v", data, err)
	}
	if len(h.records()) != 1 {
		t.Errorf("the records are %v", h.records())
	}
}

// TestForeignDatabase puts the database of another home beside the VMs.
func TestForeignDatabase(t *testing.T) {
	h, other := newHome(t), newHome(t)
	h.mark("0123456789abcdef")
	h.add(vmOf(0, "one"))
	other.add(vmOf(1, "theirs"))
	other.setHome("f123456789abcdef")
	theirs := other.layout.Database()
	if err := os.Rename(theirs, h.layout.Database()); err != nil {
		t.Fatal(err)
	}
	r := h.run(false)
	h.want(r, model.DatabaseForeign, 0, "a rebuilt one")
	found, err := store.Inspect(t.Context(), h.layout.Database(), t.TempDir())
	if err != nil || found.Home != "0123456789abcdef" || len(found.VMs) != 1 {
		t.Errorf("the new database has %+v, %v", found, err)
	}
	if old, err := store.Inspect(t.Context(), filepath.Join(r.Aside, "banger.db"), t.TempDir()); err != nil || len(old.VMs) != 1 {
		t.Errorf("the foreign database has %+v, %v", old, err)
	}
}

// TestOlderDatabase has an old database in the place of the latest one. The copies beside the disks
// are newer, and the next start does not refuse the new database.
func TestOlderDatabase(t *testing.T) {
	h := newHome(t)
	h.mark("0123456789abcdef")
	h.add(vmOf(0, "one"), vmOf(1, "bare"))
	h.remove(h.layout.VM(idOf(1)).Record())
	h.setHome("0123456789abcdef")
	h.write(paths.MarkIn(h.layout.State), h.read(paths.MarkIn(h.layout.State))+"starts 3\n")
	h.want(h.run(false), model.DatabaseOlder, 0, "a rebuilt one", "b restored bare")
	found, err := store.Inspect(t.Context(), h.layout.Database(), t.TempDir())
	if err != nil || found.Starts != "3" || len(found.VMs) != 2 {
		t.Errorf("the new database has %+v, %v", found, err)
	}
	h.want(h.run(true), model.DatabaseWhole, 2)
}

// TestDatabaseOfTheSameStart has a database in place that was copied while the daemon ran: it knows
// all starts, but records are older than their copies.
func TestDatabaseOfTheSameStart(t *testing.T) {
	h := newHome(t)
	one, two := vmOf(0, "one"), vmOf(1, "two")
	h.add(one, two)
	older := h.read(h.layout.Database())
	one.Revision, one.DiskImage = 5, "newer"
	h.add(one)
	h.write(h.layout.Database(), older)
	r := h.run(false)
	h.want(r, model.DatabaseOlder, 0, "a rebuilt one", "b rebuilt two")
	if r.Aside == "" {
		t.Error("the older database was not kept")
	}
	if v := h.records()[idOf(0)]; v.DiskImage != "newer" || v.Revision != 5 {
		t.Errorf("the record is %+v", v)
	}
	h.want(h.run(true), model.DatabaseWhole, 2)
}

// TestDisksOutrankRecords restores records from a backup that is older than the first start of
// their VMs, and one of a VM whose directory is among the lost ones.
func TestDisksOutrankRecords(t *testing.T) {
	h := newHome(t)
	fresh := func(n byte, name string) model.VM {
		v := vmOf(n, name)
		v.DiskImage, v.Spec.ImageID = "", "image"
		return v
	}
	h.add(fresh(0, "used"), fresh(1, "unused"), fresh(2, "bare"), fresh(3, "away"))
	h.backUp()
	h.remove(h.layout.Database())
	for n := range byte(4) {
		h.write(h.layout.VM(idOf(n)).SystemDisk(), "system")
		h.remove(h.layout.VM(idOf(n)).Record())
	}
	for _, path := range []string{h.layout.VM(idOf(2)).SystemDisk(), h.layout.VM(idOf(2)).WorkDisk()} {
		h.remove(path)
	}
	if err := vmdir.MarkUnused(h.layout.VM(idOf(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := vmdir.Lose(h.layout, idOf(3)); err != nil {
		t.Fatal(err)
	}
	h.want(h.run(false), model.DatabaseMissing, 0, "a restored used", "b restored unused", "c restored bare", "d restored away")
	got := h.records()
	for n, used := range []bool{true, false, false, true} {
		v := got[idOf(byte(n))]
		image, disks := "", 0
		if used {
			image, disks = "image", 2
		}
		if v.Fresh() == used {
			t.Errorf("%s counts as used: %v", v.Spec.Name, !v.Fresh())
		}
		if v.DiskImage != image {
			t.Errorf("the system disk of %s has image %q, want %q", v.Spec.Name, v.DiskImage, image)
		}
		if len(v.Disks) != disks {
			t.Errorf("%s has the disks %v, want %d", v.Spec.Name, v.Disks, disks)
		}
	}
}

func (h *site) read(path string) string {
	h.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func (h *site) mark(id string) {
	h.t.Helper()
	h.write(paths.MarkIn(h.layout.State), "id "+id+"\nroot "+h.layout.State+"\nstate "+h.layout.State+"\n")
}

func (h *site) setHome(id string) {
	h.t.Helper()
	s, err := store.Open(h.t.Context(), h.layout.Database())
	if err == nil {
		err = errors.Join(s.SetMeta(h.t.Context(), store.HomeKey, id), s.Close())
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// TestDamagedRecord damages one record of two. The other one stays as it is.
func TestDamagedRecord(t *testing.T) {
	h := newHome(t)
	one := vmOf(0, "one")
	one.State, one.Runtime = model.Running, &model.Runtime{Driver: "qemu", State: []byte("x")}
	h.add(one, vmOf(1, "two"), vmOf(2, "three"))
	db, err := sql.Open("sqlite", h.layout.Database())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE vms SET doc = '{' WHERE name != 'one'"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	h.remove(h.layout.VM(idOf(2)).Record())
	r := h.run(false)
	h.want(r, model.DatabaseDamaged, 1, "b rebuilt two", "c lost")
	if got := h.records(); len(got) != 2 || got[idOf(0)].State != model.Running || got[idOf(0)].Runtime == nil {
		t.Errorf("the records are %+v", got)
	}
	if _, err := os.Stat(filepath.Join(r.VMs[1].Dir, "work.ext4")); err != nil {
		t.Errorf("the disk of the VM without a record: %v", err)
	}
}

func TestWhatNeedsCare(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "same"))
	h.remove(h.layout.Database())
	h.add(vmOf(1, "same"), vmOf(2, "torn"), vmOf(3, "away"), vmOf(4, "asleep"), vmOf(5, "left"))
	h.remove(h.layout.Database())
	h.write(h.layout.VM(idOf(2)).Record(), "{")
	if _, err := vmdir.Lose(h.layout, idOf(3)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(h.layout.VM(idOf(4)).Suspended(), 0o700); err != nil {
		t.Fatal(err)
	}
	h.remove(h.layout.VM(idOf(5)).Record()) // of an older banger, or of a standby machine
	h.mkdir(idOf(6))                        // of an interrupted create

	r := h.run(false)
	h.want(r, model.DatabaseMissing, 0,
		"a rebuilt same", "b rebuilt same-2", "c damaged", "d rebuilt away", "e rebuilt asleep", "f lost")
	if r.VMs[1].Was != "same" {
		t.Errorf("the former name is %q", r.VMs[1].Was)
	}
	got := h.records()
	for n, disk := range map[byte]string{0: "disk of same", 1: "disk of same", 3: "disk of away"} {
		if data, err := os.ReadFile(h.layout.VM(idOf(n)).WorkDisk()); err != nil || string(data) != disk {
			t.Errorf("the disk of %s: %q, %v", got[idOf(n)].Spec.Name, data, err)
		}
	}
	if data, err := os.ReadFile(h.layout.VM(idOf(2)).Record()); err != nil || string(data) != "{" {
		t.Errorf("the damaged copy was not left alone: %q, %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(r.VMs[5].Dir, "work.ext4")); err != nil || string(data) != "disk of left" {
		t.Errorf("the disk without a copy: %q, %v", data, err)
	}
	if s := got[idOf(4)].State; s != model.Starting {
		t.Errorf("a VM with saved memory is %s: the daemon would remove the memory", s)
	}
	if len(got) != 4 {
		t.Errorf("%d records, want 4", len(got))
	}
}

// TestBackupHelps rebuilds from a backup what has no whole copy. Newer copies count more.
func TestBackupHelps(t *testing.T) {
	h := newHome(t)
	running := vmOf(0, "torn")
	running.State, running.Runtime = model.Stopping, &model.Runtime{Driver: "qemu", State: []byte("x")}
	h.add(running, vmOf(1, "old"), vmOf(2, "vanished"), vmOf(3, "bare"))
	h.backUp()
	h.add(vmOf(1, "new"))
	h.remove(h.layout.Database())
	h.write(h.layout.VM(idOf(0)).Record(), "{")
	h.remove(h.layout.VM(idOf(3)).Record())
	if err := os.RemoveAll(h.layout.VM(idOf(2)).Dir); err != nil {
		t.Fatal(err)
	}
	newest := filepath.Join(h.layout.Backups(), "banger-9.db")
	h.write(newest, "a damaged backup, which is long enough for SQLite to notice\n")
	r := h.run(false)
	h.want(r, model.DatabaseMissing, 0, "a restored torn", "b rebuilt new", "c gone vanished", "d restored bare")
	if r.Backup == "" || r.Backup == newest {
		t.Errorf("the backup that was used is %q", r.Backup)
	}
	if v := h.records()[idOf(0)]; v.State != model.Stopped || v.Runtime != nil {
		t.Errorf("the record from the backup is %+v", v)
	}
}

// TestRecoveryWithoutATemporaryDirectory has no directory for temporary files, or no state
// directory that can be written.
func TestRecoveryWithoutATemporaryDirectory(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "one"))
	files := h.files()
	t.Setenv("TMPDIR", "/nonexistent")
	h.want(h.run(true), model.DatabaseWhole, 1)
	if got := h.files(); !slices.Equal(got, files) {
		t.Errorf("the state has %q, not %q", got, files)
	}
	t.Setenv("TMPDIR", t.TempDir())
	found, err := store.Inspect(t.Context(), h.layout.Database(), "/proc/self/fdinfo", os.TempDir())
	if err != nil || len(found.VMs) != 1 {
		t.Errorf("found %+v, %v", found, err)
	}
}

// TestBackupWithoutAMark loses the mark of the state with the database. The backup counts, and the
// new database has its id.
func TestBackupWithoutAMark(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "one"))
	h.setHome("0123456789abcdef")
	h.backUp()
	h.remove(h.layout.Database())
	h.remove(h.layout.VM(idOf(0)).Record())
	r := h.run(false)
	h.want(r, model.DatabaseMissing, 0, "a restored one")
	found, err := store.Inspect(t.Context(), h.layout.Database(), t.TempDir())
	if err != nil || found.Home != "0123456789abcdef" {
		t.Errorf("the new database has %+v, %v", found, err)
	}
}

func (h *site) backUp() {
	h.t.Helper()
	s, err := store.OpenWith(h.t.Context(), h.layout.Database(), store.Options{Backups: h.layout.Backups()})
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := s.Backup(h.t.Context(), time.Now()); err != nil {
		h.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		h.t.Fatal(err)
	}
}

// TestRecordIsAdded has a whole database that knows only one VM of two, as after a start with the
// wrong one.
func TestRecordIsAdded(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "one"))
	h.remove(h.layout.Database())
	h.add(vmOf(1, "two"))
	h.mkdir(idOf(2))
	h.write(h.layout.VM(idOf(2)).SystemDisk(), "") // without a copy
	h.mkdir(idOf(3))
	h.write(h.layout.VM(idOf(3)).SystemDisk(), "")
	if err := vmdir.MarkUnused(h.layout.VM(idOf(3))); err != nil {
		t.Fatal(err)
	}
	h.want(h.run(true), model.DatabaseWhole, 1, "a rebuilt one", "c lost")
	r := h.run(false)
	h.want(r, model.DatabaseWhole, 1, "a rebuilt one", "c lost")
	if got := h.records(); len(got) != 2 {
		t.Errorf("the records are %v", got)
	}
	for what, path := range map[string]string{
		"without a record": filepath.Join(r.VMs[1].Dir, "system.ext4"), "of a standby machine": h.layout.VM(idOf(3)).SystemDisk(),
	} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("the directory %s: %v", what, err)
		}
	}
}

// TestLostIsListed has lost directories beside a whole database. Each one of which no VM is known
// is listed, whoever has moved it there.
func TestLostIsListed(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "one"), vmOf(1, "two"))
	h.mkdir(idOf(2))
	var moved []string
	for _, n := range []byte{0, 2} { // the first one has a record and another directory
		to, err := vmdir.Lose(h.layout, idOf(n))
		if err != nil {
			t.Fatal(err)
		}
		moved = append(moved, to)
	}
	h.mkdir(idOf(0))
	for _, dryRun := range []bool{true, false} {
		r := h.run(dryRun)
		h.want(r, model.DatabaseWhole, 2, "c lost")
		if len(r.NotBack()) != 1 || len(r.VMs) == 1 && r.VMs[0].Dir != moved[1] {
			t.Errorf("the lost VMs are %v: %+v", r.NotBack(), r.VMs)
		}
	}
}

// TestRunAgainAfterAnInterruption leaves what a recovery has before its last step.
func TestRunAgainAfterAnInterruption(t *testing.T) {
	h := newHome(t)
	h.add(vmOf(0, "one"))
	h.remove(h.layout.Database())
	if err := os.Mkdir(filepath.Join(h.layout.State, tempName+"1"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.want(h.run(false), model.DatabaseMissing, 0, "a rebuilt one")
	for _, file := range h.files() {
		if strings.Contains(file, tempName) {
			t.Errorf("%s is left", file)
		}
	}
}

func TestNamesHaveRoom(t *testing.T) {
	long := strings.Repeat("a", 63)
	p := plan{taken: map[string]bool{long: true}}
	for range 12 {
		name := p.freeName(long)
		if err := model.CheckName(name); err != nil || p.taken[name] {
			t.Errorf("%q: %v, taken: %v", name, err, p.taken[name])
		}
		p.taken[name] = true
	}
}

// TestMemoryOfARestore checks that memory beside the disks is not taken for that of the record
// while a restore is not complete: the daemon completes it.
func TestMemoryOfARestore(t *testing.T) {
	h := newHome(t)
	for _, restoring := range [][]string{nil, {"memory", "system"}} {
		v := vmOf(1, "a")
		v.State, v.Restoring = model.Suspended, restoring
		files := h.layout.VM(v.ID)
		if err := os.MkdirAll(files.Suspended(), 0o700); err != nil {
			t.Fatal(err)
		}
		want := map[bool]model.State{true: model.Stopped, false: model.Starting}[restoring != nil]
		if got := settled(v, files, v.Created).State; got != want {
			t.Errorf("a VM with memory that is restoring %q is %s, not %s", restoring, got, want)
		}
	}
}
