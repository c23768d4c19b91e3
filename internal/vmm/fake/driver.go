package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// Op is a moment at which a test may make the driver fail.
type Op string

// The moments.
const (
	OpInfo     Op = "info"
	OpStart    Op = "start"   // before anything was done
	OpIntended Op = "spawn"   // after the state was stored, before the machine exists
	OpStarted  Op = "started" // after the machine was made; Start ends it again
	OpAdopt    Op = "adopt"
	OpDial     Op = "dial"
	OpPowerOff Op = "power-off"
	OpSignal   Op = "signal"
	OpResize   Op = "resize"
	OpPause    Op = "pause"
	OpResume   Op = "resume"
	OpSave     Op = "save"    // before anything was done
	OpStill    Op = "still"   // while the machine is halted for a Save
	OpLook     Op = "look"    // at the files that a machine has open
	OpReach    Op = "reach"   // whether somebody can reach the machine
	OpRestore  Op = "restore" // before anything was done; then as in a Start
)

// Options are how the driver and its guests behave. If they are unset, the guests echo what comes
// in on the agent's channel, and power off when they are asked to.
type Options struct {
	// Agent stands for the guest's end of each connection to the agent's channel of machine m. It
	// runs in a goroutine of its own, and must return when the connection ends.
	Agent func(m vmm.Machine, conn net.Conn)
	// Fail is called at each Op. Its error becomes the operation's error. It may block. Info has no
	// machine: there the id is "".
	Fail func(op Op, id string) error
	// IgnorePowerButton makes guests ignore PowerOff.
	IgnorePowerButton bool
	// Reboots reports whether the guest of m reboots, instead of powering off, when its button is
	// pressed.
	Reboots func(m vmm.Machine) bool
	// DriveID chooses the id by which guests find the drive with a name. If it is unset, that is
	// the name.
	DriveID func(name string) string
	// Info is what Info returns. If its Accel is unset, Info returns something plausible.
	Info vmm.Info
}

// Driver is a fake driver. It implements vmm.Driver, vmm.Finder and vmm.Restorer.
type Driver struct {
	host *Host
	o    Options
}

var (
	_ vmm.Driver   = (*Driver)(nil)
	_ vmm.Finder   = (*Driver)(nil)
	_ vmm.Restorer = (*Driver)(nil)
)

// New returns a driver of the machines on host.
func New(host *Host, o Options) *Driver {
	if o.Agent == nil {
		o.Agent = func(_ vmm.Machine, conn net.Conn) { _, _ = io.Copy(conn, conn) }
	}
	if o.Fail == nil {
		o.Fail = func(Op, string) error { return nil }
	}
	if o.Reboots == nil {
		o.Reboots = func(vmm.Machine) bool { return false }
	}
	if o.DriveID == nil {
		o.DriveID = func(name string) string { return name }
	}
	if o.Info.Accel == "" {
		o.Info = vmm.Info{
			Version: "1.0", Path: "/fake", Accel: vmm.AccelTCG, Why: "it is a fake", Grace: 10 * time.Second,
			Features: vmm.Features{vmm.FeatureUserNet, vmm.FeatureTap, vmm.FeatureTellsReboot},
		}
	}
	return &Driver{host: host, o: o}
}

// Name is "fake".
func (d *Driver) Name() string { return "fake" }

// Info returns Options.Info.
func (d *Driver) Info(context.Context) (vmm.Info, error) { return d.o.Info, d.o.Fail(OpInfo, "") }

// state is the content of a vmm.State.
type state struct {
	Version int    `json:"version"`
	RunDir  string `json:"run_dir"`
	PID     int    `json:"pid,omitempty"`
}

func (s state) encode() vmm.State {
	data, _ := json.Marshal(s) // strings and numbers always marshal
	return data
}

// runFile is the file that a machine leaves in its run directory.
const runFile = "fake"

