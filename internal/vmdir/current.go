package vmdir

import (
	"fmt"
	"slices"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// Older returns the records that are older than their copies. A copy that cannot be read, or has no
// revision, proves nothing.
func Older(layout paths.Layout, records []model.VM) (older []model.VM) {
	for _, v := range records {
		if c, err := Read(layout.VM(v.ID), v.ID); err == nil && c.Revision > v.Revision {
			older = append(older, v)
		}
	}
	return older
}

// unknown returns the VMs whose directories have a copy of a record, and whose records are missing.
// No crash leaves that: a record is stored before its copy, and removed after the directory.
func unknown(layout paths.Layout, records []model.VM) (vms []model.VM, err error) {
	ids, err := IDs(layout)
	for _, id := range ids {
		if slices.ContainsFunc(records, func(v model.VM) bool { return v.ID == id }) {
			continue
		}
		if c, err := Read(layout.VM(id), id); err == nil {
			vms = append(vms, c.VM)
		}
	}
	return vms, err
}

// CheckCurrent refuses the records of a database that is older than the VMs. The daemon would end
// machines, give memory up and move directories away because of them.
func CheckCurrent(layout paths.Layout, records []model.VM) error {
	lost, err := unknown(layout, records)
	if err != nil {
		return err
	}
	var why string
	switch older := Older(layout, records); {
	case len(older) > 0:
		why = several(older) + " changed since it was copied"
	case len(lost) > 0:
		why = several(lost) + " no record in it"
	default:
		return nil
	}
	return fault.New(fault.WrongState, "the database %s is older than the VMs: %s; nothing was changed", layout.Database(), why).
		WithHint("Bring the records up to date from what lies beside the disks: banger daemon recover")
}

// several begins a sentence about VMs.
func several(vms []model.VM) string {
	if n := len(vms); n > 1 {
		return fmt.Sprintf("VM %s and %d more have", vms[0].Spec.Name, n-1)
	}
	return "VM " + vms[0].Spec.Name + " has"
}
