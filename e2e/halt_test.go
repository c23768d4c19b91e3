package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
)

// hostileGuest is an archive of an image whose init and only program is testdata/hostile.
func hostileGuest(t *testing.T) string {
	t.Helper()
	program, err := build("hostile")
	if err != nil {
		t.Fatal(err)
	}
	image := addLayer(t, empty.Image, dir("sbin"), dir("etc"), dir("dev"), dir("proc"), dir("sys"), dir("root"), dir("tmp"),
		file("sbin/init", program, 0o755), file("etc/inittab", "\n", 0o644))
	tag, err := name.NewTag("hostile:1")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hostile.tar")
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		t.Fatal(err)
	}
	return path
}

// within runs commands at once. Each must end within a time, which follows the host's speed, with
// an exit status, and say why.
func within(t *testing.T, h *testkit.Home, most time.Duration, want int, lines ...string) {
	t.Helper()
	var commands sync.WaitGroup
	for _, line := range lines {
		commands.Go(func() {
			began := time.Now()
			r := h.Banger(t, strings.Fields(line)...)
			if took := time.Since(began); testkit.Late(took, most) {
				t.Errorf("banger %s took %v", line, took)
			}
			if r.Code != want && r.Code != 125 {
				t.Errorf("banger %s: exit %d, not %d: %s", line, r.Code, want, r.Stderr)
			}
			if want != 0 && r.Stderr == "" {
				t.Errorf("banger %s does not say why it failed", line)
			}
		})
	}
	commands.Wait()
}

// saving tries operations that wait for the guest several times. make stress includes them. On a
// slow or busy host their deadlines are later, so not all of them may fit.
func saving(t *testing.T, h *testkit.Home) {
	t.Helper()
	if testkit.Number(t, "BANGER_STRESS_HALTS", 0) == 0 {
		return
	}
	const most = 10 * time.Minute
	began := time.Now()
	for _, line := range []string{"pause box", "suspend box", "snapshot create box", "fork box", "vm set --disk-size 20G box"} {
		if time.Since(began) > most {
			t.Logf("left out after %v: %s", most, line)
			continue
		}
		within(t, h, 4*time.Minute, fault.Unavailable.ExitCode(), line)
	}
}

