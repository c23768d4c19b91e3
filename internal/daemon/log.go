package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"banger/internal/config"
	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/regular"
	"banger/internal/requestid"
	"banger/internal/vmm/console"
)

// maxLog bounds the daemon's log, bytes, in two files.
const maxLog = 16 << 20

// openLog opens the bounded log. Crashes go there, too, because a daemon that was started on demand
// has no standard error.
func openLog(opts Options, cfg *config.Config) (*slog.Logger, func() error, error) {
	path := opts.Layout.DaemonLog()
	file, err := console.Open(path, maxLog)
	if err != nil {
		return nil, nil, home.Unusable(fault.Denied, fmt.Errorf("opening the daemon's log: %w", err))
	}
	if crash, err := regular.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err == nil {
		_ = debug.SetCrashOutput(crash, debug.CrashOptions{}) // it duplicates the descriptor
		crash.Close()
	}
	var out io.Writer = file
	if opts.Stderr != nil {
		out = io.MultiWriter(file, opts.Stderr)
	}
	return newLogger(out, cfg), file.Close, nil
}

// newLogger returns a logger of the configured form and level.
func newLogger(out io.Writer, cfg *config.Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(out, options)
	if cfg.LogFormat == "json" {
		handler = slog.NewJSONHandler(out, options)
	}
	return slog.New(requestHandler{handler})
}

// requestHandler adds the request id of the context to each record.
type requestHandler struct{ slog.Handler }

func (h requestHandler) Handle(ctx context.Context, record slog.Record) error {
	if id := requestid.From(ctx); id != "" {
		record = record.Clone()
		record.AddAttrs(slog.String("request", id))
	}
	return h.Handler.Handle(ctx, record)
}

func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name)}
}
