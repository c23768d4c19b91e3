package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"

	"golang.org/x/sys/unix"
)

// aged is a home whose VMs are newer than a copy of its database, and also newer than their own
// records were then. "runs", "rests" and "sleeps" have a file in /root, in /opt and in memory.
type aged struct {
	*testkit.Home
	state string
	old   string // directory of the copies: the database, and a record by each VM's id
	pid   int    // of the machine of "runs"
}

func newAged(t *testing.T) aged {
	t.Helper()
	a := aged{Home: warm(t)}
	a.state, a.old = filepath.Join(a.Dir, "state"), t.TempDir()
	for _, name := range []string{"runs", "rests"} {
		ok(t, a.Home, "vm", "create", "--name", name, "--memory", "256M")
	}
	ok(t, a.Home, "run", "-d", "--name", "sleeps", "--memory", "256M")
	must(t, a.Shell("for d in state/vms/*; do cp $d/record.json "+a.old+"/${d##*/}; done; cp state/banger.db* "+a.old))
	for _, name := range []string{"runs", "rests", "sleeps"} {
		if name != "sleeps" {
			ok(t, a.Home, "start", name)
		}
		ok(t, a.Home, "exec", name, "--", "sh", "-c", "for f in /root/f /opt/f /dev/shm/f; do echo mine >$f; done; sync")
	}
	ok(t, a.Home, "stop", "rests")
	ok(t, a.Home, "suspend", "sleeps")
	a.pid = machinePID(t, a.Home, "runs")
	ok(t, a.Home, "daemon", "stop")
	return a
}

// putBack puts the older database in the place of the present one.
func (a aged) putBack(t *testing.T) {
	t.Helper()
	must(t, a.Shell("rm state/banger.db* && cp "+a.old+"/banger.db* state"))
}

// wantAll checks that nothing of any VM is lost.
func (a aged) wantAll(t *testing.T) {
	t.Helper()
	equal(t, "the state of sleeps", show(t, a.Home, "sleeps").State, model.Suspended)
	equal(t, "the pid of the machine of runs", machinePID(t, a.Home, "runs"), a.pid)
	ok(t, a.Home, "start", "rests")
	ok(t, a.Home, "resume", "sleeps")
	for name, files := range map[string][]string{
		"runs": {"/root/f", "/opt/f", "/dev/shm/f"}, "rests": {"/root/f", "/opt/f"}, "sleeps": {"/root/f", "/opt/f", "/dev/shm/f"},
	} {
		for _, file := range files {
			equal(t, file+" in "+name, a.Banger(t, "exec", name, "--", "cat", file).Stdout, "mine\n")
		}
	}
}

// TestOlderDatabase copies the database while the daemon runs, and puts the copy back when the VMs
// have gone on. The daemon does not start, and a recovery brings every byte back.
func TestOlderDatabase(t *testing.T) {
	a := newAged(t)
	a.putBack(t)
	for range 2 {
		r := fails(t, a.Home, []string{"ps"}, "older than the VMs", "banger daemon recover")
		equal(t, "exit status", r.Code, fault.WrongState.ExitCode())
	}
	plan := decode[model.Rescue](t, a.Home, "daemon", "recover", "--dry-run")
	equal(t, "the database", plan.Database, model.DatabaseOlder)
	ok(t, a.Home, "daemon", "recover")
	a.wantAll(t)
	ok(t, a.Home, "rm", "--force", "runs", "rests", "sleeps")
}

// TestOlderDatabaseUnseen is TestOlderDatabase with copies of the records that are as old, as if
// they could not be written since. So nothing shows that the database is older.
func TestOlderDatabaseUnseen(t *testing.T) {
	a := newAged(t)
	a.putBack(t)
	must(t, a.Shell("for d in state/vms/*; do cp "+a.old+"/${d##*/} $d/record.json; done"))
	a.wantAll(t)
	ok(t, a.Home, "rm", "--force", "runs", "rests", "sleeps")
}

// TestOlderBackup recovers VMs whose copies are damaged, with a backup that is older than their
// first starts.
func TestOlderBackup(t *testing.T) {
	a := newAged(t)
	must(t, a.Shell("rm -rf state/backups state/banger.db* && mkdir -m 700 state/backups && cd "+a.old+
		" && for f in banger.db*; do cp $f $OLDPWD/state/backups/banger-20200101T000000.000Z-0.db${f#banger.db}; done"))
	must(t, a.Shell("for d in state/vms/*; do : >$d/record.json; done"))
	done := decode[model.Rescue](t, a.Home, "daemon", "recover")
	equal(t, "the number of VMs", len(done.VMs), 3)
	for _, v := range done.VMs {
		equal(t, "the outcome of "+v.Name, v.Outcome, model.Restored)
	}
	a.wantAll(t)
	ok(t, a.Home, "rm", "--force", "runs", "rests", "sleeps")
}

