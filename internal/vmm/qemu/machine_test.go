package qemu_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/vmm"
	"banger/internal/vmm/console"
	"banger/internal/vmm/output"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu"
)

func deadline(t testing.TB) context.Context {
	ctx, cancel := pace.Context(context.Background(), time.Minute, "end of the test")
	t.Cleanup(cancel)
	return ctx
}

func ignore(vmm.State) error { return nil }

func start(t testing.TB, m vmm.Machine) vmm.Instance {
	t.Helper()
	in, err := driver(t).Start(deadline(t), m, ignore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, in) })
	return in
}

// adopt adopts a machine by its state in the run directory that the state names.
func adopt(t testing.TB, data vmm.State) (vmm.Instance, error) {
	t.Helper()
	var s struct {
		RunDir string `json:"run_dir"`
	}
	_ = json.Unmarshal(data, &s) // the driver reports an error
	return driver(t).Adopt(deadline(t), data, s.RunDir)
}

// end kills a machine and closes its instance.
func end(t testing.TB, in vmm.Instance) {
	t.Helper()
	if err := in.Signal(syscall.SIGKILL); err != nil && fault.KindOf(err) != fault.Canceled {
		t.Error(err)
	}
	if _, err := in.Wait(deadline(t)); err != nil && fault.KindOf(err) != fault.Canceled {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// endBy presses the power button, which a tiny guest waits for, and returns how the machine ended.
func endBy(t testing.TB, in vmm.Instance) vmm.Exit {
	t.Helper()
	if err := in.PowerOff(deadline(t)); err != nil {
		t.Fatal(err)
	}
	exit, err := in.Wait(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

func logged(t testing.TB, m vmm.Machine) string {
	t.Helper()
	var text bytes.Buffer
	ctx, cancel := context.WithCancel(deadline(t))
	cancel()
	if err := console.Follow(ctx, m.ConsoleLog, &text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestExit(t *testing.T) {
	const oops = "[ 1.0] Kernel panic - not syncing: oh no\ntrace\n"
	for name, c := range map[string]struct {
		guest tiny
		want  vmm.Exit
	}{
		"power off": {tiny{text: "bye\n", times: 2, then: off}, vmm.Exit{Reason: vmm.ExitPowerOff}},
		"reboot":    {tiny{text: "bye\n", times: 1, then: reboot}, vmm.Exit{Reason: vmm.ExitReboot}},
		"panic":     {tiny{text: oops, times: 1, then: reboot}, vmm.Exit{Reason: vmm.ExitPanic, Detail: "Kernel panic - not syncing: oh no"}},
	} {
		m := machine(t, c.guest)
		if got := endBy(t, start(t, m)); got != c.want {
			t.Errorf("%s: the machine's end is reported as %+v, not as %+v", name, got, c.want)
		}
		if got, want := logged(t, m), strings.Repeat(c.guest.text, int(c.guest.times)); got != want {
			t.Errorf("%s: the console's log is %q, not %q", name, got, want)
		}
	}
	in := start(t, machine(t, tiny{}))
	if err := in.Signal(syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	if exit, err := in.Wait(deadline(t)); err != nil || exit.Reason != vmm.ExitCrashed {
		t.Errorf("a crash of QEMU is not reported as one: %+v, %v", exit, err)
	}
}

const line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n"

func TestConsoleIsBounded(t *testing.T) {
	m := machine(t, tiny{text: line, times: 3000, then: off})
	endBy(t, start(t, m))
	got := logged(t, m)
	if len(got) > int(m.ConsoleMax) || len(got) <= int(m.ConsoleMax)/2 || strings.Trim(got, "0123456789abcdef\n") != "" || !strings.HasSuffix(got, line) {
		t.Errorf("the console's log does not hold the newest bytes within its bound: %d, at most %d", len(got), m.ConsoleMax)
	}
}

// TestNoOneReadsTheConsole floods the console of a machine that no one watches. The machine ends
// nevertheless.
func TestNoOneReadsTheConsole(t *testing.T) {
	in := start(t, machine(t, tiny{text: line, times: 5000, then: off}))
	if err := in.PowerOff(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := adopt(t, in.State())
	if fault.KindOf(err) == fault.NotFound {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	defer end(t, again)
	if exit, err := again.Wait(deadline(t)); err != nil || exit.Reason != vmm.ExitPowerOff {
		t.Errorf("a machine whose console no one reads does not power off: %+v, %v", exit, err)
	}
}

func TestAdoptAnotherProcess(t *testing.T) {
	in := start(t, machine(t, tiny{then: off}))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		again, err := adopt(t, in.State())
		if err != nil {
			t.Fatal(err)
		}
		end(t, again)
	})
	state := string(in.State())
	for _, change := range [][2]string{
		{`"start":`, `"start":1`},
		{`"boot":"`, `"boot":"0`},
		{`"pid":` + strconv.Itoa(in.PID()), `"pid":` + strconv.Itoa(os.Getpid())},
		{`"pid":`, `"pid":-`},
	} {
		other := strings.Replace(state, change[0], change[1], 1)
		if other == state {
			t.Fatalf("%s holds no %s", state, change[0])
		}
		if got, err := adopt(t, vmm.State(other)); fault.KindOf(err) != fault.NotFound {
			t.Errorf("another process is adopted: %s: %v", other, err)
			_ = got.Close()
		}
	}
}

// TestAdoptEnding adopts a VMM that just ends. It has lost its descriptors and its directory before
// its end is reported, so it looks like another process, which does not make it another home's.
func TestAdoptEnding(t *testing.T) {
	in := start(t, machine(t, tiny{then: off}))
	ending := exec.Command("sleep", "100")
	if err := ending.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := process.Identify(ending.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	var state map[string]any
	if err := json.Unmarshal(in.State(), &state); err != nil {
		t.Fatal(err)
	}
	state["process"] = id
	data, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	end(t, in)
	killed := make(chan error, 1)
	time.AfterFunc(100*time.Millisecond, func() {
		err := ending.Process.Kill()
		_ = ending.Wait()
		killed <- err
	})
	if _, err := adopt(t, data); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a VMM that just ends is not reported as ended: %v", err)
	}
	if err := <-killed; err != nil {
		t.Error(err)
	}
}

// TestAdoptWithoutConsoleLog adopts a machine whose console log is no regular file any more. The
// machine can be stopped.
func TestAdoptWithoutConsoleLog(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"FIFO":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		m := machine(t, tiny{then: off})
		in := start(t, m)
		if err := errors.Join(in.Close(), os.Remove(m.ConsoleLog), replace(m.ConsoleLog)); err != nil {
			t.Fatal(err)
		}
		again, err := adopt(t, in.State())
		if err != nil {
			t.Errorf("%s: the machine is not adopted: %v", name, err)
			_ = syscall.Kill(in.PID(), syscall.SIGKILL)
			continue
		}
		if exit := endBy(t, again); exit.Reason != vmm.ExitPowerOff {
			t.Errorf("%s: the adopted machine does not power off, but ends by %+v", name, exit)
		}
		end(t, again)
		if _, err := driver(t).Start(deadline(t), m, ignore); fault.KindOf(err) != fault.Damaged {
			t.Errorf("%s: a start does not report the console log as damaged: %v", name, err)
		}
	}
}

// TestProcess checks what QEMU is on the host.
func TestProcess(t *testing.T) {
	m := machine(t, tiny{})
	in := start(t, m)
	proc := filepath.Join("/proc", strconv.Itoa(in.PID()))
	if environ, err := os.ReadFile(filepath.Join(proc, "environ")); err != nil || string(environ) != "LC_ALL=C\x00" {
		t.Errorf("QEMU has the environment %q, %v", environ, err)
	}
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || !bytes.Contains(cmdline, []byte("banger-"+m.ID)) {
		t.Errorf("QEMU's command line does not name the machine: %q, %v", cmdline, err)
	}
	if sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(in.PID()), 0, 0); errno != 0 || int(sid) != in.PID() {
		t.Errorf("QEMU has no session of its own: %d, %v", sid, errno)
	}
	if status, err := os.ReadFile(filepath.Join(proc, "status")); err != nil || !bytes.Contains(status, []byte("\nSeccomp:\t2\n")) {
		t.Errorf("QEMU has no system call filter: %v", err)
	}
	own, err := os.Stat(filepath.Join("/proc/self/fd/0"))
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Stat(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if stdin, err := os.Stat(filepath.Join(proc, "fd/0")); err != nil || !os.SameFile(stdin, null) || os.SameFile(stdin, own) && !os.SameFile(own, null) {
		t.Errorf("QEMU's standard input is not /dev/null: %v, %v", stdin, err)
	}
	entries, err := os.ReadDir(m.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("others may use %s: its mode is %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestResizeDrive(t *testing.T) {
	m := machine(t, tiny{then: off})
	in := start(t, m)
	disk := m.Drives[1]
	if err := os.Truncate(disk.Path, 8<<20); err != nil {
		t.Fatal(err)
	}
	resizer, ok := in.(vmm.Resizer)
	if !ok {
		t.Fatal("it is no Resizer")
	}
	if err := resizer.ResizeDrive(deadline(t), disk.Name, 8*model.MiB); err != nil {
		t.Error(err)
	}
	if err := resizer.ResizeDrive(deadline(t), "nonsense", 8*model.MiB); err == nil {
		t.Error("resizing a drive that does not exist is no error")
	}
	endBy(t, in)
	if info, err := os.Stat(disk.Path); err != nil || info.Size() != 8<<20 {
		t.Errorf("a resized drive does not keep its size: %d bytes, %v", info.Size(), err)
	}
	if err := in.PowerOff(deadline(t)); err != nil {
		t.Errorf("powering off a machine that has ended is an error: %v", err)
	}
	if err := resizer.ResizeDrive(deadline(t), disk.Name, 8*model.MiB); fault.KindOf(err) != fault.WrongState {
		t.Errorf("resizing a drive of a machine that has ended is not refused as a wrong state: %v", err)
	}
}

func TestDriveInUse(t *testing.T) {
	first, second := machine(t, tiny{}), machine(t, tiny{})
	start(t, first)
	second.Drives = first.Drives[:1]
	end(t, start(t, second)) // many readers
	second.Drives = first.Drives
	in, err := driver(t).Start(deadline(t), second, ignore)
	if fault.KindOf(err) != fault.Locked || fault.HintOf(err) == "" {
		t.Errorf("a second writer of a drive is not refused as locked with a hint: %v", err)
		if err == nil {
			end(t, in)
		}
	}
}

// TestBrokenQEMU starts programs that are not QEMU.
func TestBrokenQEMU(t *testing.T) {
	m := machine(t, tiny{})
	before := writers(t) // of machines that earlier tests have let go
	for script, want := range map[string]string{
		"echo 'it is' >&2; echo 'broken' >&2; exit 3": "it ended with status 3: it is; broken",
		"exit 0":                               "it ended with status 0: it printed nothing",
		"kill -ABRT $$":                        "it ended by signal SIGABRT",
		"exec sleep 1000":                      "changed my mind",
		"exec 4>&- 5>&- 6>&-; exec sleep 1000": "",
	} {
		path := filepath.Join(t.TempDir(), "qemu")
		if err := os.WriteFile(path, []byte("#!/bin/sh\nulimit -c 0\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeoutCause(deadline(t), 300*time.Millisecond, errors.New("changed my mind"))
		defer cancel()
		var state vmm.State
		unconfined := strings.HasPrefix(script, "kill") // a confined program cannot
		in, err := qemu.New(qemu.Config{Binary: path, Accel: qemu.TCG, Unconfined: unconfined}).Start(ctx, m, func(s vmm.State) error {
			state = bytes.Clone(s)
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("starting a program with %q does not fail with %q: %v", script, want, err)
		}
		if err == nil {
			end(t, in)
		}
		if left, err := os.ReadDir(m.RunDir); err != nil || len(left) != 0 {
			t.Errorf("%s: a failed start leaves files: %v, %v", script, left, err)
		}
		if _, err := adopt(t, state); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s: a failed start leaves a process: %v", script, err)
		}
		if n := writers(t) - before; n > 0 {
			t.Errorf("%s: a failed start leaves %d writers of its log", script, n)
		}
	}
}

// writers counts the children of this process, zombies too, that write logs.
func writers(t *testing.T) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range stats {
		text, _ := os.ReadFile(path) // it may have ended
		if _, rest, ok := strings.Cut(string(text), "(banger-output) "); ok && strings.Fields(rest)[1] == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n
}

// TestVMMLogIsBounded starts a program that complains without end. Nobody but the log's writer
// reads it, as if no daemon ran.
func TestVMMLogIsBounded(t *testing.T) {
	m := machine(t, tiny{})
	path := filepath.Join(t.TempDir(), "qemu")
	script := "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do yes complaint | head -c 1000000; done >&2 2>/dev/null\nsleep 0.2\necho last words >&2\nexit 3\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := qemu.New(qemu.Config{Binary: path, Accel: qemu.TCG}).Start(deadline(t), m, ignore)
	if err == nil || !strings.Contains(err.Error(), "last words") {
		t.Errorf("the error does not have the last words: %v", err)
	}
	var size int64
	for _, p := range []string{m.VMMLog, console.Old(m.VMMLog)} {
		if info, err := os.Stat(p); err == nil {
			size += info.Size()
		}
	}
	if size > output.Max || size < output.Max/4 {
		t.Errorf("the VMM's log has %d bytes, not up to %d", size, output.Max)
	}
	if log, err := os.ReadFile(m.VMMLog); err != nil || !bytes.HasSuffix(log, []byte("last words\n")) {
		t.Errorf("the log does not end with the last words: %.100q, %v", log, err)
	}
}

// TestLinux boots a kernel, checks its drives, grows one, and ends its first process: the kernel
// panics.
func TestLinux(t *testing.T) {
	m := linux(t)
	in := start(t, m)
	conn, err := in.DialAgent(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	ask := func(question string) string { // QEMU keeps it until the guest opens the port
		if _, err := fmt.Fprintln(conn, question); err != nil || !lines.Scan() {
			t.Fatal(question, err, lines.Err())
		}
		return lines.Text()
	}
	image, err := os.Stat(m.Drives[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ask("size image"), fmt.Sprint((image.Size()+511)/512*512); got != want {
		t.Errorf("the guest sees an image of %s bytes, not %s", got, want)
	}
	if got := ask("size system"); got != "1048576" {
		t.Errorf("the guest sees a system disk of %s bytes", got)
	}
	if err := errors.Join(os.Truncate(m.Drives[1].Path, 3<<20), in.(vmm.Resizer).ResizeDrive(deadline(t), "system", 3*model.MiB)); err != nil {
		t.Fatal(err)
	}
	for ctx := deadline(t); ask("size system") != "3145728"; { // it gets an interrupt
		if err := ctx.Err(); err != nil {
			t.Fatal("the system disk did not grow:", err)
		}
	}
	if _, err := fmt.Fprintln(conn, "exit"); err != nil {
		t.Fatal(err)
	}
	exit, err := in.Wait(deadline(t))
	if err != nil || exit.Reason != vmm.ExitPanic || !strings.Contains(exit.Detail, "Attempted to kill init") {
		t.Errorf("the panic of a kernel is not reported: %+v, %v; console %q", exit, err, logged(t, m))
	}
}
