// Package api is the daemon's HTTP interface on a unix socket: wire types, the table of operations
// (operations.go), and the Go client. Package api/server serves it.
//
// The client groups its methods by what they are about, one file each: client_vm.go has the calls
// behind Client.VMs. They share the shapes of requests (resource.go) and one transport
// (transport.go, dial.go, stream.go).
//
// Bodies are JSON. Errors are problem documents (RFC 9457) with a stable kind. An answer of bytes
// that ends early has its problem in a trailer (TrailerProblem).
//
// A long operation that is requested with "Accept: text/event-stream" answers with server-sent
// events: any number of "step" events (step.Event), then one "result" (its JSON answer) or one
// "problem".
//
// Streams of bytes (exec, run, ssh, dial) are upgrades to "banger-stream". Streams of exec and run
// carry frames of package proto. A Receiver reads them for a program that is not the CLI; exec is
// also a plain call (ExecCall).
//
// The daemon answers a run (type Run) with FrameEvent frames while the VM starts. One of them has
// Step EventVM and the VM's name as Detail. After the command's streams are joined, one has Step
// EventExec, and the frames of the command follow. Until EventExec the client sends only
// FrameSignal and FrameHangup and leaves its terminal as it is, so that Ctrl-C works and
// typed-ahead input is kept. In the stream of an exec, EventExec comes when the guest has the
// command; input may be sent before. An event before it says what the daemon waits for.
//
// Each request has an id (HeaderRequestID), which the daemon's log and the request's errors hold.
package api

import (
	"time"

	"banger/internal/guest/proto"
	"banger/internal/model"
)

// Problem is an error on the wire: RFC 9457, with the fault's kind and hint as extension members.
type Problem struct {
	Type   string `json:"type"`           // "urn:banger:problem:<kind>"
	Title  string `json:"title"`          // the kind in words
	Status int    `json:"status"`         // the HTTP status
	Detail string `json:"detail"`         // the error's message
	Kind   string `json:"kind"`           // one of package fault's kinds
	Hint   string `json:"hint,omitempty"` // what to do about it
	VM     string `json:"vm,omitempty"`   // id of the VM concerned
	Step   string `json:"step,omitempty"` // the step that failed
	Log    string `json:"log,omitempty"`  // path of the log with details

	RequestID string `json:"request_id,omitempty"` // id of the failed request in the daemon's log
}

// Run asks for a VM and a command in it. It is the payload of a run stream's first frame. A VM with
// RemoveOnDetach is deleted before the daemon closes the stream.
type Run struct {
	VM   model.Create      `json:"vm"`
	Exec proto.ExecRequest `json:"exec"`
	// Entrypoint passes Exec.Argv to the image's entrypoint as arguments. If Exec.Argv is empty,
	// the image's Cmd is passed, as OCI runtimes do. Otherwise Exec.Argv is the command.
	Entrypoint bool `json:"entrypoint,omitempty"`
	// Nanoseconds for the command; none if 0.
	Timeout time.Duration `json:"timeout,omitempty" format:"nanoseconds"`
}

// Steps with a meaning of their own. See Run and VMCreate.
const (
	EventVM   = "vm"   // the VM has a record; Detail is its name
	EventExec = "exec" // the command is about to run: standard input may be sent
	// EventDelete comes after the command's end if RemoveOnDetach failed. Detail is the VM's name,
	// Error the reason.
	EventDelete = "delete"
)

// VMCreate says what to do with the new VM: the query of the request.
type VMCreate struct {
	// Start starts the VM in the same operation, after an event EventVM with the VM's name. If the
	// client goes away before the VM runs, no VM is left.
	Start bool `query:"start"`
}

// VMStop asks a VM to stop.
type VMStop struct {
	// Nanoseconds for the guest's power-off.
	Timeout *time.Duration `json:"timeout,omitempty" format:"nanoseconds"`
}

// VMKill ends a VM's VMM.
type VMKill struct {
	// A name with or without SIG, or a number; "KILL" if unset.
	Signal string `json:"signal,omitempty"`
}

// VMRename changes a VM's name.
type VMRename struct {
	Name string `json:"name"`
}