// TestOlderThanARun puts a database back that was copied before a VM was made and after the daemon
// had started. The daemon does not start, and a recovery brings the VM back.
func TestOlderThanARun(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "first")
	must(t, h.Shell("mkdir old && cp state/banger.db* old"))
	ok(t, h, "vm", "create", "--name", "second")
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("rm state/banger.db* && cp old/banger.db* state"))
	fails(t, h, []string{"ps"}, "older than the VMs", "VM second has no record", "banger daemon recover")
	ok(t, h, "daemon", "recover")
	equal(t, "VMs after the recovery", len(vms(t, h)), 2)
	ok(t, h, "rm", "first", "second")
	ok(t, h, "daemon", "stop")
	equal(t, "VMs after the deletion", len(vms(t, h)), 0)
}

// TestOlderState puts all of the state back from a backup while a VM runs that is newer. The daemon
// and a recovery refuse that and end nothing, until the later state is back.
func TestOlderState(t *testing.T) {
	h := warm(t)
	ok(t, h, "vm", "create", "--name", "old")
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("cp -a state backup"))
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	pid, id := machinePID(t, h, "box"), show(t, h, "box").ID
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mv state later && mv backup state"))
	for _, command := range [][]string{{"ps"}, {"daemon", "recover"}, {"daemon", "recover", "--dry-run"}} {
		r := fails(t, h, command, "is older than VMs that run", id, "banger doctor")
		equal(t, "exit status", r.Code, fault.WrongState.ExitCode())
	}
	has(t, h.Banger(t, "doctor").Stdout, id, "system.ext4")
	must(t, h.Shell("mv state backup && mv later state"))
	equal(t, "the pid of the machine", machinePID(t, h, "box"), pid)
	equal(t, "output", ok(t, h, "exec", "box", "--", "echo", "hi"), "hi\n")
	ok(t, h, "rm", "--force", "box", "old")
}

// TestRuntimeRemoved removes the runtime directory while a VM runs, as the end of a login session
// does. The VM continues, commands say what has happened, and doctor finds the machine.
func TestRuntimeRemoved(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	pid := machinePID(t, h, "box")
	must(t, h.Shell("rm -r run"))
	ok(t, h, "exec", "box", "--", "true") // the daemon is still connected
	ok(t, h, "daemon", "restart")
	equal(t, "the pid of the machine", machinePID(t, h, "box"), pid)
	fails(t, h, []string{"exec", "box", "--", "true"}, "run directory", "was removed", "banger vm kill")
	for _, line := range [][]string{{"stop", "--timeout", "10m", "box"}, {"vm", "restart", "--timeout", "10m", "box"}} {
		began := time.Now()
		r := code(t, h, fault.Unavailable.ExitCode(), line...)
		has(t, r.Stderr, "neither the agent nor QEMU can be reached", "run directory", "banger vm kill")
		if took := time.Since(began); testkit.Late(took, 10*time.Second) {
			t.Errorf("%v took %v", line, took)
		}
	}
	equal(t, "the pid of the machine after a stop", machinePID(t, h, "box"), pid)
	has(t, h.Banger(t, "doctor").Stdout, "box (process ", "was removed")
	ok(t, h, "vm", "kill", "box")
	ok(t, h, "start", "box")
	ok(t, h, "exec", "box", "--", "true")
	ok(t, h, "rm", "--force", "box")
}

// TestHomeReplaced removes a home under its daemon and a VM, and puts a copy back. Nothing is
// ended. Without the copy, the daemon does not start and names the machine.
func TestHomeReplaced(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	machine, daemon := machinePID(t, h, "box"), daemonPID(t, h)
	must(t, h.Shell("mkdir kept && cp -a state run kept && rm -r state run"))
	testkit.WaitFor(t, time.Minute, "the daemon has ended", func() bool { return syscall.Kill(daemon, 0) != nil })
	fails(t, h, []string{"ps"}, fmt.Sprintf("process %d", machine), "were removed", "kill ")
	has(t, h.Banger(t, "doctor").Stdout, fmt.Sprintf("(process %d)", machine), "was removed", "is missing")
	must(t, h.Shell("rm -rf state run && mv kept/* ."))
	equal(t, "the pid of the machine", machinePID(t, h, "box"), machine)
	fails(t, h, []string{"fork", "box"}, "system.ext4", "is another file")
	fails(t, h, []string{"exec", "box", "--", "true"}, "run directory")
	ok(t, h, "vm", "kill", "box")
	ok(t, h, "start", "box")
	ok(t, h, "rm", "--force", "box")
}