// Start makes a machine in memory, and a file in its run directory. As for a real driver, the
// machine's files must exist.
func (d *Driver) Start(ctx context.Context, m vmm.Machine, intend func(vmm.State) error) (vmm.Instance, error) {
	if err := d.o.Fail(OpStart, m.ID); err != nil {
		return nil, err
	}
	return d.make(ctx, m, nil, intend)
}

// make makes a machine whose guest has that content in its memory.
func (d *Driver) make(ctx context.Context, m vmm.Machine, memory []byte, intend func(vmm.State) error) (vmm.Instance, error) {
	if err := d.check(m); err != nil {
		return nil, err
	}
	if _, err := d.host.find(m.RunDir, 0); err == nil {
		return nil, fault.New(fault.Locked, "a fake machine already runs in %s", m.RunDir)
	}
	file := filepath.Join(m.RunDir, runFile)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	in, err := d.spawn(ctx, m, memory, intend)
	if err != nil {
		return nil, errors.Join(err, os.Remove(file))
	}
	return in, nil
}

func (d *Driver) spawn(ctx context.Context, m vmm.Machine, memory []byte, intend func(vmm.State) error) (vmm.Instance, error) {
	if err := os.WriteFile(m.VMMLog, []byte("fake machine "+m.ID+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := intend(state{Version: 1, RunDir: m.RunDir}.encode()); err != nil {
		return nil, fmt.Errorf("storing the machine's state: %w", err)
	}
	if err := d.o.Fail(OpIntended, m.ID); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	open, err := openAll(m.Drives)
	if err != nil {
		return nil, err
	}
	running := d.host.start(m, open, memory)
	if err := errors.Join(d.o.Fail(OpStarted, m.ID), os.WriteFile(m.ConsoleLog, []byte("fake console\n"), 0o600)); err != nil {
		d.host.end(running, vmm.Exit{Reason: vmm.ExitKilled})
		return nil, err
	}
	return d.instance(running), nil
}

// openAll opens drives, as a VMM does that keeps them open.
func openAll(drives []vmm.Drive) (files []*os.File, err error) {
	for _, d := range drives {
		f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (d *Driver) check(m vmm.Machine) error {
	for _, nic := range m.NICs {
		if err := d.o.Info.Features.Require(d.Name(), nic.Kind.Feature()); err != nil {
			return err
		}
	}
	if m.VCPUs < 1 || m.Memory < 1 || len(m.Initramfs) == 0 {
		return fault.New(fault.Invalid, "a machine with %d CPUs, %v of memory and %d initramfs archives",
			m.VCPUs, m.Memory, len(m.Initramfs))
	}
	paths := append([]string{m.Kernel}, m.Initramfs...)
	for _, d := range m.Drives {
		paths = append(paths, d.Path)
	}
	var errs []error
	for _, path := range paths {
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			err = fault.New(fault.Invalid, "%s is a directory", path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Adopt finds a machine on the driver's host.
func (d *Driver) Adopt(ctx context.Context, data vmm.State, runDir string) (vmm.Instance, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil || s.Version != 1 {
		return nil, fault.New(fault.Invalid, "%q is no fake machine's state (%v)", data, err)
	}
	if _, err := d.host.find(s.RunDir, s.PID); err == nil && s.RunDir != runDir {
		return nil, fault.New(fault.WrongState, "the fake machine runs in %s, not in %s", s.RunDir, runDir)
	}
	return d.adopt(ctx, runDir, s.PID)
}

// Find finds the machine that has a run directory.
func (d *Driver) Find(ctx context.Context, runDir string) (vmm.Instance, error) {
	return d.adopt(ctx, runDir, 0)
}

func (d *Driver) adopt(ctx context.Context, runDir string, pid int) (vmm.Instance, error) {
	m, err := d.host.find(runDir, pid)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.o.Fail(OpAdopt, m.ID), ctx.Err()); err != nil {
		return nil, err
	}
	return d.instance(m), nil
}

func (d *Driver) instance(m *machine) *instance {
	return &instance{d: d, m: m, closed: make(chan struct{})}
}
