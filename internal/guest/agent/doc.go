// Package agent is the guest's side of banger. It is the program /init of the initramfs. It gives
// the machine the identity that the host assigns, and then serves commands, files and streams for
// as long as the machine runs.
//
// # Life
//
// The agent starts as process 1 in the initramfs. It mounts the kernel's file systems, loads
// modules, opens its channel and waits for the host (boot.go, transport.go, serve.go). On assume it
// builds the root file system and moves into it (package mount), and applies the identity
// (assume.go, identity.go, network.go).
//
// If the image has an init, the agent starts a copy of itself that serves beside it (beside.go),
// and executes the init as process 1 (handover.go). Otherwise the agent stays process 1.
//
// Before a machine is saved, the agent freezes it: all other processes halt (freeze.go, package
// freezer). Then the host either thaws it with the identity that it had, or assigns another
// identity, which makes it a fork (fork.go, hooks.go, bootid.go).
//
// # Services
//
// A service is a small type that answers some routes. Its name ends in Service, and its file has
// the name of the service. Two routes, ports and dial, are functions, because they need nothing.
// Services share state by small types that lock themselves:
//
//	life       how far the machine has come with its identity (life.go)
//	marks      moments of the boot (marks.go)
//	settings   the identity's part that commands and SSH need (settings.go)
//	cards      the network cards (network.go)
//	drives     the writable drives (package mount)
//	processes  all processes but the agent; halts and resumes them (processes.go)
//
// To add a service:
//
//  1. Add its wire types and the description of its routes to package proto.
//  2. Write its type in a file of its own, with the fields that it needs and no others. A handler
//     returns an answer or an error. The methods of router show the kinds of handlers (http.go).
//  3. Build it in newAgent, and add its routes to the table in routes (agent.go). If a route needs
//     the root file system or processes, wrap its handler in assumed.
//  4. Add the host's call to package guest (calls.go).
//
// References between files point one way, from main.go down to the shared state. A test holds that.
//
// # Locks
//
// The lock change of life comes first. Assume, freeze and thaw hold it from beginning to end. The
// lock spawn of processes comes second. All other locks guard a few fields, and nobody takes
// another lock while holding one of them.
//
// # Trust
//
// The agent obeys the host. It does not trust the image: it reads files with bounds, and a panic
// ends only the request in which it happens. It imports none of the host's packages; a test holds
// that.
//
// docs/internals/boot.md describes all of this for a newcomer.
package agent
