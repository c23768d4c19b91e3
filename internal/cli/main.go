// Package cli is the banger program. It holds no logic: a command parses its flags, calls the
// daemon's API, and prints the answer.
//
// A command is a constructor (newXCmd), an options struct that its flags fill, and a function
// runX(ctx, options, app) error. The packages below hold what is not one command's own:
//
//   - command: the app, arguments, flags, completion, help, errors and exit statuses
//   - item: the commands that most kinds of items have (list, show, delete, prune)
//   - vmflag: the flags that describe VMs
//   - render: the tables and details of items, from API types to text
//   - ui: tables, text, colours and progress on terminals
//   - session: a command in a guest on this terminal
//   - transfer, openssh, logfile, bundle: files and programs of this host
//
// No command exits the process or prints an error. Main does both in one place, command.App.Exit.
// Standard output carries only the result. Progress, notes and errors go to standard error. If
// the result cannot be written, the command fails: ui.Output keeps the error, and Exit reports it.
package cli

import (
	"context"
	"time"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
)

// Stdio holds a program's standard streams.
type Stdio = command.Stdio

// Main runs banger with the arguments after the program's name and returns its exit status. env has
// the form of os.Environ.
func Main(args []string, stdio Stdio, env []string) int {
	stdio.Out = ui.NewOutput(stdio.Out)
	a := &command.App{Stdio: stdio, Env: env, Began: time.Now()}
	root := newRootCmd(a)
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	cmd, err := root.ExecuteContextC(context.Background())
	return a.Exit(cmd, args, err)
}
