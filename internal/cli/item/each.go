package item

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/step"
)

// atOnce is how many items one command works on at the same time.
const atOnce = 8

// Task is the part of a command that concerns one of the items named.
type Task struct {
	Client *api.Client
	Name   string
	Report step.Reporter
}

// TaskFunc does a command's work on one item.
type TaskFunc func(context.Context, Task) error

// Each calls do for several items at the same time, under one progress view. After an error it
// continues with the other items. It prints the names of the items for which do succeeded.
func (k Kind[T]) Each(ctx context.Context, a *command.App, title string, names []string, do TaskFunc) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(names))
	_ = a.WithProgress(title, func(report step.Reporter) error {
		var wg sync.WaitGroup
		slots := make(chan struct{}, atOnce)
		for i, name := range names {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				report := report
				if len(names) > 1 {
					report = prefixed(report, name)
				}
				errs[i] = k.Explained(ctx, client, name, do(ctx, Task{client, name, report}))
			})
		}
		wg.Wait()
		return nil
	})
	return printOutcomes(a, names, errs)
}

// EachNoting is Each for operations that may find nothing to do, or that end a guest which may not
// have saved its data. It notes at the end for which items that was so.
func (k Kind[T]) EachNoting(ctx context.Context, a *command.App, title string, names []string, do TaskFunc) error {
	var mu sync.Mutex
	var notes []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		notes = append(notes, fmt.Sprintf(format, args...))
	}
	err := k.Each(ctx, a, title, names, func(ctx context.Context, t Task) error {
		unsaved, report := "", t.Report
		t.Report = func(e step.Event) {
			switch {
			case e.Phase == step.Skipped:
				note("%s is %s", t.Name, e.Detail)
			case e.Phase == step.Failed && e.Step == step.PowerOff:
				unsaved = e.Error
			}
			report.Report(e)
		}
		err := do(ctx, t)
		if unsaved != "" && (err == nil || !strings.Contains(err.Error(), unsaved)) {
			note("warning: %s: %s", t.Name, unsaved)
		}
		return err
	})
	for _, note := range notes {
		a.Note("%s", note)
	}
	return err
}

// printOutcomes prints each name whose operation succeeded and returns the errors of the others.
func printOutcomes(a *command.App, names []string, errs []error) error {
	var failed command.Several
	for i, err := range errs {
		switch {
		case err != nil && len(names) > 1 && !errors.Is(err, context.Canceled):
			failed = append(failed, fmt.Errorf("%s: %w", names[i], err))
		case err != nil:
			failed = append(failed, err)
		default:
			fmt.Fprintln(a.Out, ui.Clean(names[i]))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

func prefixed(report step.Reporter, name string) step.Reporter {
	return func(e step.Event) {
		e.Step = name + " " + e.Step
		report(e)
	}
}
