package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/testkit"
)

// TestHomeDatabaseLost moves the database of a home with VMs away. The daemon does not start,
// removes nothing, and works again when the database is back.
func TestHomeDatabaseLost(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "keep")
	vm := decode[model.VM](t, h, "vm", "show", "keep")
	dir := filepath.Join(h.Dir, "state", "vms", vm.ID)
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mkdir elsewhere && mv state/banger.db* elsewhere"))
	for range 2 {
		r := fails(t, h, []string{"vm", "list"}, "banger.db", "state/vms", "banger daemon recover")
		equal(t, "exit status", r.Code, fault.WrongState.ExitCode())
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the VM's directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(h.Dir, "state", "banger.db")); err == nil {
		t.Error("a new database is in the way of the lost one")
	}
	must(t, h.Shell("mv elsewhere/* state"))
	has(t, ok(t, h, "vm", "list"), "keep")
	ok(t, h, "vm", "delete", "keep")
}

// TestHomesStayApart runs two homes of one user with one XDG_RUNTIME_DIR. The second home is
// refused, and the first one's machine and daemon stay, also if XDG_RUNTIME_DIR changes. If the
// runtime directory was moved, commands that would end the machine are refused. None ends it later.
func TestHomesStayApart(t *testing.T) {
	h := warm(t)
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can be somebody else")
	const uid = 4242
	must(t, h.Shell("mkdir xdg xdg/run xdg/run-b xdg/a xdg/b && ln -s ../../cache xdg/cache-banger && mkdir -p xdg/cache && mv cache xdg/cache/banger && rm xdg/cache-banger"))
	h.Chown(t, uid)
	xdg := func(name string) string { return filepath.Join(h.Dir, "xdg", name) }
	h.Setenv("BANGER_HOME", "")
	h.Setenv("XDG_RUNTIME_DIR", xdg("run"))
	h.Setenv("XDG_CACHE_HOME", xdg("cache"))
	h.Setenv("XDG_STATE_HOME", xdg("a"))
	t.Cleanup(func() {
		h.Setenv("XDG_STATE_HOME", xdg("a"))
		h.Setenv("XDG_CACHE_HOME", xdg("cache"))
		h.Banger(t, "vm", "delete", "--force", "first")
		h.Banger(t, "daemon", "stop")
	})
	ok(t, h, "run", "-d", "--name", "first")
	machine := machinePID(t, h, "first")
	pid := daemonPID(t, h)

	second := func(what string, code int) {
		t.Helper()
		h.Setenv("XDG_STATE_HOME", xdg("b"))
		h.Setenv("XDG_CACHE_HOME", xdg("cache-b"))
		defer h.Setenv("XDG_CACHE_HOME", xdg("cache"))
		defer h.Setenv("XDG_STATE_HOME", xdg("a"))
		r := fails(t, h, []string{"vm", "list"}, xdg("a/banger"), "hint:")
		equal(t, "exit status "+what, r.Code, code)
		r = h.RunCmd(t, "", filepath.Join(h.Bin, "bangerd"))
		has(t, r.Stderr, xdg("a/banger"))
		if r.Code == 0 {
			t.Errorf("a second daemon %s", what)
		}
	}
	second("beside a daemon", fault.WrongState.ExitCode())
	equal(t, "the first home's daemon", daemonPID(t, h), pid)
	ok(t, h, "daemon", "stop")
	second("beside a machine", fault.WrongState.ExitCode())
	ok(t, h, "exec", "first", "--", "true")
	equal(t, "the first home's machine", machinePID(t, h, "first"), machine)

	ok(t, h, "daemon", "stop")
	h.Setenv("XDG_RUNTIME_DIR", xdg("run-b")) // as in a session of another kind
	equal(t, "the state of the VM", string(show(t, h, "first").State), string(model.Running))
	ok(t, h, "exec", "first", "--", "true")
	has(t, h.Banger(t, "doctor").Stdout, "machines that run: 1; each has its files")

	ok(t, h, "snapshot", "create", "--name", "s", "first")
	ok(t, h, "exec", "first", "--", "sh", "-c", "echo mine >/dev/shm/f")
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mv xdg/run/banger xdg/moved"))
	for _, command := range [][]string{
		{"vm", "restore", "--force", "first", "s"}, {"vm", "restore", "--force", "--disks-only", "first", "s"},
		{"stop", "first"}, {"vm", "kill", "first"}, {"start", "first"}, {"rm", "--force", "first"},
	} {
		r := fails(t, h, command, "belongs to another home", "move it back")
		equal(t, "exit status", r.Code, fault.WrongState.ExitCode())
	}
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mv xdg/moved xdg/run/banger"))
	h.Setenv("XDG_RUNTIME_DIR", xdg("run"))
	equal(t, "the machine", machinePID(t, h, "first"), machine)
	equal(t, "what was in its memory", ok(t, h, "exec", "first", "--", "cat", "/dev/shm/f"), "mine\n")
	ok(t, h, "daemon", "stop")
	h.Setenv("XDG_RUNTIME_DIR", xdg("run-b"))
	ok(t, h, "vm", "delete", "--force", "first")
	ok(t, h, "daemon", "restart")
	if _, err := os.Stat(paths.Layout{Runtime: xdg("run-b/banger")}.Socket()); err != nil {
		t.Errorf("the new runtime directory without machines in the earlier one: %v", err)
	}
}

