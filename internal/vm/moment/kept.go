package moment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/snapshot"
	"banger/internal/snapshot/library"
)

// suspension is what memory that a VM keeps beside its disks says of itself besides what it is.
type suspension struct {
	// Written is when each disk was last written to. Another time means another disk.
	Written map[string]int64 `json:"written"`
	// Lengths are those of the disks; earlier versions kept none.
	Lengths map[string]model.Bytes `json:"lengths,omitempty"`
	// Snapshot is the id of the stored snapshot that the memory was copied from. The VM has not
	// started from it yet. "" for memory of the VM's own machine.
	Snapshot string `json:"snapshot,omitempty"`
}

// commit makes a draft the memory that fits some disks.
func (s suspension) commit(ctx context.Context, draft *snapshot.Draft, meta snapshot.Meta, disks map[string]string) (err error) {
	if s.Written, err = machine.WriteTimes(disks); err != nil {
		return err
	}
	s.Lengths = machine.MeasureDisks(disks)
	if meta.Extra, err = json.Marshal(s); err != nil {
		return fmt.Errorf("describing the memory: %w", err)
	}
	meta.Seal = nil // a snapshot's is not of this description
	_, err = draft.Commit(ctx, meta)
	return err
}

// openKept opens the memory that a VM keeps beside its disks, if it fits these. Otherwise the error
// says what is wrong and what to do. It changes nothing.
func openKept(ctx context.Context, vm string, files paths.VM) (*snapshot.Snapshot, suspension, error) {
	snap, err := snapshot.Open(ctx, files.Suspended())
	if err != nil {
		return nil, suspension{}, unreadable(err, vm)
	}
	var then suspension
	if err := json.Unmarshal(snap.Meta().Extra, &then); err != nil {
		return nil, suspension{}, unreadable(fault.New(fault.Damaged, "its description has no disks: %w", err), vm)
	}
	_, err = then.check(vm, files)
	return snap, then, err
}

// unreadable is the refusal of memory that cannot be read.
func unreadable(err error, vm string) error {
	kind := fault.KindOf(snapshot.AsDamage(err))
	if kind != fault.Damaged && kind != fault.NotFound { // it may be whole
		return fault.New(kind, "reading its memory: %w", err)
	}
	how := "`banger vm kill %s` gives its memory up; its disks stay, and it can be started again"
	if kind == fault.NotFound {
		kind = fault.Damaged
		how = "Mount the disk that it is on, or put it back. If it is lost: " + how
	}
	return fault.New(kind, "reading its memory: %w", err).WithHint(how, vm)
}

// check fails if a disk is missing, or is another one than when the memory was saved: the guest
// would damage the files on it. changed says that all are there, and one was written to later. One
// with an earlier time is as good as missing.
func (s suspension) check(vm string, files paths.VM) (changed bool, err error) {
	var wrong, touches []string
	missing, earlier, later := false, false, false
	for _, name := range []string{machine.SystemDisk, machine.WorkDisk} {
		then, ok := s.Written[name]
		if !ok {
			continue
		}
		path := machine.DiskPaths(files)[name]
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			missing = true
			wrong = append(wrong, fmt.Sprintf("the %s disk %s is missing", name, path))
			continue
		}
		if err != nil {
			return false, fmt.Errorf("looking at the %s disk: %w", name, err)
		}
		at := time.Unix(0, then)
		earlier, later = earlier || info.ModTime().Before(at), later || info.ModTime().After(at)
		if had, ok := s.Lengths[name]; ok && model.Bytes(info.Size()) != had {
			wrong = append(wrong, fmt.Sprintf("the %s disk %s has %d bytes, and had %d", name, path, info.Size(), had))
		} else if !info.ModTime().Equal(at) {
			wrong = append(wrong, fmt.Sprintf("the %s disk %s was last written to at %s, not at %s", name, path, stamp(info.ModTime()), stamp(at)))
			touches = append(touches, fmt.Sprintf("touch -d %s '%s'", stamp(at), strings.ReplaceAll(path, "'", `'\''`)))
		}
	}
	if len(wrong) == 0 {
		return false, nil
	}
	hint := "Put the disk of that time back"
	if missing {
		hint += ", or mount the disk that it is on"
	}
	if len(touches) == len(wrong) {
		hint += ". If nothing has written to it since, and only a copy has changed its time: " + strings.Join(touches, " && ")
	}
	return later && !missing && !earlier, fault.New(fault.Damaged, "its memory does not fit its disks: %s", strings.Join(wrong, "; ")).
		WithHint("%s. Otherwise `banger vm kill %s` gives its memory up, and its next start boots from the disks as they are", hint, vm)
}

