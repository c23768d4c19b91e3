package server

import (
	"fmt"
	"net/http"

	"banger/internal/api"
	"banger/internal/fault"
)

// handlers returns the handler of each operation by the operation's id. api.Operations has the
// methods and paths.
func (s *Server) handlers() map[string]handler {
	daemon := daemonHandlers{config: s.Config}
	vms := vmHandlers{vms: s.Manager, images: s.Images, sessions: s.Sessions, layout: s.Layout}
	guests := guestHandlers{
		core: s.core, vms: s.Manager, agents: s.Manager, images: s.Images, sessions: s.Sessions,
		work: s.work, execBytes: &s.execBytes,
	}
	images := imageHandlers{images: s.Images, users: s.Manager, dir: s.Layout.Imports()}
	kernels := kernelHandlers{kernels: s.Kernels, users: s.Manager, dir: s.Layout.Imports()}
	snapshots := snapshotHandlers{core: s.core, library: s.Library, vms: s.Manager, images: s.Images, kernels: s.Kernels}
	templates := templateHandlers{templates: s.Templates, builder: s.Manager, images: s.Images}
	return map[string]handler{
		"version":  answer(daemon.version),
		"status":   answer(daemon.status),
		"usage":    answer(daemon.usage),
		"openapi":  openapi,
		"shutdown": answer(daemon.shutdown),

		"listVMs":   answer(vms.list),
		"createVM":  s.steps(vms.create),
		"pruneVMs":  answer(vms.prune),
		"getVM":     answer(vms.get),
		"changeVM":  answerTo(vms.change),
		"deleteVM":  s.steps(vms.delete),
		"startVM":   s.steps(taking(vms.start)),
		"stopVM":    s.steps(taking(vms.stop)),
		"killVM":    answerTo(vms.kill),
		"restartVM": s.steps(taking(vms.restart)),
		"renameVM":  answerTo(vms.rename),
		"pauseVM":   s.steps(vms.pause),
		"resumeVM":  s.steps(vms.resume),
		"suspendVM": s.steps(vms.suspend),
		"forkVM":    s.steps(taking(vms.fork)),
		"vmStats":   answer(vms.stats),
		"vmLogs":    vms.logs,

		"vmPorts":  answer(guests.ports),
		"getFiles": guests.getFiles,
		"putFiles": guests.putFiles,
		"exec":     guests.exec,
		"ssh":      guests.ssh,
		"dial":     guests.dial,
		"run":      guests.run,

		"listImages":  answer(images.list),
		"getImage":    answer(images.get),
		"pullImage":   s.steps(taking(images.pull)),
		"importImage": s.uploading(s.steps(images.receive)),
		"tagImage":    answerTo(images.tag),
		"changeImage": answerTo(images.change),
		"deleteImage": answer(images.delete),
		"pruneImages": answer(images.prune),

		"listKernels":  answer(kernels.list),
		"getKernel":    answer(kernels.get),
		"pullKernel":   s.steps(taking(kernels.pull)),
		"importKernel": s.uploading(s.steps(kernels.receive)),
		"tagKernel":    answerTo(kernels.tag),
		"deleteKernel": answer(kernels.delete),
		"pruneKernels": answer(kernels.prune),

		"listSnapshots":   answer(snapshots.list),
		"createSnapshot":  s.steps(taking(snapshots.create)),
		"getSnapshot":     answer(snapshots.get),
		"deleteSnapshot":  answer(snapshots.delete),
		"restoreSnapshot": s.steps(snapshots.restore),
		"exportSnapshot":  snapshots.export,
		"importSnapshot":  snapshots.receive,

		"listTemplates":  answer(templates.list),
		"buildTemplates": s.steps(taking(templates.build)),
		"pruneTemplates": answer(templates.prune),
		"getTemplate":    answer(templates.get),
		"deleteTemplate": answer(templates.delete),

		"metrics":    daemon.metrics,
		"goroutines": goroutines,
		"profiles":   profiles,
		"profile":    profile,
	}
}

// routes joins the table of operations and the handlers. It is an error if one lacks a row of the
// other.
func (s *Server) routes() (*http.ServeMux, error) {
	handlers := s.handlers()
	mux := http.NewServeMux()
	for _, op := range api.Operations() {
		h, ok := handlers[op.ID]
		if !ok {
			return nil, fmt.Errorf("building the API: operation %s has no handler", op.ID)
		}
		delete(handlers, op.ID)
		mux.Handle(op.Method+" "+op.Path, s.serve(op, h))
	}
	for id := range handlers {
		return nil, fmt.Errorf("building the API: the handler of %s has no operation", id)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fault.New(fault.NotFound, "there is no %s %s in this API", r.Method, r.URL.Path).
			WithHint("GET /v1/openapi.json describes what there is."))
	})
	return mux, nil
}
