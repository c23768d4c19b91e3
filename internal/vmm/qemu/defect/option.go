package defect

import "strconv"

// KeepCache is the option of a file's block node that makes QEMU keep the host's cache of the file
// when it loads a state. Otherwise each fork would make all VMs read their image from the disk
// again.
const KeepCache = "drop-cache=off"

// WritesBase reports whether this version opens a file that it maps privately for writing. QEMU 8.2
// can open it for reading and still give the guest memory (the option rom=off).
func WritesBase(version string) bool { return before(version, 8, 2) }

// EarlyTSC is the argument of the guest's kernel that gives it the frequency of the TSC.
func EarlyTSC(khz uint64) string { return "tsc_early_khz=" + strconv.FormatUint(khz, 10) }
