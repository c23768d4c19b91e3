package qemu_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/qemu"
)

// targets are what a stand-in for a VMM tries to reach. The test passes them on the kernel's
// command line.
type targets struct {
	Home, Socket, Abstract string // of the user
	Disk, Other            string // its own, and that of another VM
	Image, Kernel, Run     string // its own
	Victim                 int    // another process of the user
	Port                   int    // of the host's loopback
	Hides                  hiding // it becomes a machine, and hides from the daemon
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

func opens(path func(targets) string, flag int) func(targets) error {
	return func(t targets) error {
		fd, err := unix.Open(path(t), flag|unix.O_CLOEXEC, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
}

func home(t targets) string { return filepath.Join(t.Home, ".bashrc") }
func is(path string) func(targets) string {
	return func(targets) string { return path }
}

func of(name string) func(targets) string {
	return func(t targets) string { return filepath.Join("/proc", strconv.Itoa(t.Victim), name) }
}

func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func socket(family, kind, proto int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if to == nil {
		return nil
	}
	return unix.Connect(fd, to)
}

// inChild calls f in a thread that ends with it, because it changes the thread.
func inChild(f func() error) error {
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		err <- f()
	}()
	return <-err
}

var attempts = []attempt{
	{"opening a file of the user's home", model.LayerFiles, false, opens(home, unix.O_RDONLY)},
	{"writing a file of the user's home", model.LayerFiles, false, opens(home, unix.O_WRONLY)},
	{"making a file in the user's home", model.LayerFiles, false, opens(func(t targets) string { return t.Home + "/new" }, unix.O_WRONLY|unix.O_CREAT)},
	{"listing the user's home", model.LayerFiles, false, opens(func(t targets) string { return t.Home }, unix.O_RDONLY|unix.O_DIRECTORY)},
	{"reading everybody's passwords", model.LayerFiles, true, opens(is("/etc/shadow"), unix.O_RDONLY)},
	{"running a program of the user's home", model.LayerFiles, false, func(t targets) error {
		err := exec.Command(filepath.Join(t.Home, "program")).Run()
		return err
	}},
	{"opening another VM's disk", model.LayerFiles, false, opens(func(t targets) string { return t.Other }, unix.O_RDONLY)},
	{"writing another VM's disk", model.LayerFiles, false, opens(func(t targets) string { return t.Other }, unix.O_RDWR)},
	{"writing the image", model.LayerFiles, false, opens(func(t targets) string { return t.Image }, unix.O_WRONLY)},
	{"emptying the image", model.LayerFiles, false, opens(func(t targets) string { return t.Image }, unix.O_RDONLY|unix.O_TRUNC)},
	{"writing the kernel", model.LayerFiles, false, opens(func(t targets) string { return t.Kernel }, unix.O_WRONLY)},
	{"making a file in the run directory", model.LayerFiles, false, opens(func(t targets) string { return t.Run + "/new" }, unix.O_WRONLY|unix.O_CREAT)},
	{"reading another process's environment", model.LayerFiles, false, opens(of("environ"), unix.O_RDONLY)},
	{"opening another process's memory", model.LayerFiles, false, opens(of("mem"), unix.O_RDWR)},
	{"opening a disk of the host", model.LayerFiles, true, opens(is("/dev/vda"), unix.O_RDONLY)},

	{"connecting to a unix socket by its path", model.LayerCalls, false, func(t targets) error {
		return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0, &unix.SockaddrUnix{Name: t.Socket})
	}},
	{"connecting to an abstract unix socket", model.LayerCalls, false, func(t targets) error {
		return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0, &unix.SockaddrUnix{Name: "@" + t.Abstract})
	}},
	{"making a pair of unix sockets", model.LayerCalls, false, func(targets) error {
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		return err
	}},
	{"making a netlink socket", model.LayerCalls, false, func(targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, 0, nil) }},
	{"making a raw socket", model.LayerCalls, true, func(targets) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, nil) }},
	{"making a packet socket", model.LayerCalls, true, func(targets) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0, nil) }},
	{"reading another process's memory", model.LayerCalls, true, func(t targets) error {
		var b [8]byte
		_, err := unix.ProcessVMReadv(t.Victim, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		return err
	}},
	{"ending another process", model.LayerCalls, false, func(t targets) error { return unix.Kill(t.Victim, 0) }},
	{"ending another process by its thread", model.LayerCalls, false, func(t targets) error { return unix.Tgkill(t.Victim, t.Victim, 0) }},
	{"aborting another process", model.LayerCalls, false, func(t targets) error { return unix.Tgkill(t.Victim, t.Victim, unix.SIGABRT) }},
	{"sending another process the second signal for users", model.LayerCalls, false, func(t targets) error {
		return unix.Tgkill(t.Victim, t.Victim, unix.SIGUSR2)
	}},
	{"signalling another process with a signal of virtual CPUs", model.LayerSignals, false, func(t targets) error {
		return unix.Tgkill(t.Victim, t.Victim, unix.SIGUSR1)
	}},
	{"signalling another process by its descriptor", model.LayerCalls, false, func(t targets) error {
		fd, err := unix.PidfdOpen(t.Victim, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	}},
	{"signalling another process as the owner of a file", model.LayerCalls, false, func(t targets) error {
		_, err := unix.FcntlInt(0, unix.F_SETSIG, int(unix.SIGUSR1))
		return err
	}},
	{"taking a descriptor of another process", model.LayerCalls, true, func(t targets) error {
		fd, err := unix.PidfdOpen(t.Victim, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"limiting another process", model.LayerCalls, false, func(t targets) error {
		return unix.Prlimit(t.Victim, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{})
	}},
	{"moving another process to another CPU", model.LayerCalls, false, func(t targets) error {
		var set unix.CPUSet
		set.Set(0)
		return unix.SchedSetaffinity(t.Victim, &set)
	}},
	{"tracing another process", model.LayerCalls, true, func(t targets) error {
		return inChild(func() error { return unix.PtraceSeize(t.Victim) })
	}},
	{"changing the mode of a file in the user's home", model.LayerCalls, false, func(t targets) error { return unix.Chmod(home(t), 0o600) }},
	{"changing the times of a file in the user's home", model.LayerCalls, false, func(t targets) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, home(t), nil, 0)
	}},
	{"cutting a file of the user's home", model.LayerCalls, false, func(t targets) error { return unix.Truncate(home(t), 1) }},
	{"renaming a file of the user's home", model.LayerCalls, false, func(t targets) error { return unix.Rename(home(t), home(t)) }},
	{"making a link in the user's home", model.LayerCalls, false, func(t targets) error { return unix.Symlink("x", t.Home+"/link") }},
	{"making a directory in the user's home", model.LayerCalls, false, func(t targets) error { return unix.Mkdir(t.Home+"/dir", 0o700) }},
	{"removing a file of the user's home", model.LayerCalls, false, func(t targets) error { return unix.Unlink(t.Home + "/old") }},
	{"mounting", model.LayerCalls, true, func(t targets) error { return unix.Mount("none", t.Home, "tmpfs", 0, "") }},
	{"making a mount namespace", model.LayerCalls, true, func(targets) error {
		return inChild(func() error { return unix.Unshare(unix.CLONE_NEWNS) })
	}},
	{"making a process with a user namespace", model.LayerCalls, true, func(targets) error {
		return call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD) // invalid
	}},
	{"entering another namespace", model.LayerCalls, true, func(targets) error { return unix.Setns(0, unix.CLONE_NEWNET) }},
	{"loading a BPF program", model.LayerCalls, true, func(targets) error { return call(unix.SYS_BPF, 0) }},
	{"making a userfaultfd", model.LayerCalls, true, func(targets) error { return call(unix.SYS_USERFAULTFD, 0) }},
	{"using the kernel's keys", model.LayerCalls, true, func(targets) error { return call(unix.SYS_KEYCTL, 0) }},
	{"finding the message queues of other programs", model.LayerCalls, false, func(targets) error {
		var info [256]byte
		const ipcInfo = 3
		return call(unix.SYS_MSGCTL, 0, ipcInfo, uintptr(unsafe.Pointer(&info)))
	}},
	{"making an io_uring", model.LayerCalls, true, func(targets) error {
		var params [120]byte
		return call(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params)))
	}},
	{"loading a module", model.LayerCalls, true, func(targets) error { return call(unix.SYS_FINIT_MODULE, 0) }},
	{"releasing the lock that shows that it runs", model.LayerCalls, false, func(targets) error { return unix.Flock(3, unix.LOCK_UN) }},
	{"leaving its run directory", model.LayerCalls, false, func(targets) error { return unix.Chdir("/") }},
	{"leaving its run directory by a descriptor", model.LayerCalls, false, func(targets) error {
		fd, err := unix.Open("/usr", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fchdir(fd)
	}},
	{"hiding what it has open", model.LayerCalls, false, func(targets) error {
		return errors.Join(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0), unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	}},
	{"setting the clock", model.LayerCalls, true, func(targets) error { return call(unix.SYS_CLOCK_SETTIME, 99) }},

	{"reading the image", "", false, opens(func(t targets) string { return t.Image }, unix.O_RDONLY)},
	{"reading the kernel", "", false, opens(func(t targets) string { return t.Kernel }, unix.O_RDONLY)},
	{"reading libraries", "", false, opens(is("/usr/lib"), unix.O_RDONLY|unix.O_DIRECTORY)},
	{"reading the name servers", "", false, func(targets) error {
		err := opens(is("/etc/resolv.conf"), unix.O_RDONLY)(targets{})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}},
	{"writing its own disk", "", false, func(t targets) error {
		f, err := os.OpenFile(t.Disk, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("data"), 4096)
		return errors.Join(err, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), f.Sync())
	}},
	{"connecting over TCP", "", false, func(t targets) error {
		return socket(unix.AF_INET, unix.SOCK_STREAM, 0, &unix.SockaddrInet4{Port: t.Port, Addr: [4]byte{127, 0, 0, 1}})
	}},
	{"sending UDP", "", false, func(t targets) error {
		return socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP, nil)
	}},
	{"accepting a connection to its own socket", "", false, func(targets) error {
		_, _, err := unix.Accept4(4, unix.SOCK_NONBLOCK)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		return err
	}},
}

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