// TestLinkedDirectory moves a VM to another directory by a symbolic link. The VM runs, a recovery
// finds it, and a deletion leaves nothing.
func TestLinkedDirectory(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo mine >/root/f")
	ok(t, h, "stop", "box")
	id := show(t, h, "box").ID
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mkdir big && mv state/vms/"+id+" big && ln -s "+h.Dir+"/big/"+id+" state/vms/"+id+" && rm -rf state/banger.db* state/backups"))
	done := decode[model.Rescue](t, h, "daemon", "recover")
	if len(done.VMs) != 1 || done.VMs[0].Outcome != model.Rebuilt {
		t.Fatalf("recovered %+v", done)
	}
	ok(t, h, "start", "box")
	equal(t, "the file", ok(t, h, "exec", "box", "--", "cat", "/root/f"), "mine\n")
	for _, row := range decode[model.DiskUsage](t, h, "df").Rows {
		if row.Name == "box" && row.Own < model.MiB {
			t.Errorf("df shows %v of the VM's disks", row.Own)
		}
	}
	ok(t, h, "rm", "--force", "box")
	if left, err := os.ReadDir(filepath.Join(h.Dir, "big")); err != nil || len(left) > 0 {
		t.Errorf("after the deletion there is %v: %v", left, err)
	}
}

// TestRemountedDisk starts the daemon while the disk with a suspended VM is not mounted. When the
// disk is mounted, the VM continues from its memory. The daemon need not start again.
func TestRemountedDisk(t *testing.T) {
	testkit.Require(t, "root", os.Geteuid() == 0, "only root can mount a file system")
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo mine >/dev/shm/f")
	ok(t, h, "suspend", "box")
	id := show(t, h, "box").ID
	link, disk := filepath.Join(h.Dir, "state", "vms", id), filepath.Join(h.Dir, "disk")
	must(t, h.Shell("mkdir -m 700 disk && truncate -s 4G disk.img && mkfs.ext4 -q disk.img"))
	mount := func() { t.Helper(); must(t, h.Shell("mount -o loop disk.img disk")) }
	mount()
	t.Cleanup(func() {
		h.Banger(t, "rm", "--force", "box")
		h.Banger(t, "daemon", "stop")
		_ = unix.Unmount(disk, unix.MNT_DETACH)
	})
	for _, command := range []string{"start", "resume"} {
		ok(t, h, "daemon", "stop")
		if command == "start" {
			must(t, h.Shell("mv "+link+" disk/ && ln -s "+filepath.Join(disk, id)+" "+link))
		}
		must(t, unix.Unmount(disk, 0))
		equal(t, "state without the disk", show(t, h, "box").State, model.Broken)
		for _, c := range []string{"start", "resume", "stop", "fork"} {
			r := fails(t, h, []string{c, "box"}, link, "Mount the disk")
			equal(t, "exit status", r.Code, fault.Damaged.ExitCode())
		}
		mount()
		fails(t, h, []string{"rm", "box"}, "suspended", "resume")
		ok(t, h, command, "box")
		equal(t, "the file in the memory", ok(t, h, "exec", "box", "--", "cat", "/dev/shm/f"), "mine\n")
		ok(t, h, "suspend", "box")
	}
}

