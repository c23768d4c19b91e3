// Package api is the daemon's HTTP interface on a unix socket: wire types, the route table, and the Go client. Package
// api/server serves it.
//
// Bodies are JSON. Errors are problem documents (RFC 9457) with a stable kind. A long operation that is asked for with
// "Accept: text/event-stream" answers with server-sent events: any number of "step" events (step.Event), then one "result" (what it
// would have answered otherwise) or one "problem". An answer of bytes that ends early has its problem in a trailer (TrailerProblem). Streams of
// bytes (exec, run, ssh, dial) are upgrades to "banger-stream"; exec and run speak the frames of package proto on it.
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
	VM     string `json:"vm,omitempty"`   // the id of the VM that it is about
	Step   string `json:"step,omitempty"` // the step that failed
	Log    string `json:"log,omitempty"`  // path of the log that tells more

	RequestID string `json:"request_id,omitempty"` // of the request that failed, as in the daemon's log
}

// Run asks for a VM and a command in it: the payload of the first frame of a run stream.
//
// The daemon answers with FrameEvent frames while the VM comes up, one of them with Step EventVM and the VM's name as Detail, then, when the
// command's streams are joined, with one that has Step EventExec, and then with the frames of the command. Until EventExec the client sends only
// FrameSignal and FrameHangup, and keeps its terminal as it is: so Ctrl-C still works, and what is typed ahead is not lost. The daemon
// ends what RemoveOnDetach made before it closes the stream.
type Run struct {
	VM   model.Create      `json:"vm"`
	Exec proto.ExecRequest `json:"exec"`
	// Image makes Exec.Argv arguments of the image's entrypoint, or, when they are empty, takes its Cmd: as OCI runtimes do. Without it
	// Exec.Argv is run as it is.
	Entrypoint bool          `json:"entrypoint,omitempty"`
	Timeout    time.Duration `json:"timeout,omitempty" format:"nanoseconds"` // nanoseconds for the command; 0 for none. Exit code 124 when it is over
}

// The steps that are more than progress. See Run and VMCreate.
const (
	EventVM   = "vm"   // the VM has a record; Detail is its name
	EventExec = "exec" // the command is about to run: standard input may be sent
	// EventDelete comes after the command's end when RemoveOnDetach failed: Detail is the VM's name, Error why.
	EventDelete = "delete"
)

// VMCreate says what to do with a VM that is made: the query of the request.
type VMCreate struct {
	// Start starts it as part of the same operation, which tells the VM's name in an event EventVM before. A client that goes away until the VM
	// runs leaves none behind.
	Start bool `query:"start"`
}

// VMStop asks a VM to stop.
type VMStop struct {
	Timeout *time.Duration `json:"timeout,omitempty" format:"nanoseconds"` // nanoseconds the guest has to power off before it is ended; nil for the configured one
}

// VMKill ends a VM's VMM.
type VMKill struct {
	Signal string `json:"signal,omitempty"` // "KILL" when empty; names with or without SIG, or numbers
}

// VMRename gives a VM another name.
type VMRename struct {
	Name string `json:"name"`
}

// VMDelete says how to delete: the query of the request.
type VMDelete struct {
	Force bool `query:"force"` // also when it runs
}

// VMLogs says which log and how much of it: the query of the request.
type VMLogs struct {
	Source LogSource `query:"source"` // LogConsole when empty
	Follow bool      `query:"follow"` // go on with what is written later, until the VM stops
	Tail   int       `query:"tail"`   // the last so many lines only; 0 for all
}

// LogSource is one of a VM's logs.
type LogSource string

// The logs of a VM.
const (
	LogConsole LogSource = "console" // what the guest writes to its console
	LogVMM     LogSource = "vmm"     // what the VMM itself says
)

// SnapshotCreate asks for a snapshot.
type SnapshotCreate struct {
	VM   string `json:"vm"`             // a name, an id, or the unique beginning of an id
	Name string `json:"name,omitempty"` // "" for a random pleasant one
}

// SnapshotRestore says how to restore: the query of the request.
type SnapshotRestore struct {
	// Force restores also into a VM that is not at rest. What it is now is lost.
	Force bool `query:"force"`
}

// SnapshotImport says how to import: the query of the request.
type SnapshotImport struct {
	Name string `query:"name"` // "": the one that it had, or a random one when that is taken
}

// TemplatePrune says what to prune: the query of the request.
type TemplatePrune struct {
	All bool `query:"all"` // also what the next start would go on from
}

// ImagePull asks for an image from a registry, or for a Debian suite ("debian:bookworm").
type ImagePull struct {
	Ref   string `json:"ref"`
	Force bool   `json:"force,omitempty"` // ask the registry (or build) again although the name is there
}

// ImageImport says how to import an image: the query of the request. The body is the content: a
// docker-archive, an OCI layout or a root file system as a tar, compressed or not, or an ext4 file.
type ImageImport struct {
	Name      string `query:"name"`      // if unset, the name that the archive holds, or one made of file
	File      string `query:"file"`      // what the client calls the content; errors and progress show it
	Directory bool   `query:"directory"` // the content is a tar made of a directory with a root file system
}

// KernelPull asks for a distribution's kernel.
type KernelPull struct {
	Name  string `json:"name"` // "debian"
	Force bool   `json:"force,omitempty"`
}

// KernelImport says how to import a kernel: the query of the request. The body is a bzImage or an ELF
// vmlinux. With archive it is a tar with "kernel", and optionally "config" and "modules/VERSION/...".
type KernelImport struct {
	Name    string `query:"name"`    // the kernel's version if unset
	File    string `query:"file"`    // what the client calls the kernel; errors and progress show it
	Archive bool   `query:"archive"` // the body is a tar
}

// Version says what answers.
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

// Status is how the daemon is doing.
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
