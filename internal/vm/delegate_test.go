package vm

import (
	"context"
	"testing"

	"banger/internal/model"
	"banger/internal/template"
	"banger/internal/vm/record"
)

// What tests ask of the parts of a manager.

func (d *daemon) find(ref string) (*record.Entry, error) { return d.core.records.Find(ref) }

// pool is the manager's template pool, with what tests may do to it.
func (d *daemon) pool() template.Control { return template.Control{Pool: d.Manager.Templates()} }

// specFor is the complete spec of the VM that a request would create.
func (d *daemon) specFor(t *testing.T, req model.Create) model.Spec {
	t.Helper()
	spec := d.Defaults.Fill(req)
	spec.Name = "template"
	if err := d.parts().Resolve(t.Context(), &spec, nil); err != nil {
		t.Fatal(err)
	}
	return spec
}

func (d *daemon) listTemplates(ctx context.Context) ([]model.Template, error) {
	return d.Manager.Templates().List(ctx)
}

func (d *daemon) template(ctx context.Context, ref string) (model.Template, error) {
	return d.Manager.Templates().Get(ctx, ref, "id-of-"+ref)
}

func (d *daemon) deleteTemplate(ctx context.Context, ref string) (model.Template, error) {
	return d.Manager.Templates().Delete(ctx, ref, "id-of-"+ref)
}

func (d *daemon) pruneTemplates(ctx context.Context, stale bool) (model.Pruned, error) {
	return d.Manager.Templates().Prune(ctx, stale)
}

// rewrite changes a VM's record.
func (d *daemon) rewrite(ctx context.Context, e *record.Entry, change func(*model.VM)) error {
	return (&operation{core: d.core, e: e}).update(ctx, change)
}

// setUsualWorkDisk changes the default size of work disks.
func (d *daemon) setUsualWorkDisk(size model.Bytes) {
	d.Manager.Defaults.WorkDiskSize = size
	d.Manager.templates.Usual.WorkDiskSize = size
}

// lookAtDisks looks at the disks of all VMs, and returns when that is done.
func (d *daemon) lookAtDisks(ctx context.Context) {
	for _, e := range d.core.records.Entries() {
		_ = (&operation{core: d.core, e: e}).checkDisks(ctx)
	}
}
