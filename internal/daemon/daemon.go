// Package daemon wires bangerd together: it opens the home, builds the manager, serves the API, and
// closes everything in the reverse order. It decides nothing about VMs.
//
// The daemon's log is bounded and has the form and level of the configuration. A handler adds the
// request's id to each line that was logged with a request's context (log.go). Metrics are served
// on the API's socket and, if configured, on a loopback port (metrics.go).
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"banger/internal/api"
	"banger/internal/api/server"
	"banger/internal/config"
	"banger/internal/guest/proto"
	"banger/internal/home"
	"banger/internal/limit"
	"banger/internal/metric"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/version"
)

// Options say how to run.
type Options struct {
	Layout    paths.Layout
	LookupEnv func(string) (string, bool) // os.LookupEnv, except in tests
	Ready     *Ready                      // nil if nobody waits
	Stderr    io.Writer                   // receives a copy of the log, unless nil
}

const (
	lockTimeout  = 25 * time.Second // for a stopping daemon to end; clients wait longer
	drainTimeout = 30 * time.Second // for operations to end by themselves
	undoTimeout  = 30 * time.Second // for cancelled operations to undo their work
)

// Run runs a daemon until ctx ends or a client asks it to stop. It returns after the operations
// under way have ended. VMs keep running.
func Run(ctx context.Context, opts Options) (err error) {
	began := time.Now()
	defer func() { // the caller waits for this until the daemon is ready
		if told := opts.Ready.Report(err); told != nil && err == nil {
			err = told
		}
	}()
	if err := checkPlace(opts.Layout); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	held, err := home.Acquire(waiting, opts.Layout)
	cancel()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Release()) }()
	asked := opts.Layout.Runtime
	opts.Layout = held.Layout()

	cfg, err := config.Load(opts.Layout.ConfigFile(), opts.LookupEnv, nil)
	if err != nil {
		return err
	}
	log, closeLog, err := openLog(opts, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	log.InfoContext(ctx, "bangerd starts", "version", version.String(), "pid", os.Getpid())
	if asked != opts.Layout.Runtime {
		log.WarnContext(ctx, "machines of this home are in an earlier runtime directory, which stays in use until they end", "earlier", opts.Layout.Runtime, "now", asked)
	}
	raiseLimits(ctx, log)

	ctx, shutdown := context.WithCancel(ctx)
	defer shutdown()
	d := &daemon{
		Options: opts, cfg: cfg, log: log, began: began, shutdown: shutdown,
		metrics: metric.New(version.String(), runtime.Version(), began),
	}
	if err := d.open(ctx, held); err != nil {
		log.ErrorContext(ctx, "bangerd cannot start", "error", err)
		return errors.Join(err, d.close())
	}
	err = d.serve(ctx, held)
	err = errors.Join(err, d.close())
	log.Info("bangerd ends", "error", err)
	return err
}

// raiseLimits raises the limits that VMMs inherit.
func raiseLimits(ctx context.Context, log *slog.Logger) {
	low, err := limit.Raise()
	if err != nil {
		log.WarnContext(ctx, "raising limits", "error", err)
	}
	for _, l := range low {
		log.WarnContext(ctx, "a limit is low: see banger doctor", "limit", l.Name)
	}
}

// serve answers requests until ctx ends, and then waits for those under way.
func (d *daemon) serve(ctx context.Context, held *home.Held) (err error) {
	metrics := d.metrics.Handler(d.metricSource())
	s, err := server.New(server.Config{
		Manager: d.manager, Library: d.manager.Library(), Templates: d.manager.Templates(), Images: d.images, Kernels: d.kernels, Sessions: d.sessions, Layout: d.Layout,
		Version: api.Version{
			Version: version.String(), API: api.Generation, GoVersion: runtime.Version(), Generation: proto.Generation,
		},
		Status: d.status, Usage: d.usage, Shutdown: d.shutdown, Room: d.space.Check, Log: d.component("api"),
		Count: d.metrics.Request, Metrics: metrics,
	})
	if err != nil {
		return err
	}
	stopMetrics, err := d.serveMetrics(ctx, metrics)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopMetrics()) }()
	l, err := server.Listen(d.Layout.Socket(), held.KeepRuntime, d.log)
	if err != nil {
		return err
	}
	var watching sync.WaitGroup
	watch, endWatch := context.WithCancel(ctx)
	watching.Go(func() { d.watchRoots(watch, held) })
	defer func() { endWatch(); watching.Wait() }()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	d.log.InfoContext(ctx, "bangerd is ready", "socket", d.Layout.Socket(), "took", time.Since(d.began))
	if err := d.Ready.Report(nil); err != nil {
		d.log.WarnContext(ctx, "saying that the daemon is ready", "error", err)
	}
	select {
	case err = <-served: // it ends by itself only with an error
		served <- nil
	case <-ctx.Done():
	}
	d.log.Info("bangerd is stopping")
	held.Stopping()
	d.manager.EndWaits()
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	return errors.Join(err, s.Shutdown(draining, undoTimeout), <-served)
}

// status is what the daemon reports about itself.
func (d *daemon) status(ctx context.Context) api.Status {
	s := api.Status{
		PID: os.Getpid(), Started: d.began, Socket: d.Layout.Socket(), State: d.Layout.State, Log: d.Layout.DaemonLog(),
		Driver: d.driver.Name(), RSS: residentMemory(),
	}
	info, err := d.driver.Info(ctx)
	if err != nil {
		s.AccelWhy = err.Error()
		return s
	}
	s.Accel, s.AccelWhy = info.Accel, info.Why
	for _, r := range info.Recommendations {
		s.Recommendations = append(s.Recommendations, api.Recommendation{Kind: string(r.Kind), Value: r.Value, Reason: r.Reason})
	}
	return s
}

// residentMemory returns this process's resident bytes, or 0 if the kernel does not report them
// (proc(5), statm).
func residentMemory() model.Bytes {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(data), &total, &resident); err != nil {
		return 0
	}
	return model.Bytes(resident * int64(os.Getpagesize()))
}
