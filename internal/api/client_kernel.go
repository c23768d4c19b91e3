package api

import (
	"context"
	"io"

	"banger/internal/model"
	"banger/internal/step"
)

// Kernels has the operations on kernels. A ref is a kernel's name, its id, or a unique prefix of
// its id.
type Kernels struct{ resource }

// List returns all kernels, oldest first.
func (k Kernels) List(ctx context.Context) ([]model.Kernel, error) {
	return list[model.Kernel](ctx, k.resource)
}

// Get returns one kernel.
func (k Kernels) Get(ctx context.Context, ref string) (model.Kernel, error) {
	return get[model.Kernel](ctx, k.resource, ref, "")
}

// Pull downloads a distribution's kernel.
func (k Kernels) Pull(ctx context.Context, req KernelPull, report step.Reporter) (model.Kernel, error) {
	return create[model.Kernel](ctx, k.resource, "pull", req, report)
}

// Import makes a kernel of the content: see KernelImport. If reading the content fails, nothing is
// imported.
func (k Kernels) Import(
	ctx context.Context, content io.Reader, req KernelImport, report step.Reporter,
) (model.Kernel, error) {
	query := options{}.text("name", req.Name).text("file", req.File).flag("archive", req.Archive)
	return upload[model.Kernel](ctx, k.resource, query, content, report)
}

// Tag gives a kernel a name. If another kernel has the name, the name moves.
func (k Kernels) Tag(ctx context.Context, ref, name string) (model.Kernel, error) {
	return act[model.Kernel](ctx, k.resource, ref, "tag", Tag{Name: name}, nil)
}

// Delete deletes a kernel that no VM uses.
func (k Kernels) Delete(ctx context.Context, ref string) error {
	_, err := remove[struct{}](ctx, k.resource, ref)
	return err
}

// Prune deletes the kernels that no VM uses.
func (k Kernels) Prune(ctx context.Context) (model.Pruned, error) { return prune(ctx, k.resource, nil) }
