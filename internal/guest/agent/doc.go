// Package agent is the guest's side of banger. It is the program /init of the initramfs. It gives
// the machine the identity that the host assigns, and then serves commands, files and streams for
// as long as the machine runs.
//
// # Life
//
// The agent starts as process 1 in the initramfs. It mounts the kernel's file systems, loads
// modules, opens its channel and waits for the host (boot.go, transport.go, serve.go). On assume it
// builds the root file system and moves into it (root.go, work.go), and applies the identity
// (assume.go, identity.go, network.go).
//
// If the image has an init, the agent starts a copy of itself that serves beside it, and executes
// the init as process 1 (handover.go). Otherwise the agent stays process 1.
//
// Before a machine is saved, the agent freezes it: all other processes halt (fork.go, package
// freezer). Then the host either thaws it with the identity that it had, or assigns another
// identity, which makes it a fork.
//
// # Trust
//
// The agent obeys the host. It does not trust the image: it reads files with bounds, and a panic
// ends only the request in which it happens. It imports none of the host's packages; a test holds
// that.
//
// docs/internals/boot.md describes all of this for a newcomer.
package agent
