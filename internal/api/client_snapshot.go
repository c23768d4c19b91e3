package api

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"banger/internal/model"
	"banger/internal/step"
)

// PauseVM halts a running VM in memory. Pausing a paused VM succeeds.
func (c *Client) PauseVM(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "pause", nil, report)
}

// ResumeVM resumes a paused or suspended VM. Resuming a running VM succeeds.
func (c *Client) ResumeVM(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "resume", nil, report)
}

// SuspendVM saves a VM's memory on disk and ends its machine. Suspending a suspended VM succeeds.
func (c *Client) SuspendVM(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "suspend", nil, report)
}

// ForkVM makes VMs from the present state of another one. It returns an error only if no child
// could be begun; otherwise see model.Child.
func (c *Client) ForkVM(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	return ask[model.Forked](ctx, c, query{
		method: http.MethodPost, target: target("vms", ref, "fork", nil), in: req, report: report,
	})
}

// Snapshots returns all snapshots, oldest first.
func (c *Client) Snapshots(ctx context.Context) ([]model.Snapshot, error) {
	return ask[[]model.Snapshot](ctx, c, query{method: http.MethodGet, target: "/v1/snapshots"})
}

// Snapshot returns one snapshot by its name, its id, or a unique prefix of its id.
func (c *Client) Snapshot(ctx context.Context, ref string) (model.Snapshot, error) {
	return ask[model.Snapshot](ctx, c, query{method: http.MethodGet, target: target("snapshots", ref, "", nil)})
}

// CreateSnapshot saves the present state of a VM.
func (c *Client) CreateSnapshot(ctx context.Context, req SnapshotCreate, report step.Reporter) (model.Snapshot, error) {
	return ask[model.Snapshot](ctx, c, query{method: http.MethodPost, target: "/v1/snapshots", in: req, report: report})
}

// DeleteSnapshot deletes a snapshot and returns what it was.
func (c *Client) DeleteSnapshot(ctx context.Context, ref string) (model.Snapshot, error) {
	return ask[model.Snapshot](ctx, c, query{method: http.MethodDelete, target: target("snapshots", ref, "", nil)})
}

// RestoreSnapshot makes new VMs from a snapshot, or restores one VM in place.
func (c *Client) RestoreSnapshot(
	ctx context.Context, ref string, req model.Restore, opts SnapshotRestore, report step.Reporter,
) (model.Forked, error) {
	values := url.Values{}
	if opts.Force {
		values.Set("force", "true")
	}
	return ask[model.Forked](ctx, c, query{
		method: http.MethodPost, target: target("snapshots", ref, "restore", values), in: req, report: report,
	})
}

// ExportSnapshot returns a snapshot as one stream, which the caller closes. If the daemon cannot
// send all of it, reading ends with the reason.
func (c *Client) ExportSnapshot(ctx context.Context, ref string) (io.ReadCloser, error) {
	return c.open(ctx, target("snapshots", ref, "export", nil))
}

// ImportSnapshot stores a snapshot that ExportSnapshot returned, on this host or another one.
func (c *Client) ImportSnapshot(ctx context.Context, stream io.Reader, opts SnapshotImport) (model.Snapshot, error) {
	t := "/v1/snapshots/import"
	if opts.Name != "" {
		t += "?" + url.Values{"name": {opts.Name}}.Encode()
	}
	return ask[model.Snapshot](ctx, c, query{method: http.MethodPost, target: t, in: stream, media: mediaBytes})
}

// Templates returns all templates, the most recently used first.
func (c *Client) Templates(ctx context.Context) ([]model.Template, error) {
	return ask[[]model.Template](ctx, c, query{method: http.MethodGet, target: "/v1/templates"})
}

// Template returns the template whose key begins with ref, or the template of the image that ref
// names.
func (c *Client) Template(ctx context.Context, ref string) (model.Template, error) {
	return ask[model.Template](ctx, c, query{method: http.MethodGet, target: target("templates", ref, "", nil)})
}

// BuildTemplates builds the templates that the requested VM would start from, unless they exist.
func (c *Client) BuildTemplates(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error) {
	return ask[[]model.Template](ctx, c, query{method: http.MethodPost, target: "/v1/templates", in: req, report: report})
}

// DeleteTemplate deletes a template and returns what it was.
func (c *Client) DeleteTemplate(ctx context.Context, ref string) (model.Template, error) {
	return ask[model.Template](ctx, c, query{method: http.MethodDelete, target: target("templates", ref, "", nil)})
}

// PruneTemplates deletes the templates that no start would use any more, or all templates.
func (c *Client) PruneTemplates(ctx context.Context, opts TemplatePrune) (model.Pruned, error) {
	t := "/v1/templates/prune"
	if opts.All {
		t += "?all=true"
	}
	return ask[model.Pruned](ctx, c, query{method: http.MethodPost, target: t})
}
