package freezer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	"banger/internal/testkit"
)

func TestMain(m *testing.M) {
	if os.Getenv(vforkEnv) != "" {
		runtime.LockOSThread()
		vforks()
	}
	if os.Getenv("BANGER_FREEZER_INIT") != "" {
		os.Exit(signalsMain())
	}
	os.Exit(m.Run())
}

// newGroups returns Groups of a hierarchy that belongs to the test.
func newGroups(t *testing.T, home string) (*Groups, string) {
	t.Helper()
	testkit.Require(t, "root", os.Getuid() == 0, "control groups are root's to make")
	var hierarchy string
	mounts, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			hierarchy = f[1]
		}
	}
	testkit.Require(t, "cgroup2", hierarchy != "", "no such file system is mounted")
	dir, err := os.MkdirTemp(hierarchy, "banger-test-")
	testkit.Require(t, "cgroup2", err == nil, fmt.Sprint(err))
	t.Cleanup(func() { removeGroups(t, dir) })
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	g, err := FromFD(fd, home)
	if err != nil {
		t.Fatal(err)
	}
	g.own = func() (string, error) { return "/" + home, nil } // we are elsewhere
	t.Cleanup(func() { unix.Close(fd) })
	return g, dir
}

// removeGroups removes groups after their processes have ended.
func removeGroups(t *testing.T, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(t, filepath.Join(dir, e.Name()))
		}
	}
	for n := 0; unix.Rmdir(dir) == unix.EBUSY; n++ {
		if n > 1000 {
			t.Errorf("%s is in use", dir)
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

// busy starts a process in a group that uses up its CPU. It makes the group.
func busy(t *testing.T, dir string) int {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// ticks returns how much CPU time a process has used.
func ticks(t *testing.T, pid int) string {
	t.Helper()
	// The first number is nanoseconds on the CPU (Documentation/scheduler/sched-stats.rst).
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))[0]
}

// running reports whether a process continues, within a time.
func running(t *testing.T, pid int, limit time.Duration) bool {
	t.Helper()
	before := ticks(t, pid)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if ticks(t, pid) != before {
			return true
		}
	}
	return false
}

const (
	soon  = time.Minute // on a busy machine
	while = 100 * time.Millisecond
)

func TestGroups(t *testing.T) {
	g, dir := newGroups(t, Agent)
	if err := os.Mkdir(filepath.Join(dir, Agent), 0o755); err != nil {
		t.Fatal(err)
	}
	pids := []int{
		busy(t, filepath.Join(dir, Commands)),
		busy(t, filepath.Join(dir, "docker/1")), busy(t, filepath.Join(dir, "docker/2")),
		busy(t, dir), busy(t, filepath.Join(dir, Agent)), // out of place
	}
	paused := busy(t, filepath.Join(dir, "paused"))
	if err := os.WriteFile(filepath.Join(dir, "paused/cgroup.freeze"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		n, err := g.Freeze(t.Context())
		if err != nil || n != len(pids)+1 {
			t.Fatalf("round %d: %d processes, %v", round, n, err)
		}
		for i, pid := range append(pids, paused) {
			if running(t, pid, while) {
				t.Errorf("round %d: process %d runs on", round, i)
			}
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
		for i, pid := range pids {
			if !running(t, pid, soon) {
				t.Errorf("round %d: process %d stands still", round, i)
			}
		}
		if running(t, paused, while) {
			t.Errorf("round %d: who was paused by others goes on", round)
		}
	}
	procs, _ := os.ReadFile(filepath.Join(dir, Commands, "cgroup.procs"))
	if got := numbers(procs); len(got) != 3 || !slices.Contains(got, pids[3]) || !slices.Contains(got, pids[4]) {
		t.Errorf("of %v, %v are commands", pids, got)
	}
	if err := g.Thaw(); err != nil {
		t.Errorf("nobody is frozen: %v", err)
	}
}

// TestGroupsRenew: root in the guest may remove our group while it is empty.
func TestGroupsRenew(t *testing.T) {
	g, dir := newGroups(t, "")
	for round := range 2 {
		if err := unix.Rmdir(filepath.Join(dir, g.name)); err != nil {
			t.Fatal(err)
		}
		if !g.Lost() {
			t.Errorf("round %d: the group was removed, but not lost", round)
		}
		stray := busy(t, dir)
		if n, err := g.Freeze(t.Context()); err != nil || n != round+1 {
			t.Errorf("round %d: %d processes, %v", round, n, err)
		}
		if running(t, stray, while) {
			t.Errorf("round %d: a process runs on", round)
		}
		if err := g.Thaw(); err != nil {
			t.Error(err)
		}
		if err := g.Renew(); err != nil || g.Lost() { // for the next round to remove
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, g.name)); err != nil {
			t.Error(err)
		}
	}
}

// TestSignals runs as process 1 of a namespace, where it can stop all processes.
func TestSignals(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "BANGER_FREEZER_INIT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	testkit.Require(t, "namespace", err == nil, fmt.Sprint(err))
	err = cmd.Wait()
	testkit.Require(t, "namespace", cmd.ProcessState.ExitCode() != exitNoMountPoint,
		"/ is no mount point, as in a chroot: no other /proc can be mounted there without the host seeing it")
	if err != nil {
		t.Errorf("the test in a namespace of its own failed: %v: %s", err, out.String())
	}
}

// exitNoMountPoint is the exit status of a test that the mount namespace does not fit.
const exitNoMountPoint = 3

// errNoMountPoint is why / cannot be kept from the host's mount namespace.
var errNoMountPoint = errors.New("/ is no mount point")

func signalsMain() int {
	err := signalsInit()
	if errors.Is(err, errNoMountPoint) {
		return exitNoMountPoint
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func signalsInit() error {
	err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
	if err == unix.EINVAL {
		return errNoMountPoint
	}
	if err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	var pids []int
	for _, script := range []string{"while :; do :; done", "while :; do (:); done", "sleep 1000", "kill -STOP $$"} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			return err
		}
		pids = append(pids, cmd.Process.Pid)
	}
	forker := exec.Command("/proc/self/exe")
	forker.Env = append(os.Environ(), vforkEnv+"=1")
	forker.Stdout = os.Stdout
	if err := forker.Start(); err != nil {
		return err
	}
	pids = append(pids, forker.Process.Pid)
	for deadline := time.Now().Add(soon); states(pids)[4] != 'D'; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("no process waits for its child: %q", states(pids))
		}
	}
	for deadline := time.Now().Add(soon); states(pids)[3] != 'T'; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("no process stops itself: %q", states(pids))
		}
	}
	for round := range 3 {
		s := &Signals{}
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		n, err := s.Freeze(ctx)
		cancel()
		if err != nil || n < 4 {
			return fmt.Errorf("round %d: %d processes, %v", round, n, err)
		}
		if got := states(pids); got != "TTTTT" {
			return fmt.Errorf("round %d: frozen processes are %q", round, got)
		}
		if err := s.Thaw(); err != nil {
			return err
		}
		for deadline := time.Now().Add(soon); strings.Count(states(pids), "T") != 1; <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("round %d: thawed processes are %q", round, states(pids))
			}
		}
		if got := states(pids); got[3] != 'T' {
			return fmt.Errorf("round %d: who was stopped before goes on: %q", round, got)
		}
	}
	return nil
}

