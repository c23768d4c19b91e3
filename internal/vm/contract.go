package vm

import (
	"context"
	"io"
	"net"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

// Store keeps the records. Implementations are safe for concurrent use; a returned nil error means that the change is durable.
type Store interface {
	PutVM(ctx context.Context, v model.VM) error // inserts or replaces; fault.Exists when another VM has the name
	VMs(ctx context.Context) ([]model.VM, error) // all, oldest first; an unreadable record fails the whole call
	DeleteVM(ctx context.Context, id string) error
}

// Images finds root filesystems.
type Images interface {
	// Ensure returns the image that ref means, making it first (pull, build) when it is missing.
	Ensure(ctx context.Context, ref string, report step.Reporter) (model.Image, error)
	Get(ref string) (model.Image, error)
}

// Kernels finds guest kernels.
type Kernels interface {
	Ensure(ctx context.Context, ref string, report step.Reporter) (model.Kernel, error)
	Get(ref string) (model.Kernel, error)
	// Initramfs returns the newc archives that boot the agent under the kernel, in order.
	Initramfs(ctx context.Context, k model.Kernel) ([]string, error)
}

// Agent is the host's side of the agent in a running guest. Everything that comes from it is hostile input, which its implementation has
// bounded and checked. Calls reconnect by themselves.
type Agent interface {
	Hello(ctx context.Context) (proto.Hello, error) // waits until an agent answers, or ctx ends
	Wake(ctx context.Context) (proto.Hello, error)  // likewise, for a guest that was just restored by an emulator and will run a command
	Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error)
	Upgrade(ctx context.Context, route string) (net.Conn, error)        // "/v1/exec", "/v1/ssh", "/v1/dial?port=N"
	GetFiles(ctx context.Context, path string) (io.ReadCloser, error)   // a tar stream
	PutFiles(ctx context.Context, path string, archive io.Reader) error // likewise
	Ports(ctx context.Context) ([]proto.Port, error)
	Resize(ctx context.Context, serial string, size model.Bytes) error // grows the file system, once the guest sees the drive have that size
	Stats(ctx context.Context) (proto.Stats, error)
	Sync(ctx context.Context) error                   // returns when what was written before is on the drives
	Freeze(ctx context.Context) (proto.Frozen, error) // halts all processes; fault.Unsupported by an agent that is too old
	Thaw(ctx context.Context, doc proto.Thaw) error
	PowerOff(ctx context.Context) error
	Close() error
}

// Dialer connects to the host's end of an agent's channel.
type Dialer func(ctx context.Context) (net.Conn, error)
