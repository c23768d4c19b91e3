package api

import (
	"context"
	"io"
	"net/http"

	"banger/internal/model"
	"banger/internal/step"
)

// Snapshots has the operations on snapshots. A ref is a snapshot's name, its id, or a unique prefix
// of its id.
type Snapshots struct{ resource }

// List returns all snapshots, oldest first.
func (s Snapshots) List(ctx context.Context) ([]model.Snapshot, error) {
	return list[model.Snapshot](ctx, s.resource)
}

// Get returns one snapshot.
func (s Snapshots) Get(ctx context.Context, ref string) (model.Snapshot, error) {
	return get[model.Snapshot](ctx, s.resource, ref, "")
}

// Create saves the present state of a VM.
func (s Snapshots) Create(ctx context.Context, req SnapshotCreate, report step.Reporter) (model.Snapshot, error) {
	return create[model.Snapshot](ctx, s.resource, "", req, report)
}

// Delete deletes a snapshot and returns what it was.
func (s Snapshots) Delete(ctx context.Context, ref string) (model.Snapshot, error) {
	return remove[model.Snapshot](ctx, s.resource, ref)
}

// Restore makes new VMs from a snapshot, or restores one VM in place.
func (s Snapshots) Restore(
	ctx context.Context, ref string, req model.Restore, opts SnapshotRestore, report step.Reporter,
) (model.Forked, error) {
	target := s.one(ref, "restore", options{}.flag("force", opts.Force))
	return ask[model.Forked](ctx, s.t, query{method: http.MethodPost, target: target, in: req, report: report})
}

// Export returns a snapshot as one stream, which the caller closes. If the daemon cannot send all
// of it, reading ends with the reason.
func (s Snapshots) Export(ctx context.Context, ref string) (io.ReadCloser, error) {
	return s.t.open(ctx, s.one(ref, "export", nil))
}

// Import stores a snapshot that Export returned, on this host or another one.
func (s Snapshots) Import(ctx context.Context, stream io.Reader, opts SnapshotImport) (model.Snapshot, error) {
	return upload[model.Snapshot](ctx, s.resource, options{}.text("name", opts.Name), stream, nil)
}
