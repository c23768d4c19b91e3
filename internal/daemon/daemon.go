// Package daemon wires bangerd together: it opens what the home holds, builds the manager from it, serves the API, and takes all of it
// down again in the reverse order. It decides nothing about VMs.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"banger/internal/api"
	"banger/internal/api/server"
	"banger/internal/config"
	"banger/internal/guest/proto"
	"banger/internal/metric"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/version"
)

// Options say how to run.
type Options struct {
	Layout    paths.Layout
	LookupEnv func(string) (string, bool) // os.LookupEnv but in tests
	Ready     *Ready                      // nil when nobody waits
	Stderr    io.Writer                   // gets the log too, unless nil
}

const (
	lockTimeout  = 25 * time.Second // for a daemon that is stopping to be gone; less than a client waits for a start
	drainTimeout = 30 * time.Second // for operations to end by themselves at the daemon's end
	undoTimeout  = 30 * time.Second // for those that were then called off to take back what they had begun
)

// Run is the life of a daemon: it returns when ctx ends or a client asks for the end, after the operations under way are over. VMs go on running.
func Run(ctx context.Context, opts Options) (err error) {
	began := time.Now()
	defer func() { // what went wrong before the daemon was ready; later there is nobody to tell
		if told := opts.Ready.Tell(err); told != nil && err == nil {
			err = told
		}
	}()
	if err := os.MkdirAll(opts.Layout.State, 0o700); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	lock, err := lockHome(waiting, opts.Layout.Lock())
	cancel()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()

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

	ctx, shutdown := context.WithCancel(ctx)
	defer shutdown()
	d := &daemon{
		Options: opts, cfg: cfg, log: log, began: began, shutdown: shutdown,
		metrics: metric.New(version.String(), runtime.Version(), began),
	}
	if err := d.open(ctx); err != nil {
		log.ErrorContext(ctx, "bangerd cannot start", "error", err)
		return errors.Join(err, d.close())
	}
	err = d.serve(ctx, func() { _ = lock.say(stopping) })
	err = errors.Join(err, d.close())
	log.Info("bangerd ends", "error", err)
	return err
}

// serve answers requests until ctx ends, and then lets those under way end. It calls leaving once it has begun to end.
func (d *daemon) serve(ctx context.Context, leaving func()) (err error) {
	metrics := d.metrics.Handler(d.metricSource())
	s, err := server.New(server.Config{
		Manager: d.manager, Images: d.images, Kernels: d.kernels, Sessions: d.sessions, Layout: d.Layout,
		Version: api.Version{
			Version: version.String(), API: api.Generation, GoVersion: runtime.Version(), Generation: proto.Generation,
		},
		Status: d.status, Usage: d.usage, Shutdown: d.shutdown, Log: d.component("api"),
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
	l, err := server.Listen(d.Layout.Socket(), d.Layout.Runtime, d.log)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	d.log.InfoContext(ctx, "bangerd is ready", "socket", d.Layout.Socket(), "took", time.Since(d.began))
	if err := d.Ready.Tell(nil); err != nil {
		d.log.WarnContext(ctx, "saying that the daemon is ready", "error", err)
	}
	select {
	case err = <-served: // it never ends by itself but with an error
		served <- nil
	case <-ctx.Done():
	}
	d.log.Info("bangerd is stopping")
	leaving()
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	return errors.Join(err, s.Shutdown(draining, undoTimeout), <-served)
}

// status is what the daemon says of itself.
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

// residentMemory is this process's, 0 when the kernel does not tell (proc(5), statm).
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