// TestTakenOver confines a program that tries what a VMM in the hands of a guest may try.
func TestTakenOver(t *testing.T) {
	layers := protected(t)
	m := machine(t, tiny{})
	goal(t, &m)
	free := machine(t, tiny{})
	goal(t, &free)
	confined, unconfined := standIn(t, m, nil, false), standIn(t, free, nil, true)
	for _, a := range attempts {
		got, tried := confined[a.claim]
		control, triedFree := unconfined[a.claim]
		switch {
		case !tried || !triedFree:
			t.Errorf("%s: not tried", a.claim)
		case a.layer == "" && got.Failed != "":
			t.Errorf("%s does not work: %s", a.claim, got.Failed)
		case a.layer != "" && !a.hard && control.Failed != "":
			t.Errorf("%s proves nothing: it fails for an unconfined program, too: %s", a.claim, control.Failed)
		case a.layer == "" || !slices.Contains(layers, a.layer):
		case !slices.Contains([]unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENOENT}, got.Errno) || got.Errno == unix.ENOENT && !strings.HasPrefix(a.claim, "removing"):
			t.Errorf("%s is not refused: %+v", a.claim, got)
		}
	}
	for _, claim := range []string{"no core dump", "no capabilities"} {
		if got, tried := confined[claim]; !tried || got.Failed != "" {
			t.Errorf("%s: %v, %s", claim, tried, got.Failed)
		}
	}
}

