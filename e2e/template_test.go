package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/testkit"
)

// forking returns a home whose daemon keeps templates, as it does by default. Other tests disable
// templates, because building them in the background takes CPU time.
func forking(t *testing.T, standby string) *testkit.Home {
	h := warm(t)
	h.Setenv("BANGER_TEMPLATES", "true")
	h.Setenv("BANGER_STANDBY", standby)
	return h
}

// TestTemplates checks that templates are made, used, and replaced when they are damaged.
func TestTemplates(t *testing.T) {
	h := forking(t, "0")
	ok(t, h, "run", "--rm", "--", "true")
	var list []model.Template
	testkit.WaitFor(t, 3*time.Minute, "both templates are there", func() bool {
		list = made(t, h)
		return len(list) == 2
	})
	before := h.Snapshot(t)
	origin := func(t *testing.T, args ...string) model.OriginKind {
		t.Helper()
		ok(t, h, append([]string{"run", "-d", "--name", "box"}, args...)...)
		defer ok(t, h, "rm", "-f", "box")
		has(t, ok(t, h, "exec", "box", "--", "cat", "/etc/hostname", "/proc/mounts"), "box", " /root ext4 ")
		vm := show(t, h, "box")
		if vm.Boot.Origin == nil {
			equal(t, "cold", vm.Boot.Cold, true)
			return ""
		}
		has(t, ok(t, h, "vm", "show", "box"), "template")
		return vm.Boot.Origin.Kind
	}
	equal(t, "a second run", origin(t), model.FromTemplate)
	equal(t, "uses", made(t, h)[0].Uses, 1)
	equal(t, "--cold", origin(t, "--cold"), "")
	equal(t, "a smaller disk than the template's", origin(t, "--disk-size", "2G"), model.FromUniversal)
	testkit.WaitFor(t, 3*time.Minute, "one for that size is there, too", func() bool { return len(made(t, h)) == 3 })
	equal(t, "the smaller disk again", origin(t, "--disk-size", "2G"), model.FromTemplate)
	equal(t, "a larger disk than the template's", origin(t, "--disk-size", "20G"), model.FromTemplate)
	equal(t, "another shape", origin(t, "--vcpu", "1", "--cold"), "")

	ok(t, h, "run", "-d", "--name", "box", "--disk-size", "20G", "--work-disk-size", "12G")
	matches(t, ok(t, h, "exec", "box", "--", "df", "-BG", "--output=size", "/", "/root"), `(?s)\b(19|20)G.*\b(11|12)G`)
	ok(t, h, "vm", "stop", "box")
	ok(t, h, "vm", "start", "box") // by now its disks are its own
	equal(t, "a second start", show(t, h, "box").Boot.Origin.Kind, model.FromUniversal)
	ok(t, h, "rm", "-f", "box")

	for _, damage := range []struct {
		name string
		do   func(path string) error
	}{
		{"memory", func(p string) error { return os.Truncate(p, 4096) }},
		{"device", func(p string) error { return os.WriteFile(p, []byte("nothing that QEMU knows"), 0o600) }},
		{"meta.json", func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) }},
		{"system.ext4", os.Remove},
		// As many zeros as before.
		{"work.ext4", func(p string) error {
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			return errors.Join(os.Truncate(p, 0), os.Truncate(p, info.Size()))
		}},
	} {
		t.Run("damaged "+damage.name, func(t *testing.T) {
			for _, tpl := range list {
				path := filepath.Join(h.Dir, "cache/templates", tpl.Key, damage.name)
				if err := damage.do(path); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			r := code(t, h, 0, "run", "--rm", "--", "echo", "all the same")
			equal(t, "stdout", r.Stdout, "all the same\n")
			ok(t, h, "template", "build")
			equal(t, "afterwards", origin(t), model.FromTemplate)
		})
	}
	h.CheckNoLeaks(t, before)
	testkit.WaitFor(t, 3*time.Minute, "all templates are gone, those in the making too", func() bool {
		ok(t, h, "template", "prune", "--all", "--yes")
		return len(decode[[]model.Template](t, h, "template", "list")) == 0
	})
	ok(t, h, "daemon", "stop")
}

// made returns the templates of the home.
func made(t *testing.T, h *testkit.Home) []model.Template {
	t.Helper()
	list := decode[[]model.Template](t, h, "template", "list")
	return slices.DeleteFunc(list, func(tpl model.Template) bool { return tpl.Building })
}

// TestStandby uses a machine on standby, and leaves none.
func TestStandby(t *testing.T) {
	h := forking(t, "1")
	ok(t, h, "template", "build")
	before := h.Snapshot(t)
	ok(t, h, "run", "--rm", "--", "true") // this asks for a machine on standby
	testkit.WaitFor(t, 3*time.Minute, "a machine waits", func() bool { return waiting(t, h) == 1 })
	taken := machines(t, h)[0]
	ok(t, h, "run", "-d", "--name", "box")
	vm := show(t, h, "box")
	equal(t, "the VM that took it", vm.ID, taken)
	equal(t, "origin", vm.Boot.Origin.Kind, model.FromTemplate)
	equal(t, "host name", ok(t, h, "exec", "box", "--", "hostname"), "box\n")
	checkClock(t, h, "box")
	testkit.WaitFor(t, 3*time.Minute, "another one waits", func() bool { return waiting(t, h) == 1 })
	differ(t, h, []string{"box"})
	killDaemon(t, h)
	ok(t, h, "vm", "list")
	testkit.WaitFor(t, time.Minute, "the machine that waited is gone with the daemon that knew it", func() bool { return len(machines(t, h)) == 1 })
	equal(t, "host name", ok(t, h, "exec", "box", "--", "hostname"), "box\n")
	ok(t, h, "rm", "-f", "box")
	ok(t, h, "daemon", "stop")
	equal(t, "machines", len(machines(t, h)), 0)
	h.CheckNoLeaks(t, before)
}

// waiting counts the machines on standby.
func waiting(t *testing.T, h *testkit.Home) int {
	t.Helper()
	n := 0
	for _, tpl := range decode[[]model.Template](t, h, "template", "list") {
		n += tpl.Standby
	}
	return n
}

// machines returns the machines' run directories.
func machines(t *testing.T, h *testkit.Home) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.Dir, "run/vms"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}
