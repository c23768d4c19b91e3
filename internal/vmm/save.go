package vmm

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/model"
)

// Pauser is implemented by instances that can halt their machine in memory.
type Pauser interface {
	// Pause returns when no vCPU runs, and when the drives' files hold all that the machine has
	// written. If the machine is halted already, this is no error.
	Pause(ctx context.Context) error
	// Resume continues a halted machine. If the machine runs, this is no error.
	Resume(ctx context.Context) error
}

// Halt is why a machine is halted.
type Halt string

// The reasons for a halt.
const (
	NotHalted Halt = ""
	Halted    Halt = "paused" // by Pause, or for a Save
	// HaltedFull: the host had no room for a write of the guest. The write waits, and is tried
	// again when the machine is resumed: the guest sees no error.
	HaltedFull Halt = "full"
)

// HaltReporter is implemented by instances that can report whether their machine is halted. Their
// machines halt by themselves if the host has no room for a write.
type HaltReporter interface {
	Halted(ctx context.Context) (Halt, error)
}

// Saver is implemented by instances whose state can be saved, so that a Restorer makes machines of
// it.
type Saver interface {
	Pauser
	// Save saves the memory and the devices of one moment, and halts the machine only briefly. If
	// it fails, the machine continues and the files are useless. A second Save at once is
	// fault.Locked.
	Save(ctx context.Context, req SaveRequest) (Saved, error)
}

// SaveRequest says where a machine's state goes.
type SaveRequest struct {
	// Memory is an empty file for the guest's memory. Zero pages become holes. Save does not sync
	// it.
	Memory *os.File
	// Device is the path of a file that Save creates with mode 0600 for the devices' state. It is
	// small, and Save does not sync it.
	Device string

	// Before is called when the work that a running machine allows is done. Still is called while
	// the machine is halted. Each may be nil. If one returns an error, Save fails.
	Before func(context.Context) error
	Still  func(context.Context) error
	// After is called as soon as the machine continues; Save has more to do then. It may be nil.
	After func()
	Halt  bool // leave the machine halted; a halted machine stays halted anyway
}

// SealMemory makes a memfd that holds a guest's memory unchangeable. So no machine that is restored
// from it can change the memory of another one.
func SealMemory(f *os.File) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("sealing the memory of a machine: %w", err)
	}
	return nil
}

// Saved is the result of a Save.
type Saved struct {
	Pause  time.Duration // how long the machine was halted; 0 if it was before, or stays so
	Memory model.Bytes   // bytes of the memory file that are not holes
	Device model.Bytes   // bytes of the devices' state

	// Layout says where the memory lies in the memory file. The caller stores it beside the file
	// and gives it back in the Checkpoint.
	Layout *MemoryLayout
}

// Checkpoint is the state that a Save saved. The files are open; their offsets do not matter. A
// path leads to the same file, and is "" if the file has no name, as a memfd. See "Restoring" in
// the package comment for who uses what.
type Checkpoint struct {
	Memory     *os.File // open for reading and writing; machines map it privately, none writes it
	MemoryPath string
	Device     *os.File
	DevicePath string
	// Layout is what Save reported. Nil stands for the state that older versions saved: one region
	// from address 0, as long as the file.
	Layout *MemoryLayout
}

// Restorer is implemented by drivers that can make machines from a checkpoint. Their instances are
// Savers.
type Restorer interface {
	// Restore is Start, but the guest continues from the moment of the checkpoint. It runs when
	// Restore returns. m needs the fingerprint of the saved machine, and drives with what the
	// guest expects.
	Restore(ctx context.Context, m Machine, from Checkpoint, intend func(State) error) (Instance, error)
	// Fingerprint is equal for two machines if one can load the state of the other. It covers
	// driver, version, CPU, boot files and devices, but not names, MACs or the content of drives.
	// Without a kernel in m it covers the shape only, on which a restored machine depends.
	Fingerprint(ctx context.Context, m Machine) (string, error)
}