// VMDelete says how to delete: the query of the request.
type VMDelete struct {
	Force bool `query:"force"` // delete a running VM, too
}

// VMLogs says which log to return and how much of it: the query of the request.
type VMLogs struct {
	Source LogSource `query:"source"` // LogConsole if unset
	Follow bool      `query:"follow"` // continue with later lines until the VM stops
	Tail   int       `query:"tail"`   // number of last lines; all if 0
}

// LogSource names one of a VM's logs.
type LogSource string

// The logs of a VM.
const (
	LogConsole LogSource = "console" // what the guest writes to its console
	LogVMM     LogSource = "vmm"     // what the VMM writes
)

// SnapshotCreate asks for a snapshot.
type SnapshotCreate struct {
	VM   string `json:"vm"`             // a name, an id, or a unique prefix of an id
	Name string `json:"name,omitempty"` // a random one if unset
}

// SnapshotRestore says how to restore: the query of the request.
type SnapshotRestore struct {
	// Force also restores into a VM that is not stopped. Its present state is lost.
	Force bool `query:"force"`
}

// SnapshotImport says how to import: the query of the request.
type SnapshotImport struct {
	Name string `query:"name"` // if unset, the name that it had, or a random one if that is taken
}

// TemplatePrune says what to prune: the query of the request.
type TemplatePrune struct {
	All bool `query:"all"` // also templates that the next start would use
}

// ImagePull asks for an image from a registry, or for a Debian suite ("debian:bookworm").
type ImagePull struct {
	Ref   string `json:"ref"`
	Force bool   `json:"force,omitempty"` // ask the registry (or build) again if the image exists
}

// ImageImport says how to import an image: the query of the request. The body is a docker-archive,
// an OCI layout or a root file system as a tar (compressed or not), or an ext4 file.
type ImageImport struct {
	// If unset, the name that the archive holds, or one made of file. Such a name takes nothing
	// from another image and is none of banger's own ones; the answer's notices say so.
	Name string `query:"name"`
	// What the client calls the content; errors and progress show it.
	File string `query:"file"`
	// The content is a tar made of a directory with a root file system.
	Sparse    bool `query:"sparse"` // the body is the content in the form of PackSparse
	Directory bool `query:"directory"`
}

// Tag gives an image or a kernel a name.
type Tag struct {
	Name string `json:"name"`
}

// KernelPull asks for a distribution's kernel.
type KernelPull struct {
	Name  string `json:"name"` // "debian"
	Force bool   `json:"force,omitempty"`
}

// KernelImport says how to import a kernel: the query of the request. The body is a bzImage or an
// ELF vmlinux. With archive it is a tar that holds "kernel" and optionally "config" and
// "modules/VERSION/...".
type KernelImport struct {
	// If unset, the kernel's version, unless another kernel has it as a name: see the notices.
	Name string `query:"name"`
	// What the client calls the kernel; errors and progress show it.
	File    string `query:"file"`
	Archive bool   `query:"archive"` // the body is a tar
}

// Version holds the versions of the daemon.
type Version struct {
	Version    string `json:"version"`
	API        int    `json:"api"`
	GoVersion  string `json:"go_version"`
	Generation int    `json:"agent_generation"`
}

// Recommendation is the driver's advice for choosing a default.
type Recommendation struct {
	Kind   string `json:"kind"` // what it is about, for a person: a vmm.RecommendationKind
	Value  int    `json:"value"`
	Reason string `json:"reason"`
}

// Status is the state of the daemon.
type Status struct {
	Version         Version             `json:"version"`
	PID             int                 `json:"pid"`
	Started         time.Time           `json:"started"`
	Socket          string              `json:"socket"`
	State           string              `json:"state_dir"`
	Log             string              `json:"log"`
	Driver          string              `json:"driver"`
	Accel           string              `json:"accel,omitempty"`
	AccelWhy        string              `json:"accel_why,omitempty"`
	Recommendations []Recommendation    `json:"recommendations,omitempty"`
	VMs             map[model.State]int `json:"vms"`
	RSS             model.Bytes         `json:"rss"` // resident memory of the daemon
}
