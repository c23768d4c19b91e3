// Package agent is the guest's side of banger: the program that is /init of the initramfs, makes the machine what the host
// says it shall be, and then serves commands, files and streams for as long as the machine runs.
//
// # Its life
//
// It starts as process 1 in the initramfs: it mounts the kernel's file systems, loads modules, finds its port and waits for the host
// (boot.go). On the host's assume it builds the root file system and moves into it (root.go), sets the identity
// (identity.go), and stays process 1, unless the image has an init: then it starts a copy of itself, which goes on serving beside
// the init, and executes the init as process 1 (handover.go).
//
// A machine that is saved is frozen first: everybody but the agent stands still (fork.go, package freezer). Whoever wakes up in that state is
// told by the host which machine it is: thaw makes it the one that it was, a second assume makes it a fork, with another identity before
// anybody else runs on.
//
// # What it trusts
//
// The host, which it obeys. It does not trust what is in the image: files are read with bounds, and a panic in a request
// is that request's end. It imports nothing of the host's packages; a test holds that.
package agent
