package server

import (
	"net/http"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
)

// daemonHandlers answer about the daemon itself.
type daemonHandlers struct{ config Config }

func (h daemonHandlers) version(*http.Request) (any, error) { return h.config.Version, nil }

func (h daemonHandlers) status(r *http.Request) (any, error) {
	status := h.config.Status(r.Context())
	status.Version = h.config.Version
	status.VMs = map[model.State]int{}
	for _, v := range h.config.Manager.List() {
		status.VMs[v.State]++
	}
	return status, nil
}

func (h daemonHandlers) usage(r *http.Request) (any, error) {
	u, err := h.config.Usage(r.Context())
	if u.Rows == nil {
		u.Rows = []model.UsageRow{}
	}
	return u, err
}

func (h daemonHandlers) shutdown(*http.Request) (any, error) {
	h.config.Shutdown()
	return nil, nil
}

func (h daemonHandlers) metrics(w http.ResponseWriter, r *http.Request) error {
	if h.config.Metrics == nil {
		return fault.New(fault.Unsupported, "this daemon counts nothing")
	}
	h.config.Metrics.ServeHTTP(w, r)
	return nil
}

func openapi(w http.ResponseWriter, _ *http.Request) error {
	return writeBody(w, http.StatusOK, "application/json", api.Document())
}
