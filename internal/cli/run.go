package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/render"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

type runOptions struct {
	spec       vmflag.Spec
	remove     bool
	detach     bool
	tty        bool
	entrypoint bool
	timeline   bool
	timeout    time.Duration
	argv       []string
}

const runLong = `Creates a VM, starts it and runs the command in it. If the image or the kernel is missing, banger makes it first.

If COMMAND is unset, banger runs a login shell, provided that standard input and output are terminals. If they are not, it runs the image's Entrypoint and Cmd.

The VM continues to run after the command, unless --rm is set.

Standard input always goes to the command. In a loop of a shell script, redirect it from /dev/null. Standard output and standard error stay separate, unless the command has a terminal (-t).

The first Ctrl-C goes to the command. The second Ctrl-C ends the command. If a VM does not respond on a terminal, press Ctrl-] three times within one second to leave it.`

func newRunCmd(a *command.App) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [--] [COMMAND [ARG...]]",
		Short: "Run a command or a shell in a new VM",
		Long:  runLong,
		Example: `banger run --rm -- cat /etc/os-release
echo hi | banger run --rm -- cat
banger run --name dev --image debian:bookworm --memory 2G
banger run -d --name web --image nginx --entrypoint
banger run --rm --timeout 5m -e CI -w /src -- make test`,
		Annotations: map[string]string{command.RunsGuest: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.argv = args
			if err := o.check(); err != nil {
				return err
			}
			create, err := o.spec.NewVM(a, cmd.Flags())
			if err != nil {
				return err
			}
			if o.detach && len(o.argv) == 0 && !o.entrypoint {
				start := func(ctx context.Context, _ []string) error { return runDetached(ctx, create, o, a) }
				return command.Interruptible(start)(cmd, args)
			}
			return runRun(cmd.Context(), create, o, a)
		},
	}
	o.add(a, cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (o *runOptions) add(a *command.App, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the command's flags are its own
	addSpec(a, cmd, &o.spec)
	vmflag.AddCold(cmd, &o.spec.Create.Cold)
	flags.BoolVar(&o.remove, "rm", false, "delete the VM when the command ends; with -d, when the VM stops")
	flags.BoolVarP(&o.detach, "detach", "d", false,
		"print the VM's name and return as soon as the VM and COMMAND run; COMMAND's output goes to the VM's log")
	flags.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	flags.BoolP("interactive", "i", false, "has no effect: standard input always goes to the command")
	flags.BoolVar(&o.entrypoint, "entrypoint", false, "run the image's Entrypoint with COMMAND as its arguments")
	flags.BoolVar(&o.timeline, "timeline", false, "draw on standard error how long each part of the run took")
	flags.DurationVar(&o.timeout, "timeout", 0, "end the command after this `time`, with exit status 124")
	command.SetExample(flags, "timeout", "90s")
}

// check refuses flags that contradict each other.
func (o runOptions) check() error {
	switch {
	case o.timeout < 0:
		return fault.New(fault.Invalid, "--timeout: %v is negative", o.timeout).WithHint("For example: --timeout 90s")
	case o.detach && o.tty:
		return fault.New(fault.Invalid, "--detach and --tty cannot be combined").
			WithHint("Start the VM with --detach, then use: banger exec -t NAME")
	case o.detach && o.timeline:
		return fault.New(fault.Invalid, "--detach and --timeline cannot be combined").
			WithHint("Start the VM with --detach, then use: banger vm show --timeline NAME")
	case o.detach && o.timeout > 0:
		return fault.New(fault.Invalid, "--detach and --timeout cannot be combined").WithHint("Omit one of them.")
	}
	return nil
}

// run is one `banger run` with a command: its session, and what it learns of its VM on the way.
type run struct {
	a        *command.App
	o        runOptions
	client   *api.Client
	session  *session.Session
	progress *ui.Progress
	timeline *render.Run

	name     string // of the VM, once it is known
	leftover string // why the daemon could not delete the VM
}

// runRun runs a command in a new VM and returns its exit status as an error of type status. If the
// command is detached, runRun prints the VM's name when the command runs.
func runRun(ctx context.Context, create model.Create, o runOptions, a *command.App) error {
	req := o.request(create, ui.Terminal(a.In) != nil && ui.Terminal(a.Out) != nil)
	r := &run{
		a: a, o: o, session: newSession(a, &req.Exec), progress: a.Progress("Starting a VM"),
		timeline: render.NewRun(a.Began),
	}
	defer r.progress.Close()
	r.session.Boot = true
	if o.detach {
		r.session.In = nil
	}
	r.session.Event, r.session.Started, r.session.Ended = r.take, r.progress.Close, r.timeline.End
	code, err := session.WithSignals(func(signals <-chan os.Signal) (_ int, err error) {
		if r.client, err = session.Unless(ctx, signals, a.Connect); err != nil {
			return 0, err
		}
		r.session.Stuck = stuck(r.client, func() string { return r.name })
		r.timeline.Ask()
		r.session.Stream, err = session.Unless(ctx, signals, func(ctx context.Context) (session.Stream, error) {
			return r.client.Guests().Run(ctx, req)
		})
		if err != nil {
			return 0, err
		}
		return r.session.Run(ctx, signals)
	})
	r.progress.Close()
	if o.timeline {
		r.timeline.Write(a.Err, ui.Columns(a.Err), a.Style(a.Err))
	}
	return r.finish(code, err)
}

// take handles an event of the daemon.
func (r *run) take(e step.Event) {
	r.timeline.Take(e)
	switch {
	case e.Step == api.EventVM:
		r.name = e.Detail
		r.progress.Title("Starting " + r.name)
	case e.Step == api.EventDelete && e.Phase == step.Failed:
		r.leftover = fmt.Sprintf("%s was not deleted: %s", e.Detail, e.Error)
	case e.Step != api.EventExec:
		r.progress.Report(e)
	}
}

// finish notes what has become of the VM and returns the run's error or exit status.
func (r *run) finish(code int, err error) error {
	switch {
	case r.leftover != "":
		r.a.Note("%s", r.leftover)
		r.a.Hint("banger rm -f " + r.name)
	case err != nil && (r.o.detach || !r.o.remove): // otherwise the daemon deletes it
		noteKept(r.a, r.client, r.name)
	}
	switch {
	case err != nil:
		return err
	case r.o.detach && code == 0:
		fmt.Fprintln(r.a.Out, ui.Clean(r.name))
	case r.name != "" && !r.o.remove && ui.Terminal(r.a.Err) != nil:
		r.a.Note("%s is still running. Use it: banger exec %s -- COMMAND. Remove it: banger rm -f %s", r.name, r.name, r.name)
	}
	return exitStatus(code)
}

// request returns what the daemon is asked to make and run. If COMMAND is unset, a person at a
// terminal gets a shell; otherwise the image's own command runs.
func (o runOptions) request(create model.Create, atTerminal bool) api.Run {
	switch {
	case o.remove && o.detach:
		create.Remove = model.RemoveOnStop
	case o.remove:
		create.Remove = model.RemoveOnDetach
	}
	shell := len(o.argv) == 0 && !o.entrypoint && !o.detach && atTerminal
	return api.Run{
		VM:         create,
		Exec:       proto.ExecRequest{Argv: o.argv, TTY: o.tty || shell, Stdin: !o.detach, Detach: o.detach},
		Entrypoint: o.entrypoint || len(o.argv) == 0 && !shell,
		Timeout:    o.timeout,
	}
}

// runDetached starts a VM and prints its name.
func runDetached(ctx context.Context, create model.Create, o runOptions, a *command.App) error {
	if o.remove {
		create.Remove = model.RemoveOnStop
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var vm model.VM
	var name string
	err = a.WithProgress("Starting a VM", func(report step.Reporter) error {
		vm, err = client.VMs().Launch(ctx, create, func(e step.Event) {
			if e.Step == api.EventVM {
				name = e.Detail
				return
			}
			report.Report(e)
		})
		return err
	})
	if err != nil {
		noteKept(a, client, name)
		return err
	}
	fmt.Fprintln(a.Out, ui.Clean(vm.Spec.Name))
	return nil
}

// noteKept notes that a failed command's VM still exists and what can be done with it. The daemon
// deletes the VM of an interrupted start itself.
func noteKept(a *command.App, client *api.Client, name string) {
	if name == "" {
		return
	}
	// The command's own context may be cancelled.
	ctx, cancel := context.WithTimeout(context.Background(), item.ExplainTimeout)
	defer cancel()
	vm, err := client.VMs().Get(ctx, name)
	switch {
	case err != nil:
	case vm.State == model.Running:
		a.Note("%s is running. Use it: banger exec %s -- COMMAND. Remove it: banger rm -f %s", name, name, name)
	case vm.State == model.Failed || vm.State == model.Broken:
		a.Note("%s is kept. Start it again: banger vm start %s. Remove it: banger rm %s", name, name, name)
	}
}
