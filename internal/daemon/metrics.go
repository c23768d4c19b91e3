package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"banger/internal/fault"
	"banger/internal/metric"
	"banger/internal/model"
)

// Bounds of the metrics' own listener. Any local program may connect to it.
const (
	metricsHeaderTimeout = 5 * time.Second
	metricsWriteTimeout  = 30 * time.Second
	metricsIdleTimeout   = 2 * time.Minute
	metricsMaxHeader     = 8 << 10 // bytes
)

// metricSource returns what a scrape looks up.
func (d *daemon) metricSource() metric.Source {
	return metric.Source{VMs: d.vmsByState, HostBytes: d.bytesByKind}
}

func (d *daemon) vmsByState() map[string]int {
	states := map[string]int{string(model.Running): 0, string(model.Stopped): 0}
	for _, v := range d.manager.List() {
		states[string(v.State)]++
	}
	return states
}

func (d *daemon) bytesByKind(ctx context.Context) (map[string]int64, error) {
	usage, err := d.usage(ctx)
	if err != nil {
		d.log.WarnContext(ctx, "computing the host bytes for the metrics", "error", err)
		return nil, err
	}
	kinds := map[string]int64{}
	for _, kind := range usageKinds() {
		kinds[string(kind)] = 0
	}
	for _, row := range usage.Rows {
		kinds[string(row.Kind)] += int64(row.Own)
	}
	return kinds, nil
}

// serveMetrics serves the metrics on the configured loopback address until stop is called. Without
// an address it does nothing.
func (d *daemon) serveMetrics(ctx context.Context, handler http.Handler) (stop func() error, err error) {
	address := d.cfg.MetricsListen
	if address == "" {
		return func() error { return nil }, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "listening for metrics: %w", err).
			WithHint("Set metrics_listen in %s to a free port of the loopback, or remove it.", d.Layout.ConfigFile())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", loopbackOnly(handler))
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: metricsHeaderTimeout, ReadTimeout: metricsHeaderTimeout,
		WriteTimeout: metricsWriteTimeout, IdleTimeout: metricsIdleTimeout, MaxHeaderBytes: metricsMaxHeader,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	d.log.InfoContext(ctx, "serving metrics", "address", l.Addr().String())
	return func() error {
		err := errors.Join(server.Close(), <-served)
		if err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving metrics: %w", err)
		}
		return nil
	}, nil
}

// loopbackOnly refuses requests whose Host is a name other than localhost. Otherwise a web page
// could resolve its own name to the loopback (DNS rebinding) and read the answer.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(r.Host); err == nil {
			host = name
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			http.Error(w, "the Host header must be an address or localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
