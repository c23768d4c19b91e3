package cli

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/session"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/step"
)

type execOptions struct {
	env     []string
	workdir string
	user    string
	tty     bool
	timeout time.Duration
	name    string
	argv    []string
}

func newExecCmd(a *command.App) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec NAME [--] [COMMAND [ARG...]]",
		Short: "Run a command in a running VM",
		Long: `Runs the command with the environment, user and working directory of the image and the VM. If COMMAND is unset, banger runs a login shell.

If banger suspended the VM because it was idle, banger resumes it first.

Standard input always goes to the command. In a loop of a shell script, redirect it from /dev/null. The first Ctrl-C goes to the command. The second Ctrl-C ends it. If the command does not run yet, or the VM is held or paused, the first Ctrl-C ends it.`,
		Example: `banger exec web -- ps aux
banger exec -it web bash
tar c src | banger exec web -- tar x -C /root
banger exec -u nobody -w /tmp -e DEBUG=1 web -- env`,
		Annotations: map[string]string{command.RunsGuest: "yes"},
		Args:        command.WantArgs("NAME..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.argv = args[0], args[1:]
			if len(o.argv) > 0 && o.argv[0] == "--" {
				o.argv = o.argv[1:]
			} else if len(o.argv) > 0 && strings.HasPrefix(o.argv[0], "-") {
				return command.Usage(cmd, "%s is after NAME: flags must be before NAME", o.argv[0])
			}
			return runExec(cmd.Context(), o, a)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the command's flags are its own
	flags.StringArrayVarP(&o.env, "env", "e", nil,
		"set this environment variable, `NAME=VALUE`; NAME alone copies its value from here")
	flags.StringVarP(&o.workdir, "workdir", "w", "", "working `directory` of the command")
	flags.StringVarP(&o.user, "user", "u", "", "`user` of the command: a name or uid, optionally with :group")
	flags.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	flags.BoolP("interactive", "i", false, "has no effect: standard input always goes to the command")
	flags.DurationVar(&o.timeout, "timeout", 0, "end the command after this `time`, with exit status 124")
	command.SetExample(flags, "env", "EDITOR=vim")
	command.SetExample(flags, "timeout", "90s")
	cmd.ValidArgsFunction = command.FirstArg(completeUsable(a))
	return cmd
}

// runExec runs a command in a running VM and returns its exit status as an error of type status.
func runExec(ctx context.Context, o execOptions, a *command.App) error {
	if o.timeout < 0 {
		return fault.New(fault.Invalid, "--timeout: %v is negative", o.timeout).WithHint("For example: --timeout 90s")
	}
	env, err := vmflag.Env(a, o.env)
	if err != nil {
		return err
	}
	shell := len(o.argv) == 0 && ui.Terminal(a.In) != nil && ui.Terminal(a.Out) != nil
	req := proto.ExecRequest{Argv: o.argv, Env: env, User: o.user, Workdir: o.workdir, TTY: o.tty || shell, Stdin: true}
	sess := newSession(a, &req)
	sess.Timeout = o.timeout
	sess.Grace = 5 * time.Second // only a process must be ended
	progress := a.Progress("Running a command in " + o.name)
	defer progress.Close()
	sess.Event = func(e step.Event) {
		if e.Step == api.EventExec { // from here on standard error is the command's
			progress.Close()
		}
		progress.Report(e)
	}
	code, err := session.WithSignals(func(signals <-chan os.Signal) (int, error) {
		client, err := session.Unless(ctx, signals, a.Connect)
		if err != nil {
			return 0, err
		}
		sess.Stuck = stuck(client, func() string { return o.name })
		sess.Stream, err = session.Unless(ctx, signals, func(ctx context.Context) (session.Stream, error) {
			defer step.Waiting(step.WithWaits(ctx, progress.Report), "VM "+o.name+", which is not ready", 0)()
			return client.Guests().Exec(ctx, o.name, req)
		})
		if err != nil {
			return 0, explainVM(ctx, client, o.name, err)
		}
		return sess.Run(ctx, signals)
	})
	progress.Close()
	if err != nil {
		return err
	}
	return exitStatus(code)
}
