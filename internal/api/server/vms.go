package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/api/session"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/step"
)

// VMs is the part of the VMs that the API uses from outside. A ref is a name, an id, or a unique
// prefix of an id.
type VMs interface {
	List() []model.VM
	Get(ref string) (model.VM, error)
	Create(ctx context.Context, req model.Create, report step.Reporter) (model.VM, error)
	// Launch creates and starts a VM. It returns the VM also with an error, if the VM exists by
	// then.
	Launch(ctx context.Context, req model.Create, made func(model.VM), report step.Reporter) (model.VM, error)
	Start(ctx context.Context, ref string, how model.Start, report step.Reporter) (model.VM, error)
	Stop(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error)
	Kill(ctx context.Context, ref string, sig syscall.Signal) (model.VM, error)
	Restart(ctx context.Context, ref string, timeout *time.Duration, report step.Reporter) (model.VM, error)
	Delete(ctx context.Context, ref string, force bool, report step.Reporter) error
	Rename(ctx context.Context, ref, name string) (model.VM, error)
	Set(ctx context.Context, ref string, change model.Change) (model.Changed, error)
	Prune(ctx context.Context) (model.Pruned, error)
	Stats(ctx context.Context, ref string) (model.Stats, error)
	Pause(ctx context.Context, ref string, report step.Reporter) (model.VM, error)
	Resume(ctx context.Context, ref string, report step.Reporter) (model.VM, error)
	Suspend(ctx context.Context, ref string, report step.Reporter) (model.VM, error)
	Fork(ctx context.Context, ref string, req model.Fork, report step.Reporter) (model.Forked, error)
}

// maxStopTimeout bounds the timeout of a stop. A longer one is probably a wrong unit.
const maxStopTimeout = 24 * time.Hour

// vmHandlers serve the operations on VMs from outside. The method logs is in logs.go.
type vmHandlers struct {
	vms      VMs
	images   Images
	sessions *session.Set
	layout   paths.Layout
}

// expect notes why sessions of the VM may end now: see session.Set.Expect.
func (h vmHandlers) expect(r *http.Request, why string) (over func(failed *error)) {
	if v, err := h.vms.Get(refOf(r)); err == nil {
		return h.sessions.Expect(v.ID, why)
	}
	return func(*error) {}
}

func (h vmHandlers) list(*http.Request) (any, error) {
	list, names := h.vms.List(), namesOf(h.images)
	for i, v := range list {
		list[i].ImageMoved = names.moved(v.Spec.Image, v.Spec.ImageID)
	}
	return orEmpty(list, nil)
}

func (h vmHandlers) get(r *http.Request) (any, error) {
	v, err := h.vms.Get(refOf(r))
	v.ImageMoved = namesOf(h.images).moved(v.Spec.Image, v.Spec.ImageID)
	return v, err
}

func (h vmHandlers) create(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
	q := queryOf(r, "start")
	start := q.flag("start")
	if q.err != nil {
		return nil, q.err
	}
	req, err := decode[model.Create](w, r)
	if err != nil {
		return nil, err
	}
	if start {
		return h.vms.Launch(r.Context(), req, naming(report), report)
	}
	return h.vms.Create(r.Context(), req, report)
}

func (h vmHandlers) change(r *http.Request, change model.Change) (any, error) {
	return h.vms.Set(r.Context(), refOf(r), change)
}

func (h vmHandlers) delete(_ http.ResponseWriter, r *http.Request, report step.Reporter) (_ any, err error) {
	q := queryOf(r, "force")
	force := q.flag("force")
	if q.err != nil {
		return nil, q.err
	}
	if force {
		defer h.expect(r, "deleted")(&err)
	}
	return nil, h.vms.Delete(r.Context(), refOf(r), force, report)
}

func (h vmHandlers) prune(r *http.Request) (any, error) { return pruned(h.vms.Prune(r.Context())) }

func (h vmHandlers) start(r *http.Request, how model.Start, report step.Reporter) (any, error) {
	return h.vms.Start(r.Context(), refOf(r), how, report)
}

func (h vmHandlers) stop(r *http.Request, req api.VMStop, report step.Reporter) (_ any, err error) {
	if err := checkStop(req); err != nil {
		return nil, err
	}
	defer h.expect(r, "stopped")(&err)
	return h.vms.Stop(r.Context(), refOf(r), req.Timeout, report)
}

func (h vmHandlers) restart(r *http.Request, req api.VMStop, report step.Reporter) (_ any, err error) {
	if err := checkStop(req); err != nil {
		return nil, err
	}
	defer h.expect(r, "restarted")(&err)
	return h.vms.Restart(r.Context(), refOf(r), req.Timeout, report)
}

func checkStop(req api.VMStop) error {
	if t := req.Timeout; t != nil && (*t < 0 || *t > maxStopTimeout) {
		return fault.New(fault.Invalid, "field \"timeout\": %v is not between 0 and %v", *t, maxStopTimeout)
	}
	return nil
}

func (h vmHandlers) kill(r *http.Request, req api.VMKill) (_ any, err error) {
	sig, err := parseSignal(req.Signal)
	if err != nil {
		return nil, err
	}
	defer h.expect(r, "killed")(&err)
	return h.vms.Kill(r.Context(), refOf(r), sig)
}

// parseSignal reads a signal's name, with or without SIG, or its number. An empty text is SIGKILL.
func parseSignal(text string) (syscall.Signal, error) {
	const last = 64 // SIGRTMAX (signal(7))
	if text == "" {
		return syscall.SIGKILL, nil
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= last {
		return syscall.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fault.New(fault.Invalid, "%.40q is not a signal", text).WithHint("Use a name such as TERM or KILL, or a number.")
}

func (h vmHandlers) rename(r *http.Request, req api.VMRename) (any, error) {
	return h.vms.Rename(r.Context(), refOf(r), req.Name)
}

func (h vmHandlers) pause(_ http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
	return h.vms.Pause(r.Context(), refOf(r), report)
}

func (h vmHandlers) resume(_ http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
	return h.vms.Resume(r.Context(), refOf(r), report)
}

func (h vmHandlers) suspend(_ http.ResponseWriter, r *http.Request, report step.Reporter) (_ any, err error) {
	defer h.expect(r, "suspended")(&err)
	return h.vms.Suspend(r.Context(), refOf(r), report)
}

func (h vmHandlers) fork(r *http.Request, req model.Fork, report step.Reporter) (any, error) {
	return forked(h.vms.Fork(r.Context(), refOf(r), req, report))
}

func (h vmHandlers) stats(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), guestTimeout)
	defer cancel()
	return h.vms.Stats(ctx, refOf(r))
}
