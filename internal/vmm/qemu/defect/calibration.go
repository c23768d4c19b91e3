package defect

import "bytes"

// The parts of the console's line that says that a kernel gives its APIC timer up, because the
// host halted the virtual CPU during the calibration (calibrate_APIC_clock in
// arch/x86/kernel/apic/apic.c of Linux 6.1). A microvm has no other timer, so the boot never ends.
const (
	early         = "[    " // it starts the line: the kernel has run for less than 10 s
	timerLost     = "] APIC frequency too slow, disabling apic timer\r"
	programsBegin = "] Run /" // later lines can come from a program
)

// maxBootLine is the number of bytes of a line of the console that are looked at.
const maxBootLine = 256

// Boot follows a boot on the console, and reports when the kernel has lost its timer. On a machine
// that was adopted or restored it has seen no boot: there the guest's root can cause a reset, of
// itself. The zero value is ready. It is not safe for concurrent use.
type Boot struct {
	line   []byte // the line that is being written, up to maxBootLine
	over   bool   // programs run
	resets int
}

// Lost looks at what was written to the console, and reports whether the boot must be repeated.
func (b *Boot) Lost(p []byte) (lost bool) {
	for len(p) > 0 && !b.over {
		text, rest, ended := bytes.Cut(p, []byte("\n"))
		p = rest
		b.line = append(b.line, text[:min(len(text), maxBootLine-len(b.line))]...)
		if !ended {
			break
		}
		switch {
		case bytes.HasPrefix(b.line, []byte(early)) && bytes.HasSuffix(b.line, []byte(timerLost)):
			b.resets++
			lost, b.over = true, b.resets == MaxResets
		case bytes.Contains(b.line, []byte(programsBegin)):
			b.over = true
		}
		b.line = b.line[:0]
	}
	return lost
}
