package api

import (
	"net/http"

	"banger/internal/guest/proto"
	"banger/internal/model"
)

// Operation is one row of the API's table, which package server serves and the OpenAPI document
// describes.
type Operation struct {
	ID         string // stable: the OpenAPI operationId
	Method     string
	Path       string // as a pattern of http.ServeMux
	Permission Permission
	Kind       OperationKind
	Summary    string
	NeedsRoom  bool // it is refused while the host has less free space than the floor

	Query    any // a struct with query tags; nil for none
	Request  any // the JSON body, or the first frame of a stream; nil for none
	Response any // nil for 204 No Content; for a stream, the answer to Call
	Call     any // for a stream, the JSON body of a plain call; nil for none
}

// Permission is what an operation requires of its caller.
type Permission string

// The permissions. At present every caller who may connect has all of them: see server.Actor.
const (
	PermRead  Permission = "read"  // changes nothing
	PermWrite Permission = "write" // changes things, or runs something in a guest
	PermAdmin Permission = "admin" // about the daemon itself
)

// OperationKind says what form an operation's answer has.
type OperationKind string

// The kinds of operation.
const (
	KindJSON   OperationKind = "json"   //
	KindSteps  OperationKind = "steps"  // JSON, or server-sent events if the request accepts them
	KindBytes  OperationKind = "bytes"  // a body of another media type
	KindUpload OperationKind = "upload" // the request's body is of another media type
	KindImport OperationKind = "import" // an upload with an answer as for KindSteps
	KindFrames OperationKind = "frames" // an upgrade; frames of package proto
	KindRaw    OperationKind = "raw"    // an upgrade; bytes
)

// The query types of operations that the client builds by hand.
type (
	// Files names a path in the guest.
	Files struct {
		Path string `query:"path" required:"true"`
	}
	// Port names a port in the guest.
	Port struct {
		Port int `query:"port" required:"true" minimum:"1" maximum:"65535"`
	}
	// Profile says how long to measure and in which form to answer.
	Profile struct {
		Seconds int `query:"seconds" minimum:"1" maximum:"300"` // of a CPU profile or a trace
		Debug   int `query:"debug"`                             // 1 or 2: as text
		GC      int `query:"gc"`                                // 1: collect garbage before
	}
)

// Operations returns the table.
func Operations() []Operation {
	var all []Operation
	for _, part := range [][]Operation{
		daemonOperations(), vmOperations(), holdOperations(), streamOperations(), imageOperations(),
		kernelOperations(), snapshotOperations(),
		templateOperations(), debugOperations(),
	} {
		all = append(all, part...)
	}
	return all
}

func daemonOperations() []Operation {
	return []Operation{
		{ID: "version", Method: http.MethodGet, Path: "/v1/version", Permission: PermRead, Kind: KindJSON,
			Summary: "The versions of the daemon", Response: Version{}},
		{ID: "status", Method: http.MethodGet, Path: "/v1/status", Permission: PermRead, Kind: KindJSON,
			Summary: "The state of the daemon", Response: Status{}},
		{ID: "usage", Method: http.MethodGet, Path: "/v1/usage", Permission: PermRead, Kind: KindJSON,
			Summary: "What banger stores on the host's file systems", Response: model.DiskUsage{}},
		{ID: "openapi", Method: http.MethodGet, Path: "/v1/openapi.json", Permission: PermRead, Kind: KindBytes,
			Summary: "This document"},
		{ID: "shutdown", Method: http.MethodPost, Path: "/v1/shutdown", Permission: PermAdmin, Kind: KindJSON,
			Summary: "Stop the daemon after the operations under way; VMs keep running"},
	}
}

