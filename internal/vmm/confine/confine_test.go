package confine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/model"
	"banger/internal/testkit"
)

// TestRun checks that only what start does is confined, and that the thread ends.
func TestRun(t *testing.T) {
	t.Log(Available())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var inside, allowed, call error
	err := Policy{Read: []string{file + "-missing"}}.Run(func() error {
		_, inside = os.ReadFile(file)
		call = unix.Chmod(file, 0o600)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := (Policy{Write: []string{file}}).Run(func() error {
		allowed = os.WriteFile(file, []byte("y"), 0)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, l := range Available() {
		if l.Name == model.LayerFiles && l.On && !errors.Is(inside, fs.ErrPermission) {
			t.Errorf("a file that no rule allows can be read: %v", inside)
		}
		if l.Name == model.LayerCalls && l.On && !errors.Is(call, fs.ErrPermission) {
			t.Errorf("a call that no VMM needs is allowed: %v", call)
		}
	}
	if allowed != nil {
		t.Errorf("a file that a rule allows cannot be written: %v", allowed)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "y" {
		t.Errorf("the process is confined itself: %q, %v", data, err)
	}
	if status, err := os.ReadFile("/proc/self/status"); err != nil || !bytes.Contains(status, []byte("\nSeccomp:\t0\n")) {
		t.Errorf("the first thread has a filter: %v", err)
	}
	broken := errors.New("broken")
	if err := (Policy{}).Run(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("the error of start is lost: %v", err)
	}
	if err := (Policy{Write: []string{file + "-missing"}}).Run(func() error { t.Error("it starts"); return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file that must be written is no error: %v", err)
	}
}

// TestAvailableAfterFailure has no descriptor left for the first look at the host. The next look
// finds the protection.
func TestAvailableAfterFailure(t *testing.T) {
	testkit.Require(t, "landlock", landlockVersion() > 0, "the kernel has no Landlock")
	want := Available()
	testkit.Require(t, "landlock", slices.Contains(want.On(), model.LayerFiles), fmt.Sprint(want))
	found.protection = nil
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	without := Available()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if on := without.On(); len(on) != 0 {
		t.Fatalf("without a descriptor, the host has %v", on)
	}
	if got := Available(); !slices.Equal(got, want) {
		t.Errorf("after a failure, the host has %+v, not %+v", got, want)
	}
}

// TestOnThread checks that no confined thread stays, and that the first one is never confined.
func TestOnThread(t *testing.T) {
	for range 50 {
		tid := 0
		onThread(func() { tid = unix.Gettid() })
		if tid == unix.Getpid() {
			t.Fatal("it ran in the first thread of the process")
		}
		for i := 0; unix.Tgkill(unix.Getpid(), tid, 0) != unix.ESRCH; i++ {
			if i > 1e6 {
				t.Fatalf("thread %d stays", tid)
			}
		}
	}
}

// TestOlderKernels checks which rights are asked from older versions of Landlock: an unknown one
// would be refused.
func TestOlderKernels(t *testing.T) {
	for version, want := range map[int][2]uint64{1: {0x1fff, 0}, 2: {0x3fff, 0}, 3: {0x7fff, 0}, 4: {0x7fff, 0}, 5: {0xffff, 0}, 6: {0xffff, 3}, 9: {0xffff, 3}} {
		rights, scopes := handled(version)
		if rights != want[0] || scopes != want[1] {
			t.Errorf("version %d: %#x, %#x, not %#x, %#x", version, rights, scopes, want[0], want[1])
		}
	}
	none := (&ruleset{fd: -1}).enter()
	if len(none.On()) != 0 || len(none) != 3 || none[0].Note == "" || none[1].Note != none[0].Note {
		t.Errorf("without Landlock, layers count as on or do not say why not: %+v", none)
	}
}

// TestOlderLandlock confines a thread as a kernel with each older version would, down to a kernel
// without Landlock. The layers that are left hold.
func TestOlderLandlock(t *testing.T) {
	dir := t.TempDir()
	file, image := filepath.Join(dir, "file"), filepath.Join(dir, "image")
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.WriteFile(image, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for version := landlockVersion(); version >= 0; version-- {
		rules, err := newRuleset(Policy{Read: []string{image}, Write: []string{os.DevNull}}, version)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		victim := exec.Command("sleep", "1000")
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		pid := victim.Process.Pid
		var got model.Protection
		var opened, allowed, changed, emptied, sent error
		var others []error // of signals that no version lets through
		onThread(func() {
			if got, err = (Policy{}).enter(rules); err != nil {
				return
			}
			opened, allowed = opens(file, unix.O_RDONLY), opens(os.DevNull, unix.O_RDWR|unix.O_TRUNC)
			emptied = errors.Join(opens(image, unix.O_RDONLY), denied(opens(image, unix.O_RDONLY|unix.O_TRUNC)), denied(opens(image, unix.O_ACCMODE|unix.O_TRUNC)))
			changed = unix.Truncate(file, 0)
			for _, sig := range []unix.Signal{unix.SIGUSR2, unix.SIGABRT, unix.SIGURG, unix.SIGTERM, 0} {
				others = append(others, unix.Tgkill(pid, pid, sig))
			}
			sent = unix.Tgkill(pid, pid, unix.SIGUSR1)
		})
		_ = victim.Process.Kill()
		_ = victim.Wait()
		rules.close()
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		on := got.On()
		if want := version >= 1; slices.Contains(on, model.LayerFiles) != want || errors.Is(opened, unix.EACCES) != want {
			t.Errorf("version %d: %v, and opening a file that no rule allows: %v", version, on, opened)
		}
		if want := version >= versionScopes; slices.Contains(on, model.LayerSignals) != want || errors.Is(sent, unix.EPERM) != want {
			t.Errorf("version %d: %v, and signalling another process: %v", version, on, sent)
		}
		for i, err := range others {
			if slices.Contains(on, model.LayerCalls) && !errors.Is(err, unix.EPERM) {
				t.Errorf("version %d: sending another process signal %d of the list: %v", version, i, err)
			}
		}
		if slices.Contains(on, model.LayerCalls) && !errors.Is(changed, unix.EPERM) {
			t.Errorf("version %d: cutting a file by its name: %v", version, changed)
		}
		if size, err := os.Stat(image); slices.Contains(on, model.LayerCalls) && (emptied != nil || err != nil || size.Size() != 1) {
			t.Errorf("version %d: emptying a file that may be read: %v, %v, %v", version, emptied, size, err)
		}
		if allowed != nil {
			t.Errorf("version %d: opening a file that a rule allows: %v", version, allowed)
		}
	}
}

func opens(path string, flag int) error {
	fd, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// denied returns an error unless err is a refusal.
func denied(err error) error {
	if errors.Is(err, unix.EACCES) {
		return nil
	}
	return fmt.Errorf("not refused: %v", err)
}

// TestFilterSize checks the bounds of classic BPF: a jump reaches 255 instructions.
func TestFilterSize(t *testing.T) {
	for _, n := range []Network{None, Internet} {
		if code := filter(n); len(code) == 0 || len(code) > 4096 || code[len(code)-1].Code != unix.BPF_RET|unix.BPF_K {
			t.Errorf("the filter for the network %d has %d instructions, or does not end with a return", n, len(code))
		}
	}
}

// BenchmarkRun compares starts of a program with and without confinement.
func BenchmarkRun(b *testing.B) {
	start := func() error {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
		if err == nil {
			_, err = syscall.Wait4(pid, nil, 0, nil)
		}
		return err
	}
	policy := Policy{Read: []string{"/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"}, Write: []string{"/dev/null"}}
	b.Run("free", func(b *testing.B) {
		for b.Loop() {
			if err := start(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("confined", func(b *testing.B) {
		for b.Loop() {
			if err := policy.Run(start); err != nil {
				b.Fatal(err)
			}
		}
	})
}
