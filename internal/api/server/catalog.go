package server

import (
	"net/http"
	"path/filepath"
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
		"importImage": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[api.ImageImport](w, r)
			if err == nil {
				err = absolute("path", req.Path)
			}
			if err != nil {
				return nil, err
			}
			return s.Images.Import(r.Context(), req, report)
		}),
		"deleteImage": answer(func(r *http.Request) (any, error) {
			return nil, s.Manager.References(func(images, _ map[string][]string) error {
				img, err := s.Images.Get(r.PathValue("ref"))
				if err != nil {
					return err
				}
				if err := unused("image", r.PathValue("ref"), images[img.ID]); err != nil {
					return err
				}
				return s.Images.Delete(r.Context(), r.PathValue("ref"))
			})
		}),
		"pruneImages": answer(func(r *http.Request) (any, error) {
			var out model.Pruned
			err := s.Manager.References(func(images, _ map[string][]string) (err error) {
				out, err = s.Images.Prune(r.Context(), images)
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
		"importKernel": s.steps(func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
			req, err := decode[api.KernelImport](w, r)
			if err == nil {
				err = absolute("path", req.Path)
			}
			if err == nil && req.Modules != "" {
				err = absolute("modules", req.Modules)
			}
			if err != nil {
				return nil, err
			}
			return s.Kernels.Import(r.Context(), req, report)
		}),
		"deleteKernel": answer(func(r *http.Request) (any, error) {
			return nil, s.Manager.References(func(_, kernels map[string][]string) error {
				k, err := s.Kernels.Get(r.PathValue("ref"))
				if err != nil {
					return err
				}
				if err := unused("kernel", r.PathValue("ref"), kernels[k.ID]); err != nil {
					return err
				}
				return s.Kernels.Delete(r.Context(), r.PathValue("ref"))
			})
		}),
		"pruneKernels": answer(func(r *http.Request) (any, error) {
			var out model.Pruned
			err := s.Manager.References(func(_, kernels map[string][]string) (err error) {
				out, err = s.Kernels.Prune(r.Context(), kernels)
				return err
			})
			return pruned(out, err)
		}),
	}
}

func unused(what, ref string, users []string) error {
	if len(users) == 0 {
		return nil
	}
	const most = 5
	names := strings.Join(users[:min(len(users), most)], ", ")
	if len(users) > most {
		names += ", ..."
	}
	return fault.New(fault.WrongState, "%s %s is used by %d VMs: %s", what, ref, len(users), names).WithHint("Delete those first.")
}

func required(field, value string) error {
	if value == "" {
		return fault.New(fault.Invalid, "field %q is missing", field)
	}
	return nil
}

// absolute checks a path on the host: the daemon's working directory is nobody's.
func absolute(field, value string) error {
	if !filepath.IsAbs(value) {
		return fault.New(fault.Invalid, "field %q: %.100q is not an absolute path", field, value)
	}
	return nil
}
