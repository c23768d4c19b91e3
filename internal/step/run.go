package step

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Step is one named part of a plan.
//
// Do makes something; Undo takes it away and must be idempotent: it is called when Do succeeded and a later step failed,
// and also when Do itself failed half-way, so it finds anything from nothing to all of it.
type Step struct {
	Name    string
	Do      func(context.Context) error
	Undo    func(context.Context) error // nil when Do leaves nothing behind
	Timeout time.Duration               // for Do; 0 means none of its own
}

// Record says how one step of a finished run went. A run's records are its timeline.
type Record struct {
	Name     string        `json:"name"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration" format:"nanoseconds"` // nanoseconds
	Error    string        `json:"error,omitempty"`
}

// Error is what Run returns when a step failed.
type Error struct {
	Step string // the step that failed
	Err  error  // why
	Undo error  // the errors of undoing, joined; nil when everything was undone
}

func (e *Error) Error() string {
	if e.Undo != nil {
		return fmt.Sprintf("%s: %v (undoing it: %v)", e.Step, e.Err, e.Undo)
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Runner runs plans. The zero value works.
type Runner struct {
	Log         *slog.Logger
	Report      Reporter
	UndoTimeout time.Duration // for each Undo; 30 s when 0
}

const defaultUndoTimeout = 30 * time.Second

// Run does the steps in order. When one fails, or ctx ends, it undoes the failed step and all before it in reverse
// order, each with a deadline of its own and a context that ctx's end does not touch, and returns an *Error. Undoing
// goes on past failures. The records are in the order of the steps that were begun.
func (r Runner) Run(ctx context.Context, steps []Step) ([]Record, error) {
	records := make([]Record, 0, len(steps))
	for i, s := range steps {
		rec, err := r.do(ctx, s)
		records = append(records, rec)
		if err != nil {
			return records, &Error{Step: s.Name, Err: err, Undo: r.undo(context.WithoutCancel(ctx), steps[:i+1])}
		}
	}
	return records, nil
}

func (r Runner) do(ctx context.Context, s Step) (Record, error) {
	rec := Record{Name: s.Name, Start: time.Now()}
	r.Report.Report(Event{Step: s.Name, Phase: Started, Time: rec.Start})
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.Timeout, overdue(s.Timeout))
		defer cancel()
	}
	err := ctx.Err()
	if err == nil {
		err = guard(s.Do, ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != ctx.Err() && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	rec.Duration = time.Since(rec.Start)
	e := Event{Step: s.Name, Phase: Done, Duration: rec.Duration}
	if err != nil {
		rec.Error = err.Error()
		e.Phase, e.Error = Failed, rec.Error
	}
	r.Report.Report(e)
	r.log(ctx, "step", "step", s.Name, "took", rec.Duration, "error", rec.Error)
	return rec, err
}

// overdue is why a step's context ended at its deadline. It is one too for those who look only at it.
type overdue time.Duration

func (o overdue) Error() string      { return fmt.Sprintf("no result after %v", time.Duration(o)) }
func (overdue) Is(target error) bool { return target == context.DeadlineExceeded }

// undo takes the steps back, last first. Steps without an Undo have nothing to take back.
func (r Runner) undo(ctx context.Context, steps []Step) error {
	timeout := r.UndoTimeout
	if timeout == 0 {
		timeout = defaultUndoTimeout
	}
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		s := steps[i]
		if s.Undo == nil {
			continue
		}
		start := time.Now()
		undoCtx, cancel := context.WithTimeout(ctx, timeout)
		err := guard(s.Undo, undoCtx)
		cancel()
		e := Event{Step: s.Name, Phase: Undone, Duration: time.Since(start)}
		if err != nil {
			e.Phase, e.Error = Stuck, err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
		r.Report.Report(e)
		r.log(ctx, "undo", "step", s.Name, "took", e.Duration, "error", e.Error)
	}
	return errors.Join(errs...)
}

func (r Runner) log(ctx context.Context, msg string, args ...any) {
	if r.Log != nil {
		r.Log.InfoContext(ctx, msg, args...)
	}
}

// guard turns a panic of a step into its error: one VM's broken step must not end the daemon that holds all the others.
func guard(f func(context.Context) error, ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(ctx)
}
