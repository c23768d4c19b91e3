package home

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// database is a database in memory.
type database struct {
	meta map[string]string
	vms  []model.VM
}

func (d *database) Meta(_ context.Context, key string) (string, error) { return d.meta[key], nil }

func (d *database) SetMeta(_ context.Context, key, value string) error {
	d.meta[key] = value
	return nil
}

func (d *database) VMs(context.Context) ([]model.VM, error) { return d.vms, nil }

var testKeys = Keys{ID: "home", Starts: "starts", State: "state"}

// site is a home of a test.
type site struct {
	paths.Layout
	db *database
}

func newSite(dir string) *site {
	return &site{Layout: paths.At(dir), db: &database{meta: map[string]string{}}}
}

// xdgSites returns two homes that share their runtime directory.
func xdgSites(t *testing.T) (a, b *site) {
	dir := t.TempDir()
	a, b = newSite(filepath.Join(dir, "a")), newSite(filepath.Join(dir, "b"))
	run := filepath.Join(dir, "user", "banger")
	a.Runtime, b.Runtime = run, run
	return a, b
}

// start is the start and the end of a daemon.
func (s *site) start(t *testing.T) error {
	t.Helper()
	held, err := Acquire(testContext(t), s.Layout)
	if err != nil {
		return err
	}
	defer held.Release()
	if err := CheckDatabase(s.Layout); err != nil {
		return err
	}
	keys := testKeys
	if err := held.Claim(testContext(t), s.db, keys); err != nil {
		return err
	}
	return held.Count(testContext(t), s.db, keys)
}

func (s *site) mustStart(t *testing.T) {
	t.Helper()
	if err := s.start(t); err != nil {
		t.Fatalf("the home was refused: %v", err)
	}
}

// addVM adds a VM's record and directories.
func (s *site) addVM(t *testing.T, id string, state model.State, running bool) {
	t.Helper()
	s.db.vms = append(s.db.vms, model.VM{ID: id, State: state, Spec: model.Spec{Name: "vm-" + id[:2]}})
	s.addDirs(t, id, running)
}

