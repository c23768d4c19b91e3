package session

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// WithSignals runs a session with the process's signals. It ignores SIGTTIN: a background job,
// which may not read from the terminal, then has an empty standard input instead of being stopped.
func WithSignals(run func(<-chan os.Signal) (int, error)) (int, error) {
	signal.Ignore(syscall.SIGTTIN)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, Signals()...)
	defer signal.Stop(signals)
	return run(signals)
}

// Unless calls do, which comes before a session and may take long. A signal ends do's context.
func Unless[T any](ctx context.Context, signals <-chan os.Signal, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do(ctx)
		done <- result{value, err}
	}()
	for {
		select {
		case r := <-done:
			return r.value, r.err
		case sig := <-signals:
			if Ends(sig) {
				cancel()
			}
		}
	}
}
