package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"

	"banger/internal/guest/proto"
)

// Guests has the operations inside running VMs. A ref is as for VMs.
type Guests struct{ resource }

// Exec runs a command in a running VM. The context bounds the set-up only; Close ends the stream.
func (g Guests) Exec(ctx context.Context, ref string, req proto.ExecRequest) (*Stream, error) {
	return g.t.openStream(ctx, g.one(ref, "exec", nil), req)
}

// Call runs a command in a running VM to its end and returns its output. If ctx ends, the command
// ends. Use Exec for streams, a terminal or signals.
func (g Guests) Call(ctx context.Context, ref string, call ExecCall) (ExecResult, error) {
	return act[ExecResult](ctx, g.resource, ref, "exec", call, nil)
}

// Run makes a VM and runs a command in it: see type Run. The context bounds the set-up only. To
// wait for the VM's end, write FrameHangup and read until io.EOF.
func (g Guests) Run(ctx context.Context, req Run) (*Stream, error) {
	return g.t.openStream(ctx, "/v1/run", req)
}

// SSH connects to the SSH server in a VM's agent. The context bounds the set-up only.
func (g Guests) SSH(ctx context.Context, ref string) (net.Conn, error) {
	return g.t.upgrade(ctx, g.one(ref, "ssh", nil))
}

// Dial connects to a TCP port of a VM's loopback. The context bounds the set-up only. The
// connection has a CloseWrite.
func (g Guests) Dial(ctx context.Context, ref string, port int) (net.Conn, error) {
	return g.t.upgrade(ctx, g.one(ref, "dial", options{"port": {strconv.Itoa(port)}}))
}

// Ports returns the TCP ports that are open in a VM.
func (g Guests) Ports(ctx context.Context, ref string) ([]proto.Port, error) {
	return get[[]proto.Port](ctx, g.resource, ref, "ports")
}

// GetFiles returns a file or directory of a VM as a tar stream, which the caller closes. If reading
// in the guest fails, the stream has no end-of-archive mark and ends with the reason.
func (g Guests) GetFiles(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	return g.t.open(ctx, g.one(ref, "files", options{"path": {path}}))
}

// PutFiles unpacks a tar stream at a path of a VM.
func (g Guests) PutFiles(ctx context.Context, ref, path string, archive io.Reader) error {
	return g.t.call(ctx, query{
		method: http.MethodPut, target: g.one(ref, "files", options{"path": {path}}), in: archive,
	}, nil)
}
