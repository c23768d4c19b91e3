package library

import (
	"banger/internal/fault"
	"banger/internal/model"
)

// trustHint says what the flag means.
const trustHint = "--disks-only restores the disks: the VM boots from them. --trust-memory also loads the memory and the devices' state, which somebody else may have written, " +
	"into the VMM: if the VMM's loader has a defect, the sender gets the VMM's rights."

// MayUseMemory reports whether a restore may use a snapshot's memory: only the home's own, or what
// the request trusts. Otherwise new VMs get the disks alone. A notice reports this. A VM in place
// would lose its present memory for that, so the request must say what it wants.
func MayUseMemory(s model.Snapshot, req model.Restore) (bool, []model.Notice, error) {
	switch {
	case s.Kind != model.SnapshotFull || req.DisksOnly:
		return false, nil, nil
	case s.Sealed || req.TrustMemory:
		return true, nil, nil
	case req.Into != "":
		return false, nil, fault.New(fault.Invalid, "snapshot %s has no seal of this home, so its memory is not used unless you trust its sender", s.Name).
			WithHint("%s", trustHint)
	}
	return false, []model.Notice{{
		Text: "snapshot " + s.Name + " has no seal of this home: only its disks were used",
		Hint: trustHint,
	}}, nil
}
