package defect

import "time"

// MixesUpCPUs reports whether this version, in emulation, may keep the translation of code that
// another virtual CPU has rewritten. Commit deba78709a of QEMU 8.1 fixed it.
func MixesUpCPUs(version string) bool { return before(version, 8, 1) }

// MixesUpCPUsReason explains to a person why a guest with an init should have one virtual CPU.
// Linux rewrites itself while it runs, mostly while an init like systemd starts.
func MixesUpCPUsReason(version string) string {
	return "QEMU " + version + " may mix up code that several emulated CPUs change at once; 8.1 and newer do not"
}

// BootPatience is how long a guest that boots in emulation may be silent, on its console and its
// agent's port, before its boot counts as hung. The next boot gets twice as long, and all get
// longer on a slow host. A healthy boot is silent for a second or two, on a busy host for ten.
const BootPatience = 30 * time.Second

// MaxResets is how often one boot is repeated. If that does not help, the host is too slow for VMs.
const MaxResets = 3
