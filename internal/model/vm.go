// Package model defines banger's things: VMs, images and kernels, with their names, sizes and
// states, and what is valid. It does no I/O. Its types are also the API's wire types and the
// store's documents, so a field's JSON name never changes.
//
// A Spec is what the user asked for. A VM is a Spec with an identity and a state. A Machine
// (package vmm) is what a driver builds from it.
package model

import (
	"maps"
	"slices"
	"time"
)

// VM is one sandbox: its durable record. Runtime holds what is true only while it runs.
type VM struct {
	ID      string    `json:"id"`      // 16 hex digits, never reused
	Spec    Spec      `json:"spec"`    //
	State   State     `json:"state"`   //
	Created time.Time `json:"created"` //
	// Revision counts the changes of the record, so that an older one can be told from a later one.
	Revision uint64 `json:"revision"`

	Started *time.Time `json:"started,omitempty"` // start of the present or last run
	Stopped *time.Time `json:"stopped,omitempty"` // end of the last run
	Runtime *Runtime   `json:"runtime,omitempty"` // set while a VMM may exist
	// LastError is why the VM is in state error or broken, or why its last run ended badly.
	LastError *Failure `json:"last_error,omitempty"`
	Boot      *Boot    `json:"boot,omitempty"`    // the last start
	Parent    *Parent  `json:"parent,omitempty"`  // set if the VM was forked
	Pending   []string `json:"pending,omitempty"` // Spec fields for the next start
	// DiskImage is the id of the image under the system disk; "" before the first start.
	DiskImage string `json:"disk_image,omitempty"`
	// Disks are the lengths of the disks ("system", "work") that the VM had when it last came
	// up, or got as copies. A start does not make such a disk anew.
	Disks   map[string]Bytes `json:"disks,omitempty"`
	Network *Network         `json:"network,omitempty"` // set while it runs
	// Restoring names the parts ("memory", "system", "work") of a restored snapshot until all are
	// in place. It is stored before the VM's machine is ended; then the restore is completed.
	Restoring []string `json:"restoring,omitempty"`
	// Held is why banger has halted a running VM for lack of disk space. It is not stored.
	Held *Hold `json:"held,omitempty"`
	// Replaced is set while a VM runs whose disks were removed or replaced: only its VMM has what
	// it writes. It is also set if their file system does not answer. It is not stored.
	Replaced *Failure `json:"replaced,omitempty"`
	// ImageMoved is set if Spec.Image means another image now, or none. It is not stored.
	ImageMoved bool `json:"image_moved,omitempty"`
	// Facts are what capabilities keep, by their names.
	Facts map[string]Fact `json:"facts,omitempty"`
}

// Fresh reports whether the VM's disks hold nothing of the user's. Then the VM was never up, and
// its disks are not copies of another VM's.
func (v VM) Fresh() bool { return v.Started == nil && v.Parent == nil }

// NeverBegan reports whether the VM was to begin with another's memory and did not get as far. On
// its disks alone it would be another VM than was asked for.
func (v VM) NeverBegan() bool {
	return (v.State == Stopped || v.State == Starting) && v.Started == nil && v.Runtime != nil && v.Runtime.Fork
}

// AddPending adds changes that wait for the next start.
func (v *VM) AddPending(fields ...string) {
	all := slices.Concat(v.Pending, fields)
	slices.Sort(all)
	v.Pending = slices.Compact(all)
}

// LayOver records the image under the system disk. If it is another one, the system disk is new.
func (v *VM) LayOver(image string) {
	if v.DiskImage != image {
		v.Disks = maps.Clone(v.Disks)
		delete(v.Disks, "system")
	}
	v.DiskImage = image
}

// Spec is what the user asked a VM to be. Defaults are filled in before it is stored, so that a
// later change of the configuration does not change the VM.
type Spec struct {
	Name         string            `json:"name"`
	Image        string            `json:"image"`             // the user's reference
	ImageID      string            `json:"image_id"`          // its image when the VM was created
	Kernel       string            `json:"kernel"`            // a kernel's name
	KernelID     string            `json:"kernel_id"`         //
	VCPUs        int               `json:"vcpus"`             //
	Memory       Bytes             `json:"memory"`            //
	DiskSize     Bytes             `json:"disk_size"`         // system disk, for /
	WorkDiskSize Bytes             `json:"work_disk_size"`    // work disk, for /root; 0: none
	Net          NetMode           `json:"net"`               //
	Env          map[string]string `json:"env,omitempty"`     // for all commands, over the image's
	Workdir      string            `json:"workdir,omitempty"` // replaces the image's
	User         string            `json:"user,omitempty"`    // likewise: name or uid, :group
	Remove       RemovePolicy      `json:"remove,omitempty"`  //
	Labels       map[string]string `json:"labels,omitempty"`  //

	// IdleSuspend suspends the VM after so much time without use; 0 never does.
	IdleSuspend time.Duration `json:"idle_suspend,omitempty" format:"nanoseconds"`
}

