// Package vmm is the contract between banger and the programs that run machines.
//
// # Vocabulary
//
//   - A VMM is a program that runs machines: QEMU, for example. Each machine is one process of it.
//   - A Driver is our code for one VMM. It turns a Machine, which is a plain description, into a
//     running process. After a restart of the daemon it finds the process again.
//   - An Instance is a running machine in the hands of this daemon.
//   - A checkpoint is the memory and the state of the devices of a machine at one moment.
//
// Drivers know nothing of VMs, images or capabilities. The conformance suite (package vmmtest)
// holds every driver to this contract.
//
// # Lifetime
//
// A machine runs in a session of its own. Neither the end of a context nor the end of the daemon
// ends it.
//
// # Restoring
//
// A Checkpoint holds open files, and their paths where they have one. A driver uses whichever its
// VMM needs. QEMU and the fake use the open files only: QEMU inherits them. A VMM that opens files
// by itself uses the paths, or /proc/PID/fd of the daemon for a file without a name.
//
// # How to ask what a driver can do
//
// There is one way for each question:
//
//   - What a Driver or an Instance can do is an optional interface, found by type assertion.
//     A Driver may be a Finder and a Restorer. An Instance may be a Pauser, a HaltReporter, a
//     Freezer, a Saver, a Resizer, a Statter, a FileHolder, Wired and Confined. The Instances of a
//     Restorer are Savers: so the Driver shows before anything starts whether its machines can be
//     saved.
//   - What no interface can express is a Feature in Info: the kinds of network cards, for example.
//   - Advice for choosing a default is a Recommendation in Info.
package vmm

import (
	"context"
	"net"
	"os"
	"syscall"
	"time"

	"banger/internal/model"
)

// Driver starts machines and finds them again. Implementations are safe for concurrent use.
type Driver interface {
	// Name is unique in a Registry, and never changes: records hold it.
	Name() string
	// Info describes what the driver would run here. If it can run nothing, the error is
	// fault.Unsupported with a hint.
	Info(ctx context.Context) (Info, error)
	// Start starts a machine and returns as soon as it runs; its guest may still boot. Before the
	// process exists, Start passes to intend the State by which Adopt finds it. An error leaves
	// nothing.
	Start(ctx context.Context, m Machine, intend func(State) error) (Instance, error)
	// Adopt finds a machine by its State, which Start intended or an Instance returned. If its
	// process has ended, the error is fault.NotFound; a process with only the same pid is another.
	// If it runs in another run directory, the error is fault.WrongState: the State was copied.
	Adopt(ctx context.Context, s State, runDir string) (Instance, error)
}

// State is what a driver needs to find a machine again: versioned bytes that only the driver
// decodes.
type State []byte

// Instance is a machine that was started. Its methods are safe for concurrent use.
type Instance interface {
	State() State
	PID() int
	// DriveID returns the id by which the guest finds the drive with that name (see Drive.Name) in
	// /sys/block/*/serial. If the machine has no such drive, the result has no meaning.
	DriveID(name string) string
	// DialAgent connects to the host's end of the agent's channel, which carries one connection at
	// a time. It succeeds as soon as the machine runs, even if no agent listens.
	DialAgent(ctx context.Context) (net.Conn, error)
	// PowerOff asks the guest to power off, as a power button does. It returns when the request was
	// delivered. The guest may ignore it. If the machine has ended, this is no error.
	PowerOff(ctx context.Context) error
	// Signal sends sig to the VMM. If the machine has ended, this is no error.
	Signal(sig syscall.Signal) error
	// Wait returns when the machine has ended or ctx has. Any number of callers may wait.
	Wait(ctx context.Context) (Exit, error)
	// Close ends the connections and goroutines of this Instance. The machine continues.
	Close() error
}

// Exit describes how a machine ended.
type Exit struct {
	Reason ExitReason
	Detail string // for a person: the last words of the VMM, or the name of the signal
	Full   bool   // the file system of the file that the VMM has mapped as memory is full
}