// TestTakenOverIsFound: a VMM hides, and the daemon starts anew. The daemon of its home finds and
// ends it. The daemon of a copy of the home does not.
func TestTakenOverIsFound(t *testing.T) {
	on := protected(t)
	testkit.Require(t, "seccomp", slices.Contains(on, model.LayerCalls), "without a filter of system calls, a VMM leaves its directory")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []hiding{closing, replacing, ending} {
		t.Run(string(how), func(t *testing.T) {
			m := machine(t, tiny{})
			goal(t, &m)
			m.Cmdline = []string{fmt.Sprintf(`{"Hides": %q}`, how)}
			var states []vmm.State
			in, err := qemu.New(qemu.Config{Binary: self, Accel: qemu.TCG}).Start(deadline(t), m, func(s vmm.State) error {
				states = append(states, bytes.Clone(s))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			states = append(states, in.State())
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			testkit.WaitFor(t, time.Minute, "the VMM to hide", func() bool {
				name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", in.PID()))
				return err != nil || filepath.Base(name) != "lock"
			})
			foreign := filepath.Join(t.TempDir(), filepath.Base(m.RunDir))
			if err := errors.Join(os.MkdirAll(foreign, 0o700), os.Link(filepath.Join(m.RunDir, "lock"), filepath.Join(foreign, "lock"))); err != nil {
				t.Fatal(err)
			}
			finder := driver(t).(vmm.Finder)
			find := func(by string, ours bool, find func() (vmm.Instance, error)) vmm.Instance {
				again, err := find()
				switch {
				case err == nil && !ours:
					t.Errorf("the VMM is found %s in a copy of its directory", by)
				case err != nil && ours:
					t.Fatalf("the VMM is not found %s: %v", by, err)
				case ours && again.PID() != in.PID():
					t.Errorf("process %d is found %s, not %d", again.PID(), by, in.PID())
				}
				return again
			}
			for dir, ours := range map[string]bool{m.RunDir: true, foreign: false} {
				for by, state := range map[string]vmm.State{"by what was intended": states[0], "by its state": states[1]} {
					if again := find(by, ours, func() (vmm.Instance, error) { return driver(t).Adopt(deadline(t), state, dir) }); again != nil {
						_ = again.Close()
					}
				}
			}
			find("by its directory", false, func() (vmm.Instance, error) { return finder.Find(deadline(t), foreign) })
			end(t, find("by its directory", true, func() (vmm.Instance, error) { return finder.Find(deadline(t), m.RunDir) }))
			if _, err := driver(t).Adopt(deadline(t), states[1], m.RunDir); fault.KindOf(err) != fault.NotFound {
				t.Errorf("a VMM that was ended is found: %v", err)
			}
		})
	}
}

// TestFreeze stops a VMM. The next daemon, and a resume, let it continue.
func TestFreeze(t *testing.T) {
	m := machine(t, tiny{then: off})
	in := start(t, m)
	stopped := func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", in.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(stat), ") T ")
	}
	freeze := func(in vmm.Instance) {
		t.Helper()
		if err := in.(vmm.Freezer).Freeze(); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, 10*time.Second, "the VMM to stop", stopped)
		if halt, err := in.(vmm.HaltReporter).Halted(deadline(t)); halt != vmm.Halted || err != nil {
			t.Errorf("a VMM that was stopped counts as %v, %v", halt, err)
		}
	}
	mark := filepath.Join(m.RunDir, "frozen")
	if err := syscall.Mkfifo(mark, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := make(chan error, 1)
	go func() { fifo <- in.(vmm.Freezer).Freeze() }()
	select {
	case err := <-fifo:
		if fault.KindOf(err) != fault.Damaged || stopped() {
			t.Errorf("with a FIFO in the place of the mark, the VMM is stopped: %v, %v", stopped(), err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("with a FIFO in the place of the mark, stopping the VMM waits")
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	freeze(in)
	if err := in.(vmm.Pauser).Resume(deadline(t)); err != nil || stopped() {
		t.Errorf("a resume lets the VMM continue: %v, %v", !stopped(), err)
	}
	freeze(in)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := adopt(t, in.State())
	if err != nil || stopped() {
		t.Fatalf("the next daemon lets the VMM continue: %v, %v", !stopped(), err)
	}
	defer end(t, again)
	powersOff(t, again)
}

// TestTakenOverWithoutNetwork confines the VMM of a machine without a network card.
func TestTakenOverWithoutNetwork(t *testing.T) {
	layers := protected(t)
	m := machine(t, tiny{})
	goal(t, &m)
	m.NICs = nil
	results := standIn(t, m, nil, false)
	for _, claim := range []string{"connecting over TCP", "sending UDP"} {
		if got := results[claim]; slices.Contains(layers, model.LayerCalls) && got.Errno != unix.EPERM {
			t.Errorf("without a network card, %s is not refused: %+v", claim, got)
		}
	}
}

// TestTakenOverSharedMemory restores a machine. Others may use the same memory, so the VMM must not
// write it.
func TestTakenOverSharedMemory(t *testing.T) {
	layers := protected(t)
	in := start(t, machine(t, tiny{}))
	booted(t, in)
	from, _ := save(t, in)
	results := standIn(t, machine(t, tiny{}), &from, false)
	if got := results["reading the shared memory"]; got.Failed != "" {
		t.Errorf("a restored VMM cannot read its memory: %s", got.Failed)
	}
	if got := results["writing the shared memory"]; slices.Contains(layers, model.LayerFiles) && got.Errno != unix.EACCES {
		t.Errorf("a restored VMM may open the memory that it shares for writing: %+v", got)
	}
}

// TestSharedMemoryIsSealed saves a machine to memory without a name, as a fork does. When it is
// sealed, nobody can write there, whatever the version of QEMU. Before, it counts as unprotected.
func TestSharedMemoryIsSealed(t *testing.T) {
	in := start(t, machine(t, tiny{then: off}))
	booted(t, in)
	req := request(t, t.TempDir())
	fd, err := unix.MemfdCreate("fork", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	req.Memory = os.NewFile(uintptr(fd), "fork")
	defer req.Memory.Close()
	saved, err := in.(vmm.Saver).Save(deadline(t), req)
	if err != nil {
		t.Fatal(err)
	}
	from := checkpoint(t, req, saved)
	open := restore(t, machine(t, tiny{}), from)
	if slices.Contains(vmm.ProtectionOf(open).On(), model.LayerMemory) {
		t.Error("a fork's memory counts as protected before it is sealed")
	}
	powersOff(t, open)
	if err := vmm.SealMemory(req.Memory); err != nil {
		t.Fatal(err)
	}
	if _, err := req.Memory.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("memory that machines share can be written: %v", err)
	}
	fork := restore(t, machine(t, tiny{}), from)
	if !slices.Contains(vmm.ProtectionOf(fork).On(), model.LayerMemory) {
		t.Errorf("a fork's memory does not count as protected: %+v", vmm.ProtectionOf(fork))
	}
	powersOff(t, fork)
	if err := vmm.SealMemory(request(t, t.TempDir()).Memory); err == nil {
		t.Error("a file that cannot be sealed is no error")
	}
}
