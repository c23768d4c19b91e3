package qemu

import "bytes"

// A booting kernel measures its CPU's timer against the time stamp counter, for a tenth of a second (calibrate_APIC_clock in
// arch/x86/kernel/apic/apic.c of Linux 6.1). If the host lets the virtual CPU stand still for as long right at the beginning of that, the timer
// seems not to move, the kernel does without it, and as this machine has no other timer it waits for ever for its second CPU. So the
// kernel's message is as good as the end of the boot, which is begun again: by then it has lasted half a second.
const (
	early         = "[    "                                             // begins the line: the kernel has run for less than 10 s
	timerLost     = "] APIC frequency too slow, disabling apic timer\r" // ends it
	programsBegin = "] Run /"                                           // what comes after it on the console can be a program's words

	maxResets = 3 // of one boot. A host on which they do not help is none to run VMs on.
)

// calibration follows a boot on the console, and knows when to begin it again. On a machine that was adopted or restored, where
// it has seen no boot, a guest's root can have it begin one: that is his own loss.
type calibration struct {
	lost chan struct{} // gets an element when the boot is to be begun again; there is room for one

	line   []byte // the line that is being written, up to maxBootLine
	over   bool   // programs run
	resets int
}

// maxBootLine is where a line of the console is cut.
const maxBootLine = 256

// look takes note of what was written to the console.
func (c *calibration) look(p []byte) {
	if !c.failed(p) {
		return
	}
	select {
	case c.lost <- struct{}{}:
	default:
	}
}

// failed returns true when what was written to the console tells that the boot is to be begun again.
func (c *calibration) failed(p []byte) (again bool) {
	for len(p) > 0 && !c.over {
		text, rest, ended := bytes.Cut(p, []byte("\n"))
		p = rest
		c.line = append(c.line, text[:min(len(text), maxBootLine-len(c.line))]...)
		if !ended {
			break
		}
		switch {
		case bytes.HasPrefix(c.line, []byte(early)) && bytes.HasSuffix(c.line, []byte(timerLost)):
			c.resets++
			again, c.over = true, c.resets == maxResets
		case bytes.Contains(c.line, []byte(programsBegin)):
			c.over = true
		}
		c.line = c.line[:0]
	}
	return again
}
