package step

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// recorder makes steps that record what is called.
type recorder struct {
	log []string
}

func (r *recorder) step(name string, doErr, undoErr error) Step {
	return Step{
		Name: name,
		Do:   func(context.Context) error { r.log = append(r.log, "do "+name); return doErr },
		Undo: func(context.Context) error { r.log = append(r.log, "undo "+name); return undoErr },
	}
}

var errBoom = errors.New("boom")

func TestRunDoesStepsInOrder(t *testing.T) {
	r := &recorder{}
	records, err := Runner{}.Run(t.Context(), []Step{r.step("a", nil, nil), r.step("b", nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"do a", "do b"}; !reflect.DeepEqual(r.log, want) {
		t.Errorf("order of the calls: got %v, want %v", r.log, want)
	}
	if len(records) != 2 || records[0].Name != "a" || records[1].Error != "" {
		t.Errorf("want a record per step, without errors; got %+v", records)
	}
}

func TestFailureUndoesInReverse(t *testing.T) {
	r := &recorder{}
	quiet := r.step("quiet", nil, nil)
	quiet.Undo = nil
	_, err := Runner{}.Run(t.Context(), []Step{r.step("a", nil, nil), quiet, r.step("b", errBoom, nil), r.step("c", nil, nil)})
	var failed *Error
	if !errors.As(err, &failed) || failed.Step != "b" || !errors.Is(err, errBoom) || failed.Undo != nil {
		t.Fatalf("got %v, want an error that names step b and has no error of undoing", err)
	}
	if want := []string{"do a", "do quiet", "do b", "undo b", "undo a"}; !reflect.DeepEqual(r.log, want) {
		t.Errorf("order of the calls: got %v, want %v", r.log, want)
	}
}

func TestUndoContinuesAfterFailures(t *testing.T) {
	r := &recorder{}
	panicky := r.step("p", nil, nil)
	panicky.Undo = func(context.Context) error { panic("undo") }
	_, err := Runner{}.Run(t.Context(), []Step{r.step("a", nil, errBoom), panicky, r.step("b", errBoom, nil)})
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(failed.Undo, errBoom) || !strings.Contains(failed.Undo.Error(), "p: panic: undo") {
		t.Fatalf("got %v, want an error with all errors of undoing", err)
	}
	if last := r.log[len(r.log)-1]; last != "undo a" {
		t.Errorf("the last call is %q, want undo a: a failed Undo ended the others", last)
	}
}

func TestPanicIsTheStepsError(t *testing.T) {
	_, err := Runner{}.Run(t.Context(), []Step{{Name: "a", Do: func(context.Context) error { panic("ouch") }}})
	if err == nil || !strings.Contains(err.Error(), "a: panic: ouch") {
		t.Errorf("got %v, want the panic as the error of step a", err)
	}
}

func TestCancelledRunUndoesWithALiveContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	undone := false
	_, err := Runner{}.Run(ctx, []Step{
		{Name: "a", Do: func(context.Context) error { cancel(); return nil }, Undo: func(ctx context.Context) error {
			undone = ctx.Err() == nil
			_, bounded := ctx.Deadline()
			if !bounded {
				t.Error("the undo has no deadline")
			}
			return nil
		}},
		{Name: "b", Do: func(context.Context) error { t.Error("a cancelled run did another step"); return nil }},
	})
	if !errors.Is(err, context.Canceled) || !undone {
		t.Errorf("got %v, want context.Canceled; undone with a live context: %v", err, undone)
	}
}

func TestDeadlineNamesItself(t *testing.T) {
	_, err := Runner{}.Run(t.Context(), []Step{{Name: "slow", Timeout: time.Millisecond, Do: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no result after 1ms") {
		t.Errorf("got %v, want a deadline error with the step's timeout", err)
	}
}

// TestErrorNamesTheCauseOnce checks that an error names the cause once, even when the step itself
// returns the context's cause.
func TestErrorNamesTheCauseOnce(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := func(ctx context.Context) error { cancel(errBoom); return context.Cause(ctx) }
	if _, err := (Runner{}).Run(ctx, []Step{{Name: "called-off", Do: stop}}); !errors.Is(err, errBoom) || strings.Count(err.Error(), "boom") != 1 {
		t.Errorf("got %v, want an error that names the cause once", err)
	}
	wait := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	_, err := Runner{}.Run(t.Context(), []Step{{Name: "slow", Timeout: time.Millisecond, Do: wait}})
	if !errors.Is(err, context.DeadlineExceeded) || strings.Count(err.Error(), "no result") != 1 {
		t.Errorf("got %v, want one 'no result'; it is a deadline: %v", err, errors.Is(err, context.DeadlineExceeded))
	}
}

func TestReports(t *testing.T) {
	var got []string
	r := &recorder{}
	run := Runner{Report: func(e Event) {
		if e.Time.IsZero() {
			t.Errorf("event %+v has no time", e)
		}
		got = append(got, e.Step+" "+string(e.Phase))
	}}
	run.Run(t.Context(), []Step{r.step("a", nil, errBoom), r.step("b", errBoom, nil)})
	want := []string{"a started", "a done", "b started", "b failed", "b undone", "a undo-failed"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("events: got %v, want %v", got, want)
	}
}
