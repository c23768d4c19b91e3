package api

import (
	"context"
	"net/http"

	"banger/internal/model"
)

// Daemon has the operations on the daemon itself. Shutdown is in shutdown.go.
type Daemon struct{ t *transport }

// Version returns the versions of the daemon. It works across API generations.
func (d Daemon) Version(ctx context.Context) (Version, error) {
	return ask[Version](ctx, d.t, query{method: http.MethodGet, target: "/v1/version"})
}

// Status returns the state of the daemon. It works across API generations.
func (d Daemon) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, d.t, query{method: http.MethodGet, target: "/v1/status"})
}

// Usage returns what banger stores on the host's file systems.
func (d Daemon) Usage(ctx context.Context) (model.DiskUsage, error) {
	return ask[model.DiskUsage](ctx, d.t, query{method: http.MethodGet, target: "/v1/usage"})
}

// OpenAPI returns the document that describes the API.
func (d Daemon) OpenAPI(ctx context.Context) ([]byte, error) {
	return d.t.fetch(ctx, "/v1/openapi.json")
}

// Metrics returns the daemon's metrics in Prometheus' text format.
func (d Daemon) Metrics(ctx context.Context) ([]byte, error) { return d.t.fetch(ctx, "/metrics") }

// Goroutines returns the stacks of the daemon's goroutines as text.
func (d Daemon) Goroutines(ctx context.Context) ([]byte, error) {
	return d.t.fetch(ctx, "/debug/goroutines")
}
