package qemu_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/qemu"
)

// standsIn plays a VMM that was taken over, if the test's program was started as QEMU. It writes a
// result for each attempt to its log.
func standsIn(args []string) bool {
	switch {
	case len(args) == 1 && args[0] == "--version":
		fmt.Println("QEMU emulator version 9.0.0 (stand-in)")
	case slices.Contains(args, "-netdev") && slices.Contains(args, "help"):
		fmt.Println("user")
	case slices.Contains(args, "-incoming"):
		report("writing the shared memory", opens(is("/proc/self/fd/7"), unix.O_RDWR)(targets{}))
		report("reading the shared memory", opens(is("/proc/self/fd/7"), unix.O_RDONLY)(targets{}))
	case slices.Contains(args, "-append"):
		line := args[slices.Index(args, "-append")+1]
		var t targets
		if err := json.Unmarshal([]byte(line[strings.IndexByte(line, '{'):]), &t); err != nil {
			panic(err)
		}
		if t.Hides != "" {
			hide(t.Hides)
		}
		_ = unix.SetNonblock(4, true)
		for _, a := range attempts {
			report(a.claim, a.do(t))
		}
		rest(t)
	default:
		return false
	}
	return true
}

// rest reports what is no system call.
func rest(targets) {
	var core unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &core)
	if core.Cur != 1 || core.Max != 1 { // with 0, a pipe gets one
		err = errors.Join(err, fmt.Errorf("the limits are %d and %d", core.Cur, core.Max))
	}
	report("no core dump", err)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err = unix.Capget(&header, &data[0])
	if got := data[0].Permitted &^ (1 << unix.CAP_DAC_READ_SEARCH); got != 0 || data[1].Permitted != 0 {
		err = errors.Join(err, fmt.Errorf("it has %x, %x", data[0].Permitted, data[1].Permitted))
	}
	report("no capabilities", err)
}

type result struct {
	Claim  string
	Errno  unix.Errno
	Failed string
}

func report(claim string, err error) {
	r := result{Claim: claim}
	if err != nil {
		r.Failed = err.Error()
		_ = errors.As(err, &r.Errno)
	}
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "%s\n", line)
}

// standIn starts the test's program as the VMM of a machine, and returns what it reports.
func standIn(t *testing.T, m vmm.Machine, from *vmm.Checkpoint, unconfined bool) map[string]result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := qemu.New(qemu.Config{Binary: self, Accel: qemu.TCG, Unconfined: unconfined})
	if from == nil {
		_, err = d.Start(deadline(t), m, ignore)
	} else {
		_, err = d.Restore(deadline(t), m, *from, ignore)
	}
	if err == nil {
		t.Fatal("the stand-in became a machine")
	}
	log, readErr := os.ReadFile(m.VMMLog)
	results := map[string]result{}
	for line := range strings.Lines(string(log)) {
		var r result
		if json.Unmarshal([]byte(line), &r) == nil {
			results[r.Claim] = r
		}
	}
	if readErr != nil || len(results) == 0 {
		t.Fatalf("the stand-in reports nothing: %v, %v: %s", err, readErr, log)
	}
	return results
}

// goal makes what a stand-in tries to reach.
func goal(t *testing.T, m *vmm.Machine) {
	t.Helper()
	dir := directory(t)
	to := targets{
		Home: filepath.Join(dir, "home"), Socket: filepath.Join(dir, "bangerd.sock"), Abstract: "banger-test-" + filepath.Base(dir),
		Other: filepath.Join(dir, "other.ext4"), Disk: m.Drives[1].Path, Image: filepath.Join(dir, "image"), Kernel: m.Kernel, Run: m.RunDir,
	}
	m.Drives[0].Path = to.Image
	for path, mode := range map[string]os.FileMode{home(to): 0o600, to.Home + "/old": 0o600, to.Home + "/program": 0o700, to.Other: 0o600, to.Image: 0o600} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("#!/bin/true\n"), mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []string{to.Socket, "@" + to.Abstract} {
		l, err := net.Listen("unix", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	to.Port = l.Addr().(*net.TCPAddr).Port
	victim := exec.Command("sh", "-c", `trap "" USR1 USR2 ABRT; exec sleep 1000`)
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	to.Victim = victim.Process.Pid
	testkit.WaitFor(t, time.Minute, "the other process", func() bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", to.Victim))
		return string(name) == "sleep\n"
	})
	text, err := json.Marshal(to)
	if err != nil {
		t.Fatal(err)
	}
	m.Cmdline = []string{string(text)}
}

// needs are the names by which a layer can be required of this host.
var needs = map[model.LayerName]string{
	model.LayerFiles: "landlock", model.LayerDevices: "landlock-devices", model.LayerSignals: "landlock-signals",
	model.LayerCalls: "seccomp",
}

// protected returns the layers that hold on this host. A layer that does not is a subtest that is
// skipped, or fails if it is required.
func protected(t *testing.T) []model.LayerName {
	t.Helper()
	layers := confine.Available()
	for _, l := range layers.Missing() {
		t.Run(string(l.Name), func(t *testing.T) { testkit.Require(t, needs[l.Name], false, l.Note) })
	}
	return layers.On()
}

// hiding is how a VMM hides from a daemon that did not start it.
type hiding string

const (
	closing   hiding = "without its lock"
	replacing hiding = "with another file as its lock"
	ending    hiding = "without its first thread"
)

func init() {
	if slices.Contains(os.Args, "-append") {
		runtime.LockOSThread() // the first thread
	}
}

// hide hides the VMM, which still answers its monitor.
func hide(how hiding) {
	go func() {
		monitor, err := net.FileListener(os.NewFile(4, "monitor"))
		if err != nil {
			panic(err)
		}
		conn, err := monitor.Accept()
		for ; err == nil; conn, err = monitor.Accept() {
			lines := bufio.NewScanner(conn)
			_, _ = fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}, "capabilities": []}}`)
			for lines.Scan() {
				var command struct{ ID uint64 }
				_ = json.Unmarshal(lines.Bytes(), &command)
				_, _ = fmt.Fprintf(conn, `{"return": {}, "id": %d}`+"\n", command.ID)
			}
		}
	}()
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Chdir("/")
	_ = unix.Dup2(0, 3)
	if how != replacing {
		_ = unix.Close(3)
	}
	if how == ending {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	time.Sleep(time.Hour)
}

// attempt is something that a VMM tries.
type attempt struct {
	claim string
	// layer refuses it; "": it must work.
	layer model.LayerName
	// hard is set if it may fail for an unconfined program, too. All others must work there:
	// otherwise their failure would prove nothing.
	hard bool
	do   func(t targets) error
}