func (s *site) addDirs(t *testing.T, id string, running bool) {
	t.Helper()
	err := errors.Join(os.MkdirAll(s.VM(id).Dir, 0o700), os.WriteFile(s.Database(), []byte("database"), 0o600))
	if running {
		err = errors.Join(err, os.MkdirAll(s.VM(id).Run, 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tree returns the files below a directory and their contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Base(path) == "lock" {
			return err
		}
		files[path] = ""
		if e.Type().IsRegular() {
			text, err := os.ReadFile(path)
			files[path] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

const idA, idB = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"

func TestClaimMarksAllRoots(t *testing.T) {
	s := newSite(t.TempDir())
	for range 2 {
		s.mustStart(t)
	}
	for _, root := range s.Roots() {
		if m, err := readMark(root); err != nil || m.ID != s.db.meta["home"] || m.State != s.State || m.Root != root {
			t.Errorf("%s has the mark %+v, %v", root, m, err)
		}
	}
}

// TestCheckChangesNothing checks a home that may be claimed, and one that may not.
func TestCheckChangesNothing(t *testing.T) {
	s := newSite(t.TempDir())
	for _, want := range []fault.Kind{"", fault.WrongState} {
		held, err := Acquire(testContext(t), s.Layout)
		if err != nil {
			t.Fatal(err)
		}
		before := tree(t, filepath.Dir(s.State))
		if err := held.Check(testContext(t), s.db, testKeys); fault.KindOf(err) != want {
			t.Errorf("the check gave %v, want %q", err, want)
		}
		if after := tree(t, filepath.Dir(s.State)); !maps.Equal(before, after) || len(s.db.meta) > 0 {
			t.Errorf("the check has changed the home: %v and %v", after, s.db.meta)
		}
		if err := held.Release(); err != nil {
			t.Fatal(err)
		}
		s.addVM(t, idA, model.Stopped, false)
		s.db.vms = nil
	}
}

// TestClaimRefuses makes a home whose parts do not belong together. The claim names the parts and a
// way out, and changes nothing.
func TestClaimRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T) *site
		says    []string
	}{
		"a runtime directory of another home": {func(t *testing.T) *site {
			a, b := xdgSites(t)
			a.mustStart(t)
			return b
		}, []string{"runtime", "a/state", "b/state"}},
		"a runtime directory of an unmarked home": {func(t *testing.T) *site {
			a, b := xdgSites(t)
			a.addVM(t, idA, model.Running, true)
			return b
		}, []string{"runtime", idA, "b/state"}},
		"an unmarked runtime directory where a daemon listens": {func(t *testing.T) *site {
			_, b := xdgSites(t)
			if err := os.MkdirAll(b.Runtime, 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", b.Socket())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return b
		}, []string{"listens", "b/state"}},
		"a runtime directory with machines of a home that is gone": {func(t *testing.T) *site {
			a, b := xdgSites(t)
			a.addVM(t, idA, model.Running, true)
			a.mustStart(t)
			if err := os.RemoveAll(a.State); err != nil {
				t.Fatal(err)
			}
			return b
		}, []string{"runtime", "a/state", "b/state"}},
		"a state that was lost beside running machines": {func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addVM(t, idA, model.Running, true)
			a.mustStart(t)
			if err := os.RemoveAll(a.State); err != nil {
				t.Fatal(err)
			}
			a.db = newSite("/").db
			return a
		}, []string{"runtime", "lost or replaced"}},
		"a cache of another home": {func(t *testing.T) *site {
			a, b := xdgSites(t)
			b.Runtime, b.Cache = b.Runtime+"2", a.Cache
			a.mustStart(t)
			return b
		}, []string{"cache", "a/state", "b/state"}},
		"a missing database": {func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addVM(t, idA, model.Stopped, false)
			a.mustStart(t)
			if err := os.Remove(a.Database()); err != nil {
				t.Fatal(err)
			}
			return a
		}, []string{"missing", "banger.db", "state/vms"}},
		"a new database": {func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addVM(t, idA, model.Stopped, false)
			a.mustStart(t)
			a.db = newSite("/").db
			return a
		}, []string{"knows none", "banger.db", "state/vms"}},
		"a new database of a home without an id": {func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addDirs(t, idA, false)
			return a
		}, []string{"knows none", "banger.db", "state/vms"}},
		"a database of another home": {func(t *testing.T) *site {
			a, b := newSite(t.TempDir()), newSite(t.TempDir())
			a.addVM(t, idA, model.Stopped, false)
			a.mustStart(t)
			b.mustStart(t)
			a.db = b.db
			return a
		}, []string{"another home", "banger.db"}},
		"a copied home with a running VM": {func(t *testing.T) *site {
			dir := t.TempDir()
			a := newSite(filepath.Join(dir, "a"))
			a.addVM(t, idA, model.Running, true)
			a.mustStart(t)
			return copySite(t, a, filepath.Join(dir, "b"))
		}, []string{"copy", "a/state", "b/state", "vm-aa"}},
		"a copied home with a running VM and without marks": {func(t *testing.T) *site {
			dir := t.TempDir()
			a := newSite(filepath.Join(dir, "a"))
			a.addVM(t, idA, model.Running, true)
			a.mustStart(t)
			b := copySite(t, a, filepath.Join(dir, "b"))
			for _, root := range b.Roots() {
				if err := os.Remove(paths.MarkIn(root)); err != nil {
					t.Fatal(err)
				}
			}
			return b
		}, []string{"copy", "a/state", "b/state", "vm-aa"}},
		"a damaged mark": {func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.mustStart(t)
			if err := os.WriteFile(paths.MarkIn(a.Runtime), []byte("id what\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return a
		}, []string{"home-id"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.prepare(t)
			for _, dir := range s.Roots() { // the locks' directories may be made
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			top := filepath.Dir(filepath.Dir(s.State))
			before, meta := tree(t, top), maps.Clone(s.db.meta)
			err := s.start(t)
			if kind := fault.KindOf(err); kind != fault.WrongState && kind != fault.Locked {
				t.Fatalf("the home was not refused: %v", err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not name %q: %v", word, err)
				}
			}
			if fault.HintOf(err) == "" {
				t.Error("there is no hint")
			}
			if after := tree(t, top); !maps.Equal(before, after) || !maps.Equal(meta, s.db.meta) {
				t.Errorf("the refusal changed files:\n%v\n%v", before, after)
			}
		})
	}
}

// copySite copies a home with its database.
func copySite(t *testing.T, s *site, dir string) *site {
	t.Helper()
	if out, err := exec.Command("cp", "-a", filepath.Dir(s.State), dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	c := newSite(dir)
	c.db = &database{meta: maps.Clone(s.db.meta), vms: s.db.vms}
	return c
}

// TestClaimAdopts makes homes that look odd and are right.
func TestClaimAdopts(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T) *site{
		"a home of an earlier version": func(t *testing.T) *site {
			a, _ := xdgSites(t)
			a.addVM(t, idA, model.Running, true)
			return a
		},
		"an earlier home with a machine that has no record": func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addVM(t, idA, model.Running, true)
			a.addDirs(t, idB, true)
			return a
		},
		"a runtime directory after a reboot": func(t *testing.T) *site {
			a, _ := xdgSites(t)
			a.mustStart(t)
			if err := os.RemoveAll(a.Runtime); err != nil {
				t.Fatal(err)
			}
			return a
		},
		"a state directory without its mark": func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addVM(t, idA, model.Running, true)
			a.mustStart(t)
			if err := os.Remove(paths.MarkIn(a.State)); err != nil {
				t.Fatal(err)
			}
			return a
		},
		"a database of before the first id": func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.addVM(t, idA, model.Stopped, false)
			a.mustStart(t)
			delete(a.db.meta, "home")
			return a
		},
		"a new database without VMs": func(t *testing.T) *site {
			a := newSite(t.TempDir())
			a.mustStart(t)
			a.db = newSite("/").db
			return a
		},
		"a cache of a home that is gone": func(t *testing.T) *site {
			a, b := xdgSites(t)
			b.Runtime, b.Cache = b.Runtime+"2", a.Cache
			a.mustStart(t)
			if err := os.RemoveAll(a.State); err != nil {
				t.Fatal(err)
			}
			return b
		},
		"an empty runtime directory of a home that is gone": func(t *testing.T) *site {
			a, b := xdgSites(t)
			a.mustStart(t)
			if err := os.RemoveAll(a.State); err != nil {
				t.Fatal(err)
			}
			return b
		},
		"a moved home": func(t *testing.T) *site {
			dir := t.TempDir()
			a := newSite(filepath.Join(dir, "a"))
			a.addVM(t, idA, model.Running, true)
			a.mustStart(t)
			b := newSite(filepath.Join(dir, "b"))
			if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
				t.Fatal(err)
			}
			b.db = a.db
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t)
			before := s.db.meta["home"]
			s.mustStart(t)
			id := s.db.meta["home"]
			if before != "" && id != before {
				t.Errorf("the home's id changed from %q to %q", before, id)
			}
			for _, root := range s.Roots() {
				if m, err := readMark(root); err != nil || m.ID != id || id == "" || m.State != s.State {
					t.Errorf("%s has the mark %+v, %v, want the id %q", root, m, err, id)
				}
			}
			s.mustStart(t)
		})
	}
}

