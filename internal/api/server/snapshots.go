package server

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Library is the part of the stored snapshots that the API uses.
type Library interface {
	List(ctx context.Context) ([]model.Snapshot, error)
	Get(ctx context.Context, ref string) (model.Snapshot, error)
	Delete(ctx context.Context, ref string) (model.Snapshot, error)
	Export(ctx context.Context, ref string, w io.Writer, report step.Reporter) error
	Import(ctx context.Context, r io.Reader, name string, report step.Reporter) (model.Snapshot, error)
}

// Saver makes snapshots of VMs and VMs of snapshots.
type Saver interface {
	CreateSnapshot(ctx context.Context, ref, name string, report step.Reporter) (model.Snapshot, error)
	RestoreSnapshot(ctx context.Context, ref string, req model.Restore, report step.Reporter) (model.Forked, error)
}

// snapshotHandlers serve the operations on snapshots.
type snapshotHandlers struct {
	*core
	library Library
	vms     Saver
	images  Images
	kernels Kernels
}

func (h snapshotHandlers) list(r *http.Request) (any, error) {
	list, err := h.library.List(r.Context())
	names := namesOf(h.images)
	for i, s := range list {
		list[i].ImageMoved = names.moved(s.Image, s.ImageID)
	}
	return orEmpty(list, err)
}

func (h snapshotHandlers) get(r *http.Request) (any, error) {
	s, err := h.library.Get(r.Context(), refOf(r))
	s.ImageMoved = namesOf(h.images).moved(s.Image, s.ImageID)
	return s, err
}

func (h snapshotHandlers) create(r *http.Request, req api.SnapshotCreate, report step.Reporter) (any, error) {
	if err := required("vm", req.VM); err != nil {
		return nil, err
	}
	return h.vms.CreateSnapshot(r.Context(), req.VM, req.Name, report)
}

func (h snapshotHandlers) delete(r *http.Request) (any, error) {
	return h.library.Delete(r.Context(), refOf(r))
}

func (h snapshotHandlers) restore(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
	q := queryOf(r, "force")
	force := q.flag("force")
	if q.err != nil {
		return nil, q.err
	}
	req, err := decode[model.Restore](w, r)
	if err != nil {
		return nil, err
	}
	req.Force = force
	return forked(h.vms.RestoreSnapshot(r.Context(), refOf(r), req, report))
}

func (h snapshotHandlers) export(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	return h.library.Export(r.Context(), refOf(r), w, nil)
}

// receive imports the request's body.
func (h snapshotHandlers) receive(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r, "name")
	if q.err != nil {
		return q.err
	}
	// Only a reader: see putFiles.
	snap, err := h.library.Import(r.Context(), struct{ io.Reader }{r.Body}, q.text("name"), nil)
	if err == nil {
		snap.ImageMoved = namesOf(h.images).moved(snap.Image, snap.ImageID)
		snap.Notices = append(snap.Notices, h.missing(snap)...)
		return writeResult(w, snap)
	}
	// Gigabytes may follow, so the client gets the refusal before it has sent them.
	rc := http.NewResponseController(w)
	if rc.EnableFullDuplex() != nil {
		letFinish(w, r)
		return err
	}
	h.fail(w, r, err)
	if rc.Flush() == nil {
		letFinish(w, r)
	}
	return nil
}

// missing returns a notice for each part that a snapshot needs and that is not here. Only the very
// image and kernel count, whatever others have their names.
func (h snapshotHandlers) missing(s model.Snapshot) []model.Notice {
	var notices []model.Notice
	part := func(kind, name, id string, err error) {
		if fault.KindOf(err) == fault.NotFound {
			notices = append(notices, model.Notice{
				Text: fmt.Sprintf("the snapshot needs the %s %s with the id %.12s, which is not here", kind, name, id),
				Hint: fmt.Sprintf("Import that %s first: see `banger %[1]s pull --help` and `banger %[1]s import --help`", kind),
			})
		}
	}
	_, err := h.images.ByID(s.ImageID)
	part("image", s.Image, s.ImageID, err)
	_, err = h.kernels.ByID(s.KernelID)
	part("kernel", s.Kernel, s.KernelID, err)
	return notices
}
