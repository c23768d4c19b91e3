package step

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Step is one named part of a plan. Do makes something, and Undo removes it. Undo must be
// idempotent and accept half of Do's work: it is also called after Do itself failed.
type Step struct {
	Name    string
	Do      func(context.Context) error
	Undo    func(context.Context) error // nil if Do leaves nothing behind
	Timeout time.Duration               // for Do; 0 means none
}

// Record is the result of one step of a run. A run's records are its timeline.
type Record struct {
	Name     string        `json:"name"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration" format:"nanoseconds"` // nanoseconds
	Error    string        `json:"error,omitempty"`
}

// Error is what Run returns if a step failed.
type Error struct {
	Step string // the step that failed
	Err  error  // its error
	Undo error  // the joined errors of Undo; nil if all of it worked
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
	UndoTimeout time.Duration // for each Undo; 0 means 30 s
	// Leave reports after a failure that nothing is undone: somebody else will complete the run. It
	// may be nil.
	Leave func() bool
	// Deadline makes the context of a Do or an Undo; nil is context.WithTimeout. The error that it
	// ends with wraps context.DeadlineExceeded.
	Deadline func(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc)
}

const defaultUndoTimeout = 30 * time.Second

// Run does the steps in order and returns a Record for each step that began. If a step fails or ctx
// ends, Run undoes that step and all earlier ones, in reverse, and returns an *Error. Each Undo
// runs, with a deadline of its own, and outlives ctx. If Leave says so, nothing is undone.
func (r Runner) Run(ctx context.Context, steps []Step) ([]Record, error) {
	records := make([]Record, 0, len(steps))
	for i, s := range steps {
		rec, err := r.do(ctx, s)
		records = append(records, rec)
		if err != nil && r.Leave != nil && r.Leave() {
			return records, &Error{Step: s.Name, Err: err}
		}
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
		ctx, cancel = r.deadline(ctx, s.Timeout)
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

func (r Runner) deadline(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if r.Deadline != nil {
		return r.Deadline(ctx, timeout)
	}
	return context.WithTimeoutCause(ctx, timeout, overdue(timeout))
}

// overdue is the cause of a step's context that ended at the step's deadline. It counts as a
// context.DeadlineExceeded.
type overdue time.Duration

func (o overdue) Error() string      { return fmt.Sprintf("no result after %v", time.Duration(o)) }
func (overdue) Is(target error) bool { return target == context.DeadlineExceeded }

// undo undoes the steps in reverse order. It skips steps without an Undo.
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
		undoCtx, cancel := r.deadline(ctx, timeout)
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

// guard turns a panic of a step into an error: one VM's panic must not end the daemon of all VMs.
func guard(f func(context.Context) error, ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(ctx)
}
