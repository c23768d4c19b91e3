package api

import (
	"context"
	"net/http"

	"banger/internal/model"
	"banger/internal/step"
)

// Images returns all images, oldest first.
func (c *Client) Images(ctx context.Context) ([]model.Image, error) {
	return ask[[]model.Image](ctx, c, query{method: http.MethodGet, target: "/v1/images"})
}

// Image returns the image with that reference, id, or unique id prefix.
func (c *Client) Image(ctx context.Context, ref string) (model.Image, error) {
	return ask[model.Image](ctx, c, query{method: http.MethodGet, target: target("images", ref, "", nil)})
}

// PullImage makes an image from a registry or a Debian suite.
func (c *Client) PullImage(ctx context.Context, req ImagePull, report step.Reporter) (model.Image, error) {
	return ask[model.Image](ctx, c, query{method: http.MethodPost, target: "/v1/images/pull", in: req, report: report})
}

// ImportImage makes an image from a file or folder on the daemon's host.
func (c *Client) ImportImage(ctx context.Context, req ImageImport, report step.Reporter) (model.Image, error) {
	return ask[model.Image](ctx, c, query{method: http.MethodPost, target: "/v1/images/import", in: req, report: report})
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

// Kernel returns the kernel with that name, id, or unique id prefix.
func (c *Client) Kernel(ctx context.Context, ref string) (model.Kernel, error) {
	return ask[model.Kernel](ctx, c, query{method: http.MethodGet, target: target("kernels", ref, "", nil)})
}

// PullKernel gets a distribution's kernel.
func (c *Client) PullKernel(ctx context.Context, req KernelPull, report step.Reporter) (model.Kernel, error) {
	return ask[model.Kernel](ctx, c, query{method: http.MethodPost, target: "/v1/kernels/pull", in: req, report: report})
}

// ImportKernel makes a kernel from a file on the daemon's host.
func (c *Client) ImportKernel(ctx context.Context, req KernelImport, report step.Reporter) (model.Kernel, error) {
	return ask[model.Kernel](ctx, c, query{method: http.MethodPost, target: "/v1/kernels/import", in: req, report: report})
}

// DeleteKernel deletes a kernel that no VM uses.
func (c *Client) DeleteKernel(ctx context.Context, ref string) error {
	return c.call(ctx, query{method: http.MethodDelete, target: target("kernels", ref, "", nil)}, nil)
}

// PruneKernels deletes the kernels that no VM uses.
func (c *Client) PruneKernels(ctx context.Context) (model.Pruned, error) {
	return ask[model.Pruned](ctx, c, query{method: http.MethodPost, target: "/v1/kernels/prune"})
}