// TestPauseBesideAHaltedVMM: a pause and its undoing fail because the VMM stands still, and so does
// the suspension of a paused VM whose daemon ends. The VM and its memory stay, and the VM continues
// with its VMM.
func TestPauseBesideAHaltedVMM(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	ok(t, h, "exec", "box", "--", "sh", "-c", "echo kept >/run/memory")
	vmm := machinePID(t, h, "box")
	if err := syscall.Kill(vmm, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(vmm, syscall.SIGCONT)
	code(t, h, fault.Unavailable.ExitCode(), "pause", "box")
	equal(t, "state", show(t, h, "box").State, model.Pausing)
	if err := syscall.Kill(vmm, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ok(t, h, "resume", "box")
	ok(t, h, "pause", "box")
	if err := syscall.Kill(vmm, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, suspend := h.Start(t, "suspend", "box")
	suspend.Expect(t, "answer of QEMU")
	ok(t, h, "daemon", "stop") // it does not wait for QEMU
	equal(t, "exit status of the suspension", suspend.Wait(t), fault.Unavailable.ExitCode())
	has(t, suspend.Output(), "the daemon is ending")
	if err := syscall.Kill(vmm, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	equal(t, "state after the daemon's end", show(t, h, "box").State, model.Paused)
	ok(t, h, "resume", "box")
	equal(t, "what is in memory", ok(t, h, "exec", "box", "--", "cat", "/run/memory"), "kept\n")
	equal(t, "pid of the VMM", machinePID(t, h, "box"), vmm)
	ok(t, h, "rm", "--force", "box")
	h.CheckNoLeaks(t, before)
}

// TestHaltedAgent: the guest's root halts the agent. Each call to the VM ends. Other VMs, the
// daemon's end, and stopping this VM are not affected.
func TestHaltedAgent(t *testing.T) {
	h := warm(t)
	ok(t, h, "image", "import", hostileGuest(t), "--name", "hostile:1")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--image", "hostile:1", "--memory", "128M")
	ok(t, h, "run", "-d", "--name", "other", "--memory", "128M")
	ok(t, h, "exec", "box", "--", "/sbin/init")
	client, _ := h.Start(t, "exec", "box", "--", "/sbin/init", "halt")
	silent := func() bool {
		r := h.Banger(t, "vm", "stats", "box", "--json")
		return r.Code == 0 && !strings.Contains(r.Stdout, `"guest"`)
	}
	testkit.WaitFor(t, time.Minute, "the agent is halted", silent)
	bounded := make(chan struct{})
	go func() {
		defer close(bounded)
		within(t, h, time.Minute, fault.Unavailable.ExitCode(), "exec box -- /sbin/init", "vm ports box")
		saving(t, h)
	}()
	for range 3 { // meanwhile
		within(t, h, 20*time.Second, 0, "exec other -- true", "ps", "vm show box", "logs box")
	}
	<-bounded
	_ = client.Process.Kill()
	lives := func() { // it is paused if it could not be thawed after a pause that failed
		t.Helper()
		testkit.WaitFor(t, 2*time.Minute, "the VM runs or is paused", func() bool {
			state := show(t, h, "box").State
			return state == model.Running || state == model.Paused
		})
	}
	lives()
	began := time.Now()
	ok(t, h, "daemon", "stop")
	if took := time.Since(began); testkit.Late(took, 20*time.Second) {
		t.Errorf("daemon stop took %v", took)
	}
	lives()
	within(t, h, time.Minute, fault.Unavailable.ExitCode(), "stop --timeout 2s box")
	equal(t, "state", show(t, h, "box").State, model.Stopped)
	ok(t, h, "start", "box")
	ok(t, h, "exec", "box", "--", "/sbin/init")
	ok(t, h, "rm", "--force", "box", "other")
	h.CheckNoLeaks(t, before)
}

// TestHaltedVMM: a VMM stands still. Each call to its VM ends, and it can be killed.
func TestHaltedVMM(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	ok(t, h, "run", "-d", "--name", "other", "--memory", "128M")
	vmm := machinePID(t, h, "box")
	if err := syscall.Kill(vmm, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(vmm, syscall.SIGCONT)
	bounded := make(chan struct{})
	go func() {
		defer close(bounded)
		within(t, h, time.Minute, fault.Unavailable.ExitCode(), "exec box -- true", "vm ports box")
		saving(t, h)
	}()
	for range 3 {
		within(t, h, 20*time.Second, 0, "exec other -- true", "ps", "vm show box", "vm stats box", "logs box")
	}
	<-bounded
	within(t, h, time.Minute, 0, "vm kill box")
	testkit.WaitFor(t, time.Minute, "the VM is stopped", func() bool { return show(t, h, "box").State == model.Stopped })
	ok(t, h, "start", "box")
	ok(t, h, "exec", "box", "--", "true")
	ok(t, h, "rm", "--force", "box", "other")
	h.CheckNoLeaks(t, before)
}

// TestWaitsAreSaid: a VMM stands still. Each command that waits for it says so, and until when. A
// signal ends the command at once.
func TestWaitsAreSaid(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	vmm := machinePID(t, h, "box")
	if err := syscall.Kill(vmm, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(vmm, syscall.SIGCONT)
	for _, c := range []struct {
		says string
		args []string
	}{
		{"answer of the guest, until about ", []string{"exec", "box", "--", "true"}},
		{"answer to a sync, until about ", []string{"suspend", "box"}},
		{"power-off of the guest, until about ", []string{"stop", "--timeout", "40s", "box"}},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			cmd, command := h.Start(t, c.args...)
			command.Expect(t, c.says)
			began := time.Now()
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			equal(t, "exit status", command.Wait(t), 130)
			if took := time.Since(began); testkit.Late(took, 3*time.Second) {
				t.Errorf("the command took %v to end", took)
			}
			if c.args[0] == "suspend" { // which is under way, and would keep the stop waiting
				if err := syscall.Kill(vmm, syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				testkit.WaitFor(t, time.Minute, "the VM is suspended", func() bool { return show(t, h, "box").State == model.Suspended })
				ok(t, h, "resume", "box")
				vmm = machinePID(t, h, "box")
				if err := syscall.Kill(vmm, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if err := syscall.Kill(vmm, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testkit.WaitFor(t, time.Minute, "the VM is stopped", func() bool { return show(t, h, "box").State == model.Stopped })
	ok(t, h, "rm", "box")
	h.CheckNoLeaks(t, before)
}

// TestHaltedDaemonIsSaid: the daemon stands still. Each command says that it waits for the daemon,
// and a signal ends the command at once.
func TestHaltedDaemonIsSaid(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	pid := daemonPID(t, h)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	says := fmt.Sprintf("bangerd (process %d) does not answer", pid)
	for _, line := range []string{"ps", "exec box -- true", "run --rm -- true", "stop box", "daemon status", "daemon stop"} {
		cmd, command := h.Start(t, strings.Fields(line)...)
		command.Expect(t, says)
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		equal(t, "exit status of "+line, command.Wait(t), 130)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ok(t, h, "ps")
	ok(t, h, "rm", "--force", "box")
}

// TestHaltedDaemon: the daemon stands still for longer than its deadlines for clients. What clients
// have sent meanwhile is answered afterwards.
func TestHaltedDaemon(t *testing.T) {
	h := warm(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	pid := daemonPID(t, h)
	before := descriptors(t, pid)
	var commands []*testkit.Background
	for i := range 8 {
		if i == 4 { // the others are under way
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			defer syscall.Kill(pid, syscall.SIGCONT)
		}
		_, command := h.Start(t, "exec", "box", "--", "sh", "-c", "echo done")
		commands = append(commands, command)
	}
	time.Sleep(13 * time.Second)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for i, command := range commands {
		code := command.Wait(t) // before the output, it may say what it waited for
		if code != 0 || !strings.HasSuffix(command.Output(), "done\n") {
			t.Errorf("command %d: exit %d: %s", i, code, command.Output())
		}
	}
	equal(t, "pid of the daemon", daemonPID(t, h), pid)
	testkit.WaitFor(t, time.Minute, "no descriptor has leaked", func() bool { return descriptors(t, pid) <= before+2 })
	ok(t, h, "rm", "--force", "box")
}

// TestGuestClock: the guest's root moves the clock by an hour. Commands, forks and suspension work,
// and banger sets the clock when the machine continues.
func TestGuestClock(t *testing.T) {
	h := warm(t)
	ok(t, h, "daemon", "start")
	before := h.Snapshot(t)
	ok(t, h, "run", "-d", "--name", "box", "--memory", "128M")
	for i, jump := range []string{"+1 hour", "-1 hour"} {
		off := func(vm string) time.Duration {
			t.Helper()
			seconds := strings.TrimSpace(ok(t, h, "exec", vm, "--", "date", "+%s"))
			var unix int64
			if _, err := fmt.Sscan(seconds, &unix); err != nil {
				t.Fatal(err)
			}
			return time.Until(time.Unix(unix, 0)).Round(time.Minute).Abs()
		}
		move := func() {
			t.Helper()
			ok(t, h, "exec", "box", "--", "sh", "-c", "date -s \"$(date -d '"+jump+"' +'%F %T')\" >/dev/null")
			equal(t, "how far the clock is off after "+jump, off("box"), time.Hour)
		}
		move()
		ok(t, h, "exec", "--timeout", "1m", "box", "--", "sleep", "0.1")
		child := fmt.Sprintf("child-%d", i)
		ok(t, h, "fork", "--name", child, "box")
		equal(t, "how far the clock of a fork is off after "+jump, off(child), 0)
		ok(t, h, "rm", "--force", child)
		move()
		ok(t, h, "suspend", "box")
		ok(t, h, "resume", "box")
		equal(t, "how far the clock is off after a suspension and "+jump, off("box"), 0)
		move()
		ok(t, h, "pause", "box")
		ok(t, h, "resume", "box")
		equal(t, "how far the clock is off after a pause and "+jump, off("box"), 0)
	}
	ok(t, h, "rm", "--force", "box")
	h.CheckNoLeaks(t, before)
}
