package api

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"banger/internal/model"
	"banger/internal/step"
)

// PauseVM halts a running VM in memory. One that is paused is success.
func (c *Client) PauseVM(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "pause", nil, report)
}

// ResumeVM lets a paused or suspended VM go on. One that runs is success.
func (c *Client) ResumeVM(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "resume", nil, report)
}

// SuspendVM keeps a VM's memory on disk and ends its machine. One that is suspended is success.
func (c *Client) SuspendVM(ctx context.Context, ref string, report step.Reporter) (model.VM, error) {
	return c.act(ctx, ref, "suspend", nil, report)
}

// ForkVM makes VMs that go on from where one is. It is an error only when none could be begun: see model.Child.
func (c *Client) ForkVM(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error) {
	return ask[model.Forked](ctx, c, query{method: http.MethodPost, target: target("vms", ref, "fork", nil), in: req, report: report})
}

// Snapshots returns all snapshots, oldest first.
func (c *Client) Snapshots(ctx context.Context) ([]model.Snapshot, error) {
	return ask[[]model.Snapshot](ctx, c, query{method: http.MethodGet, target: "/v1/snapshots"})
}

// Snapshot returns the snapshot with that name, id, or unique id prefix.
func (c *Client) Snapshot(ctx context.Context, ref string) (model.Snapshot, error) {
	return ask[model.Snapshot](ctx, c, query{method: http.MethodGet, target: target("snapshots", ref, "", nil)})
}

// CreateSnapshot keeps what a VM is now.
func (c *Client) CreateSnapshot(ctx context.Context, req SnapshotCreate, report step.Reporter) (model.Snapshot, error) {
	return ask[model.Snapshot](ctx, c, query{method: http.MethodPost, target: "/v1/snapshots", in: req, report: report})
}

// DeleteSnapshot deletes a snapshot, and returns what it was.
func (c *Client) DeleteSnapshot(ctx context.Context, ref string) (model.Snapshot, error) {
	return ask[model.Snapshot](ctx, c, query{method: http.MethodDelete, target: target("snapshots", ref, "", nil)})
}

// RestoreSnapshot makes VMs that go on from a snapshot, or one VM into what it was.
func (c *Client) RestoreSnapshot(ctx context.Context, ref string, req model.Restore, opts SnapshotRestore, report step.Reporter) (model.Forked, error) {
	values := url.Values{}
	if opts.Force {
		values.Set("force", "true")
	}
	return ask[model.Forked](ctx, c, query{method: http.MethodPost, target: target("snapshots", ref, "restore", values), in: req, report: report})
}

// ExportSnapshot returns a snapshot as one stream, which the caller closes. When it cannot be whole, reading it ends
// with the reason.
func (c *Client) ExportSnapshot(ctx context.Context, ref string) (io.ReadCloser, error) {
	return c.open(ctx, target("snapshots", ref, "export", nil))
}

// ImportSnapshot takes in what ExportSnapshot returned, here or elsewhere.
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

// Template returns the template whose key begins with ref, or that of the image that ref names.
func (c *Client) Template(ctx context.Context, ref string) (model.Template, error) {
	return ask[model.Template](ctx, c, query{method: http.MethodGet, target: target("templates", ref, "", nil)})
}

// BuildTemplates makes the templates that such a VM would go on from, unless they are there.
func (c *Client) BuildTemplates(ctx context.Context, req model.Create, report step.Reporter) ([]model.Template, error) {
	return ask[[]model.Template](ctx, c, query{method: http.MethodPost, target: "/v1/templates", in: req, report: report})
}

// DeleteTemplate deletes a template, and returns what it was.
func (c *Client) DeleteTemplate(ctx context.Context, ref string) (model.Template, error) {
	return ask[model.Template](ctx, c, query{method: http.MethodDelete, target: target("templates", ref, "", nil)})
}

// PruneTemplates deletes the templates that no start will find any more, or all.
func (c *Client) PruneTemplates(ctx context.Context, opts TemplatePrune) (model.Pruned, error) {
	t := "/v1/templates/prune"
	if opts.All {
		t += "?all=true"
	}
	return ask[model.Pruned](ctx, c, query{method: http.MethodPost, target: t})
}
