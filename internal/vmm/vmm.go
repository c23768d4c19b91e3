// Package vmm is the contract between banger and the programs that run machines. A Driver turns a plain description of a machine
// into a running process and finds that process again after the daemon was restarted. Drivers know nothing of VMs, images or
// capabilities.
//
// A running machine belongs to nobody's lifetime: it is in a session of its own, and neither the end of a context nor the end of the
// daemon ends it. Snapshot and restore are optional interfaces, found by type assertion.
package vmm

import (
	"context"
	"net"
	"os"
	"syscall"
	"time"

	"banger/internal/model"
)

// Machine describes a machine in a driver's terms. It is plain data: the same description gives the same command line.
type Machine struct {
	ID     string // the VM's id; part of the process's command line, so that a leak can be traced to its VM
	RunDir string // an existing folder of mode 0700 for sockets; its path is short enough for them

	Kernel    string   // path of an uncompressed ELF vmlinux
	Initramfs []string // paths of newc archives, in the order in which the kernel shall unpack them
	Cmdline   []string // kernel arguments besides those that the driver itself needs

	VCPUs  int
	Memory model.Bytes
	Drives []Drive
	NICs   []NIC

	ConsoleLog string      // path; the driver keeps what the guest writes to its console there (package console)...
	ConsoleMax model.Bytes // ... and no more of it than the newest ConsoleMax bytes
	VMMLog     string      // path; the VMM's own standard output and error, bounded by the driver
}

// Drive is a block device. The guest finds it by its serial number (/sys/block/*/serial), never by its place.
type Drive struct {
	Serial   string // at most 20 characters (virtio specification 1.2, section 5.2.6, VIRTIO_BLK_T_GET_ID)
	Path     string // of a raw image
	ReadOnly bool
}

// NIC is a network card.
type NIC struct {
	Kind NICKind
	MAC  net.HardwareAddr
	Tap  string // the host's interface, for NICTap
}

// NICKind says what is at the host's end of a NIC.
type NICKind string

// The kinds of NIC.
const (
	NICUser NICKind = "user" // the VMM's own user-mode stack
	NICTap  NICKind = "tap"
)

// What a guest finds on a NICUser, whatever the VMM: there is no DHCP client in the agent, so both sides must know.
const (
	UserNet     = "10.0.2.0/24"
	UserAddress = "10.0.2.15/24" // the guest's own
	UserGateway = "10.0.2.2"
	UserDNS     = "10.0.2.3" // forwards to the host's resolver
)

// Driver starts machines and finds them again. Implementations are safe for concurrent use.
type Driver interface {
	Name() string
	// Info says what the driver would run here, or why it cannot (fault.Unsupported with a hint).
	Info(ctx context.Context) (Info, error)
	// Start makes the machine's process and returns once it runs; the guest may still be far from up. On an error nothing is left.
	// Before the process exists, it passes to intend the State that Adopt needs to find it should the caller die now.
	Start(ctx context.Context, m Machine, intend func(State) error) (Instance, error)
	// Adopt finds the machine whose State is s: the one that Start returned or one that was only intended. It returns
	// fault.NotFound when there is no such process any more; a process that merely has the same pid is not it.
	Adopt(ctx context.Context, s State) (Instance, error)
}

// State is what a driver needs to find a machine again: versioned bytes that only it decodes.
type State []byte

// Instance is a machine that was started. Its methods are safe for concurrent use.
type Instance interface {
	State() State
	PID() int
	// DialAgent connects to the host's end of the agent's channel: a raw byte stream on which one connection at a time makes
	// sense. It succeeds as soon as the machine runs, whether or not an agent listens.
	DialAgent(ctx context.Context) (net.Conn, error)
	// PowerOff asks the guest to power off, as a power button does, and returns when the request was delivered.
	PowerOff(ctx context.Context) error
	// Signal sends sig to the VMM. A machine that is gone already is success.
	Signal(sig syscall.Signal) error
	// Wait returns when the machine has ended, or ctx has. Any number of callers may wait.
	Wait(ctx context.Context) (Exit, error)
	// Close lets go of the machine without ending it: connections and goroutines of this Instance end.
	Close() error
}

// Info is what a driver would run.
type Info struct {
	Version string
	Path    string
	Accel   string        // AccelKVM or AccelTCG
	Why     string        // why that accelerator, for a person
	Grace   time.Duration // how long a guest may take to come up on it
	OneCPU  string        // why a guest with an init of its own had better have one virtual CPU; "" when it may have several
}

