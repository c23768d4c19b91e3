package api

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"banger/internal/model"
	"banger/internal/step"
)

// Images returns all images, oldest first.
func (c *Client) Images(ctx context.Context) ([]model.Image, error) {
	return ask[[]model.Image](ctx, c, query{method: http.MethodGet, target: "/v1/images"})
}

// Image returns one image by its reference, its id, or a unique prefix of its id.
func (c *Client) Image(ctx context.Context, ref string) (model.Image, error) {
	return ask[model.Image](ctx, c, query{method: http.MethodGet, target: target("images", ref, "", nil)})
}

// PullImage makes an image from a registry or a Debian suite.
func (c *Client) PullImage(ctx context.Context, req ImagePull, report step.Reporter) (model.Image, error) {
	return ask[model.Image](ctx, c, query{method: http.MethodPost, target: "/v1/images/pull", in: req, report: report})
}

// ImportImage makes an image of the content: see ImageImport. If reading the content fails, nothing
// is imported.
func (c *Client) ImportImage(
	ctx context.Context, content io.Reader, req ImageImport, report step.Reporter,
) (model.Image, error) {
	values := imports(req.Name, req.File)
	if req.Sparse {
		values.Set("sparse", "true")
	}
	if req.Directory {
		values.Set("directory", "true")
	}
	return ask[model.Image](ctx, c, query{
		method: http.MethodPost, target: "/v1/images/import?" + values.Encode(), in: content, media: mediaBytes, report: report,
	})
}

// imports returns the query of an import.
func imports(name, file string) url.Values {
	values := url.Values{}
	if name != "" {
		values.Set("name", name)
	}
	if file != "" {
		values.Set("file", file)
	}
	return values
}

// DeleteImage deletes an image that no VM uses.
func (c *Client) DeleteImage(ctx context.Context, ref string) error {
	return c.call(ctx, query{method: http.MethodDelete, target: target("images", ref, "", nil)}, nil)
}

// PruneImages deletes the images that no VM uses, and left-over downloads.
func (c *Client) PruneImages(ctx context.Context) (model.Pruned, error) {
	return ask[model.Pruned](ctx, c, query{method: http.MethodPost, target: "/v1/images/prune"})
}

// Kernels returns all kernels, oldest first.
func (c *Client) Kernels(ctx context.Context) ([]model.Kernel, error) {
	return ask[[]model.Kernel](ctx, c, query{method: http.MethodGet, target: "/v1/kernels"})
}

// Kernel returns one kernel by its name, its id, or a unique prefix of its id.
func (c *Client) Kernel(ctx context.Context, ref string) (model.Kernel, error) {
	return ask[model.Kernel](ctx, c, query{method: http.MethodGet, target: target("kernels", ref, "", nil)})
}

// PullKernel downloads a distribution's kernel.
func (c *Client) PullKernel(ctx context.Context, req KernelPull, report step.Reporter) (model.Kernel, error) {
	return ask[model.Kernel](ctx, c, query{method: http.MethodPost, target: "/v1/kernels/pull", in: req, report: report})
}

// ImportKernel makes a kernel of the content: see KernelImport. If reading the content fails,
// nothing is imported.
func (c *Client) ImportKernel(
	ctx context.Context, content io.Reader, req KernelImport, report step.Reporter,
) (model.Kernel, error) {
	values := imports(req.Name, req.File)
	if req.Archive {
		values.Set("archive", "true")
	}
	return ask[model.Kernel](ctx, c, query{
		method: http.MethodPost, target: "/v1/kernels/import?" + values.Encode(), in: content, media: mediaBytes, report: report,
	})
}

// DeleteKernel deletes a kernel that no VM uses.
func (c *Client) DeleteKernel(ctx context.Context, ref string) error {
	return c.call(ctx, query{method: http.MethodDelete, target: target("kernels", ref, "", nil)}, nil)
}

// PruneKernels deletes the kernels that no VM uses.
func (c *Client) PruneKernels(ctx context.Context) (model.Pruned, error) {
	return ask[model.Pruned](ctx, c, query{method: http.MethodPost, target: "/v1/kernels/prune"})
}
