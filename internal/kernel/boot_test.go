package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/initramfs"
	"banger/internal/model"
	"banger/internal/testkit"
)

// pullForTest gets Debian's kernel as a user does.
func pullForTest(t *testing.T, s *Store) model.Kernel {
	t.Helper()
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		testkit.RequireTool(t, tool)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	k, err := s.Pull(ctx, Debian, nil)
	if kind := fault.KindOf(err); kind == fault.Unavailable || kind == fault.NotFound {
		testkit.Require(t, "debian-mirror", false, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestPullAndBoot boots a real machine from Pull and package initramfs. The kernel must unpack both
// archives, and load every module in the order of the archive.
func TestPullAndBoot(t *testing.T) {
	testkit.RequireTool(t, "qemu-system-x86_64")
	s := openForTest(t)
	k := pullForTest(t, s)
	if again := pullForTest(t, s); again.ID != k.ID || again.Created != k.Created {
		t.Errorf("a second pull made kernel %s (%v) again, as %s (%v)", k.ID, k.Created, again.ID, again.Created)
	}
	cache := initramfs.New(t.TempDir())
	agent, err := cache.Agent(buildInit(t))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := cache.Combined(k.Modules, agent)
	if err != nil {
		t.Fatal(err)
	}
	console := boot(t, k.Vmlinux, archive)
	for _, want := range []string{
		"init: release " + k.Version, "init: found /sys/block/vda", "init: found /sys/class/net/eth0",
		"init: found /sys/class/virtio-ports/", "init: done",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("the console does not print %q", want)
		}
	}
	for _, fs := range []string{"ext4", "overlay", "tmpfs"} {
		if !regexp.MustCompile(`init: filesystems \[.*\b` + fs + `\b`).MatchString(console) {
			t.Errorf("no file system %s", fs)
		}
	}
	loaded := regexp.MustCompile(`init: loaded (\S+) \d+ (.*)`).FindAllStringSubmatch(console, -1)
	if len(loaded) < 10 {
		t.Errorf("%d modules were loaded, want the whole archive", len(loaded))
	}
	for _, m := range loaded {
		if strings.TrimSpace(m[2]) != "<nil>" {
			t.Errorf("loading %s: %s", m[1], m[2])
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Log(console)
	}
}

func buildInit(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the test's init: %v: %s", err, out)
	}
	return path
}

// boot runs a microvm in emulation until it powers off, and returns its serial output.
func boot(t *testing.T, kernel, archive string) string {
	t.Helper()
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmdline := "console=ttyS0 reboot=t panic=-1 quiet loglevel=3 no_timer_check tsc=reliable net.ifnames=0"
	if khz := tscKHz(); khz > 0 {
		cmdline += fmt.Sprintf(" tsc_early_khz=%d", khz)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "microvm,acpi=on,pcie=off,rtc=on,pit=off,pic=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "256M",
		"-kernel", kernel, "-initrd", archive, "-append", cmdline, "-serial", "stdio",
		"-drive", "if=none,id=d0,format=raw,file="+disk, "-device", "virtio-blk-device,drive=d0",
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-device,netdev=n0",
		"-device", "virtio-serial-device", "-chardev", "null,id=c0", "-device", "virtserialport,chardev=c0,name=test")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("qemu: %v\n%s\n%s", err, stderr.String(), stdout.String())
	}
	return strings.ReplaceAll(stdout.String(), "\r", "")
}

// tscKHz returns the speed of the host's time stamp counter. Without it a guest in emulation may
// fail to calibrate its own and hang.
func tscKHz() int {
	for file, pattern := range map[string]string{"/proc/cpuinfo": `cpu MHz\s*: ([0-9]+)\.([0-9]{3})`} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if m := regexp.MustCompile(pattern).FindSubmatch(data); m != nil {
			khz, _ := strconv.Atoi(string(m[1]) + string(m[2]))
			return khz
		}
	}
	return 0
}