// TestRestoreLinked restores a VM in place whose directory is a symbolic link to another file
// system. While that is not mounted, nothing is lost, and the restore is refused.
func TestRestoreLinked(t *testing.T) {
	h := warm(t)
	smallDir(t, h, "big")("1G")
	ok(t, h, "run", "-d", "--name", "web", "--memory", "128M")
	set := func(text string) {
		ok(t, h, "exec", "web", "--", "sh", "-c", "for f in /opt/f /dev/shm/f; do echo "+text+" >$f; done; sync")
	}
	get := func(text string) {
		t.Helper()
		equal(t, "the files", ok(t, h, "exec", "web", "--", "cat", "/opt/f", "/dev/shm/f"), text+"\n"+text+"\n")
	}
	set("then")
	ok(t, h, "snapshot", "create", "--name", "s", "web")
	ok(t, h, "suspend", "web")
	ok(t, h, "daemon", "stop")
	id := show(t, h, "web").ID
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mv state/vms/"+id+" big && ln -s "+h.Dir+"/big/"+id+" state/vms/"+id))
	ok(t, h, "resume", "web")
	set("later")
	ok(t, h, "vm", "restore", "--force", "web", "s")
	get("then")
	set("later")
	ok(t, h, "suspend", "web")
	must(t, h.Shell("mv big/"+id+" big/away"))
	r := fails(t, h, []string{"vm", "restore", "--force", "web", "s"}, "is missing", "put the directory back")
	equal(t, "exit status", r.Code, fault.Damaged.ExitCode())
	must(t, h.Shell("mv big/away big/"+id))
	ok(t, h, "resume", "web")
	get("later")
	ok(t, h, "stop", "web")
	ok(t, h, "vm", "restore", "--disks-only", "web", "s")
	ok(t, h, "start", "web")
	equal(t, "the file", ok(t, h, "exec", "web", "--", "cat", "/opt/f"), "then\n")
	equal(t, "what is left of the restores", run(t, h, "find", "big", "-name", "restored*", "-o", "-name", ".tmp-*"), "")
	ok(t, h, "rm", "--force", "web")
}

// TestReplacedDisk puts the directory of a VM that runs back from a backup while no daemon runs.
// Nothing is saved with the disk of the backup. What only the VM has can be copied as it says.
func TestReplacedDisk(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "256M")
	dir := filepath.Join(h.Dir, "state", "vms", show(t, h, "box").ID)
	must(t, h.Shell("cp -a --sparse=always "+dir+" backup"))
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo mine >/opt/f; sync")
	pid := machinePID(t, h, "box")
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("rm -r "+dir+" && mv backup "+dir))
	has(t, ok(t, h, "daemon", "recover", "--dry-run"), "replaced", "system.ext4")
	has(t, h.Banger(t, "doctor").Stdout, "box (process ", "system.ext4")
	has(t, ok(t, h, "vm", "show", "box"), "system.ext4", "banger vm kill box")
	has(t, h.Banger(t, "ps").Stderr, "system.ext4")
	for _, command := range [][]string{
		{"stop", "box"}, {"vm", "restart", "box"}, {"suspend", "box"}, {"fork", "box"}, {"snapshot", "create", "box"},
		{"vm", "set", "--disk-size", "20G", "box"},
	} {
		r := fails(t, h, command, "system.ext4", "is another file", "banger vm kill box")
		equal(t, "exit status", r.Code, fault.Damaged.ExitCode())
	}
	equal(t, "the pid of the machine", machinePID(t, h, "box"), pid)
	equal(t, "the file", ok(t, h, "exec", "box", "--", "cat", "/opt/f"), "mine\n")

	ok(t, h, "pause", "box")
	hint := show(t, h, "box").Replaced.Hint
	open := regexp.MustCompile(`/proc/\d+/fd/\d+`).FindString(hint)
	must(t, h.Shell("cp --sparse=always "+open+" "+dir+"/system.ext4"))
	ok(t, h, "vm", "kill", "box")
	ok(t, h, "start", "box")
	equal(t, "the file after the start", ok(t, h, "exec", "box", "--", "cat", "/opt/f"), "mine\n")
	must(t, os.Remove(filepath.Join(dir, "system.ext4")))
	fails(t, h, []string{"fork", "box"}, "system.ext4", "was removed")
	ok(t, h, "rm", "--force", "box")
}

// TestUnknownDirectory puts the directory of a VM back that has no copy of a record, like those of
// early versions. It is moved and not removed.
func TestUnknownDirectory(t *testing.T) {
	h := warm(t)
	const id = "aaaaaaaaaaaaaaaa"
	ok(t, h, "vm", "create", "--name", "other")
	ok(t, h, "daemon", "stop")
	must(t, h.Shell("mkdir state/vms/"+id+" && echo mine >state/vms/"+id+"/work.ext4"))
	ok(t, h, "ps")
	testkit.WaitFor(t, time.Minute, "the directory is gone", func() bool {
		_, err := os.Stat(filepath.Join(h.Dir, "state", "vms", id))
		return errors.Is(err, os.ErrNotExist)
	})
	if text, err := os.ReadFile(filepath.Join(h.Dir, "state", "lost", id, "work.ext4")); err != nil || string(text) != "mine\n" {
		t.Errorf("the disk holds %q, %v", text, err)
	}
	has(t, h.Banger(t, "doctor").Stdout, id)
}
