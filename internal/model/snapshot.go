package model

import "time"

// SnapshotKind says what of a machine a snapshot keeps.
type SnapshotKind string

// The kinds of snapshots.
const (
	SnapshotFull SnapshotKind = "full" // memory, devices and disks: a fork goes on where the machine was
	SnapshotDisk SnapshotKind = "disk" // disks only: a fork boots
)

// Snapshot is a VM at one moment, kept under a name, to make other VMs from.
type Snapshot struct {
	ID      string        `json:"id"`                         // 16 hex digits, never reused
	Name    string        `json:"name"`                       //
	VM      string        `json:"vm"`                         // name of the VM that it was taken of
	VMID    string        `json:"vm_id"`                      // its id; there may be no such VM any more, or not on this host
	Kind    SnapshotKind  `json:"kind"`                       //
	Created time.Time     `json:"created"`                    //
	Image   string        `json:"image"`                      // the reference that the VM was made with
	Kernel  string        `json:"kernel"`                     // the kernel's name
	VCPUs   int           `json:"vcpus"`                      //
	Memory  Bytes         `json:"memory"`                     // of the VM
	Driver  string        `json:"driver,omitempty"`           // that can restore its memory; "" when that is not kept
	Size    Bytes         `json:"size"`                       // what it takes up on the host
	Pause   time.Duration `json:"pause" format:"nanoseconds"` // nanoseconds that the VM stood still for it
	Damaged string        `json:"damaged,omitempty"`          // why nothing can be made of it; then what cannot be read of it is empty, its name too
}

// TemplateKind says how far the machine that a template keeps had come.
type TemplateKind string

// The kinds of templates.
const (
	TemplateUniversal TemplateKind = "universal" // the agent is up and no disk is mounted: serves every image
	TemplateImage     TemplateKind = "image"     // an image's root is mounted and its init has started
)

// Template is a snapshot that banger made by itself of a freshly booted machine without an identity, so that the next VM is forked
// instead of booted.
type Template struct {
	Key          string       `json:"key"`                      // hash of all that a VM must have in common with it
	Kind         TemplateKind `json:"kind"`                     //
	Image        string       `json:"image,omitempty"`          // a name of the image; "" in a universal one
	ImageID      string       `json:"image_id,omitempty"`       // likewise
	Kernel       string       `json:"kernel"`                   // the kernel's name
	KernelID     string       `json:"kernel_id"`                //
	VCPUs        int          `json:"vcpus"`                    //
	Memory       Bytes        `json:"memory"`                   //
	Net          NetMode      `json:"net"`                      //
	DiskSize     Bytes        `json:"disk_size,omitempty"`      // of an image's: the system disk that is mounted
	WorkDiskSize Bytes        `json:"work_disk_size,omitempty"` // likewise; 0 for none
	Size         Bytes        `json:"size"`                     // what it takes up on the host
	Created      time.Time    `json:"created"`                  //
	LastUsed     time.Time    `json:"last_used"`                // when a VM was last forked from it; Created before the first
	Uses         int          `json:"uses"`                     // how many VMs were forked from it; a crash of the host may lose the last ones
	Standby      int          `json:"standby"`                  // machines that wait, restored from it, for a VM to take them
	Building     bool         `json:"building,omitempty"`       // it is being made, and serves nobody yet
}

// UsageKind says what a row of a DiskUsage is about.
type UsageKind string

// What takes up space.
const (
	UsageVM       UsageKind = "vm"
	UsageImage    UsageKind = "image"
	UsageKernel   UsageKind = "kernel"
	UsageSnapshot UsageKind = "snapshot"
	UsageTemplate UsageKind = "template"
	UsageCache    UsageKind = "cache" // downloads, initramfs archives and what crashes left
)

// DiskUsage is what banger keeps on the host's file systems.
type DiskUsage struct {
	Rows  []UsageRow `json:"rows"`
	Total UsageRow   `json:"total"` // the sums; its kind and name are empty
}

// UsageRow is what one thing takes up.
type UsageRow struct {
	Kind        UsageKind `json:"kind"`
	Name        string    `json:"name"`
	Apparent    Bytes     `json:"apparent"`    // how large its files say they are
	Own         Bytes     `json:"own"`         // allocated for it alone
	Shared      Bytes     `json:"shared"`      // allocated, and shared by reference with other files; 0 where the file system does not tell
	Reclaimable Bytes     `json:"reclaimable"` // what a prune would give back
}

// Add adds what another row is about.
func (r *UsageRow) Add(other UsageRow) {
	r.Apparent += other.Apparent
	r.Own += other.Own
	r.Shared += other.Shared
	r.Reclaimable += other.Reclaimable
}