// TestHomeCopied copies a home while its VM runs, and removes the marks. The machine belongs to the
// original: no command in the copy ends it, whatever proof of the original is left.
func TestHomeCopied(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box")
	pid := machinePID(t, h, "box")
	original := h.Dir
	t.Cleanup(func() {
		h.Setenv("BANGER_HOME", original)
		h.Banger(t, "vm", "delete", "--force", "box")
	})
	daemon := daemonPID(t, h)
	for _, c := range []struct {
		name, copy string
		refused    bool // the daemon does not start
	}{
		{"without marks", "cp -a state cache run $C && rm $C/*/home-id", true},
		{"without marks on either side", "cp -a state cache run $C && rm $C/*/home-id state/home-id", false},
		{"by hard links", "cp -al state cache run $C && rm $C/run/*.sock $C/state/*.db* $C/*/home-id && cp state/*.db* $C/state", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(original, "tmp", "copy")
			must(t, h.Shell("C="+dir+"; rm -rf $C && mkdir $C && "+c.copy))
			h.Setenv("BANGER_HOME", dir)
			defer h.Setenv("BANGER_HOME", original)
			if c.refused {
				r := fails(t, h, []string{"vm", "list"}, "is a copy of", "box", "hint:")
				equal(t, "exit status", r.Code, fault.WrongState.ExitCode())
				return
			}
			defer h.Banger(t, "daemon", "stop")
			equal(t, "the state in the copy", string(show(t, h, "box").State), string(model.Broken))
			for _, args := range [][]string{
				{"vm", "stop", "box"}, {"vm", "kill", "box"}, {"vm", "start", "box"}, {"exec", "box", "true"}, {"vm", "delete", "--force", "box"},
			} {
				fails(t, h, args)
			}
			fails(t, h, []string{"vm", "stop", "box"}, "belongs to another home", "hint:")
			ok(t, h, "daemon", "stop") // and the next daemon is no different
			fails(t, h, []string{"vm", "delete", "--force", "box"}, "belongs to another home")
		})
		equal(t, "the machine", machinePID(t, h, "box"), pid)
		equal(t, "stdout", ok(t, h, "exec", "box", "--", "echo", "alive"), "alive\n")
	}
	equal(t, "the daemon of the original", daemonPID(t, h), daemon)
	killDaemonIn(t, h, daemon, original)
	equal(t, "the adopted machine", machinePID(t, h, "box"), pid)
	ok(t, h, "vm", "delete", "--force", "box")
}

