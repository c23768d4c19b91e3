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
	VCPUs        int               `json:"vcpus,omitempty"`
	Memory       Bytes             `json:"memory,omitempty"`
	DiskSize     Bytes             `json:"disk_size,omitempty"`
	WorkDiskSize *Bytes            `json:"work_disk_size,omitempty"` // 0 for none
	Net          NetMode           `json:"net,omitempty"`
	Env          map[string]string `json:"env,omitempty"`
	Workdir      string            `json:"workdir,omitempty"`
	User         string            `json:"user,omitempty"`
	Remove       RemovePolicy      `json:"remove,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// Change changes a VM. Nil fields stay as they are.
type Change struct {
	VCPUs        *int              `json:"vcpus,omitempty"`
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
