package vmdir

import (
	"fmt"

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

// CheckCurrent refuses the records of a database that is older than the VMs. The daemon would end
// machines and give memory up because of them.
func CheckCurrent(layout paths.Layout, records []model.VM) error {
	older := Older(layout, records)
	if len(older) == 0 {
		return nil
	}
	which := "VM " + older[0].Spec.Name + " has"
	if n := len(older); n > 1 {
		which = fmt.Sprintf("VM %s and %d more have", older[0].Spec.Name, n-1)
	}
	return fault.New(fault.WrongState, "the database %s is older than the VMs: %s changed since it was copied; nothing was changed", layout.Database(), which).
		WithHint("Bring the records up to date from what lies beside the disks: banger daemon recover")
}