// TestHomeInheritsNothing starts the daemon and a VM under a lock of the caller, and in a command
// substitution.
func TestHomeInheritsNothing(t *testing.T) {
	h := warm(t)
	banger := filepath.Join(h.Bin, "banger")
	must(t, h.Shell("( exec 9>lk; flock 9; "+banger+" run -d --name v )"))
	if err := h.Shell("flock -n lk true"); err != nil {
		t.Errorf("the daemon or the VMM holds the caller's lock: %v", err)
	}
	ok(t, h, "vm", "delete", "--force", "v")
	ok(t, h, "daemon", "stop")
	began := time.Now()
	must(t, h.Shell("x=$( { exec 5>&1; "+banger+" ps >/dev/null; } )"))
	if took := time.Since(began); testkit.Late(took, time.Minute) {
		t.Errorf("the substitution ended after %v", took)
	}
	// bangerd itself gives up what it inherits.
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("( exec 9>lk; flock 9; "+filepath.Join(h.Bin, "bangerd")+" >/dev/null 2>&1 & )"))
	testkit.WaitFor(t, time.Minute, "the daemon is ready", func() bool { return h.Banger(t, "daemon", "status").Code == 0 })
	if err := h.Shell("flock -n lk true"); err != nil {
		t.Errorf("a daemon that a person started holds the caller's lock: %v", err)
	}
}

// TestHomeSocketLost removes the socket of a running daemon.
func TestHomeSocketLost(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "list")
	pid := daemonPID(t, h)
	socket := filepath.Join(h.Dir, "run", "bangerd.sock")
	for _, args := range [][]string{{"daemon", "status"}, {"vm", "list"}, {"daemon", "start"}} {
		must(t, os.Remove(socket))
		ok(t, h, args...)
		equal(t, "the daemon after "+strings.Join(args, " "), daemonPID(t, h), pid)
	}
	must(t, os.Remove(socket))
	ok(t, h, "daemon", "restart")
	if next := daemonPID(t, h); next == pid {
		t.Error("a daemon without a socket was not restarted")
	}
	must(t, os.Remove(socket))
	r := code(t, h, 0, "daemon", "stop")
	if strings.Contains(r.Stderr, "not running") {
		t.Errorf("daemon stop said: %s", r.Stderr)
	}
	r = code(t, h, fault.Unavailable.ExitCode(), "daemon", "status")
	has(t, r.Stderr, "not running")
}

// TestHomeLongPath uses a home whose path is too long for a socket, under several names and
// temporary directories. All of them reach one daemon, and nothing is made elsewhere.
func TestHomeLongPath(t *testing.T) {
	h := warm(t)
	long := filepath.Join(h.Dir, strings.Repeat("long", 30))
	must(t, h.Shell("mkdir "+long+" && mv cache "+long+" && ln -s "+long+" short"))
	before := names(t, os.TempDir())
	h.Setenv("BANGER_HOME", long)
	h.Setenv("TMPDIR", filepath.Join(h.Dir, "none"))
	ok(t, h, "run", "-d", "--name", "v")
	pid := daemonPID(t, h)
	for name, value := range map[string]string{"TMPDIR": "/", "BANGER_HOME": filepath.Join(h.Dir, "short")} {
		h.Setenv(name, value)
		equal(t, "the daemon with another "+name, daemonPID(t, h), pid)
		ok(t, h, "exec", "v", "--", "true")
	}
	killDaemonIn(t, h, pid, long)
	ok(t, h, "exec", "v", "--", "true")
	ok(t, h, "vm", "delete", "--force", "v")
	ok(t, h, "daemon", "stop")
	if _, err := os.Stat(filepath.Join(h.Dir, "none")); err == nil {
		t.Error("the missing temporary directory was made")
	}
	for name := range names(t, os.TempDir()) {
		if strings.HasPrefix(name, "banger-") && !before[name] {
			t.Errorf("%s was made in the temporary directory", name)
		}
	}
}

