package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/step"
)

// atOnce is how many VMs one command works on at the same time.
const atOnce = 8

// vmKind describes VMs. They have no remove function, because a command deletes several at once.
func vmKind() kind[model.VM] {
	return kind[model.VM]{
		group: "vm", one: "a VM", many: "VMs", arg: "NAME", example: "web", label: "names",
		none: "No VMs yet. Make one: banger run",
		list: func(c *api.Client, ctx context.Context) ([]model.VM, error) { return c.VMs().List(ctx) },
		get: func(c *api.Client, ctx context.Context, ref string) (model.VM, error) {
			return c.VMs().Get(ctx, ref)
		},
		name:  func(vm model.VM) string { return vm.Spec.Name },
		names: func(vm model.VM) []string { return []string{vm.Spec.Name} },
		about: func(vm model.VM) string { return fmt.Sprintf("%s, %s", vm.State, shortRef(vm.Spec.Image)) },
		table: vmTable,
	}
}

// explainVM adds the nearest name to the error of a VM that was not found.
func explainVM(ctx context.Context, client *api.Client, ref string, err error) error {
	return vmKind().explained(ctx, client, ref, err)
}

// eachVMTask is the part of a command that concerns one of the VMs named.
type eachVMTask struct {
	client *api.Client
	name   string
	report step.Reporter
}

// eachVMCmd describes a command that does the same with each VM named.
type eachVMCmd struct {
	use, short, long, example string

	offers func(model.State) bool // the states of VMs that completion offers; nil: all
	run    func(ctx context.Context, names []string) error
}

func newEachVMCmd(a *command.App, c eachVMCmd) *cobra.Command {
	return &cobra.Command{
		Use:               c.use + " NAME...",
		Short:             c.short,
		Long:              c.long,
		Example:           c.example,
		Args:              command.WantArgs("NAME..."),
		RunE:              command.Interruptible(c.run),
		ValidArgsFunction: completeVMs(a, c.offers),
	}
}

// eachVMFunc does a command's work on one VM.
type eachVMFunc func(context.Context, eachVMTask) error

// eachVM calls do for several VMs at the same time, under one progress view. After an error it
// continues with the other VMs. It prints the names of the VMs for which do succeeded.
func eachVM(ctx context.Context, a *command.App, title string, names []string, do eachVMFunc) error {
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
				errs[i] = explainVM(ctx, client, name, do(ctx, eachVMTask{client, name, report}))
			})
		}
		wg.Wait()
		return nil
	})
	return printOutcomes(a, names, errs)
}

// eachVMNoting is eachVM for operations that may find nothing to do. It notes at the end for which
// VMs that was so.
func eachVMNoting(ctx context.Context, a *command.App, title string, names []string, do eachVMFunc) error {
	var mu sync.Mutex
	var notes []string
	err := eachVM(ctx, a, title, names, func(ctx context.Context, t eachVMTask) error {
		report := t.report
		t.report = func(e step.Event) {
			if e.Phase == step.Skipped {
				mu.Lock()
				notes = append(notes, t.name+" is "+e.Detail)
				mu.Unlock()
			}
			report.Report(e)
		}
		return do(ctx, t)
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

// completeVMs completes the names of VMs in a state that pass accepts; nil accepts all.
func completeVMs(a *command.App, pass func(model.State) bool) command.Completer {
	return vmKind().complete(a, func(vm model.VM) bool { return pass == nil || pass(vm.State) })
}

// completeUsable completes the names of VMs that can run a command: those that run, and those that
// a command wakes.
func completeUsable(a *command.App) command.Completer {
	return vmKind().complete(a, func(vm model.VM) bool {
		return vm.State == model.Running || vm.State == model.Suspended && vm.Spec.IdleSuspend > 0
	})
}

// inState returns a function that accepts the given states.
func inState(states ...model.State) func(model.State) bool {
	return func(s model.State) bool { return slices.Contains(states, s) }
}

// endable accepts the states in which a VM has a machine, live or saved, that can be ended.
func endable(s model.State) bool { return s.Live() || s == model.Suspended }

// shortID returns the first characters of an id, which are enough for a person.
func shortID(id string) string { return id[:min(len(id), 8)] }

// uptime returns how long a VM has been running, or "" if it does not run.
func uptime(vm model.VM, now time.Time) string {
	if vm.State != model.Running || vm.Started == nil {
		return ""
	}
	return ui.Age(now.Sub(*vm.Started))
}

// paintState colours a state: green if running, red if ill, dim if at rest, otherwise yellow.
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
