package agent

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"banger/internal/guest/agent/hook"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/proc"
)

// agent is the running program. One exists per process. It holds the state that services share, and
// the services.
type agent struct {
	log       *slog.Logger
	life      *life
	marks     *marks
	settings  *settings
	cards     *cards
	drives    *mount.Drives
	processes *processes

	hello    *helloService
	assume   *assumeService
	freeze   *freezeService
	exec     *execService
	ssh      *sshService
	files    *filesService
	stats    *statsService
	disk     *diskService
	writes   *writesService
	power    *powerService
	handover *handover
}

// newAgent returns an agent that waits for its identity. beside reports whether it serves beside an
// init.
func newAgent(log *slog.Logger, version string, beside bool) *agent {
	a := &agent{
		log: log, life: &life{}, marks: &marks{}, settings: &settings{}, cards: &cards{}, drives: &mount.Drives{},
		processes: &processes{log: log, table: proc.NewTable(log)},
	}
	commands := commands{table: a.processes.table, settings: a.settings}
	a.hello = &helloService{
		version: version, beside: beside, life: a.life, marks: a.marks,
		rehearsal: &rehearsal{log: log, marks: a.marks, processes: a.processes},
	}
	a.handover = &handover{
		log: log, settings: a.settings, cards: a.cards, marks: a.marks, drives: a.drives, processes: a.processes,
		done: make(chan struct{}),
	}
	a.assume = &assumeService{
		log: log, life: a.life, marks: a.marks, settings: a.settings, cards: a.cards, drives: a.drives,
		processes: a.processes, handover: a.handover,
		forks: &forkFinisher{life: a.life, processes: a.processes, hooks: &hook.Service{Log: log, Runner: commands.runner, Console: "/dev/console"}},
	}
	a.freeze = &freezeService{log: log, life: a.life, cards: a.cards, processes: a.processes}
	a.exec = &execService{log, commands}
	a.ssh = &sshService{log, commands}
	a.files = &filesService{log}
	a.stats = &statsService{a.drives}
	a.disk = &diskService{a.drives}
	a.writes = &writesService{a.marks, a.drives}
	a.power = &powerService{log: log, beside: beside, freeze: a.freeze, drives: a.drives, processes: a.processes, grace: time.NewTimer(endGrace)}
	a.power.grace.Stop()
	return a
}

// routes is the table of the agent's routes. Package proto documents each.
func (a *agent) routes() http.Handler {
	h := router{a.log, a.life}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hello", h.plain(a.hello.hello))
	mux.HandleFunc("GET /v1/stats", h.assumed(h.plain(a.stats.stats)))
	mux.HandleFunc("GET /v1/ports", h.assumed(h.plain(ports)))
	mux.HandleFunc("POST /v1/resize", h.assumed(h.plain(a.disk.resize)))
	mux.HandleFunc("POST /v1/sync", h.assumed(h.plain(a.disk.sync)))
	mux.HandleFunc("GET /v1/writes", h.plain(a.writes.writes))
	mux.HandleFunc("POST /v1/poweroff", h.raw(a.power.powerOff))
	mux.HandleFunc("POST /v1/assume", h.raw(a.assume.assume))
	mux.HandleFunc("POST /v1/endhooks", h.plain(a.assume.forks.hooks.End))
	mux.HandleFunc("POST /v1/freeze", h.plain(a.freeze.freeze))
	mux.HandleFunc("POST /v1/thaw", h.plain(a.freeze.thaw))
	mux.HandleFunc("GET /v1/files", h.assumed(h.raw(a.files.get)))
	mux.HandleFunc("PUT /v1/files", h.assumed(h.raw(a.files.put)))
	mux.HandleFunc("POST /v1/exec", h.stream(a.exec.exec))
	mux.HandleFunc("POST /v1/ssh", h.stream(a.ssh.ssh))
	mux.HandleFunc("POST /v1/dial", h.assumed(h.raw(dial)))
	return mux
}

// serve answers hosts at the endpoint until ctx ends or the machine is handed over to the image's
// init.
func (a *agent) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.handover.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	s := sessions{log: a.log, server: &http.Server{
		Handler:           a.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}}
	s.serve(ctx, a.handover.endpoint)
}
