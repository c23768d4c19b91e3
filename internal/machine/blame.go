package machine

import (
	"errors"
	"syscall"

	"banger/internal/fault"
	"banger/internal/pace"
	"banger/internal/step"
)

// Blame is what a launch that failed says against the template that it came from.
type Blame int

// The kinds of blame, the least first.
const (
	// NoBlame: a boot would fail as well, or the user ended the machine.
	NoBlame Blame = iota
	// Doubt: a boot may succeed. A deadline that passed, a machine that ended, and a host without
	// memory or room prove nothing.
	Doubt
	// Proof: the VMM does not take the saved state, or another guest answered than was saved.
	Proof
)

// Blame returns what the error of this launch says against its template, and names what may be at
// fault instead; "" for nothing. A universal template meets the image in the step "assume", and an
// image can make that step fail.
func (l *Launch) Blame(err error) (b Blame, witness string) {
	var failed *step.Error
	if l.Template() == "" || !errors.As(err, &failed) || failed.Undo != nil || l.killed {
		return NoBlame, ""
	}
	kind := fault.KindOf(failed.Err)
	switch failed.Step {
	case "system-disk": // the template's disks are missing if it is being removed at this moment
		if len(l.Source.traits().disks) > 0 {
			return Doubt, ""
		}
	case "vmm", "agent":
		if (kind == fault.Internal || kind == fault.Invalid) && !ofHost(failed.Err) {
			return Proof, ""
		}
		return Doubt, ""
	case "assume":
		if kind != fault.Unavailable && kind != fault.Internal {
			return NoBlame, ""
		}
		if t, ok := l.Source.(*Template); ok && t.Universal {
			witness = l.Subject.Spec.ImageID
		}
		return Doubt, witness
	}
	return NoBlame, ""
}

// ofHost reports whether an error shows the state of the host: a deadline, or a system call that
// found no room, memory or file.
func ofHost(err error) bool {
	var errno syscall.Errno
	return pace.Passed(err) || errors.As(err, &errno)
}
