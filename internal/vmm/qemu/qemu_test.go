package qemu_test

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/initramfs"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
	"banger/internal/vmm/vmmtest"
)

// directory makes a directory whose path leaves room for sockets in it.
func directory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func driver(t testing.TB) vmm.Driver {
	return qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// machine returns a machine that runs a tiny guest.
func machine(t testing.TB, g tiny) vmm.Machine {
	t.Helper()
	testkit.RequireTool(t, "qemu-system-x86_64")
	dir, kernel := directory(t), g.kernel(t)
	run := filepath.Join(dir, "run")
	disk := filepath.Join(dir, "disk, with a comma.img")
	if err := errors.Join(os.Mkdir(run, 0o700), os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return vmm.Machine{
		ID: filepath.Base(dir), RunDir: run, Kernel: kernel, Initramfs: []string{kernel, kernel}, BootID: "boots", VCPUs: 1, Memory: 64 * model.MiB,
		Drives:     []vmm.Drive{{Name: "image", Path: kernel, ReadOnly: true}, {Name: "system", Path: disk}},
		NICs:       []vmm.NIC{{Kind: vmm.NICUser, MAC: []byte{0x52, 0x54, 0, 1, 2, 3}}},
		ConsoleLog: filepath.Join(dir, "console.log"), ConsoleMax: 64 * model.KiB, VMMLog: filepath.Join(dir, "vmm.log"),
	}
}

// guest builds the program of testdata/guest once, and an initramfs with it.
var guest = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "guest"), "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return initramfs.New(dir).Agent(filepath.Join(dir, "guest"))
})

// linux returns a machine that runs a real kernel with the program of testdata/guest.
func linux(t testing.TB) vmm.Machine {
	t.Helper()
	kernels, err := filepath.Glob(filepath.Join(paths.Layout{Cache: testkit.CacheDir()}.Kernels(), "*", "vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Require(t, "kernel", len(kernels) > 0, "no end-to-end test has fetched one here yet")
	archive, err := guest()
	if err != nil {
		t.Fatal(err)
	}
	m := machine(t, tiny{})
	m.Kernel = kernels[0]
	m.Initramfs = []string{filepath.Join(filepath.Dir(kernels[0]), "modules.cpio"), archive}
	m.Cmdline = []string{"quiet", "loglevel=1"}
	m.Memory = 256 * model.MiB
	return m
}

func TestMain(m *testing.M) {
	if os.Getenv(daemonEnv) != "" {
		daemon()
	}
	if standsIn(os.Args[1:]) {
		os.Exit(0)
	}
	code := m.Run()
	if archive, err := guest(); err == nil {
		_ = os.RemoveAll(filepath.Dir(archive))
	}
	os.Exit(code)
}

func TestDriver(t *testing.T) {
	vmmtest.Run(t, vmmtest.Harness{
		Driver:  driver,
		Machine: func(t testing.TB) vmm.Machine { return machine(t, tiny{then: off}) },
		Reboot:  func(t testing.TB) vmm.Machine { return machine(t, tiny{then: reboot}) },
		Booted:  booted,
		Echo:    linux,
		Full:    full,
		Tap:     tap,
	})
}

// full returns a machine whose drive "system" is on a file system of 1 MiB, and a function that
// makes the file system larger.
func full(t testing.TB) (vmm.Machine, func()) {
	testkit.Require(t, "root", os.Geteuid() == 0, "a file system has to be mounted")
	m := linux(t)
	dir := filepath.Join(m.RunDir, "small")
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("small", dir, "tmpfs", 0, "size=1M")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "disk.img")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 8<<20)); err != nil {
		t.Fatal(err)
	}
	m.Drives[1].Path = path
	return m, func() {
		if err := unix.Mount("small", dir, "tmpfs", unix.MS_REMOUNT, "size=16M"); err != nil {
			t.Error(err)
		}
	}
}

// netnsEnv is set in a copy of the test's program that runs in a network namespace of its own.
const netnsEnv = "BANGER_TEST_QEMU_NETNS"

// tap makes a tap. Because it must not be one of the host, the test runs again in a network
// namespace of its own, and tap skips here.
func tap(t testing.TB) string {
	t.Helper()
	testkit.Require(t, "root", os.Geteuid() == 0, "a network namespace has to be made")
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	testkit.Require(t, "tun", err == nil, "there is no /dev/net/tun")
	defer tun.Close()
	if os.Getenv(netnsEnv) == "" {
		again := exec.Command(os.Args[0], "-test.run=^TestDriver$/^features$")
		again.Env = append(os.Environ(), netnsEnv+"=yes")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := again.CombinedOutput(); err != nil {
			t.Fatalf("in a network namespace: %v\n%s", err, out)
		}
		t.Skip("passed in a network namespace of its own")
	}
	const name = "tap0"
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	fd := int(tun.Fd())
	if err := errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, req), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)); err != nil {
		t.Fatal(err)
	}
	return name
}
