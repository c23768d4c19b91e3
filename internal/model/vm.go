// Package model is what banger's things are: VMs, images, kernels, their names, sizes and states, and which of those
// are valid. It does no I/O. Its types are also the API's wire types and the store's documents, so a field's JSON name
// is a promise.
//
// Vocabulary: a Spec is what the user asked for; a VM is a Spec with an identity and a state; a Machine (package vmm)
// is what a driver is told to build from it.
package model

import "time"

// VM is one sandbox: its durable record. What is true only while it runs is in Runtime.
type VM struct {
	ID      string    `json:"id"`      // 16 hex digits, never reused
	Spec    Spec      `json:"spec"`    //
	State   State     `json:"state"`   //
	Created time.Time `json:"created"` //

	Started   *time.Time `json:"started,omitempty"`    // when the present or last run began
	Stopped   *time.Time `json:"stopped,omitempty"`    // when the last run ended
	Runtime   *Runtime   `json:"runtime,omitempty"`    // while a VMM may exist for it
	LastError *Failure   `json:"last_error,omitempty"` // why it is in State error or broken, or why its last run ended badly
	Boot      *Boot      `json:"boot,omitempty"`       // how the last start went
	Parent    *Parent    `json:"parent,omitempty"`     // what it was forked from, when it was
	Pending   []string   `json:"pending,omitempty"`    // names of the Spec fields that a running VM takes up at its next start
	DiskImage string     `json:"disk_image,omitempty"` // id of the image that the system disk lies over; "" before the first start
	Network   *Network   `json:"network,omitempty"`    // while it runs
	Restoring []string   `json:"restoring,omitempty"`  // disks ("system", "work") of the snapshot that it was restored from, until all of them are in their places
}

// Fresh tells whether nothing of the user's is on the VM's disks: it has never come up, and they are no copies of another one's.
func (v VM) Fresh() bool { return v.Started == nil && v.Parent == nil }

// Spec is what a VM is asked to be. Defaults are filled in before it is stored, so that a VM does not change when the
// configuration does.
type Spec struct {
	Name         string            `json:"name"`
	Image        string            `json:"image"`             // the reference as the user wrote it
	ImageID      string            `json:"image_id"`          // what it meant when the VM was created
	Kernel       string            `json:"kernel"`            // a kernel's name
	KernelID     string            `json:"kernel_id"`         //
	VCPUs        int               `json:"vcpus"`             //
	Memory       Bytes             `json:"memory"`            //
	DiskSize     Bytes             `json:"disk_size"`         // the system disk: what / can take up
	WorkDiskSize Bytes             `json:"work_disk_size"`    // the work disk: /root; 0 for none
	Net          NetMode           `json:"net"`               //
	Env          map[string]string `json:"env,omitempty"`     // added to the image's for every command
	Workdir      string            `json:"workdir,omitempty"` // instead of the image's
	User         string            `json:"user,omitempty"`    // instead of the image's; name, uid, or either with :group
	Remove       RemovePolicy      `json:"remove,omitempty"`  //
	Labels       map[string]string `json:"labels,omitempty"`  //

	IdleSuspend time.Duration `json:"idle_suspend,omitempty" format:"nanoseconds"` // suspend it after so much time without use; 0 never
}

// Parent is what a VM was forked from. The name is what it was called then; neither need exist any more.
type Parent struct {
	VM       string `json:"vm,omitempty"`       // id
	Name     string `json:"name,omitempty"`     // of the VM
	Snapshot string `json:"snapshot,omitempty"` // id, when it was made from a stored snapshot
}

// NetMode is how a VM reaches the world.
type NetMode string

// The network modes.
const (
	NetNone NetMode = "none" // no network card
	NetUser NetMode = "user" // the VMM's own user-mode stack; needs no privilege
)

// RemovePolicy says when banger deletes a VM by itself.
type RemovePolicy string

// The removal policies.
const (
	RemoveNever    RemovePolicy = ""          // when the user says so
	RemoveOnStop   RemovePolicy = "on-stop"   // when it stops, however that comes
	RemoveOnDetach RemovePolicy = "on-detach" // when the `run` that made it ends or goes away
)

// Runtime is the identity of what a VM holds on the host. It is stored before the things it names are made, so that a
// crash at any moment leaves a record that leads to them.
type Runtime struct {
	Driver   string   `json:"driver"`             //
	State    []byte   `json:"state,omitempty"`    // the driver's own, versioned, opaque; empty until the VMM was started
	PID      int      `json:"pid,omitempty"`      // for display; State decides
	Accel    string   `json:"accel,omitempty"`    // "kvm" or "tcg"
	Prepared []string `json:"prepared,omitempty"` // capabilities whose host side may exist, in the order of preparing
	Spec     *Spec    `json:"spec,omitempty"`     // what the machine was started as: changes that wait for the next start are not in it
	Fork     bool     `json:"fork,omitempty"`     // the VM begins with it, and with the memory of another VM or of a snapshot
}

// Network is what a running VM's network looks like from the host.
type Network struct {
	Mode NetMode `json:"mode"`
	Addr string  `json:"addr,omitempty"` // the guest's own address, as it sees it
}

// Failure is why something went wrong, kept on the record.
type Failure struct {
	Time time.Time `json:"time"`
	Step string    `json:"step,omitempty"` // the step that failed
	Msg  string    `json:"message"`
	Hint string    `json:"hint,omitempty"`
	Log  string    `json:"log,omitempty"` // path of the log that tells more
}

// Boot is the timeline of one start.
type Boot struct {
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration" format:"nanoseconds"` // nanoseconds, from the first step to the last
	Cold     bool          `json:"cold"`                          // booted, not forked
	Origin   *Origin       `json:"origin,omitempty"`              // what it went on from, unless it was booted
	Steps    []Span        `json:"steps"`                         // what the host did
	Guest    []Span        `json:"guest,omitempty"`               // what the guest says it did, on the host's clock
}

// Origin is the saved machine that a start went on from.
type Origin struct {
	Kind OriginKind `json:"kind"`
	Of   string     `json:"of"`             // a template's key, a snapshot's id, a VM's id
	Name string     `json:"name,omitempty"` // of the snapshot or VM, or the template's image
}

// OriginKind says what kind of saved machine a start went on from.
type OriginKind string

// The kinds of origin.
const (
	FromUniversal OriginKind = "universal-template" // an agent that waits, with no disk mounted
	FromTemplate  OriginKind = "template"           // the image, up and without an identity
	FromFork      OriginKind = "fork"               // another VM at one moment
	FromSnapshot  OriginKind = "snapshot"           //
	FromSuspended OriginKind = "suspended"          // this very VM
)

// Span is a named stretch of time.
type Span struct {
	Name     string        `json:"name"`
	Offset   time.Duration `json:"offset" format:"nanoseconds"`   // nanoseconds after the boot's start
	Duration time.Duration `json:"duration" format:"nanoseconds"` // nanoseconds
	Error    string        `json:"error,omitempty"`
}
