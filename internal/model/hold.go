package model

import (
	"fmt"
	"time"
)

// Hold is why banger has halted a running VM for a while: the host lacks disk space. Nothing in the
// VM is lost. It continues by itself when there is space again.
type Hold struct {
	Reason HoldReason `json:"reason"`
	Free   Bytes      `json:"free"`   // now, on the file system of the VM's disks
	Floor  Bytes      `json:"floor"`  // the free space below which VMs that write are held
	Resume Bytes      `json:"resume"` // the free space with which the VM continues
	Since  time.Time  `json:"since"`
}

// HoldReason is what led to a hold.
type HoldReason string

// The reasons.
const (
	HeldAtFloor HoldReason = "floor" // the free space fell below the floor, and the VM wrote
	HeldFull    HoldReason = "full"  // the host had no room for a write, which waits
)

// String returns the reason with the numbers.
func (h Hold) String() string {
	if h.Reason == HeldFull {
		return fmt.Sprintf("the host's disk is full: %v is free, the VM continues with %v", h.Free, h.Resume)
	}
	return fmt.Sprintf("the host has %v free, the floor is %v; the VM continues with %v", h.Free, h.Floor, h.Resume)
}
