package model

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"banger/internal/guest/proto"
)

// Create asks for a VM. A zero value means the configured default.
type Create struct {
	Name   string `json:"name,omitempty"` // "" for a random name
	Image  string `json:"image,omitempty"`
	Kernel string `json:"kernel,omitempty"`
	// VCPUs of 0 lets banger choose now, by what the image's guest runs reliably with.
	VCPUs        *int              `json:"vcpus,omitempty"`
	Memory       Bytes             `json:"memory,omitempty"`
	DiskSize     Bytes             `json:"disk_size,omitempty"`
	WorkDiskSize *Bytes            `json:"work_disk_size,omitempty"` // 0 for none
	Net          NetMode           `json:"net,omitempty"`
	Env          map[string]string `json:"env,omitempty"`
	Workdir      string            `json:"workdir,omitempty"`
	User         string            `json:"user,omitempty"`
	Remove       RemovePolicy      `json:"remove,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	IdleSuspend  time.Duration     `json:"idle_suspend,omitempty" format:"nanoseconds"`
	Cold         bool              `json:"cold,omitempty"` // boot; use no template
}

// Start holds the options of a start.
type Start struct {
	Cold bool `json:"cold,omitempty"` // boot; use no template
}

// Fork asks for VMs that continue from the present moment of another VM.
type Fork struct {
	// Name is the name of the only child, or what several children have before "-1", "-2", ... If
	// it is "", the parent's name is used for several.
	Name   string            `json:"name,omitempty"`
	Count  int               `json:"count,omitempty"` // 0 means 1
	Remove RemovePolicy      `json:"remove,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // replace the parent's
}

// Names returns the names that the children of a VM with this spec shall have; "" is a random one.
// It fails if the request is invalid.
func (f Fork) Names(parent Spec) ([]string, error) {
	count := max(f.Count, 1)
	if f.Count < 0 || count > MaxForks {
		return nil, fmt.Errorf("count: %d is not between 1 and %d", f.Count, MaxForks)
	}
	asked := parent
	// the parent's own name and policy are not asked for
	asked.Name, asked.Remove = "unnamed", f.Remove
	if err := asked.Validate(); err != nil {
		return nil, err
	}
	names := make([]string, count)
	if count == 1 {
		names[0] = f.Name
	}
	for i := range names {
		if count > 1 {
			names[i] = cmp.Or(f.Name, parent.Name) + "-" + strconv.Itoa(i+1)
		}
		if names[i] == "" {
			continue
		}
		if err := CheckName(names[i]); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// Restore asks for VMs that continue from a stored snapshot.
type Restore struct {
	Fork
	Into      string `json:"into,omitempty"`       // restore into this VM; make no new ones
	DisksOnly bool   `json:"disks_only,omitempty"` // restore disks only; the VMs are stopped
	Force     bool   `json:"-"`                    // overwrite a VM that is not stopped
	// TrustMemory uses the memory and device state of a snapshot that this home did not make. The
	// VMM loads what somebody else wrote. A defect in its loader gives them the VMM's rights.
	TrustMemory bool `json:"trust_memory,omitempty"`
}

// MaxForks is the largest number of children in one request.
const MaxForks = 1000

// Forked is the result of a fork.
type Forked struct {
	// Pause is how long the parent stood still, in nanoseconds; 0 if it was paused already.
	Pause    time.Duration `json:"pause" format:"nanoseconds"`
	Children []Child       `json:"children"` // in the order of their numbers
	Notices  []Notice      `json:"notices,omitempty"`
}

// Child is one child of a fork.
type Child struct {
	Name  string `json:"name"`
	VM    *VM    `json:"vm,omitempty"`    // nil if it failed; then nothing is left of it
	Kind  string `json:"kind,omitempty"`  // the failure's fault.Kind
	Error string `json:"error,omitempty"` // why it failed
	Hint  string `json:"hint,omitempty"`
}

// Change changes a VM. Nil fields keep their values.
type Change struct {
	VCPUs        *int              `json:"vcpus,omitempty"` // 0: chosen again, as for a new VM
	Memory       *Bytes            `json:"memory,omitempty"`
	DiskSize     *Bytes            `json:"disk_size,omitempty"`      // can only grow
	WorkDiskSize *Bytes            `json:"work_disk_size,omitempty"` // can only grow
	Net          *NetMode          `json:"net,omitempty"`
	Env          map[string]string `json:"env,omitempty"`       // added to what is set
	UnsetEnv     []string          `json:"unset_env,omitempty"` //
	Workdir      *string           `json:"workdir,omitempty"`
	User         *string           `json:"user,omitempty"`
	Kernel       *string           `json:"kernel,omitempty"`
	Image        *string           `json:"image,omitempty"`  // for the next start; /root stays
	Labels       map[string]string `json:"labels,omitempty"` // an empty value removes
	IdleSuspend  *time.Duration    `json:"idle_suspend,omitempty" format:"nanoseconds"`
}

// Changed reports when the fields of a change take effect.
type Changed struct {
	VM      VM       `json:"vm"`
	Applied []string `json:"applied"` // names of fields in effect now
	Pending []string `json:"pending"` // names of fields in effect at the next start
}

// Stats is what a VM uses now.
type Stats struct {
	ID     string        `json:"id"`
	Name   string        `json:"name"`
	State  State         `json:"state"`
	CPU    time.Duration `json:"cpu" format:"nanoseconds"` // nanoseconds of the VMM since its start
	Memory Bytes         `json:"memory"`                   // proportional set size of the VMM
	Disk   Bytes         `json:"disk"`                     // what its files use on the host
	Guest  *proto.Stats  `json:"guest,omitempty"`          // nil if the guest does not answer
}

// Pruned is what a prune removed.
type Pruned struct {
	Removed []string `json:"removed"` // names or ids
	Freed   Bytes    `json:"freed"`
}
