package api

import (
	"context"
	"io"
	"net/http"

	"banger/internal/model"
	"banger/internal/step"
)

// VMs has the operations on VMs from outside. A ref is a VM's name, its id, or a unique prefix of
// its id. If a reporter is nil, no steps are requested.
type VMs struct{ resource }

// List returns all VMs, oldest first.
func (v VMs) List(ctx context.Context) ([]model.VM, error) { return list[model.VM](ctx, v.resource) }

// Get returns one VM.
func (v VMs) Get(ctx context.Context, ref string) (model.VM, error) {
	return get[model.VM](ctx, v.resource, ref, "")
}

// Create makes a VM without starting it. It first makes a missing image or kernel.
func (v VMs) Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	return create[model.VM](ctx, v.resource, "", req, report)
}

// Launch makes and starts a VM in one operation: see VMCreate.
func (v VMs) Launch(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error) {
	return ask[model.VM](ctx, v.t, query{
		method: http.MethodPost, target: v.all("", options{}.flag("start", true)), in: req, report: report,
	})
}

// Change changes a VM and returns when the change takes effect.
func (v VMs) Change(ctx context.Context, ref string, change model.Change) (model.Changed, error) {
	return ask[model.Changed](ctx, v.t, query{method: http.MethodPatch, target: v.one(ref, "", nil), in: change})
}

// Delete deletes a VM and everything that belongs to it.
func (v VMs) Delete(ctx context.Context, ref string, opts VMDelete, report step.Reporter) error {
	return v.t.call(ctx, query{
		method: http.MethodDelete, target: v.one(ref, "", options{}.flag("force", opts.Force)), report: report,
	}, nil)
}

// Start starts a VM and returns when the VM can run commands. Starting a running VM succeeds.
func (v VMs) Start(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "start", how, report)
}

// Stop asks the guest to power off, waits, and then ends the machine.
func (v VMs) Stop(ctx context.Context, ref string, opts VMStop, report step.Reporter) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "stop", opts, report)
}

// Kill sends the VMM a signal.
func (v VMs) Kill(ctx context.Context, ref string, opts VMKill) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "kill", opts, nil)
}

// Restart stops and starts a VM.
func (v VMs) Restart(ctx context.Context, ref string, opts VMStop, report step.Reporter) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "restart", opts, report)
}

// Rename changes a VM's name.
func (v VMs) Rename(ctx context.Context, ref, name string) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "rename", VMRename{Name: name}, nil)
}

// Pause halts a running VM in memory. Pausing a paused VM succeeds.
func (v VMs) Pause(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "pause", nil, report)
}

// Resume resumes a paused or suspended VM. Resuming a running VM succeeds.
func (v VMs) Resume(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "resume", nil, report)
}

// Suspend saves a VM's memory on disk and ends its machine. Suspending a suspended VM succeeds.
func (v VMs) Suspend(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return act[model.VM](ctx, v.resource, ref, "suspend", nil, report)
}

// Fork makes VMs from the present state of another one. It returns an error only if no child could
// be begun; otherwise see model.Child.
func (v VMs) Fork(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	return act[model.Forked](ctx, v.resource, ref, "fork", req, report)
}

// Prune deletes left-over VMs.
func (v VMs) Prune(ctx context.Context) (model.Pruned, error) { return prune(ctx, v.resource, nil) }

// Stats returns what a VM uses now.
func (v VMs) Stats(ctx context.Context, ref string) (model.Stats, error) {
	return get[model.Stats](ctx, v.resource, ref, "stats")
}

// Logs returns a log as a stream, which the caller closes. With Follow the stream continues until
// ctx ends or the VM has stopped.
func (v VMs) Logs(ctx context.Context, ref string, opts VMLogs) (io.ReadCloser, error) {
	query := options{}.text("source", string(opts.Source)).flag("follow", opts.Follow).number("tail", opts.Tail)
	return v.t.open(ctx, v.one(ref, "logs", query))
}
