// Package boottest runs the agent in real machines. It has tests only.
package boottest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/internal/guest"
	"banger/internal/guest/proto"
	"banger/internal/initramfs"
	"banger/internal/kernel"
	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/console"
	"banger/internal/vmm/qemu"
)

// bootTime bounds a boot in emulation on a busy host.
const bootTime = 5 * time.Minute

// parts are the inputs that all machines of a test run share.
type parts struct {
	kernel string // vmlinux
	initrd string
	cpus   int
}

// requireParts builds the agent and finds a kernel.
func requireParts(t *testing.T) parts {
	t.Helper()
	for _, tool := range []string{"qemu-system-x86_64", "mke2fs", "busybox"} {
		testkit.RequireTool(t, tool)
	}
	var g errgroup.Group
	binary := filepath.Join(t.TempDir(), "banger-agent")
	g.Go(func() error {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "banger/cmd/banger-agent")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building the agent: %w: %s", err, out)
		}
		return nil
	})
	kernels := testkit.SharedFile(t, "kernels-for-agent", func(path string) error {
		s, err := kernel.Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err = s.Pull(ctx, kernel.Debian, nil)
		return err
	})
	store, err := kernel.Open(kernels, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k, err := store.Get(kernel.Debian)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	cache := initramfs.New(t.TempDir())
	agent, err := cache.Agent(binary)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := cache.Combined(k.Modules, agent)
	if err != nil {
		t.Fatal(err)
	}
	return parts{kernel: k.Vmlinux, initrd: initrd, cpus: 2}
}

// onOneCPU is for guests with systemd. With several emulated CPUs, a defect of QEMU stops about 1
// in 30 of them during start on a busy host (see vmm/qemu).
func (p parts) onOneCPU() parts {
	p.cpus = 1
	return p
}

// machine is a running QEMU.
type machine struct {
	*guest.Client
	t        *testing.T
	instance vmm.Instance
	console  *terminal
	ended    chan struct{} // closed when exit is set
	exit     vmm.Exit
	start    time.Time

	mu   sync.Mutex
	conn net.Conn // the client's present one
}

// terminal is the output of the machine's console.
type terminal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *terminal) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *terminal) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// disks are the paths of a machine's disks; work may be empty.
type disks struct{ image, system, work string }

// description describes a machine to the driver, in its own directory.
func (p parts) description(t *testing.T, d disks) vmm.Machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	drives := []vmm.Drive{{Name: proto.SerialImage, Path: d.image, ReadOnly: true}, {Name: proto.SerialSystem, Path: d.system}}
	if d.work != "" {
		drives = append(drives, vmm.Drive{Name: proto.SerialWork, Path: d.work})
	}
	return vmm.Machine{
		ID: filepath.Base(dir), RunDir: filepath.Join(dir, "run"), Kernel: p.kernel, Initramfs: []string{p.initrd},
		Cmdline: []string{"quiet", "loglevel=4", "net.ifnames=0"}, VCPUs: p.cpus, Memory: 512 * model.MiB,
		Drives:     drives,
		NICs:       []vmm.NIC{{Kind: vmm.NICUser, MAC: net.HardwareAddr{2, 0, 0, 1, 2, 3}}},
		ConsoleLog: filepath.Join(dir, "console.log"), ConsoleMax: 8 * model.MiB, VMMLog: filepath.Join(dir, "vmm.log"),
	}
}

func driver(t *testing.T) *qemu.Driver {
	return qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

func ignore(vmm.State) error { return nil }

// start boots a machine with the driver that can save it.
func (p parts) start(t *testing.T, d disks) *machine {
	t.Helper()
	return p.startBy(t, d, driver(t))
}

func (p parts) startBy(t *testing.T, d disks, by vmm.Driver) *machine {
	t.Helper()
	desc := p.description(t, d)
	begin := time.Now()
	in, err := by.Start(t.Context(), desc, ignore)
	if err != nil {
		t.Fatal(err)
	}
	return follow(t, desc, in, begin)
}

// restore makes a machine of a saved one.
func (p parts) restore(t *testing.T, from vmm.Checkpoint, d disks) *machine {
	t.Helper()
	desc := p.description(t, d)
	begin := time.Now()
	in, err := driver(t).Restore(t.Context(), desc, from, ignore)
	if err != nil {
		t.Fatal(err)
	}
	return follow(t, desc, in, begin)
}

func follow(t *testing.T, desc vmm.Machine, in vmm.Instance, begin time.Time) *machine {
	m := &machine{t: t, console: &terminal{}, ended: make(chan struct{}), start: begin, instance: in}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		console.Follow(ctx, desc.ConsoleLog, m.console)
	}()
	go func() {
		m.exit, _ = in.Wait(ctx)
		close(m.ended)
	}()
	m.Client = guest.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := in.DialAgent(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.conn = conn
		return conn, err
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		m.Close()
		in.Signal(syscall.SIGKILL)
		<-m.ended
		cancel()
		<-done
		in.Close()
		if t.Failed() {
			t.Logf("console:\n%s", m.console)
		}
	})
	return m
}

