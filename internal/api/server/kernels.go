package server

import (
	"context"
	"errors"
	"net/http"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
)

// Kernels is the part of the kernels that the API uses. inUse is as for Images.
type Kernels interface {
	List() ([]model.Kernel, error)
	Get(ref string) (model.Kernel, error)
	ByID(id string) (model.Kernel, error)
	Pull(ctx context.Context, req api.KernelPull, report step.Reporter) (model.Kernel, error)
	Import(ctx context.Context, files KernelFiles, req api.KernelImport, report step.Reporter) (model.Kernel, error)
	// Tag gives a kernel a name, which another kernel may lose.
	Tag(ctx context.Context, ref, name string) (model.Kernel, error)
	Delete(ctx context.Context, ref string, inUse func(id string) []string) error
	Prune(ctx context.Context, inUse func(id string) []string) (model.Pruned, error)
}

// KernelFiles are the files that a kernel is imported from.
type KernelFiles struct {
	Kernel  string // path
	Config  string // path; "" if the client sent none
	Modules string // path of a directory named by the version; "" if the client sent none
}

// kernelHandlers serve the operations on kernels.
type kernelHandlers struct {
	kernels Kernels
	users   Users
	dir     string // of uploads
}

func (h kernelHandlers) list(*http.Request) (any, error) { return orEmpty(h.kernels.List()) }

func (h kernelHandlers) get(r *http.Request) (any, error) { return h.kernels.Get(refOf(r)) }

func (h kernelHandlers) pull(r *http.Request, req api.KernelPull, report step.Reporter) (any, error) {
	if err := required("name", req.Name); err != nil {
		return nil, err
	}
	return h.kernels.Pull(r.Context(), req, report)
}

// receive imports the request's body.
func (h kernelHandlers) receive(w http.ResponseWriter, r *http.Request, report step.Reporter) (_ any, err error) {
	q := queryOf(r, "name", "file", "archive")
	opts := api.KernelImport{Name: q.text("name"), File: q.text("file"), Archive: q.flag("archive")}
	if q.err == nil {
		q.err = checkFile(opts.File)
	}
	if q.err != nil {
		return nil, q.err
	}
	u, err := newUpload(w, r, h.dir, maxKernelUpload)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	files, err := u.kernel(opts.Archive)
	if err != nil {
		return nil, err
	}
	return h.kernels.Import(r.Context(), files, opts, report)
}

func (h kernelHandlers) tag(r *http.Request, req api.Tag) (any, error) {
	if err := required("name", req.Name); err != nil {
		return nil, err
	}
	return h.kernels.Tag(r.Context(), refOf(r), req.Name)
}

func (h kernelHandlers) delete(r *http.Request) (any, error) {
	return nil, h.users.References(func(_, kernels map[string][]string) error {
		return unused(kernels, func(inUse func(id string) []string) error {
			return h.kernels.Delete(r.Context(), refOf(r), inUse)
		})
	})
}

func (h kernelHandlers) prune(r *http.Request) (any, error) {
	var out model.Pruned
	err := h.users.References(func(_, kernels map[string][]string) (err error) {
		out, err = h.kernels.Prune(r.Context(), by(kernels))
		return err
	})
	return pruned(out, err)
}
