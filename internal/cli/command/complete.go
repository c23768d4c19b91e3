package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
)

// completionTimeout bounds how long the shell waits for names. Completion does not start a daemon.
const completionTimeout = time.Second

// Completer returns the words that complete an argument or a flag's value.
type Completer = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective)

// CompleteFlag sets the function that completes a flag's value.
func CompleteFlag(cmd *cobra.Command, flag string, f Completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a mistake in this package, which every test would show
	}
}

// Words completes with fixed words.
func Words(words ...cobra.Completion) Completer {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// FirstArg completes the first argument only.
func FirstArg(f Completer) Completer {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return f(cmd, args, word)
	}
}

// Ask puts a question to the daemon and returns its completions. If the daemon does not run or does
// not answer in time, there are none.
func (a *App) Ask(cmd *cobra.Command, question func(context.Context, *api.Client) []cobra.Completion) (
	[]cobra.Completion, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	layout, err := a.Layout()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, err := api.Connect(ctx, layout, false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	return question(ctx, client), cobra.ShellCompDirectiveNoFileComp
}
