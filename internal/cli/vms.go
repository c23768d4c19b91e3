package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// atOnce is how many VMs one command works on at the same time.
const atOnce = 8

// explainVM adds the nearest name to the error of a VM that was not found.
func (a *app) explainVM(ctx context.Context, client *api.Client, ref string, err error) error {
	if fault.KindOf(err) != fault.NotFound {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // a hint is not worth a long wait
	defer cancel()
	vms, listErr := client.VMs(ctx)
	if listErr != nil {
		return err
	}
	names := make([]string, 0, len(vms))
	for _, vm := range vms {
		if vm.Spec.Name == ref || vm.ID == ref {
			return err // it is something else that is missing
		}
		names = append(names, vm.Spec.Name)
	}
	wrapped := fault.New(fault.NotFound, "%w", err)
	if near := ui.Closest(ref, names); near != "" {
		return wrapped.WithHint("Did you mean %s?", near)
	}
	if len(names) == 0 {
		return wrapped.WithHint("There are no VMs yet. Make one: banger run")
	}
	return wrapped.WithHint("`banger vm list` shows the VMs that there are.")
}

// eachVM does the same with several VMs at once, going on past errors, under one progress view. The functions run at the same time.
func (a *app) eachVM(ctx context.Context, title string, names []string, do func(context.Context, *api.Client, string, step.Reporter) error) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(names))
	_ = a.withProgress(title, func(report step.Reporter) error {
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
				errs[i] = a.explainVM(ctx, client, name, do(ctx, client, name, report))
			})
		}
		wg.Wait()
		return nil
	})
	var failed several
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

// shortID is as much of an id as a person needs.
func shortID(id string) string { return id[:min(len(id), 8)] }

// uptime is how long a VM has been running, or "" when it is not.
func uptime(vm model.VM, now time.Time) string {
	if vm.State != model.Running || vm.Started == nil {
		return ""
	}
	return ui.Age(now.Sub(*vm.Started))
}

// paintState colours a state: at work, well, at rest, ill.
func paintState(s ui.Style, state string) string {
	switch model.State(state) {
	case model.Running:
		return s.Green(state)
	case model.Broken, model.Failed:
		return s.Red(state)
	case model.Stopped, model.Suspended, model.Paused:
		return s.Dim(state)
	}
	return s.Yellow(state)
}