// cut closes the client's connection while it is in use.
func (m *machine) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn.Close()
}

// endGrace is the time that processes have to end.
const endGrace = 5 * time.Second

// button presses the power button.
func (m *machine) button() {
	m.t.Helper()
	if err := m.instance.PowerOff(m.ctx()); err != nil {
		m.t.Fatal(err)
	}
}

// awaitEnd waits for QEMU to end by itself.
func (m *machine) awaitEnd() {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(2 * time.Minute):
		m.t.Fatal("the machine does not end")
	}
	if m.exit.Reason != vmm.ExitPowerOff {
		m.t.Errorf("it ends by %+v", m.exit)
	}
}

func (m *machine) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	m.t.Cleanup(cancel)
	return ctx
}

// assume gives the machine an identity; change may alter it before.
func (m *machine) assume(change func(*proto.Assume)) proto.Assumed {
	m.t.Helper()
	reply, err := m.Assume(m.ctx(), m.document(change))
	if err != nil {
		m.t.Fatal(err)
	}
	return reply
}

// document is an identity; change may alter it.
func (m *machine) document(change func(*proto.Assume)) proto.Assume {
	doc := proto.Assume{
		Entropy: make([]byte, 64), Time: time.Now(), Hostname: "quiet-otter",
		Root:      proto.Root{Image: proto.SerialImage, System: proto.SerialSystem},
		Networks:  []proto.Network{{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}, Search: []string{"vm"}}},
		MachineID: "0123456789abcdef0123456789abcdef",
	}
	rand.Read(doc.Entropy)
	if change != nil {
		change(&doc)
	}
	return doc
}

// sh runs a shell command in the guest and returns its output; it must succeed.
func (m *machine) sh(script string) string {
	m.t.Helper()
	var out, errOut bytes.Buffer
	exit, err := m.Exec(m.ctx(), proto.ExecRequest{Argv: []string{"sh", "-c", script}}, guest.IO{Stdout: &out, Stderr: &errOut})
	if err != nil {
		m.t.Fatalf("running %s in the guest: %v", script, err)
	}
	if exit.Code != 0 {
		m.t.Fatalf("%s ended with %+v: %s", script, exit, errOut.String())
	}
	return strings.TrimSpace(out.String())
}

// newDisk makes an empty ext4 file system.
func newDisk(t *testing.T, size string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.ext4")
	run(t, "truncate", "-s", size, path)
	run(t, "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", path)
	return path
}

// newImage makes an image of a directory. Files of the caller belong to root in the image.
func newImage(t *testing.T, root string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.ext4")
	run(t, "truncate", "-s", "64M", path)
	mkfs := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", root, path)
	if os.Geteuid() != 0 {
		mkfs.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
	}
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("running %v: %v: %s", mkfs.Args, err, out)
	}
	return path
}

// busyboxRoot is the smallest image with a shell.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "sbin", "etc", "root", "home/ada", "tmp", "var/lib/docker"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(root, "tmp"), os.ModeSticky|0o777)
	run(t, "cp", busybox(t), filepath.Join(root, "bin/busybox"))
	for _, name := range strings.Fields("sh ash cat ls id env echo sleep true false head tail grep ps mount df stat dd wc hostname ip ping nc stty kill yes touch chmod ln readlink sync sed tr md5sum date uname test rm mkdir rmdir sort poweroff fsfreeze") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		"etc/passwd":              "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/ash\n",
		"etc/group":               "root:x:0:\nada:x:1000:\nwheel:x:10:root,ada\n",
		"etc/hosts":               "192.0.2.1 kept\n",
		"root/.profile":           "export FROM_PROFILE=yes\n",
		"var/lib/docker/from-img": "image\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/nowhere/resolv.conf", filepath.Join(root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(root, "root"), 0o700)
	return root
}

func busybox(t *testing.T) string {
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("running %v: %v: %s", argv, err, out)
	}
}
