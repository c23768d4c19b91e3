package server

import (
	"context"
	"errors"
	"net/http"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
)

// Images is the part of the images that the API uses. inUse returns the users of an image's id: VMs
// by name, snapshots as "snapshot NAME". An image with users is not removed (fault.WrongState).
type Images interface {
	List() ([]model.Image, error)
	Get(ref string) (model.Image, error)
	ByID(id string) (model.Image, error)
	Pull(ctx context.Context, req api.ImagePull, report step.Reporter) (model.Image, error)
	// Import makes an image of the file at path, which it may read but not keep.
	Import(ctx context.Context, path string, req api.ImageImport, report step.Reporter) (model.Image, error)
	// Tag gives an image a name, which another image may lose.
	Tag(ctx context.Context, ref, name string) (model.Image, error)
	// Describe is Get with what is known of the image's templates, which Change changes.
	Describe(ctx context.Context, ref string) (model.Image, error)
	Change(ctx context.Context, ref string, change model.ImageChange) (model.Image, error)
	Delete(ctx context.Context, ref string, inUse func(id string) []string) error
	Prune(ctx context.Context, inUse func(id string) []string) (model.Pruned, error)
}

// imageHandlers serve the operations on images.
type imageHandlers struct {
	images Images
	users  Users
	dir    string // of uploads
}

func (h imageHandlers) list(*http.Request) (any, error) { return orEmpty(h.images.List()) }

func (h imageHandlers) get(r *http.Request) (any, error) {
	return h.images.Describe(r.Context(), refOf(r))
}

func (h imageHandlers) change(r *http.Request, req model.ImageChange) (any, error) {
	return h.images.Change(r.Context(), refOf(r), req)
}

func (h imageHandlers) pull(r *http.Request, req api.ImagePull, report step.Reporter) (any, error) {
	if err := required("ref", req.Ref); err != nil {
		return nil, err
	}
	return h.images.Pull(r.Context(), req, report)
}

// receive imports the request's body.
func (h imageHandlers) receive(w http.ResponseWriter, r *http.Request, report step.Reporter) (_ any, err error) {
	q := queryOf(r, "name", "file", "sparse", "directory")
	opts := api.ImageImport{
		Name: q.text("name"), File: q.text("file"), Sparse: q.flag("sparse"), Directory: q.flag("directory"),
	}
	if q.err == nil {
		q.err = checkFile(opts.File)
	}
	if q.err != nil {
		return nil, q.err
	}
	u, err := newUpload(w, r, h.dir, maxImageUpload)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	file, err := u.file("content", opts.Sparse)
	if err != nil {
		return nil, err
	}
	return h.images.Import(r.Context(), file, opts, report)
}

func (h imageHandlers) tag(r *http.Request, req api.Tag) (any, error) {
	if err := required("name", req.Name); err != nil {
		return nil, err
	}
	return h.images.Tag(r.Context(), refOf(r), req.Name)
}

func (h imageHandlers) delete(r *http.Request) (any, error) {
	return nil, h.users.References(func(images, _ map[string][]string) error {
		return unused(images, func(inUse func(id string) []string) error {
			return h.images.Delete(r.Context(), refOf(r), inUse)
		})
	})
}

func (h imageHandlers) prune(r *http.Request) (any, error) {
	var out model.Pruned
	err := h.users.References(func(images, _ map[string][]string) (err error) {
		out, err = h.images.Prune(r.Context(), by(images))
		return err
	})
	return pruned(out, err)
}