// stamp is a time for a person, and for touch.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// CheckKept fails if a VM cannot start from the memory that it keeps beside its disks.
func CheckKept(ctx context.Context, vm string, files paths.VM) error {
	_, _, err := openKept(ctx, vm, files)
	return err
}

// SavedAt is the moment that the memory beside a VM's disks keeps; nil if there is none, or nobody
// can tell.
func SavedAt(files paths.VM) *time.Time {
	if !disk.MayExist(files.Suspended()) {
		return nil
	}
	meta, err := snapshot.ReadMeta(files.Suspended())
	if err != nil {
		return nil
	}
	return &meta.Created
}

// HasRun reports whether a VMM may have run from the memory beside a VM's disks, by the record of
// its last run. Only then its guest may have written to them.
func HasRun(v model.VM, files paths.VM) bool {
	if v.Runtime == nil || len(v.Runtime.State) == 0 || v.Runtime.Memory == nil {
		return false
	}
	at := SavedAt(files)
	return at != nil && at.Equal(*v.Runtime.Memory)
}

// Serves reports whether a VM can still start from its memory, after a run from it has ended that
// was not recorded as running: not once its guest has written to a disk. If the memory was copied
// from a snapshot, the disks become the snapshot's again. An error means that nobody can tell now.
func Serves(ctx context.Context, snapshots *library.Library, v model.VM, files paths.VM) (bool, error) {
	if !HasRun(v, files) {
		return true, nil
	}
	then, changed, err := compare(ctx, v, files)
	if changed && then.Snapshot != "" {
		return then.renew(ctx, snapshots, files)
	}
	if changed {
		return false, nil
	}
	return err == nil, err
}

// IsHistory reports whether a guest has run from the memory beside its disks, and has written to
// one since. If nobody can tell, it is not.
func IsHistory(ctx context.Context, v model.VM, files paths.VM) bool {
	if !HasRun(v, files) {
		return false
	}
	_, changed, _ := compare(ctx, v, files)
	return changed
}

// compare compares a VM's disks with its memory. An error means that nobody can tell now.
func compare(ctx context.Context, v model.VM, files paths.VM) (then suspension, changed bool, err error) {
	snap, err := snapshot.Open(ctx, files.Suspended())
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
		return then, false, nil // it is damaged: the next start says so
	}
	if err != nil {
		return then, false, err
	}
	if json.Unmarshal(snap.Meta().Extra, &then) != nil {
		return then, false, nil // likewise
	}
	changed, err = then.check(v.Spec.Name, files)
	return then, changed, err
}

// renew makes disks fit the memory again that a guest has written to: copies of the snapshot's. The
// times of the disks are set last, so a call that was cut off is repeated.
func (s suspension) renew(ctx context.Context, snapshots *library.Library, files paths.VM) (bool, error) {
	disks := model.Restore{DisksOnly: true}
	stored, snap, err := snapshots.OpenFor(ctx, s.Snapshot, disks)
	if err == nil {
		err = library.Verify(ctx, stored, snap, disks)
	}
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Damaged {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for name, from := range machine.SavedDisks(snap) {
		to := machine.DiskPaths(files)[name]
		if err := disk.Clone(ctx, from, to); err != nil {
			return false, err
		}
		if err := os.Chtimes(to, time.Time{}, time.Unix(0, s.Written[name])); err != nil {
			return false, err
		}
	}
	return true, nil
}
