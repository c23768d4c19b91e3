// Package qemu runs machines with QEMU, as the calling user and without privileges. It uses QEMU's
// microvm machine with virtio-mmio devices: under KVM if that runs stock guests, otherwise in
// emulation (TCG). docs/internals/qemu.md introduces the package; package defect lists QEMU's
// defects.
//
// # What a machine is on the host
//
// A machine is one process in a session of its own, without an environment. It inherits the lock,
// the listening sockets, its log, and what it boots or restores from. In the machine's RunDir are
//
//	lock          locked as long as the process lives and keeps it open; see process.Lock
//	qmp.sock      QEMU's monitor
//	agent.sock    the host's end of the virtio-serial port that the agent in the guest uses
//	console.sock  the guest's serial console
//
// The driver makes the sockets before the process. So a connection succeeds before QEMU has
// started, and a restarted daemon connects by path. Each socket serves one connection at a time.
//
// # The console
//
// The Instance copies the console to a bounded log (package console). While no one is connected
// QEMU drops what the guest writes: a guest never waits for a daemon that is gone.
//
// # Memory
//
// The guest's memory is private memory of the process. It cannot fill a disk, and nothing of it is
// left when the process ends. The memory of a restored machine is a private mapping of the memory
// file, so machines share the pages that they do not write. The process keeps the file open: it
// may lose its name.
//
// A Save reads the memory out of the running process (package memory). The machine is halted for
// the last part of that and for the state of the devices: some milliseconds in all.
//
// Save and Restore use the open files of a request and a checkpoint, and no path of them but the
// one of SaveRequest.Device.
//
// # Lock order
//
// instance.runLock comes first. Driver.mu, witness.mu, agentPort.mu and the locks of a qmp.Client
// are leaves: while one of them is held, nothing else is locked.
package qemu

import (
	"context"
	"log/slog"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu/defect"
)

// binaryName is the program that Config.Binary defaults to.
const binaryName = "qemu-system-x86_64"

// Accel is how the guest's instructions are run.
type Accel string

// The accelerators.
const (
	Auto Accel = "auto" // KVM if it runs stock guests, otherwise TCG
	KVM  Accel = vmm.AccelKVM
	TCG  Accel = vmm.AccelTCG // emulation
)

// Config configures a Driver. The zero value works.
type Config struct {
	Binary string // QEMU's path; if unset, qemu-system-x86_64 in PATH
	Accel  Accel  // if unset, Auto
	Log    *slog.Logger

	// Unconfined starts QEMU with its own filter of system calls only: see package confine.
	Unconfined bool

	// BootPatience is how long a guest that boots in emulation may be silent before its machine is
	// reset. If unset, it is defect.BootPatience.
	BootPatience time.Duration
}

// Driver starts machines with QEMU. It implements vmm.Driver, vmm.Finder and vmm.Restorer.
type Driver struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex
	kvm    bool    // a probe found that KVM works, which does not change
	tscKHz uint64  // measured once: it does not change while the host is up
	known  program // the last one that was asked
}

var (
	_ vmm.Driver   = (*Driver)(nil)
	_ vmm.Finder   = (*Driver)(nil)
	_ vmm.Looker   = (*Driver)(nil)
	_ vmm.Restorer = (*Driver)(nil)
)

// New returns a driver. Info reports whether this host can run it.
func New(cfg Config) *Driver {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Driver{cfg: cfg, log: log}
}

// Name is "qemu".
func (d *Driver) Name() string { return "qemu" }

// How long a guest may take to boot. Emulation on a busy host with few cores takes ten times as
// long as on an idle one.
const (
	graceKVM = 30 * time.Second
	graceTCG = 3 * time.Minute
)

// Info describes which QEMU would run, and whether and why with KVM. It asks each QEMU only once.
func (d *Driver) Info(ctx context.Context) (vmm.Info, error) {
	path, err := d.binary()
	if err != nil {
		return vmm.Info{}, err
	}
	accel, why, err := d.accel()
	if err != nil {
		return vmm.Info{}, err
	}
	p, err := d.program(ctx, path)
	if err != nil {
		return vmm.Info{}, err
	}
	info := vmm.Info{
		Version: p.version, Path: path, Accel: string(accel), Why: why, Grace: graceTCG, Features: p.features,
	}
	if accel == KVM {
		info.Grace = graceKVM
	}
	if accel == TCG && defect.MixesUpCPUs(p.version) {
		info.Recommendations = append(info.Recommendations, vmm.Recommendation{
			Kind: vmm.MaxVCPUsWithInit, Value: 1, Reason: defect.MixesUpCPUsReason(p.version),
		})
	}
	return info, nil
}

// binary returns the path of QEMU.
func (d *Driver) binary() (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", fault.New(fault.Unsupported, "the QEMU driver runs on amd64 hosts only, not on %s", runtime.GOARCH)
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

// accel chooses between KVM and TCG, and gives the reason.
func (d *Driver) accel() (Accel, string, error) {
	switch d.cfg.Accel {
	case TCG:
		return TCG, "the configuration asks for emulation", nil
	case Auto, KVM, "":
	default:
		return "", "", fault.New(fault.Invalid, "the accelerator %q is not auto, kvm or tcg", d.cfg.Accel)
	}
	ok, why := d.probeKVM()
	switch {
	case ok:
		return KVM, why, nil
	case d.cfg.Accel == KVM:
		return "", "", fault.New(fault.Unsupported, "using KVM: %s", why).
			WithHint("set the accelerator to auto or tcg: emulation is slower, but works everywhere")
	}
	return TCG, why, nil
}

// probeKVM is ProbeKVM. Once KVM works, it does not probe again.
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
	khz, err := defect.MeasureTSC(ctx)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tscKHz = khz
	return khz, nil
}