// TestCopiedHome copies a home whose VMs do not run. The copy becomes a home of its own, and both
// work.
func TestCopiedHome(t *testing.T) {
	dir := t.TempDir()
	a := newSite(filepath.Join(dir, "a"))
	a.addVM(t, idA, model.Stopped, false)
	a.mustStart(t)
	b := copySite(t, a, filepath.Join(dir, "b"))
	b.mustStart(t)
	if a.db.meta["home"] == b.db.meta["home"] {
		t.Error("the copy has the id of the original")
	}
	a.mustStart(t)
	b.mustStart(t)
	// A cache that was copied from the other home is adopted.
	if out, err := exec.Command("cp", "-a", paths.MarkIn(a.Cache), b.Cache).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	b.mustStart(t)
	a.mustStart(t)
}

// TestTwoDaemons starts two daemons of homes that share a root.
func TestTwoDaemons(t *testing.T) {
	for _, root := range []string{"runtime", "cache"} {
		a, b := xdgSites(t)
		if root == "cache" {
			b.Runtime, b.Cache = b.Runtime+"2", a.Cache
		}
		a.mustStart(t)
		held, err := Acquire(testContext(t), a.Layout)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.start(t); fault.KindOf(err) != fault.Locked || !strings.Contains(err.Error(), a.State) {
			t.Errorf("two daemons with one %s directory: %v", root, err)
		}
		held.Release()
	}
}

func TestCheckClient(t *testing.T) {
	a, b := xdgSites(t)
	if err := CheckClient(a.Layout); err != nil {
		t.Errorf("without a mark: %v", err)
	}
	a.mustStart(t)
	if err := CheckClient(a.Layout); err != nil {
		t.Errorf("the home's own client: %v", err)
	}
	if err := CheckClient(b.Layout); fault.KindOf(err) != fault.WrongState || !strings.Contains(err.Error(), a.State) || !strings.Contains(err.Error(), b.State) {
		t.Errorf("another home's client: %v", err)
	}
}

func FuzzMark(f *testing.F) {
	f.Add("id aaaaaaaaaaaaaaaa\nroot /a\nstate /b\n")
	f.Add("id\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMark(strings.NewReader(text))
		if err == nil && (!model.IsID(m.ID) || !filepath.IsAbs(m.Root) || !filepath.IsAbs(m.State)) {
			t.Errorf("%q was read as %+v", text, m)
		}
	})
}
