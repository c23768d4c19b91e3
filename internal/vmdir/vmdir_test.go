package vmdir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

const id = "0123456789abcdef"

func record() model.VM {
	return model.VM{
		ID: id, State: model.Stopped, Created: time.Unix(1000, 0).UTC(), DiskImage: "image",
		Spec: model.Spec{
			Name: "one", VCPUs: 1, Memory: model.GiB, DiskSize: model.GiB, WorkDiskSize: model.GiB, Net: model.NetNone,
			Env: map[string]string{"A": "1"}, Labels: map[string]string{"team": "blue"},
		},
		Parent: &model.Parent{VM: "f123456789abcdef"},
		Facts:  map[string]model.Fact{"ssh": {Version: 1, Data: json.RawMessage(`{"a":1}`)}},
	}
}

// memory is a Store in memory.
type memory map[string]model.VM

func (m memory) PutVM(_ context.Context, v model.VM) error { m[v.ID] = v; return nil }

func (m memory) DeleteVM(_ context.Context, id string) error { delete(m, id); return nil }

func (m memory) VMs(context.Context) (vms []model.VM, err error) {
	for _, v := range m {
		vms = append(vms, v)
	}
	return vms, nil
}

func newKeeper(t *testing.T) (*Keeper, memory, paths.VM) {
	t.Helper()
	layout, m := paths.At(t.TempDir()), memory{}
	k := Keep(m, layout, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	files := layout.VM(id)
	if err := os.MkdirAll(files.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return k, m, files
}

func put(t *testing.T, k *Keeper, v model.VM) {
	t.Helper()
	if err := k.PutVM(t.Context(), v); err != nil {
		t.Fatal(err)
	}
}

func TestCopyHoldsWhatLasts(t *testing.T) {
	k, _, files := newKeeper(t)
	now := time.Now()
	v := record()
	v.State, v.Started, v.Runtime, v.Boot = model.Starting, &now, &model.Runtime{Driver: "qemu", State: []byte("x")}, &model.Boot{}
	put(t, k, v)
	c, err := Read(files, id)
	if err != nil {
		t.Fatal(err)
	}
	want := record()
	want.State = ""
	if !reflect.DeepEqual(c.VM, want) {
		t.Errorf("the copy is %+v, want %+v", c.VM, want)
	}
	if c.Written.IsZero() {
		t.Error("the copy has no time")
	}
	if info, err := os.Stat(files.Record()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: others can read the copy", info, err)
	}
}

func TestCopyIsWrittenOnlyWhenItChanges(t *testing.T) {
	k, m, files := newKeeper(t)
	v := record()
	put(t, k, v)
	before, err := os.Stat(files.Record())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, state := range []model.State{model.Starting, model.Running, model.Stopping, model.Stopped} {
		v.State, v.Started, v.LastError = state, &now, &model.Failure{Msg: string(state)}
		v.Revision++
		put(t, k, v)
	}
	if after, err := os.Stat(files.Record()); err != nil || !os.SameFile(before, after) {
		t.Errorf("a change of the state has written the copy: %v", err)
	}
	again := Keep(m, k.layout, k.log)
	if _, err := again.VMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(files.Record()); err != nil || !os.SameFile(before, after) {
		t.Errorf("a start of the daemon has written a copy that is right: %v", err)
	}
	v.Spec.Name = "two"
	put(t, k, v)
	if c, err := Read(files, id); err != nil || c.VM.Spec.Name != "two" {
		t.Errorf("after a rename the copy has the name %q, %v", c.VM.Spec.Name, err)
	}
}

// TestFailedCopyIsWrittenAgain puts a directory in the way of a copy. Once it is gone, the copy is
// written without a change of the record.
func TestFailedCopyIsWrittenAgain(t *testing.T) {
	k, _, files := newKeeper(t)
	if err := os.Mkdir(files.Record(), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, k, record())
	if err := k.catchUp(); err != nil { // it fails again, which the log says
		t.Fatal(err)
	}
	if k.timer == nil {
		t.Error("nothing will write the copy")
	}
	if err := os.Remove(files.Record()); err != nil {
		t.Fatal(err)
	}
	if err := k.catchUp(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(files, id); err != nil {
		t.Error(err)
	}
}

// TestUnsyncedCopyIsWrittenAgain makes the sync of a copy fail.
func TestUnsyncedCopyIsWrittenAgain(t *testing.T) {
	k, _, files := newKeeper(t)
	put(t, k, record())
	err := errors.Join(os.Remove(files.Record()), os.Symlink(files.Record(), files.Record()))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.catchUp(); err == nil {
		t.Fatal("the copy was synced")
	}
	if err := k.catchUp(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(files, id); err != nil {
		t.Error(err)
	}
}

// TestUnfinishedCopyIsRemoved leaves an unfinished copy, as a crash does. Only a start of the
// daemon removes it: other cleanups must not, so that they cannot disturb a copy.
func TestUnfinishedCopyIsRemoved(t *testing.T) {
	k, m, files := newKeeper(t)
	put(t, k, record())
	left := filepath.Join(files.Dir, tempName)
	if strings.HasPrefix(tempName, disk.TempPrefix) {
		t.Errorf("a cleanup would remove %s while it is written", tempName)
	}
	if err := os.WriteFile(left, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Keep(m, k.layout, k.log).VMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished copy is still there: %v", err)
	}
}

// TestMachineIsWrittenLater checks that a start writes no copy, and that the copy leads to the
// machine in the end.
func TestMachineIsWrittenLater(t *testing.T) {
	k, m, files := newKeeper(t)
	v := record()
	put(t, k, v)
	before, err := os.Stat(files.Record())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(5, 0).UTC()
	v.State, v.Started, v.Runtime = model.Running, &now, &model.Runtime{Driver: "qemu", State: []byte("x")}
	put(t, k, v)
	if after, err := os.Stat(files.Record()); err != nil || !os.SameFile(before, after) {
		t.Errorf("the start has written the copy: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Read(files, id)
	if err != nil || !IsUp(c.VM) || string(c.VM.Runtime.State) != "x" || !c.VM.Started.Equal(now) {
		t.Errorf("the copy is %+v, %v", c.VM, err)
	}
	again := Keep(m, k.layout, k.log)
	v.State, v.Runtime = model.Stopped, nil
	put(t, again, v)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := Read(files, id); err != nil || IsUp(c.VM) {
		t.Errorf("after the stop, the copy is %+v, %v", c.VM, err)
	}
}

// TestStateReplaced changes and deletes a VM, and closes the keeper, when another state directory
// has taken the place of the keeper's own. The copy in that directory stays as it is.
func TestStateReplaced(t *testing.T) {
	k, _, files := newKeeper(t)
	v := record()
	put(t, k, v)
	v.State, v.Runtime = model.Running, &model.Runtime{State: []byte("x")}
	put(t, k, v) // it is pending
	before, err := os.ReadFile(files.Record())
	if err != nil {
		t.Fatal(err)
	}
	k.Current = func() error { return errors.New("replaced") }
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	v.Spec.Name = "two"
	put(t, k, v)
	v.State = model.Deleting
	put(t, k, v)
	if after, err := os.ReadFile(files.Record()); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the copy was changed to %q: %v", after, err)
	}
}

// TestPendingCopyOfADeletedVM deletes a VM before its copy is written.
func TestPendingCopyOfADeletedVM(t *testing.T) {
	k, _, files := newKeeper(t)
	v := record()
	put(t, k, v)
	v.State, v.Runtime = model.Running, &model.Runtime{State: []byte("x")}
	put(t, k, v)
	v.State = model.Deleting
	put(t, k, v)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if IsUsers(files) {
		t.Error("the copy has come back")
	}
}

func TestVMsThatDoNotLastHaveNoCopy(t *testing.T) {
	for name, change := range map[string]func(*model.VM){
		"not complete":  func(v *model.VM) { v.State = model.Creating },
		"run --rm":      func(v *model.VM) { v.Spec.Remove = model.RemoveOnDetach },
		"never forked":  func(v *model.VM) { v.Runtime = &model.Runtime{Fork: true} },
		"being deleted": func(v *model.VM) { v.State = model.Deleting },
	} {
		t.Run(name, func(t *testing.T) {
			k, _, files := newKeeper(t)
			v := record()
			change(&v)
			put(t, k, v)
			if IsUsers(files) {
				t.Error("it has a copy")
			}
		})
	}
}

func TestDeletionRemovesTheCopyFirst(t *testing.T) {
	k, _, files := newKeeper(t)
	v := record()
	put(t, k, v)
	v.State = model.Deleting
	put(t, k, v)
	if IsUsers(files) {
		t.Error("the copy is still there")
	}
	v.State = model.Broken // the deletion failed
	put(t, k, v)
	if _, err := Read(files, id); err != nil {
		t.Errorf("the copy does not come back: %v", err)
	}
}

// TestStartHealsCopies writes missing, damaged and outdated copies anew.
func TestStartHealsCopies(t *testing.T) {
	old, err := json.Marshal(copyOf(model.VM{ID: id, Created: time.Unix(1, 0), Spec: record().Spec}))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"missing": "", "damaged": "{", "outdated": string(old)} {
		t.Run(name, func(t *testing.T) {
			k, m, files := newKeeper(t)
			m[id] = record()
			if text != "" {
				if err := os.WriteFile(files.Record(), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := k.VMs(t.Context()); err != nil {
				t.Fatal(err)
			}
			c, err := Read(files, id)
			if err != nil || sumsOf(c) != sumsOf(copyOf(record())) {
				t.Errorf("the copy is %+v, %v", c, err)
			}
		})
	}
}

// TestOlder compares records with copies.
func TestOlder(t *testing.T) {
	for name, c := range map[string]struct {
		copied, stored uint64
		text           string // in the place of the copy
		want           int
	}{
		"the same": {copied: 7, stored: 7},
		// a crash came between, or the disk is full
		"a record whose copy is to come": {copied: 7, stored: 8},
		"an older record":                {copied: 8, stored: 7, want: 1},
		"a copy of an earlier version":   {copied: 0, stored: 1},
		"a damaged copy":                 {copied: 8, stored: 7, text: "{"},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, files := newKeeper(t)
			v := record()
			v.Revision = c.copied
			put(t, k, v)
			if c.text != "" {
				if err := os.WriteFile(files.Record(), []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			other := v
			v.Revision, other.ID = c.stored, "f123456789abcdef" // without a directory
			older := Older(k.layout, []model.VM{v, other})
			if len(older) != c.want {
				t.Errorf("%d records are older than their copies, want %d", len(older), c.want)
			}
			if err := CheckCurrent(k.layout, []model.VM{v, other}); (fault.KindOf(err) == fault.WrongState) != (c.want > 0) {
				t.Errorf("the database is refused with %v", err)
			}
		})
	}
}

// TestUnknownCopy: a copy whose VM has no record shows that the database is older. What a deletion
// leaves that was cut off does not, and neither does a directory without a copy.
func TestUnknownCopy(t *testing.T) {
	k, m, files := newKeeper(t)
	v := record()
	put(t, k, v)
	if err := CheckCurrent(k.layout, []model.VM{v}); err != nil {
		t.Errorf("the database that knows the VM is refused: %v", err)
	}
	if err := CheckCurrent(k.layout, nil); fault.KindOf(err) != fault.WrongState || fault.HintOf(err) == "" {
		t.Errorf("a database without the VM is accepted: %v", err)
	}
	v.State = model.Deleting
	put(t, k, v)
	if err := k.DeleteVM(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.SystemDisk(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckCurrent(k.layout, nil); err != nil || len(m) > 0 {
		t.Errorf("the rest of a deleted VM counts as a VM: %v", err)
	}
}

// TestFullDiskMakesNoRecordOlder changes a record whose copy cannot be written.
func TestFullDiskMakesNoRecordOlder(t *testing.T) {
	k, m, files := newKeeper(t)
	v := record()
	v.Revision = 1
	put(t, k, v)
	if err := os.Mkdir(filepath.Join(files.Dir, tempName), 0o700); err != nil { // in the way
		t.Fatal(err)
	}
	v.Revision, v.Spec.Name = 2, "two"
	put(t, k, v)
	if err := os.Remove(filepath.Join(files.Dir, tempName)); err != nil {
		t.Fatal(err)
	}
	if older := Older(k.layout, []model.VM{m[id]}); len(older) > 0 {
		t.Errorf("the record counts as older than its copy")
	}
	if err := k.catchUp(); err != nil {
		t.Fatal(err)
	}
	if c, err := Read(files, id); err != nil || c.Revision != 2 {
		t.Errorf("the copy has revision %d, want 2: %v", c.Revision, err)
	}
}

func TestUnwritableCopyFailsNothing(t *testing.T) {
	k, m, files := newKeeper(t)
	if err := os.Remove(files.Dir); err != nil {
		t.Fatal(err)
	}
	put(t, k, record())
	if _, ok := m[id]; !ok {
		t.Error("the record was not stored")
	}
	if err := os.Mkdir(files.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, k, record())
	if _, err := Read(files, id); err != nil {
		t.Errorf("the next change did not write the copy: %v", err)
	}
}

func TestRead(t *testing.T) {
	whole := copyOf(record())
	whole.Revision = 5
	good, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		want fault.Kind
	}{
		"good":         {string(good), ""},
		"newer":        {strings.Replace(string(good), `"version":1`, `"version":2`, 1), fault.Unsupported},
		"no version":   {strings.Replace(string(good), `"version":1`, `"version":0`, 1), fault.Damaged},
		"cut off":      {string(good[:40]), fault.Damaged},
		"another VM's": {strings.ReplaceAll(string(good), id, "aaaaaaaaaaaaaaaa"), fault.Damaged},
		"no id":        {strings.ReplaceAll(string(good), id, "../../etc/passwd"), fault.Damaged},
		"hostile name": {strings.Replace(string(good), `"one"`, `"a\u001b[2J"`, 1), fault.Damaged},
		"too long":     {string(good) + strings.Repeat(" ", maxCopy), fault.Damaged},
		"empty":        {"", fault.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			files := paths.VM{Dir: t.TempDir()}
			if err := os.WriteFile(files.Record(), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(files, id); fault.KindOf(err) != c.want {
				t.Errorf("got %v, want kind %q", err, c.want)
			}
			if !IsUsers(files) {
				t.Error("the directory does not count as a user's")
			}
			if c, err := Decode([]byte(c.text)); err == nil && c.Revision != 5 {
				t.Errorf("it has revision %d, want 5", c.Revision)
			}
		})
	}
	if _, err := Read(paths.VM{Dir: t.TempDir()}, id); fault.KindOf(err) != fault.NotFound {
		t.Errorf("without a copy: %v", err)
	}
}

func TestLoseKeepsEarlierOnes(t *testing.T) {
	layout := paths.At(t.TempDir())
	var places []string
	for n := range 3 {
		dir := layout.VM(id).Dir
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "n"), []byte{byte(n)}, 0o600); err != nil {
			t.Fatal(err)
		}
		to, err := Lose(layout, id)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, to)
	}
	for n, dir := range places {
		if data, err := os.ReadFile(filepath.Join(dir, "n")); err != nil || data[0] != byte(n) {
			t.Errorf("%s holds %v, %v", dir, data, err)
		}
	}
	lost, err := Lost(layout)
	if err != nil || len(lost) != 3 || lost[2].ID != id {
		t.Errorf("the lost directories are %v, %v", lost, err)
	}
}

// TestLinkedDirectory moves a VM's directory elsewhere and puts a link in its place. The VM is
// found there. A link that leads nowhere is not removed as if it were empty, and a deletion removes
// what the link leads to only if that is the VM's alone.
func TestLinkedDirectory(t *testing.T) {
	for name, isWhole := range map[string]bool{id: true, "vm": false} {
		k, _, files := newKeeper(t)
		put(t, k, record())
		target := filepath.Join(t.TempDir(), name)
		if err := errors.Join(os.Rename(files.Dir, target), os.Symlink(target, files.Dir)); err != nil {
			t.Fatal(err)
		}
		if ids, err := IDs(k.layout); err != nil || len(ids) != 1 {
			t.Errorf("the directories of VMs are %q, %v", ids, err)
		}
		if err := os.Rename(target, target+".away"); err != nil {
			t.Fatal(err)
		}
		if !IsUsers(files) {
			t.Error("a link to a disk that is not mounted counts as nobody's")
		}
		if err := Remove(files); fault.KindOf(err) != fault.WrongState || fault.HintOf(err) == "" {
			t.Errorf("the removal of a directory on a disk that is not mounted returned %v", err)
		}
		if err := os.Rename(target+".away", target); err != nil {
			t.Fatal(err)
		}
		if to, err := Lose(k.layout, id); err != nil {
			t.Error(err)
		} else if lost, err := Lost(k.layout); err != nil || len(lost) != 1 || !HasCopy(lost[0].Files()) {
			t.Errorf("the lost directories are %v, %v", lost, err)
		} else if err := os.Rename(to, files.Dir); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := Remove(files); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(files.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the link is still there: %v", err)
		}
		if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) != isWhole {
			t.Errorf("the directory %s was removed: %v, want %v", target, err, isWhole)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := json.Marshal(copyOf(record()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"version":1,"vm":{"id":"0123456789abcdef","facts":{"a":{"data":null}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Decode(data)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Damaged && k != fault.Unsupported {
				t.Errorf("the error has the kind %s: %v", k, err)
			}
			return
		}
		encoded, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("a decoded copy cannot be encoded: %v", err)
		}
		again, err := Decode(encoded)
		if err != nil || sumsOf(again) != sumsOf(c) {
			t.Errorf("a copy changes: %v\n%s", err, encoded)
		}
	})
}

// BenchmarkPutVM measures what the copy adds to a record: unchanged, as in a start, and changed.
func BenchmarkPutVM(b *testing.B) {
	for name, change := range map[string]func(*model.VM, int){
		"unchanged": func(*model.VM, int) {},
		"changed":   func(v *model.VM, n int) { v.Created = time.Unix(int64(n), 0) },
	} {
		b.Run(name, func(b *testing.B) {
			layout := paths.At(b.TempDir())
			k := Keep(memory{}, layout, slog.New(slog.DiscardHandler))
			defer k.Close()
			if err := os.MkdirAll(layout.VM(id).Dir, 0o700); err != nil {
				b.Fatal(err)
			}
			v, n := record(), 0
			for b.Loop() {
				n++
				change(&v, n)
				if err := k.PutVM(b.Context(), v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
