package oplock

import "time"

// Use is what is known of how a thing is used: by sessions, and by the CPU time of its process. The
// zero value works. The caller's mutex guards it.
type Use struct {
	users   int       // open sessions
	last    time.Time // when the last one ended, or the CPU was last seen busy
	leaving bool

	cpu   time.Duration // what the process had used up...
	cpuAt time.Time     // ... at this moment
}

// busyCPU is the share of one CPU from which a process counts as busy. A guest that does nothing
// takes 1-3 % in emulation.
const busyCPU = 0.10

// Begin counts a user, unless the thing is leaving.
func (u *Use) Begin() bool {
	if u.leaving {
		return false
	}
	u.users++
	return true
}

// End ends what Begin began.
func (u *Use) End(now time.Time) {
	u.users--
	u.last = now
}

// Touch counts as a use that begins and ends now.
func (u *Use) Touch(now time.Time) { u.last = now }

// Leave announces that the thing is going to be suspended, unless it has users. A new user waits
// for that and wakes it.
func (u *Use) Leave() bool {
	if u.users > 0 {
		return false
	}
	u.leaving = true
	return true
}

// Stay takes back what Leave announced. Leaving reports whether it holds.
func (u *Use) Stay()         { u.leaving = false }
func (u *Use) Leaving() bool { return u.leaving }

// IdleFor returns how long the thing has been without use. cpu is what its process has used up by
// now.
func (u *Use) IdleFor(now time.Time, cpu time.Duration) time.Duration {
	share := 0.0
	if since := now.Sub(u.cpuAt); since > 0 && cpu >= u.cpu && !u.cpuAt.IsZero() {
		share = float64(cpu-u.cpu) / float64(since)
	}
	first := u.cpuAt.IsZero() || cpu < u.cpu // a process that was not looked at before
	u.cpu, u.cpuAt = cpu, now
	if first || u.users > 0 || share > busyCPU {
		u.last = now
	}
	return now.Sub(u.last)
}