// Parent is what a VM was forked from. Name is the parent's name at that time. Both VM and snapshot
// may be gone.
type Parent struct {
	VM       string `json:"vm,omitempty"`       // the parent's id
	Name     string `json:"name,omitempty"`     // the parent's name
	Snapshot string `json:"snapshot,omitempty"` // id of the stored snapshot, if there was one
}

// NetMode is how a VM reaches the network.
type NetMode string

// The network modes.
const (
	NetNone NetMode = "none" // no network card
	NetUser NetMode = "user" // the VMM's own user-mode stack, without privileges
)

// RemovePolicy is when banger deletes a VM by itself.
type RemovePolicy string

// The removal policies.
const (
	RemoveNever    RemovePolicy = ""          // only when the user asks for it
	RemoveOnStop   RemovePolicy = "on-stop"   // when it stops for any reason
	RemoveOnDetach RemovePolicy = "on-detach" // when its `run` ends or disconnects
)

// Runtime identifies what a VM holds on the host. It is stored before those things are made, so
// that a crash at any moment leaves a record that leads to them.
type Runtime struct {
	Driver   string   `json:"driver"`             //
	State    []byte   `json:"state,omitempty"`    // the driver's; empty until the VMM starts
	PID      int      `json:"pid,omitempty"`      // for display; State decides
	Accel    string   `json:"accel,omitempty"`    // "kvm" or "tcg"
	Prepared []string `json:"prepared,omitempty"` // capabilities prepared, in order
	Spec     *Spec    `json:"spec,omitempty"`     // the started machine's spec
	Fork     bool     `json:"fork,omitempty"`     // forked from a VM or a snapshot
	Resumed  bool     `json:"resumed,omitempty"`  // started from the VM's own saved memory
	// Memory is the moment that the memory beside the disks keeps from which the machine starts.
	Memory *time.Time `json:"memory,omitempty"`
	// Protection is what the VMM was started with; nil if it was started before banger recorded it.
	Protection Protection `json:"protection,omitempty"`
}

// Network is a running VM's network as the host sees it.
type Network struct {
	Mode NetMode `json:"mode"`
	Addr string  `json:"addr,omitempty"` // the guest's address, as the guest sees it
}

// Failure is an error that is kept on the record.
type Failure struct {
	Time time.Time `json:"time"`
	Step string    `json:"step,omitempty"` // the step that failed
	Msg  string    `json:"message"`
	Hint string    `json:"hint,omitempty"`
	Log  string    `json:"log,omitempty"` // path of a log with more
}

// Boot is the timeline of one start.
type Boot struct {
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration" format:"nanoseconds"` // first to last step
	Cold     bool          `json:"cold"`                          // booted, not forked
	Origin   *Origin       `json:"origin,omitempty"`              // nil if it was booted
	Steps    []Span        `json:"steps"`                         // what the host did
	Guest    []Span        `json:"guest,omitempty"`               // by the host's clock
}

// Origin is the saved machine that a start continued from.
type Origin struct {
	Kind OriginKind `json:"kind"`
	Of   string     `json:"of"`             // key of a template, or id of a snapshot or VM
	Name string     `json:"name,omitempty"` // of the snapshot, VM or template's image
}

// OriginKind is the kind of saved machine that a start continued from.
type OriginKind string

// The kinds of origin.
const (
	FromUniversal OriginKind = "universal-template" // the agent waits; no disk is mounted
	FromTemplate  OriginKind = "template"           // the image is up, without an identity
	FromFork      OriginKind = "fork"               // another VM's present moment
	FromSnapshot  OriginKind = "snapshot"           //
	FromSuspended OriginKind = "suspended"          // this VM
)

// Span is a named stretch of time.
type Span struct {
	Name     string        `json:"name"`
	Offset   time.Duration `json:"offset" format:"nanoseconds"` // after the boot's start
	Duration time.Duration `json:"duration" format:"nanoseconds"`
	Error    string        `json:"error,omitempty"`
}
