package home

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/testkit"
)

// TestOwners makes homes that somebody else can change. Each one is refused with its directory and
// a way out, before anything is made in it.
func TestOwners(t *testing.T) {
	const nobody = 65534
	for name, c := range map[string]struct {
		change func(s *site, top string) error
		dir    func(s *site, top string) string // "" if the home is fine
		hint   string
		root   bool // only root can make this change
	}{
		"private": {func(*site, string) error { return nil }, nil, "", false},
		"readable by all": {func(s *site, top string) error {
			return errors.Join(os.Chmod(top, 0o755), os.Chmod(s.State, 0o755), os.Chmod(s.Config, 0o755))
		}, nil, "", false},
		"in a sticky directory": {func(_ *site, top string) error { return os.Chmod(filepath.Dir(top), 0o777|os.ModeSticky) }, nil, "", false},
		"in everybody's directory": {func(_ *site, top string) error { return os.Chmod(filepath.Dir(top), 0o777) },
			func(_ *site, top string) string { return filepath.Dir(top) }, "chmod o-w", false},
		"in somebody's directory": {func(_ *site, top string) error { return os.Chown(filepath.Dir(top), nobody, nobody) },
			func(_ *site, top string) string { return filepath.Dir(top) }, "BANGER_HOME", true},
		"in somebody's sticky directory": {func(_ *site, top string) error {
			return errors.Join(os.Chown(filepath.Dir(top), nobody, nobody), os.Chmod(filepath.Dir(top), 0o777|os.ModeSticky))
		}, func(_ *site, top string) string { return filepath.Dir(top) }, "BANGER_HOME", true},
		"in a group's directory": {func(_ *site, top string) error {
			return errors.Join(os.Chown(filepath.Dir(top), -1, nobody), os.Chmod(filepath.Dir(top), 0o775))
		}, func(_ *site, top string) string { return filepath.Dir(top) }, "chmod g-w", true},
		"in a group's sticky directory": {func(_ *site, top string) error {
			return errors.Join(os.Chown(filepath.Dir(top), -1, nobody), os.Chmod(filepath.Dir(top), 0o775|os.ModeSticky))
		}, nil, "", true},
		"everybody's home": {func(_ *site, top string) error { return os.Chmod(top, 0o777|os.ModeSticky) },
			func(_ *site, top string) string { return top }, "chmod go-w", false},
		"everybody's state": {func(s *site, _ string) error { return os.Chmod(s.State, 0o707) },
			func(s *site, _ string) string { return s.State }, "chmod go-w", false},
		"everybody's configuration": {func(s *site, _ string) error { return os.Chmod(s.Config, 0o777) },
			func(s *site, _ string) string { return s.Config }, "chmod go-w", false},
		"a group's cache": {func(s *site, _ string) error {
			return errors.Join(os.Chown(s.Cache, -1, nobody), os.Chmod(s.Cache, 0o770))
		}, func(s *site, _ string) string { return s.Cache }, "chmod go-w", true},
		"somebody's state": {func(s *site, _ string) error { return os.Chown(s.State, nobody, nobody) },
			func(s *site, _ string) string { return s.State }, "chown", true},
		"somebody's configuration": {func(s *site, _ string) error { return os.Chown(s.Config, nobody, nobody) },
			func(s *site, _ string) string { return s.Config }, "chown", true},
		"somebody's home": {func(_ *site, top string) error { return os.Chown(top, nobody, nobody) },
			func(_ *site, top string) string { return top }, "chown", true},
		"a link into everybody's directory": {func(s *site, top string) error {
			there := filepath.Join(filepath.Dir(top), "open", "state")
			return errors.Join(os.MkdirAll(there, 0o700), os.Chmod(filepath.Dir(there), 0o777), os.Remove(s.State), os.Symlink(there, s.State))
		}, func(s *site, _ string) string { return s.State }, "chmod o-w", false},
		"a link into an own directory": {func(s *site, top string) error {
			there := filepath.Join(top, "elsewhere")
			return errors.Join(os.Mkdir(there, 0o700), os.Remove(s.State), os.Symlink("elsewhere", s.State))
		}, nil, "", false},
		"somebody's link": {func(s *site, top string) error {
			there := filepath.Join(filepath.Dir(top), "elsewhere", "state")
			return errors.Join(os.MkdirAll(there, 0o700), os.Remove(s.State), os.Symlink(there, s.State), os.Lchown(s.State, nobody, nobody))
		}, func(s *site, _ string) string { return s.State }, "BANGER_HOME", true},
		"a chain of links through everybody's directory": {func(s *site, top string) error {
			there, open := filepath.Join(top, "elsewhere"), filepath.Join(filepath.Dir(top), "open")
			return errors.Join(os.Mkdir(there, 0o700), os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.Symlink(there, filepath.Join(open, "link")),
				os.Remove(s.State), os.Symlink("../../parent/../parent/open/link", s.State))
		}, func(_ *site, top string) string { return filepath.Join(filepath.Dir(top), "open") }, "chmod o-w", false},
		"a link to itself": {func(s *site, _ string) error {
			return errors.Join(os.Remove(s.Cache), os.Symlink("cache", s.Cache))
		}, func(s *site, _ string) string { return s.Cache }, "BANGER_HOME", false},
		"a link to nothing": {func(s *site, top string) error {
			return errors.Join(os.Remove(s.Config), os.Symlink("nowhere", s.Config))
		}, nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Require(t, "root", !c.root || os.Geteuid() == 0, "only root can give files away")
			top := filepath.Join(t.TempDir(), "parent", "home")
			s := newSite(top)
			for _, dir := range []string{s.State, s.Cache, s.Runtime, s.Config} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.change(s, top); err != nil {
				t.Fatal(err)
			}
			before := tree(t, top)
			held, err := Acquire(testContext(t), s.Layout)
			if c.dir == nil {
				if err != nil {
					t.Fatalf("the home was refused: %v", err)
				}
				held.Release()
				return
			}
			if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), c.dir(s, top)) || !strings.Contains(fault.HintOf(err), c.hint) {
				t.Errorf("got %v (hint %q), want a refusal that names %s and the hint %s", err, fault.HintOf(err), c.dir(s, top), c.hint)
			}
			if after := tree(t, top); !maps.Equal(before, after) {
				t.Errorf("the refusal changed files:\n%v\n%v", before, after)
			}
		})
	}
}

