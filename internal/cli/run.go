package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

type runOptions struct {
	spec       specFlags
	remove     bool
	detach     bool
	tty        bool
	entrypoint bool
	timeline   bool
	timeout    time.Duration
	argv       []string
}

func newRunCmd(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [--] [COMMAND [ARG...]]",
		Short: "Run a command or a shell in a new VM",
		Long: `Makes a VM, boots it, and runs the command in it. What is missing (image, kernel) is made first.

Without a command: a login shell when standard input and output are terminals, else what the image runs (its Entrypoint and Cmd).

Standard input is always passed on, so in a shell's loop redirect it from /dev/null. Standard output and error stay apart, unless the command has a terminal of its own. The first Ctrl-C goes to the command, the second one ends it. When a VM with a terminal has ceased to answer, press Ctrl-] three times within a second.`,
		Example: `banger run --rm -- cat /etc/os-release
echo hi | banger run --rm -- cat
banger run --name dev --image debian:bookworm --memory 2G
banger run -d --name web --image nginx --entrypoint
banger run --rm --timeout 5m -e CI -w /src -- make test`,
		Annotations: map[string]string{runsGuest: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.argv = args
			create, err := o.spec.resolve(a, cmd.Flags())
			if err != nil {
				return err
			}
			if err := o.check(); err != nil {
				return err
			}
			if err := a.configure(&create); err != nil {
				return err
			}
			if o.detach && len(o.argv) == 0 && !o.entrypoint {
				return interruptible(func(ctx context.Context, _ []string) error { return runDetached(ctx, create, o, a) })(cmd, args)
			}
			return runRun(cmd.Context(), create, o, a)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the command's flags are its own
	o.spec.add(a, cmd)
	addCold(cmd, &o.spec.create.Cold)
	flags.BoolVar(&o.remove, "rm", false, "delete the VM when the command ends; with -d when the VM stops")
	flags.BoolVarP(&o.detach, "detach", "d", false, "print the VM's name and return when it is up and COMMAND, if any, runs; its output is in the VM's log")
	flags.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	flags.BoolP("interactive", "i", false, "for those used to it: standard input is always passed on")
	flags.BoolVar(&o.entrypoint, "entrypoint", false, "make COMMAND the arguments of the image's entrypoint")
	flags.BoolVar(&o.timeline, "timeline", false, "draw where the time went to standard error, from this program's start to its end")
	flags.DurationVar(&o.timeout, "timeout", 0, "end the command after this `time`, with exit status 124")
	setExample(flags, "timeout", "90s")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// check refuses flags that contradict each other.
func (o runOptions) check() error {
	switch {
	case o.timeout < 0:
		return fault.New(fault.Invalid, "--timeout: %v is negative", o.timeout).WithHint("For example: --timeout 90s")
	case o.detach && o.tty:
		return fault.New(fault.Invalid, "--detach and --tty do not go together").WithHint("Use `banger exec -t NAME` when the VM is up.")
	case o.detach && o.timeline:
		return fault.New(fault.Invalid, "--detach and --timeline do not go together").WithHint("Use `banger vm show --timeline NAME` when the VM is up.")
	case o.detach && o.timeout > 0:
		return fault.New(fault.Invalid, "--detach and --timeout do not go together").WithHint("Leave one of them out.")
	}
	return nil
}

// runRun runs a command in a new VM and returns its exit status as an error of type status. A detached command runs on, and the VM's name is
// printed.
func runRun(ctx context.Context, create model.Create, o runOptions, a *app) error {
	req := o.request(create, terminal(a.In) != nil && terminal(a.Out) != nil)
	sess := a.session(&req.Exec)
	sess.Boot = true
	if o.detach {
		sess.In = nil
	}
	progress := a.progress("Starting a VM")
	defer progress.Close()
	var name string
	var left string // what the daemon could not take away
	timeline := &runTimeline{began: a.began}
	sess.Ended = timeline.end
	sess.Event = func(e step.Event) {
		timeline.take(e)
		switch {
		case e.Step == api.EventVM:
			name = e.Detail
			progress.Title("Starting " + name)
		case e.Step == api.EventDelete && e.Phase == step.Failed:
			left = fmt.Sprintf("%s is not deleted: %s", e.Detail, e.Error)
		case e.Step != api.EventExec:
			progress.Report(e)
		}
	}
	sess.Started = progress.Close
	var client *api.Client
	code, err := withSignals(func(signals <-chan os.Signal) (_ int, err error) {
		if client, err = a.connectUnless(ctx, signals); err != nil {
			return 0, err
		}
		timeline.ask()
		if sess.Stream, err = client.Run(ctx, req); err != nil {
			return 0, err
		}
		return sess.Run(ctx, signals)
	})
	progress.Close()
	if o.timeline {
		timeline.write(a)
	}
	if left != "" {
		a.note("%s", left)
		a.hint("banger rm -f " + name)
	}
	if err != nil {
		if left == "" {
			a.noteLeft(client, name)
		}
		return err
	}
	switch {
	case o.detach && code == 0:
		fmt.Fprintln(a.Out, ui.Clean(name))
	case name != "" && !o.remove && terminal(a.Err) != nil:
		a.note("%s is still running. Use it: banger exec %s -- COMMAND. Remove it: banger rm -f %s", name, name, name)
	}
	return exitStatus(code)
}

// request says what the daemon shall make and run. Without a command a person at a terminal gets a shell; a program gets what the image runs.
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

// exitStatus is nil for 0.
func exitStatus(code int) error {
	if code == 0 {
		return nil
	}
	return status(code)
}

// session returns a session on the app's streams for the request, whose terminal size it fills in.
func (a *app) session(req *proto.ExecRequest) *session.Session {
	s := &session.Session{In: a.In, Out: a.Out, Err: a.Err}
	s.Nudge = func() {
		if terminal(a.Err) != nil {
			a.note("The command got the signal and goes on. Press Ctrl-C again to end it.")
		}
	}
	if !req.TTY {
		return s
	}
	if f := terminal(a.In); f != nil {
		s.Terminal = session.NewTerminal(f)
		if size, err := s.Terminal.Size(); err == nil {
			req.Size = &size
		}
	}
	if name := a.getenv("TERM"); name != "" {
		req.Env = append([]string{"TERM=" + name}, req.Env...) // the user's own --env wins
	}
	return s
}

// connectUnless connects to the daemon, and gives up when a signal comes: starting it can take a moment.
func (a *app) connectUnless(ctx context.Context, signals <-chan os.Signal) (*api.Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		client *api.Client
		err    error
	}
	connected := make(chan result, 1)
	go func() {
		client, err := a.connect(ctx)
		connected <- result{client, err}
	}()
	for {
		select {
		case r := <-connected:
			return r.client, r.err
		case sig := <-signals:
			if session.Ends(sig) {
				cancel()
			}
		}
	}
}

// runDetached starts a VM and prints its name.
func runDetached(ctx context.Context, create model.Create, o runOptions, a *app) error {
	if o.remove {
		create.Remove = model.RemoveOnStop
	}
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var vm model.VM
	var name string
	err = a.withProgress("Starting a VM", func(report step.Reporter) error {
		vm, err = client.LaunchVM(ctx, create, func(e step.Event) {
			if e.Step == api.EventVM {
				name = e.Detail
				return
			}
			report.Report(e)
		})
		return err
	})
	if err != nil {
		a.noteLeft(client, name)
		return err
	}
	fmt.Fprintln(a.Out, ui.Clean(vm.Spec.Name))
	return nil
}

// noteLeft says that the VM which a failed command made is there, and what can be done with it. One that is called off goes by itself.
func (a *app) noteLeft(client *api.Client, name string) {
	if name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // not the command's, which may have been interrupted
	defer cancel()
	vm, lookErr := client.VM(ctx, name)
	switch {
	case lookErr != nil:
	case vm.State == model.Running:
		a.note("%s is running. Use it: banger exec %s -- COMMAND. Remove it: banger rm -f %s", name, name, name)
	case vm.State == model.Failed || vm.State == model.Broken:
		a.note("%s is kept. Start it again: banger vm start %s. Remove it: banger rm %s", name, name, name)
	}
}