// How a guest's instructions are run.
const (
	AccelKVM = "kvm" // by the CPU
	AccelTCG = "tcg" // translated: what runs for the first time in a process costs many times what it costs later
)

// Exit says how a machine ended.
type Exit struct {
	Reason ExitReason
	Detail string // for a person: the VMM's last words, the signal's name
}

// ExitReason is why a machine ended.
type ExitReason string

// The reasons. A guest's own power-off and a reboot both end a machine.
const (
	ExitPowerOff ExitReason = "power-off" // the guest asked for it
	ExitReboot   ExitReason = "reboot"    // likewise
	ExitPanic    ExitReason = "panic"     // the guest's kernel panicked
	ExitKilled   ExitReason = "killed"    // the host ended the VMM by a signal or a request
	ExitCrashed  ExitReason = "crashed"   // the VMM ended by itself with an error
	ExitUnknown  ExitReason = "unknown"   // it ended while nobody watched
)

// Resizer is implemented by instances that can tell a running guest that a drive has grown.
type Resizer interface {
	// ResizeDrive announces the present size of the drive's file, which must not have shrunk.
	ResizeDrive(ctx context.Context, serial string, size model.Bytes) error
}

// Statter is implemented by instances that can tell what they cost the host.
type Statter interface {
	Stats() (Stats, error)
}

// Stats is what a machine costs the host.
type Stats struct {
	CPU    time.Duration // user and system time of the VMM since its start
	Memory model.Bytes   // proportional set size of the VMM
}

// Finder is implemented by drivers that can find a machine by its run folder alone, for when its record was lost.
type Finder interface {
	// Find returns fault.NotFound when no machine has that run folder.
	Find(ctx context.Context, runDir string) (Instance, error)
}

// Pauser is implemented by instances that can halt their machine in memory.
type Pauser interface {
	// Pause returns when no vCPU runs and everything that the machine has written has reached its drives' files. A machine that is
	// halted already is success.
	Pause(ctx context.Context) error
	// Resume lets a halted machine go on. One that runs is success.
	Resume(ctx context.Context) error
}

// Saver is implemented by instances whose state can be kept, so that a Restorer makes machines of it.
type Saver interface {
	Pauser
	// Save keeps the machine's memory and the state of its devices as they are at one moment. The machine stands still for as short as
	// possible: what can be copied while it runs is copied before. When Save fails, the machine goes on as before and what was
	// written is worth nothing. Of two calls at the same time, one fails with fault.Locked.
	Save(ctx context.Context, req SaveRequest) (Saved, error)
}

// SaveRequest says where a machine's state goes.
type SaveRequest struct {
	Memory *os.File // an empty file; gets exactly the guest's memory, with holes where that is zero. Save does not sync it.
	Device string   // path of a file that Save makes, mode 0600, for the state of the devices; small. Not synced either.
	// Before is called when all that can be done while the machine runs has been done, and Still when the machine
	// stands still: its drives' files are of the same moment as its memory then. Either may be nil; an error of theirs fails the Save.
	Before func(context.Context) error
	Still  func(context.Context) error
	After  func() // called as soon as the machine goes on, if it does: there is more to do then for Save. It may be nil.
	Halt   bool   // leave the machine halted; one that was halted before stays so anyway
}

// Saved is what a Save did.
type Saved struct {
	Pause  time.Duration // how long the machine stood still; 0 when it was halted before, or stays so
	Memory model.Bytes   // bytes in Memory that are not holes
	Device model.Bytes   // bytes of the devices' state
}

// Checkpoint is the state that a Save kept.
type Checkpoint struct {
	Memory *os.File // opened for reading and writing; it is mapped privately and never written. Restore duplicates what it needs.
	Device *os.File // read from its beginning, whatever its offset is
}

// Restorer is implemented by drivers that can make machines from what a Saver kept.
type Restorer interface {
	// Restore is Start, except that the machine goes on at the moment of the checkpoint. m must have the fingerprint of the machine that was
	// saved; its drives' files must hold what the guest believes to be on them. The guest runs when Restore returns.
	Restore(ctx context.Context, m Machine, from Checkpoint, intend func(State) error) (Instance, error)
	// Fingerprint returns a short text that is equal for two machines if state that one saved can be loaded into the other: it stands for
	// the driver and its version, the CPU as the guest sees it, the kernel, the initramfs, the command line, and the kinds and order
	// of devices, but not for names, addresses, and the drives' files. A machine that is described without a kernel is one that boots nothing: what is
	// left is its shape, which is all that a machine that goes on depends on.
	Fingerprint(ctx context.Context, m Machine) (string, error)
}
