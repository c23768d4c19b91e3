package server

import (
	"net/http"
	"strings"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

func (s *Server) imageHandlers() map[string]handler {
	return map[string]handler{
		"listImages": answer(func(*http.Request) (any, error) { return list(s.Images.List()) }),
		"getImage":   answer(func(r *http.Request) (any, error) { return s.Images.Get(r.PathValue("ref")) }),
		"pullImage": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[api.ImagePull](w, r)
			if err == nil {
				err = required("ref", req.Ref)
			}
			if err != nil {
				return nil, err
			}
			return s.Images.Pull(r.Context(), req, report)
		}),
		"importImage": s.uploading(s.steps(s.importImage)),
		"deleteImage": answer(func(r *http.Request) (any, error) {
			return nil, s.Manager.References(func(images, _ map[string][]string) error {
				return unused(images, func(inUse func(id string) []string) error {
					return s.Images.Delete(r.Context(), r.PathValue("ref"), inUse)
				})
			})
		}),
		"pruneImages": answer(func(r *http.Request) (any, error) {
			var out model.Pruned
			err := s.Manager.References(func(images, _ map[string][]string) (err error) {
				out, err = s.Images.Prune(r.Context(), by(images))
				return err
			})
			return pruned(out, err)
		}),
	}
}

func (s *Server) kernelHandlers() map[string]handler {
	return map[string]handler{
		"listKernels": answer(func(*http.Request) (any, error) { return list(s.Kernels.List()) }),
		"getKernel":   answer(func(r *http.Request) (any, error) { return s.Kernels.Get(r.PathValue("ref")) }),
		"pullKernel": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[api.KernelPull](w, r)
			if err == nil {
				err = required("name", req.Name)
			}
			if err != nil {
				return nil, err
			}
			return s.Kernels.Pull(r.Context(), req, report)
		}),
		"importKernel": s.uploading(s.steps(s.importKernel)),
		"deleteKernel": answer(func(r *http.Request) (any, error) {
			return nil, s.Manager.References(func(_, kernels map[string][]string) error {
				return unused(kernels, func(inUse func(id string) []string) error {
					return s.Kernels.Delete(r.Context(), r.PathValue("ref"), inUse)
				})
			})
		}),
		"pruneKernels": answer(func(r *http.Request) (any, error) {
			var out model.Pruned
			err := s.Manager.References(func(_, kernels map[string][]string) (err error) {
				out, err = s.Kernels.Prune(r.Context(), by(kernels))
				return err
			})
			return pruned(out, err)
		}),
	}
}

// by returns a function that finds the users of an id.
func by(users map[string][]string) func(id string) []string {
	return func(id string) []string { return users[id] }
}

// unused calls remove, which refuses to remove what is in use. The hint of that refusal says what
// to delete first.
func unused(users map[string][]string, remove func(inUse func(id string) []string) error) error {
	var found []string
	err := remove(func(id string) []string {
		found = users[id]
		return found
	})
	if err == nil || len(found) == 0 {
		return err
	}
	var vms, snapshots []string
	for _, user := range found {
		if name, ok := strings.CutPrefix(user, "snapshot "); ok { // no VM's name has a space
			snapshots = append(snapshots, name)
		} else {
			vms = append(vms, user)
		}
	}
	var first []string
	if len(vms) > 0 {
		first = append(first, "banger vm delete "+strings.Join(vms, " "))
	}
	if len(snapshots) > 0 {
		first = append(first, "banger snapshot delete "+strings.Join(snapshots, " "))
	}
	return fault.New(fault.KindOf(err), "%w", err).WithHint("Delete what uses it first: %s", strings.Join(first, "; "))
}

func required(field, value string) error {
	if value == "" {
		return fault.New(fault.Invalid, "field %q is missing", field)
	}
	return nil
}