func vmOperations() []Operation {
	const one = "/v1/vms/{ref}"
	return []Operation{
		{ID: "listVMs", Method: http.MethodGet, Path: "/v1/vms", Permission: PermRead, Kind: KindJSON,
			Summary: "All VMs, oldest first", Response: []model.VM{}},
		{ID: "createVM", Method: http.MethodPost, Path: "/v1/vms", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Make a VM, and start it if asked. A missing image or kernel is made first",
			Query:   VMCreate{}, Request: model.Create{}, Response: model.VM{}},
		{ID: "pruneVMs", Method: http.MethodPost, Path: "/v1/vms/prune", Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete left-over VMs", Response: model.Pruned{}},
		{ID: "getVM", Method: http.MethodGet, Path: one, Permission: PermRead, Kind: KindJSON,
			Summary: "One VM, by its name, its id, or a unique prefix of its id", Response: model.VM{}},
		{ID: "changeVM", Method: http.MethodPatch, Path: one, Permission: PermWrite, Kind: KindJSON,
			Summary: "Change a VM; the answer says which changes apply now", Request: model.Change{}, Response: model.Changed{}},
		{ID: "deleteVM", Method: http.MethodDelete, Path: one, Permission: PermWrite, Kind: KindSteps,
			Summary: "Delete a VM and everything that belongs to it", Query: VMDelete{}},
		{ID: "startVM", Method: http.MethodPost, Path: one + "/start", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Start a VM and wait until it can run commands", Request: model.Start{}, Response: model.VM{}},
		{ID: "stopVM", Method: http.MethodPost, Path: one + "/stop", Permission: PermWrite, Kind: KindSteps,
			Summary: "Ask the guest to power off, wait, then end the machine", Request: VMStop{}, Response: model.VM{}},
		{ID: "killVM", Method: http.MethodPost, Path: one + "/kill", Permission: PermWrite, Kind: KindJSON,
			Summary: "Send a signal to the VMM", Request: VMKill{}, Response: model.VM{}},
		{ID: "restartVM", Method: http.MethodPost, Path: one + "/restart", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Stop and start a VM", Request: VMStop{}, Response: model.VM{}},
		{ID: "renameVM", Method: http.MethodPost, Path: one + "/rename", Permission: PermWrite, Kind: KindJSON,
			Summary: "Rename a VM", Request: VMRename{}, Response: model.VM{}},
		{ID: "vmStats", Method: http.MethodGet, Path: one + "/stats", Permission: PermRead, Kind: KindJSON,
			Summary: "What a VM uses now", Response: model.Stats{}},
		{ID: "vmPorts", Method: http.MethodGet, Path: one + "/ports", Permission: PermRead, Kind: KindJSON,
			Summary: "The TCP ports that are open in the guest", Response: []proto.Port{}},
		{ID: "vmLogs", Method: http.MethodGet, Path: one + "/logs", Permission: PermRead, Kind: KindBytes,
			Summary: "A log of a VM, unchanged", Query: VMLogs{}},
		{ID: "getFiles", Method: http.MethodGet, Path: one + "/files", Permission: PermWrite, Kind: KindBytes,
			Summary: "A file or directory of the guest as a tar stream", Query: Files{}},
		{ID: "putFiles", Method: http.MethodPut, Path: one + "/files", Permission: PermWrite, Kind: KindUpload,
			Summary: "Unpack a tar stream in the guest", Query: Files{}},
	}
}

// holdOperations pause, resume, suspend and fork VMs.
func holdOperations() []Operation {
	const one = "/v1/vms/{ref}"
	return []Operation{
		{ID: "pauseVM", Method: http.MethodPost, Path: one + "/pause", Permission: PermWrite, Kind: KindSteps,
			Summary: "Halt a VM in memory", Response: model.VM{}},
		{ID: "resumeVM", Method: http.MethodPost, Path: one + "/resume", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Resume a paused or suspended VM", Response: model.VM{}},
		{ID: "suspendVM", Method: http.MethodPost, Path: one + "/suspend", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Save a VM's memory on disk and end its machine", Response: model.VM{}},
		{ID: "forkVM", Method: http.MethodPost, Path: one + "/fork", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Make VMs from the present state of this one; each child succeeds or fails by itself",
			Request: model.Fork{}, Response: model.Forked{}},
	}
}

func snapshotOperations() []Operation {
	const one = "/v1/snapshots/{ref}"
	return []Operation{
		{ID: "listSnapshots", Method: http.MethodGet, Path: "/v1/snapshots", Permission: PermRead, Kind: KindJSON,
			Summary: "All snapshots, oldest first", Response: []model.Snapshot{}},
		{ID: "createSnapshot", Method: http.MethodPost, Path: "/v1/snapshots", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Save the present state of a VM, which keeps running", Request: SnapshotCreate{}, Response: model.Snapshot{}},
		{ID: "getSnapshot", Method: http.MethodGet, Path: one, Permission: PermRead, Kind: KindJSON,
			Summary: "One snapshot", Response: model.Snapshot{}},
		{ID: "deleteSnapshot", Method: http.MethodDelete, Path: one, Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete a snapshot; VMs that were made from it stay", Response: model.Snapshot{}},
		{ID: "restoreSnapshot", Method: http.MethodPost, Path: one + "/restore", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Make VMs from a snapshot, or restore one VM in place",
			Query:   SnapshotRestore{}, Request: model.Restore{}, Response: model.Forked{}},
		{ID: "exportSnapshot", Method: http.MethodGet, Path: one + "/export", Permission: PermWrite, Kind: KindBytes,
			Summary: "A snapshot as one compressed stream with checksums. If the snapshot turns out to be damaged, the stream ends with a problem " +
				"in the trailer Banger-Problem, or is cut off if the request has no TE: trailers"},
		{ID: "importSnapshot", Method: http.MethodPost, Path: "/v1/snapshots/import", Permission: PermWrite, Kind: KindUpload, NeedsRoom: true,
			Summary: "Store an exported snapshot", Query: SnapshotImport{}, Response: model.Snapshot{}},
	}
}

func templateOperations() []Operation {
	const one = "/v1/templates/{ref}"
	return []Operation{
		{ID: "listTemplates", Method: http.MethodGet, Path: "/v1/templates", Permission: PermRead, Kind: KindJSON,
			Summary: "All templates, the most recently used first", Response: []model.Template{}},
		{ID: "buildTemplates", Method: http.MethodPost, Path: "/v1/templates", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Build the templates that such a VM would start from, unless they exist",
			Request: model.Create{}, Response: []model.Template{}},
		{ID: "pruneTemplates", Method: http.MethodPost, Path: "/v1/templates/prune", Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete the templates that no start would use any more, or all templates",
			Query:   TemplatePrune{}, Response: model.Pruned{}},
		{ID: "getTemplate", Method: http.MethodGet, Path: one, Permission: PermRead, Kind: KindJSON,
			Summary: "One template, by a prefix of its key or by its image", Response: model.Template{}},
		{ID: "deleteTemplate", Method: http.MethodDelete, Path: one, Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete a template; VMs that were made from it stay", Response: model.Template{}},
	}
}

func streamOperations() []Operation {
	const one = "/v1/vms/{ref}"
	return []Operation{
		{ID: "exec", Method: http.MethodPost, Path: one + "/exec", Permission: PermWrite, Kind: KindFrames,
			Summary: "Run a command in a guest: as a stream, or as a plain call that returns the whole result",
			Request: proto.ExecRequest{}, Call: ExecCall{}, Response: ExecResult{}},
		{ID: "ssh", Method: http.MethodPost, Path: one + "/ssh", Permission: PermWrite, Kind: KindRaw,
			Summary: "Connect to the SSH server of a guest's agent"},
		{ID: "dial", Method: http.MethodPost, Path: one + "/dial", Permission: PermWrite, Kind: KindRaw,
			Summary: "Connect to a TCP port of a guest's loopback", Query: Port{}},
		{ID: "run", Method: http.MethodPost, Path: "/v1/run", Permission: PermWrite, Kind: KindFrames, NeedsRoom: true,
			Summary: "Make a VM, start it and run a command in it", Request: Run{}},
	}
}

func imageOperations() []Operation {
	return []Operation{
		{ID: "listImages", Method: http.MethodGet, Path: "/v1/images", Permission: PermRead, Kind: KindJSON,
			Summary: "All images, oldest first", Response: []model.Image{}},
		{ID: "pullImage", Method: http.MethodPost, Path: "/v1/images/pull", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Make an image from a registry or a Debian suite", Request: ImagePull{}, Response: model.Image{}},
		{ID: "importImage", Method: http.MethodPost, Path: "/v1/images/import", Permission: PermWrite, Kind: KindImport, NeedsRoom: true,
			Summary: "Make an image of the request's body", Query: ImageImport{}, Response: model.Image{}},
		{ID: "pruneImages", Method: http.MethodPost, Path: "/v1/images/prune", Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete the images that no VM uses", Response: model.Pruned{}},
		{ID: "getImage", Method: http.MethodGet, Path: "/v1/images/{ref}", Permission: PermRead, Kind: KindJSON,
			Summary: "One image", Response: model.Image{}},
		{ID: "changeImage", Method: http.MethodPatch, Path: "/v1/images/{ref}", Permission: PermWrite, Kind: KindJSON,
			Summary: "Change whether VMs start from templates of an image", Request: model.ImageChange{}, Response: model.Image{}},
		{ID: "tagImage", Method: http.MethodPost, Path: "/v1/images/{ref}/tag", Permission: PermWrite, Kind: KindJSON,
			Summary: "Give an image a name. If another image has the name, the name moves", Request: Tag{}, Response: model.Image{}},
		{ID: "deleteImage", Method: http.MethodDelete, Path: "/v1/images/{ref}", Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete an image that no VM uses"},
	}
}

func kernelOperations() []Operation {
	return []Operation{
		{ID: "listKernels", Method: http.MethodGet, Path: "/v1/kernels", Permission: PermRead, Kind: KindJSON,
			Summary: "All kernels, oldest first", Response: []model.Kernel{}},
		{ID: "pullKernel", Method: http.MethodPost, Path: "/v1/kernels/pull", Permission: PermWrite, Kind: KindSteps, NeedsRoom: true,
			Summary: "Download a distribution's kernel", Request: KernelPull{}, Response: model.Kernel{}},
		{ID: "importKernel", Method: http.MethodPost, Path: "/v1/kernels/import", Permission: PermWrite, Kind: KindImport, NeedsRoom: true,
			Summary: "Make a kernel of the request's body", Query: KernelImport{}, Response: model.Kernel{}},
		{ID: "pruneKernels", Method: http.MethodPost, Path: "/v1/kernels/prune", Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete the kernels that no VM uses", Response: model.Pruned{}},
		{ID: "getKernel", Method: http.MethodGet, Path: "/v1/kernels/{ref}", Permission: PermRead, Kind: KindJSON,
			Summary: "One kernel", Response: model.Kernel{}},
		{ID: "tagKernel", Method: http.MethodPost, Path: "/v1/kernels/{ref}/tag", Permission: PermWrite, Kind: KindJSON,
			Summary: "Give a kernel a name. If another kernel has the name, the name moves", Request: Tag{}, Response: model.Kernel{}},
		{ID: "deleteKernel", Method: http.MethodDelete, Path: "/v1/kernels/{ref}", Permission: PermWrite, Kind: KindJSON,
			Summary: "Delete a kernel that no VM uses"},
	}
}

// debugOperations show the inside of the daemon.
func debugOperations() []Operation {
	return []Operation{
		{ID: "metrics", Method: http.MethodGet, Path: "/metrics", Permission: PermRead, Kind: KindBytes,
			Summary: "Metrics in Prometheus' text format"},
		{ID: "goroutines", Method: http.MethodGet, Path: "/debug/goroutines", Permission: PermAdmin, Kind: KindBytes,
			Summary: "The stacks of all goroutines of the daemon, as text"},
		{ID: "profiles", Method: http.MethodGet, Path: "/debug/pprof/", Permission: PermAdmin, Kind: KindBytes,
			Summary: "The names of the daemon's profiles"},
		{ID: "profile", Method: http.MethodGet, Path: "/debug/pprof/{name}", Permission: PermAdmin, Kind: KindBytes,
			Summary: "A profile of the daemon in the format of `go tool pprof`, such as heap, goroutine, profile (CPU) or trace",
			Query:   Profile{}},
	}
}
