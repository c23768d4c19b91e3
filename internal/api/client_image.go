package api

import (
	"context"
	"io"
	"net/http"

	"banger/internal/model"
	"banger/internal/step"
)

// Images has the operations on images. A ref is an image's reference, its id, or a unique prefix of
// its id.
type Images struct{ resource }

// List returns all images, oldest first.
func (i Images) List(ctx context.Context) ([]model.Image, error) {
	return list[model.Image](ctx, i.resource)
}

// Get returns one image.
func (i Images) Get(ctx context.Context, ref string) (model.Image, error) {
	return get[model.Image](ctx, i.resource, ref, "")
}

// Pull makes an image from a registry or a Debian suite.
func (i Images) Pull(ctx context.Context, req ImagePull, report step.Reporter) (model.Image, error) {
	return create[model.Image](ctx, i.resource, "pull", req, report)
}

// Import makes an image of the content: see ImageImport. If reading the content fails, nothing is
// imported.
func (i Images) Import(
	ctx context.Context, content io.Reader, req ImageImport, report step.Reporter,
) (model.Image, error) {
	query := options{}.text("name", req.Name).text("file", req.File).
		flag("sparse", req.Sparse).flag("directory", req.Directory)
	return upload[model.Image](ctx, i.resource, query, content, report)
}

// Change changes an image's settings.
func (i Images) Change(ctx context.Context, ref string, change model.ImageChange) (model.Image, error) {
	return ask[model.Image](ctx, i.t, query{method: http.MethodPatch, target: i.one(ref, "", nil), in: change})
}

// Tag gives an image a name. If another image has the name, the name moves.
func (i Images) Tag(ctx context.Context, ref, name string) (model.Image, error) {
	return act[model.Image](ctx, i.resource, ref, "tag", Tag{Name: name}, nil)
}

// Delete deletes an image that no VM uses.
func (i Images) Delete(ctx context.Context, ref string) error {
	_, err := remove[struct{}](ctx, i.resource, ref)
	return err
}

// Prune deletes the images that no VM uses, and left-over downloads.
func (i Images) Prune(ctx context.Context) (model.Pruned, error) { return prune(ctx, i.resource, nil) }