// TestHomeUnusable tries homes that cannot be used. Each one has its exit status and a hint, and
// leaves nothing behind.
func TestHomeUnusable(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can be somebody else")
	for name, c := range map[string]struct {
		env   map[string]string
		make  string
		after string // when the home belongs to the user
		code  int
		says  string
	}{
		"no home":         {env: map[string]string{"BANGER_HOME": "", "HOME": "/nonexistent"}, code: fault.Denied.ExitCode(), says: "/nonexistent"},
		"a relative HOME": {env: map[string]string{"BANGER_HOME": "", "HOME": "some/where"}, code: fault.Invalid.ExitCode(), says: "HOME"},
		"root's database": {make: "mkdir -m 700 state && echo >state/banger.db", after: "chown 0 state/banger.db && chmod 600 state/banger.db",
			code: fault.Denied.ExitCode(), says: "banger.db"},
		"root's log": {make: "mkdir -m 700 state && echo >state/bangerd.log", after: "chown 0 state/bangerd.log && chmod 600 state/bangerd.log",
			code: fault.Denied.ExitCode(), says: "bangerd.log"},
		"damaged database": {make: "mkdir -m 700 state && head -c 8192 /dev/zero | tr '\\0' x >state/banger.db", code: fault.Damaged.ExitCode(), says: "damaged"},
		"read-only home":   {make: "chmod 500 .", code: fault.Denied.ExitCode(), says: "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			h := testkit.NewHome(t, bin)
			if c.make != "" {
				must(t, h.Shell(c.make))
			}
			h.Chown(t, 4242)
			if c.after != "" {
				if out, err := exec.Command("sh", "-c", "cd "+h.Dir+" && "+c.after).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", c.after, err, out)
				}
			}
			for key, value := range c.env {
				h.Setenv(key, value)
			}
			before := names(t, os.TempDir())
			r := fails(t, h, []string{"vm", "list"}, c.says, "hint:")
			equal(t, "exit status", r.Code, c.code)
			for name := range names(t, os.TempDir()) {
				if strings.HasPrefix(name, "banger-") && !before[name] {
					t.Errorf("%s was made in the temporary directory", name)
				}
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestHomeOwners uses a home, and a configuration, that somebody else can change. The first command
// and the daemon refuse them.
func TestHomeOwners(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can give files away")
	t.Run("a daemon runs", func(t *testing.T) {
		h := testkit.NewHome(t, bin)
		config := filepath.Join(h.Dir, "xdg", "CONFIG_HOME")
		h.Setenv("BANGER_HOME", "")
		for _, dir := range []string{"STATE_HOME", "CACHE_HOME", "RUNTIME_DIR", "CONFIG_HOME"} {
			h.Setenv("XDG_"+dir, filepath.Join(h.Dir, "xdg", dir))
		}
		must(t, h.Shell("mkdir -p xdg/STATE_HOME xdg/CACHE_HOME xdg/RUNTIME_DIR xdg/CONFIG_HOME"))
		h.Chown(t, 4242) // root's directories are others
		defer h.Banger(t, "daemon", "stop")
		ok(t, h, "vm", "list")
		must(t, os.Chmod(config, 0o777))
		defer os.Chmod(config, 0o700)
		r := fails(t, h, []string{"vm", "list"}, config, "chmod")
		equal(t, "exit status", r.Code, fault.Denied.ExitCode())
	})
	for name, c := range map[string]struct{ make, path, hint string }{
		"somebody's configuration": {`mkdir -p config && echo 'qemu = "/bin/false"' >config/config.toml && chown 4242 config/config.toml`, "config/config.toml", "chown"},
		"everybody's directory":    {"mkdir -m 700 state && chmod 777 .", "", "chmod"},
		"somebody's state":         {"mkdir -m 700 state && chown 4242 state", "state", "chown"},
	} {
		t.Run(name, func(t *testing.T) {
			h := testkit.NewHome(t, bin)
			must(t, h.Shell(c.make))
			for _, program := range []string{"banger", "bangerd"} {
				r := h.RunCmd(t, "", filepath.Join(h.Bin, program), map[string][]string{"banger": {"vm", "list"}}[program]...)
				equal(t, program+": exit status", r.Code, fault.Denied.ExitCode())
				has(t, r.Stderr, filepath.Join(h.Dir, c.path), c.hint)
			}
			r := h.Banger(t, "doctor")
			has(t, r.Stdout, c.hint+" ")
			if _, err := os.Stat(filepath.Join(h.Dir, "state", "banger.db")); err == nil {
				t.Error("a database was made")
			}
		})
	}
}

// names returns the names in a directory.
func names(t *testing.T, dir string) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	all := map[string]bool{}
	for _, e := range entries {
		all[e.Name()] = true
	}
	return all
}

// killDaemonIn ends the daemon of a home that is not at h.Dir like a crash.
func killDaemonIn(t *testing.T, h *testkit.Home, pid int, home string) {
	t.Helper()
	must(t, h.Shell("kill -9 "+strconv.Itoa(pid)))
	testkit.WaitFor(t, 10*time.Second, "the daemon is gone", func() bool {
		return h.Shell("flock -n "+paths.LockIn(paths.At(home).State)+" true") == nil
	})
}