// vforkEnv is set in a process that runs vforks.
const vforkEnv = "BANGER_FREEZER_VFORK"

// vforks begins a child again and again that takes long until it runs another program. Until then
// the kernel lets the parent wait. The child has memory of its own, but runs no Go code that needs
// another thread.
func vforks() {
	long := unix.Timespec{Nsec: int64(20 * time.Millisecond)}
	program, _ := unix.BytePtrFromString("/bin/true")
	args := []*byte{program, nil}
	for {
		pid, _, _ := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if pid == 0 {
			unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&long)), 0, 0)
			unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(program)), uintptr(unsafe.Pointer(&args[0])), 0)
			unix.RawSyscall(unix.SYS_EXIT, 1, 0, 0)
		}
		unix.RawSyscall6(unix.SYS_WAIT4, pid, 0, 0, 0, 0, 0)
	}
}

func states(pids []int) string {
	var out []byte
	for _, pid := range pids {
		st, ok := readStat(pid)
		if !ok {
			st.state = '?'
		}
		out = append(out, st.state)
	}
	return string(out)
}

// TestSignalsBesideInit: process 1 ignores signals, and a machine is not halted by half.
func TestSignalsBesideInit(t *testing.T) {
	if _, err := new(Signals).Freeze(t.Context()); err == nil {
		t.Error("another process 1 was stopped")
	}
}

func TestKernelThreads(t *testing.T) {
	kernel := kernelThreads()
	if kernel(os.Getpid()) || kernel(1) {
		t.Error("a process is taken for the kernel's")
	}
	if st, ok := readStat(os.Getpid()); !ok || st.kernel || st.name == "" {
		t.Errorf("we are %+v", st)
	}
	const line = "7 (a) b) S 2 0 0 0 -1 69238880 0 0 0 0 0 0 0 0 20 0 1 0 42 0 0"
	if st, ok := parseStat([]byte(line)); !ok || st != (stat{name: "a) b", state: 'S', parent: "2", kernel: true, start: "42"}) {
		t.Errorf("a name with parentheses is read as %+v, %v", st, ok)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("7 (a) b) S 2 0 0 0 -1 69238880 0 0 0 0 0 0 0 0 20 0 1 0 42 0 0"))
	f.Add([]byte(")("))
	dirent := make([]byte, 24)
	dirent[direntLen], dirent[direntType], dirent[direntName] = 24, unix.DT_DIR, 'x'
	f.Add(dirent)
	f.Fuzz(func(t *testing.T, text []byte) {
		parseStat(text)
		for _, n := range directories(text) {
			if strings.ContainsRune(n, 0) {
				t.Errorf("%q is listed as the name of a directory", n)
			}
		}
		for _, n := range numbers(text) {
			strconv.Itoa(n)
		}
	})
}
