package machine

import (
	"context"
	"log/slog"
	"time"

	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/vmm"
)

// Host is what machines of one BANGER_HOME are made with. Its methods are safe for concurrent use.
type Host struct {
	Layout       paths.Layout
	Drivers      *vmm.Registry
	Images       Images
	Kernels      Kernels
	NewAgent     func(Dialer) Agent
	Capabilities []Capability  // in the order of their hooks
	BootTimeout  time.Duration // for an agent to answer; 0 leaves it to the driver (vmm.Info.Grace)
	Log          *slog.Logger
}

// Images finds root filesystems by exact id: a name never decides what a recorded machine boots.
type Images interface {
	ByID(id string) (model.Image, error)
}

// Initramfs is what a kernel unpacks before it starts the agent.
type Initramfs struct {
	Archives []string // paths of newc archives, in order
	ID       string   // stands for the content of those that are not the kernel's
}

// Kernels finds guest kernels by exact id.
type Kernels interface {
	ByID(id string) (model.Kernel, error)
	// Initramfs returns what boots the agent under the kernel.
	Initramfs(ctx context.Context, k model.Kernel) (Initramfs, error)
}

func (h *Host) machine(d vmm.Driver, inst vmm.Instance) *Machine {
	return &Machine{Instance: inst, Agent: h.NewAgent(inst.DialAgent), Driver: d}
}

// Cleaners names the capabilities that have something to clean up after a run.
func (h *Host) Cleaners() []string {
	var names []string
	for _, c := range h.Capabilities {
		if _, ok := c.(Cleaner); ok {
			names = append(names, c.Name())
		}
	}
	return names
}
