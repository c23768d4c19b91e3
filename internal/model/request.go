package model

import (
	"time"

	"banger/internal/guest/proto"
)

// Create asks for a VM. Zero values mean the configured defaults.
type Create struct {
	Name         string            `json:"name,omitempty"` // "" for a random pleasant one
	Image        string            `json:"image,omitempty"`
	Kernel       string            `json:"kernel,omitempty"`
	VCPUs        *int              `json:"vcpus,omitempty"` // 0: as many as the image's guest can be trusted with, decided now
	Memory       Bytes             `json:"memory,omitempty"`
	DiskSize     Bytes             `json:"disk_size,omitempty"`
	WorkDiskSize *Bytes            `json:"work_disk_size,omitempty"` // 0 for none
	Net          NetMode           `json:"net,omitempty"`
	Env          map[string]string `json:"env,omitempty"`
	Workdir      string            `json:"workdir,omitempty"`
	User         string            `json:"user,omitempty"`
	Remove       RemovePolicy      `json:"remove,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	IdleSuspend  time.Duration     `json:"idle_suspend,omitempty" format:"nanoseconds"` // see Spec
	Cold         bool              `json:"cold,omitempty"`                              // boot it: go on from no template
}

// Start says how to start a VM.
type Start struct {
	Cold bool `json:"cold,omitempty"` // boot it: go on from no template
}

// Fork asks for VMs that go on from where another one is.
type Fork struct {
	Name   string            `json:"name,omitempty"`  // of the one child; of several ones what comes before "-1", "-2", ...; "": the parent's name for several
	Count  int               `json:"count,omitempty"` // 0 is 1
	Remove RemovePolicy      `json:"remove,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // instead of the parent's
}

// Restore asks for VMs that go on from a stored snapshot.
type Restore struct {
	Fork
	Into      string `json:"into,omitempty"`       // a VM that becomes what the snapshot keeps, instead of new ones
	DisksOnly bool   `json:"disks_only,omitempty"` // leave the snapshot's memory aside: the VMs are stopped, and boot when started
	Force     bool   `json:"-"`                    // also into a VM that is not at rest: what it is now is lost
}

// MaxForks is how many children one request may ask for.
const MaxForks = 1000

// Forked is what became of a fork.
type Forked struct {
	Pause    time.Duration `json:"pause" format:"nanoseconds"` // nanoseconds that the parent stood still; 0 when it was halted anyway
	Children []Child       `json:"children"`                   // in the order of their numbers
}

// Child is one VM that was to be made by a fork.
type Child struct {
	Name  string `json:"name"`
	VM    *VM    `json:"vm,omitempty"`    // nil when it could not be made: then nothing is left of it
	Kind  string `json:"kind,omitempty"`  // what class of failure that was: one of package fault's kinds
	Error string `json:"error,omitempty"` // why not
	Hint  string `json:"hint,omitempty"`
}

// Change changes a VM. Nil fields stay as they are.
type Change struct {
	VCPUs        *int              `json:"vcpus,omitempty"` // 0: decided anew, as for a new VM
	Memory       *Bytes            `json:"memory,omitempty"`
	DiskSize     *Bytes            `json:"disk_size,omitempty"`      // may only grow
	WorkDiskSize *Bytes            `json:"work_disk_size,omitempty"` // may only grow
	Net          *NetMode          `json:"net,omitempty"`
	Env          map[string]string `json:"env,omitempty"`       // added to what is set
	UnsetEnv     []string          `json:"unset_env,omitempty"` //
	Workdir      *string           `json:"workdir,omitempty"`
	User         *string           `json:"user,omitempty"`
	Kernel       *string           `json:"kernel,omitempty"`
	Image        *string           `json:"image,omitempty"`  // the next start has a fresh system disk; /root stays
	Labels       map[string]string `json:"labels,omitempty"` // an empty value removes
	IdleSuspend  *time.Duration    `json:"idle_suspend,omitempty" format:"nanoseconds"`
}

// Changed says when a change takes effect.
type Changed struct {
	VM      VM       `json:"vm"`
	Applied []string `json:"applied"` // names of fields that have taken effect
	Pending []string `json:"pending"` // names of fields that take effect at the next start
}

// Stats is what a VM costs and does now.
type Stats struct {
	ID     string        `json:"id"`
	Name   string        `json:"name"`
	State  State         `json:"state"`
	CPU    time.Duration `json:"cpu" format:"nanoseconds"` // nanoseconds of the VMM since its start
	Memory Bytes         `json:"memory"`                   // proportional set size of the VMM
	Disk   Bytes         `json:"disk"`                     // what its files take up on the host
	Guest  *proto.Stats  `json:"guest,omitempty"`          // what the guest says; absent when it does not answer
}

// Pruned is what a prune took away.
type Pruned struct {
	Removed []string `json:"removed"` // names or ids
	Freed   Bytes    `json:"freed"`
}