// TestOwnGroup checks that a user's own group may write, and any other group may not.
func TestOwnGroup(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can give files away")
	const alice, staff = 4242, 50
	for _, c := range []struct {
		uid, gid int
		mode     os.FileMode
		refused  bool
	}{
		{alice, alice, 0o775, false},
		{alice, staff, 0o775, true},
		{alice, alice, 0o777, true},
		{alice, staff, 0o755, false},
		{0, 0, 0o755, false},
		{0, 0, 0o775, true},
		{staff, alice, 0o755, true},
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Chown(dir, c.uid, c.gid), os.Chmod(dir, c.mode)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkOwner("it", dir, info, alice); (err != nil) != c.refused {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

// TestAncestors checks directories above a home of alice.
func TestAncestors(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can give files away")
	const alice, bob, staff = 4242, 4343, 50
	for _, c := range []struct {
		path     string // as which the directory is checked
		uid, gid int
		mode     os.FileMode
		refused  bool
	}{
		{"/home/alice", alice, alice, 0o775, false},
		{"/home/alice", alice, staff, 0o775, true},
		{"/home/bob", bob, bob, 0o755, true},
		{"/home", 0, 0, 0o755, false},
		{"/tmp", 0, 0, 0o777 | os.ModeSticky, false},
		{"/srv", 0, staff, 0o775 | os.ModeSetgid, true},
		{"/home", unmapped, unmapped, 0o755, true},
		{"/", unmapped, unmapped, 0o755, false},
		{"/", unmapped, unmapped, 0o777, true},
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Chown(dir, c.uid, c.gid), os.Chmod(dir, c.mode)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkAncestor(directory{"state", "/home/alice/state"}, found{path: c.path, info: info}, alice); (err != nil) != c.refused {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}
