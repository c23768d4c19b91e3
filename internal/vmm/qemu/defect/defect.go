// Package defect is what banger knows about defects of QEMU: which versions each one affects, how
// the driver detects it, and the constants and predicates for that. The driver acts on them.
//
// In the table, "all" means every version up to 7.2 at least: no newer one was examined.
// "Emulation" is TCG. "Avoided" means that the driver always does the same. docs/internals/qemu.md
// says more.
//
//	defect                           versions         detected by       the driver
//	-------------------------------  ---------------  ----------------  --------------------------
//	TSC calibration hangs the boot   all, emulation   avoided           see tsc.go
//	a boot loses its APIC timer      all, emulation   the console       see calibration.go
//	emulated CPUs mix up code        <8.1, emulation  version, silence  see translation.go
//	ports not followed while halted  all              query-chardev     see agentport.go
//	restoring drops the disk cache   all              avoided           see option.go
//	a balloon damages a shared base  all              avoided           has no balloon
//	a shared base is opened to write <8.2             version           seals it, if it is a memfd
//	an event precedes the greeting   all              first message     accepts it (package qmp)
//	-no-reboot cannot be changed     <6.0             set-action fails  logs it, does not reset
//	a held frame is lost in a state  all              known             has no frame held: wire.go
//	pmemsave empties its file        all              avoided           saves up to 3 GiB by it
//	pmemsave reads the BIOS as RAM   all              known             uses it as a last resort
//	the user network reaches the     all              known             nothing (docs/security.md)
//	  host's loopback
package defect

import "fmt"

// before reports whether a version text, such as "7.2.22 (Debian 1:7.2)", is older than
// major.minor. A text that has no version is not older.
func before(version string, major, minor int) bool {
	var a, b int
	n, _ := fmt.Sscanf(version, "%d.%d", &a, &b)
	return n == 2 && (a < major || a == major && b < minor)
}