// ExitReason is why a machine ended.
type ExitReason string

// The reasons. A guest's power-off and its reboot both end a machine. A driver without
// FeatureTellsReboot cannot tell them apart: it reports ExitShutdown for both.
const (
	ExitPowerOff ExitReason = "power-off" // by the guest
	ExitReboot   ExitReason = "reboot"    // by the guest
	ExitShutdown ExitReason = "shutdown"  // by the guest: a power-off or a reboot
	ExitPanic    ExitReason = "panic"     // the guest's kernel panicked
	ExitKilled   ExitReason = "killed"    // the host ended the VMM by a signal or a request
	ExitCrashed  ExitReason = "crashed"   // the VMM ended with an error of its own
	ExitUnknown  ExitReason = "unknown"   // the VMM ended while no daemon watched it
)

// Resizer is implemented by instances that can report to a running guest that a drive has grown.
type Resizer interface {
	// ResizeDrive announces the present size of the file of the drive with that name. The file must
	// not have shrunk.
	ResizeDrive(ctx context.Context, name string, size model.Bytes) error
}

// Statter is implemented by instances that can measure what they cost the host.
type Statter interface {
	Stats() (Stats, error)
}

// Stats is what a machine costs the host.
type Stats struct {
	CPU    time.Duration // user and system time of the VMM since its start
	Memory model.Bytes   // proportional set size of the VMM
}

// FileHolder is implemented by instances that can tell which files their VMM has open.
type FileHolder interface {
	// Others returns the paths that lead to files now that the VMM does not have open, or to none.
	// If the VMM has another file of that name, the value is a path by which that file can be read.
	// An error means that nobody can tell of a path, or of a VMM that is ending. It may take long.
	Others(paths ...string) (others map[string]string, err error)
}

// Reacher is implemented by instances whose machine can run where nothing reaches it.
type Reacher interface {
	// Reach returns an error with a hint if neither the guest nor the VMM can be reached any more,
	// whoever asks and however long: only a signal ends the machine. In doubt it returns nil.
	Reach() error
}

// Wired is implemented by instances of drivers with FeatureWire. The host's end of a NICWire is a
// socket that keeps the bounds of messages (SOCK_SEQPACKET): each message is an Ethernet frame.
// While nobody reads, the frames of the guest wait, and then the guest does.
type Wired interface {
	// Wire returns a copy of the host's end, which the caller closes. One of them reads at a time.
	Wire() (*os.File, error)
}

// MaxFrame is the size of the largest frame on a NICWire, in bytes: larger ones are cut
// (NET_BUFSIZE in include/net/net.h of QEMU 7.2).
const MaxFrame = 4096 + 65536

// Freezer is implemented by instances whose VMM can be stopped although it ignores Pause, as a VMM
// may that a guest has taken over.
type Freezer interface {
	// Freeze stops the VMM's process. The machine then counts as halted. Resume, and an adoption,
	// let the process continue.
	Freeze() error
}

// Confined is implemented by instances whose driver confines their VMM.
type Confined interface {
	// Protection is what the VMM was started with; nil if that is not known.
	Protection() model.Protection
}

// ProtectionOf returns what an instance's VMM was started with; nil if that is not known.
func ProtectionOf(in Instance) model.Protection {
	if c, ok := in.(Confined); ok {
		return c.Protection()
	}
	return nil
}

// Finder is implemented by drivers that can find a machine without its State.
type Finder interface {
	// Find finds the machine that has that run directory. If there is none, the error is
	// fault.NotFound. If it runs in another directory, the error is fault.WrongState.
	Find(ctx context.Context, runDir string) (Instance, error)
}

// Looker is implemented by drivers that can look for a machine and leave it as it is: one that was
// stopped stays stopped.
type Looker interface {
	// Look returns the pid of the VMM that has that run directory. Its errors are those of Find.
	Look(ctx context.Context, runDir string) (pid int, err error)
}

// IsFatal reports whether a VMM, which handles only a few signals, ends on sig.
func IsFatal(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV:
		return true
	}
	return false
}
