package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

// Version returns the versions of the daemon. It works across API generations.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return ask[Version](ctx, c, query{method: http.MethodGet, target: "/v1/version"})
}

// Status returns the state of the daemon. It works across API generations.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, query{method: http.MethodGet, target: "/v1/status"})
}

// Usage returns what banger stores on the host's file systems.
func (c *Client) Usage(ctx context.Context) (model.DiskUsage, error) {
	return ask[model.DiskUsage](ctx, c, query{method: http.MethodGet, target: "/v1/usage"})
}

// OpenAPI returns the document that describes the API.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return c.fetch(ctx, "/v1/openapi.json")
}

// Metrics returns the daemon's metrics in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) { return c.fetch(ctx, "/metrics") }

// Goroutines returns the stacks of the daemon's goroutines as text.
func (c *Client) Goroutines(ctx context.Context) ([]byte, error) {
	return c.fetch(ctx, "/debug/goroutines")
}

// VMs returns all VMs, oldest first.
func (c *Client) VMs(ctx context.Context) ([]model.VM, error) {
	return ask[[]model.VM](ctx, c, query{method: http.MethodGet, target: "/v1/vms"})
}

// VM returns one VM by its name, its id, or a unique prefix of its id. The same holds for every ref
// below.
func (c *Client) VM(ctx context.Context, ref string) (model.VM, error) {
	return ask[model.VM](ctx, c, query{method: http.MethodGet, target: target("vms", ref, "", nil)})
}

// CreateVM makes a VM without starting it. It first makes a missing image or kernel. In this and
// other calls, no steps are requested if the reporter is nil.
func (c *Client) CreateVM(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	return ask[model.VM](ctx, c, query{method: http.MethodPost, target: "/v1/vms", in: req, report: report})
}

// LaunchVM makes and starts a VM in one operation: see VMCreate.
func (c *Client) LaunchVM(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	return ask[model.VM](ctx, c, query{method: http.MethodPost, target: "/v1/vms?start=true", in: req, report: report})
}

// ChangeVM changes a VM and returns when the change takes effect.
func (c *Client) ChangeVM(ctx context.Context, ref string, change model.Change) (model.Changed, error) {
	return ask[model.Changed](ctx, c, query{method: http.MethodPatch, target: target("vms", ref, "", nil), in: change})
}

// DeleteVM deletes a VM and everything that belongs to it.
func (c *Client) DeleteVM(ctx context.Context, ref string, opts VMDelete, report step.Reporter) error {
	values := url.Values{}
	if opts.Force {
		values.Set("force", "true")
	}
	return c.call(ctx, query{method: http.MethodDelete, target: target("vms", ref, "", values), report: report}, nil)
}

// StartVM starts a VM and returns when the VM can run commands. Starting a running VM succeeds.
func (c *Client) StartVM(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "start", how, report)
}

// StopVM asks the guest to power off, waits, and then ends the machine.
func (c *Client) StopVM(ctx context.Context, ref string, opts VMStop, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "stop", opts, report)
}

// KillVM sends the VMM a signal.
func (c *Client) KillVM(ctx context.Context, ref string, opts VMKill) (model.VM, error) {
	return c.act(ctx, ref, "kill", opts, nil)
}

// RestartVM stops and starts a VM.
func (c *Client) RestartVM(ctx context.Context, ref string, opts VMStop, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "restart", opts, report)
}

// RenameVM changes a VM's name.
func (c *Client) RenameVM(ctx context.Context, ref, name string) (model.VM, error) {
	return c.act(ctx, ref, "rename", VMRename{Name: name}, nil)
}

func (c *Client) act(ctx context.Context, ref, verb string, in any, report step.Reporter) (model.VM, error) {
	return ask[model.VM](ctx, c, query{method: http.MethodPost, target: target("vms", ref, verb, nil), in: in, report: report})
}

// PruneVMs deletes left-over VMs.
func (c *Client) PruneVMs(ctx context.Context) (model.Pruned, error) {
	return ask[model.Pruned](ctx, c, query{method: http.MethodPost, target: "/v1/vms/prune"})
}

// VMStats returns what a VM uses now.
func (c *Client) VMStats(ctx context.Context, ref string) (model.Stats, error) {
	return ask[model.Stats](ctx, c, query{method: http.MethodGet, target: target("vms", ref, "stats", nil)})
}

// VMPorts returns the TCP ports that are open in a VM.
func (c *Client) VMPorts(ctx context.Context, ref string) ([]proto.Port, error) {
	return ask[[]proto.Port](ctx, c, query{method: http.MethodGet, target: target("vms", ref, "ports", nil)})
}

// VMLogs returns a log as a stream, which the caller closes. With Follow the stream continues until
// ctx ends or the VM has stopped.
func (c *Client) VMLogs(ctx context.Context, ref string, opts VMLogs) (io.ReadCloser, error) {
	values := url.Values{}
	if opts.Source != "" {
		values.Set("source", string(opts.Source))
	}
	if opts.Follow {
		values.Set("follow", "true")
	}
	if opts.Tail > 0 {
		values.Set("tail", strconv.Itoa(opts.Tail))
	}
	return c.open(ctx, target("vms", ref, "logs", values))
}

// GetFiles returns a file or directory of a VM as a tar stream, which the caller closes. If reading
// in the guest fails, the stream has no end-of-archive mark and ends with the reason.
func (c *Client) GetFiles(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	return c.open(ctx, target("vms", ref, "files", url.Values{"path": {path}}))
}

// PutFiles unpacks a tar stream at a path of a VM.
func (c *Client) PutFiles(ctx context.Context, ref, path string, archive io.Reader) error {
	return c.call(ctx, query{
		method: http.MethodPut, target: target("vms", ref, "files", url.Values{"path": {path}}), in: archive,
	}, nil)
}

// open returns the body of an answer that is not JSON. If the daemon ends the body early, reading
// ends with the reason.
func (c *Client) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := newRequest(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("TE", "trailers")
	req.Header.Set("Connection", "TE") // RFC 9110, section 10.1.4
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	return whole{resp.Body, resp}, nil
}

func (c *Client) fetch(ctx context.Context, path string) ([]byte, error) {
	body, err := c.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxReply))
	if err != nil {
		return nil, c.orCanceled(ctx, lostDaemon(err))
	}
	return data, nil
}
