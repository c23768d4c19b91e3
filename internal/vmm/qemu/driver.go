// Package qemu runs machines with QEMU, as the calling user and without privileges: QEMU's microvm machine with virtio-mmio devices,
// under KVM where that runs stock guests and in emulation (TCG) elsewhere.
//
// # What a machine is on the host
//
// One process in a session of its own that inherits four kinds of descriptors and no environment: the lock, the listening sockets, its log,
// and the initramfs when that had to be joined. In the machine's RunDir are
//
//	lock          locked as long as the process lives; see process.Lock
//	qmp.sock      QEMU's monitor
//	agent.sock    the host's end of the virtio-serial port that the agent in the guest uses
//	console.sock  the guest's serial console
//
// The driver makes the sockets, so one can connect before QEMU has come up and without trying again, and by path after the daemon was
// restarted. Each serves one connection at a time; further ones wait.
//
// # The console
//
// The Instance copies the console to a bounded log (package console). While nobody is connected QEMU drops what the guest
// writes: a guest never waits for a daemon that is gone. (QEMU's pipe and file character devices were no choice: a full pipe
// stalls the guest's serial port, a file has no bound.)
//
// # Memory
//
// The guest's memory is private memory of the process: it can neither fill a disk nor outgrow a small /run, and nothing of it is
// left when the process ends. That of a restored machine is a private mapping of the file that a Save made, so machines share what they do not
// write. The process keeps the file open, so it may lose its name.
//
// A Save reads the memory out of the running process (package ram); the machine stands still for the last part of that and for
// the state of its devices, some milliseconds in all.
//
// # Lock order
//
// Driver.mu and witness.mu are leaves: nothing else is locked under them.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// binaryName is the program that Config.Binary defaults to.
const binaryName = "qemu-system-x86_64"

// Accel is how the guest's instructions are carried out.
type Accel string

// The accelerators.
const (
	Auto Accel = "auto" // KVM where it runs stock guests, else TCG
	KVM  Accel = vmm.AccelKVM
	TCG  Accel = vmm.AccelTCG // emulation
)

// Config is what a Driver is made from. The zero value works.
type Config struct {
	Binary string // QEMU's path; empty: qemu-system-x86_64 in PATH
	Accel  Accel  // empty: Auto
	Log    *slog.Logger

	BootPatience time.Duration // a guest that boots in emulation and is silent for so long is made to boot again; 0: 30 s
}

// Driver starts machines with QEMU. It implements vmm.Driver, vmm.Finder and vmm.Restorer.
type Driver struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	kvm     bool    // a probe said that KVM works; that does not change
	tscKHz  uint64  // measured once: it does not change while the host is up
	version version // of the program at version.path
}

// version is what a program said it is, valid as long as the file is the same.
type version struct {
	path  string
	mtime time.Time
	size  int64
	text  string
}

var (
	_ vmm.Driver   = (*Driver)(nil)
	_ vmm.Finder   = (*Driver)(nil)
	_ vmm.Restorer = (*Driver)(nil)
)

// New returns a driver. Whether this host can run it is told by Info and Start.
func New(cfg Config) *Driver {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Driver{cfg: cfg, log: log}
}

// Name is "qemu".
func (d *Driver) Name() string { return "qemu" }

// How long a guest may take to come up. Emulation on a busy host with few cores is slower than a boot on it alone by an order.
const (
	graceKVM = 30 * time.Second
	graceTCG = 3 * time.Minute
)

// Info says which QEMU would run, and whether with KVM and why. It runs QEMU once for its version.
func (d *Driver) Info(ctx context.Context) (vmm.Info, error) {
	path, err := d.binary()
	if err != nil {
		return vmm.Info{}, err
	}
	accel, why, err := d.accel()
	if err != nil {
		return vmm.Info{}, err
	}
	text, err := d.versionOf(ctx, path)
	if err != nil {
		return vmm.Info{}, err
	}
	info := vmm.Info{Version: text, Path: path, Accel: string(accel), Why: why, Grace: graceTCG}
	if accel == KVM {
		info.Grace = graceKVM
	}
	if accel == TCG && mixesUpCPUs(text) {
		info.OneCPU = "QEMU " + text + " may mix up code that several emulated CPUs change at once; 8.1 and newer do not"
	}
	return info, nil
}

// mixesUpCPUs tells whether a QEMU may keep the translation of code that another CPU has rewritten. Linux rewrites itself, and does so most while an init
// like systemd starts: some guests come to a standstill then.
func mixesUpCPUs(version string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return n == 2 && (major < 8 || major == 8 && minor < 1)
}

// binary finds the program.
func (d *Driver) binary() (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", fault.New(fault.Unsupported, "the QEMU driver runs on amd64 hosts only, this one is %s", runtime.GOARCH)
	}
	name := d.cfg.Binary
	if name == "" {
		name = binaryName
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fault.New(fault.Unsupported, "finding QEMU: %w", err).
			WithHint("install it with `apt install qemu-system-x86`, or name it in the configuration")
	}
	return path, nil
}

// accel decides between KVM and TCG, and says why.
func (d *Driver) accel() (Accel, string, error) {
	switch d.cfg.Accel {
	case TCG:
		return TCG, "the configuration asks for emulation", nil
	case Auto, KVM, "":
	default:
		return "", "", fault.New(fault.Invalid, "accelerator %q is none of auto, kvm, tcg", d.cfg.Accel)
	}
	ok, why := d.probeKVM()
	switch {
	case ok:
		return KVM, why, nil
	case d.cfg.Accel == KVM:
		return "", "", fault.New(fault.Unsupported, "using KVM: %s", why).
			WithHint("let the accelerator be auto or tcg: emulation is slower, but works everywhere")
	}
	return TCG, why, nil
}

// probeKVM is ProbeKVM, asked again only as long as the answer is no.
func (d *Driver) probeKVM() (bool, string) {
	d.mu.Lock()
	known := d.kvm
	d.mu.Unlock()
	if known {
		return true, kvmWorks
	}
	ok, why := ProbeKVM()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kvm = d.kvm || ok
	return ok, why
}

// tsc returns the host's TSC frequency in kHz.
func (d *Driver) tsc(ctx context.Context) (uint64, error) {
	d.mu.Lock()
	known := d.tscKHz
	d.mu.Unlock()
	if known != 0 {
		return known, nil
	}
	khz, err := measureTSC(ctx)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tscKHz = khz
	return khz, nil
}

var versionLine = regexp.MustCompile(`^QEMU emulator version ([^\r\n]{1,100})`)

// versionOf asks the program at path for its version, once for each file that is there.
func (d *Driver) versionOf(ctx context.Context, path string) (string, error) {
	file, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("looking at QEMU: %w", err)
	}
	d.mu.Lock()
	known := d.version
	d.mu.Unlock()
	if known.path == path && known.mtime.Equal(file.ModTime()) && known.size == file.Size() {
		return known.text, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, errors.Join(err, ctx.Err()))
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return "", fault.New(fault.Unsupported, "asking %s for its version: %.80q is not what QEMU says", path, out)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version = version{path: path, mtime: file.ModTime(), size: file.Size(), text: string(match[1])}
	return d.version.text, nil
}
