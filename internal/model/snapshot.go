package model

import "time"

// SnapshotKind is what a snapshot keeps of a machine.
type SnapshotKind string

// The kinds of snapshots.
const (
	SnapshotFull SnapshotKind = "full" // memory, devices, disks
	SnapshotDisk SnapshotKind = "disk" // disks only: its forks boot
)

// Snapshot is a VM at one moment, kept under a name. Other VMs are made from it.
type Snapshot struct {
	ID   string `json:"id"`   // 16 hex digits, never reused
	Name string `json:"name"` //
	VM   string `json:"vm"`   // the saved VM's name
	// VMID is the saved VM's id. That VM may be deleted, or belong to another host.
	VMID    string       `json:"vm_id"`
	Kind    SnapshotKind `json:"kind"`     //
	Created time.Time    `json:"created"`  //
	Image   string       `json:"image"`    // the VM's image reference
	ImageID string       `json:"image_id"` // the image's id
	// ImageMoved is set if Image means another image here, or none. It is not stored.
	ImageMoved bool          `json:"image_moved,omitempty"`
	Kernel     string        `json:"kernel"`                     // the kernel's name
	KernelID   string        `json:"kernel_id"`                  // the kernel's id
	VCPUs      int           `json:"vcpus"`                      //
	Memory     Bytes         `json:"memory"`                     // of the VM
	Net        NetMode       `json:"net,omitempty"`              // of the VM
	User       string        `json:"user,omitempty"`             // runs commands; "": the image's
	Driver     string        `json:"driver,omitempty"`           // restores the memory; "": none
	Size       Bytes         `json:"size"`                       // bytes used on the host
	Pause      time.Duration `json:"pause" format:"nanoseconds"` // how long the VM stood still
	// Damaged is why the snapshot is unusable. Fields that cannot be read, even Name, are then
	// empty.
	Damaged string `json:"damaged,omitempty"`
	// Sealed is whether this home made it. Otherwise a restore uses only the disks, unless the
	// caller trusts the memory.
	Sealed bool            `json:"sealed"`
	Disks  []SnapshotDrive `json:"disks,omitempty"`
	Env    int             `json:"env,omitempty"` // number of the VM's own environment variables
	// Notices are about the import that returns the snapshot.
	Notices []Notice `json:"notices,omitempty"`
}

// SnapshotDrive is a disk of a snapshot.
type SnapshotDrive struct {
	Name string `json:"name"`
	Size Bytes  `json:"size"` // of the disk, not of what it takes up
}

// TemplateKind is how far a template's machine had started.
type TemplateKind string

// The kinds of templates.
const (
	TemplateUniversal TemplateKind = "universal" // no disk mounted: for all images
	TemplateImage     TemplateKind = "image"     // root mounted, init started
)

// Template is a saved machine without an identity. banger makes it from a freshly booted machine,
// and the next VM is forked from it instead of booted.
type Template struct {
	Key          string       `json:"key"`                      // hash of what a VM must share
	Kind         TemplateKind `json:"kind"`                     //
	Image        string       `json:"image,omitempty"`          // the name it had then, or ""
	ImageID      string       `json:"image_id,omitempty"`       // "" if universal
	ImageMoved   bool         `json:"image_moved,omitempty"`    // Image means another now, or none
	Kernel       string       `json:"kernel"`                   // the kernel's name
	KernelID     string       `json:"kernel_id"`                //
	VCPUs        int          `json:"vcpus"`                    //
	Memory       Bytes        `json:"memory"`                   //
	Net          NetMode      `json:"net"`                      //
	DiskSize     Bytes        `json:"disk_size,omitempty"`      // mounted system disk, or 0
	WorkDiskSize Bytes        `json:"work_disk_size,omitempty"` // mounted work disk; 0 if none
	Size         Bytes        `json:"size"`                     // bytes used on the host
	Created      time.Time    `json:"created"`                  //
	LastUsed     time.Time    `json:"last_used"`                // time of the last fork, or Created
	// Uses counts the VMs that were forked from it. A crash of the host may lose the last ones.
	Uses     int  `json:"uses"`
	Standby  int  `json:"standby"`            // restored machines that wait for a VM
	Building bool `json:"building,omitempty"` // not usable yet
}

// UsageKind is what a row of a DiskUsage is about.
type UsageKind string

// The things that use space.
const (
	UsageVM       UsageKind = "vm"
	UsageLost     UsageKind = "lost" // directories of VMs without a record
	UsageImage    UsageKind = "image"
	UsageKernel   UsageKind = "kernel"
	UsageSnapshot UsageKind = "snapshot"
	UsageTemplate UsageKind = "template"
	UsageCache    UsageKind = "cache" // downloads, initramfs archives and what crashes left
)

// DiskUsage is the space that banger uses on the host's file systems.
type DiskUsage struct {
	Rows  []UsageRow `json:"rows"`
	Total UsageRow   `json:"total"` // the sums, without kind and name
}

// UsageRow is the space that one thing uses.
type UsageRow struct {
	Kind     UsageKind `json:"kind"`
	Name     string    `json:"name"`
	Apparent Bytes     `json:"apparent"` // the sum of its files' lengths
	Own      Bytes     `json:"own"`      // allocated for it alone
	// Shared is allocated, and shared by reference with other files. It is 0 if the file system
	// does not report it.
	Shared      Bytes `json:"shared"`
	Reclaimable Bytes `json:"reclaimable"` // what a prune would free
}

// Add adds the sizes of another row.
func (r *UsageRow) Add(other UsageRow) {
	r.Apparent += other.Apparent
	r.Own += other.Own
	r.Shared += other.Shared
	r.Reclaimable += other.Reclaimable
}
