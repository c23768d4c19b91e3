package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/fault"
)

// completionTimeout bounds how long the shell waits for names. Completion does not start a daemon.
const completionTimeout = time.Second

type completer = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective)

// complete sets the function that completes a flag's value.
func complete(cmd *cobra.Command, flag string, f completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a mistake in this package, which every test would show
	}
}

// completeWords completes with fixed words.
func completeWords(words ...cobra.Completion) completer {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// firstArg completes the first argument only.
func firstArg(f completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return f(cmd, args, word)
	}
}

// ask puts a question to the daemon and returns its completions. If the daemon does not run or does
// not answer in time, there are none.
func (a *app) ask(cmd *cobra.Command, question func(context.Context, *api.Client) []cobra.Completion) (
	[]cobra.Completion, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	layout, err := a.layout()
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

func newCompletionCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a shell's completion script",
		Long:  "The script completes commands, flags, and the names of VMs, images, kernels, snapshots and templates. In bash it needs the package bash-completion.",
		Example: `source <(banger completion bash)   # in ~/.bashrc
source <(banger completion zsh)    # in ~/.zshrc
banger completion fish | source    # in ~/.config/fish/config.fish`,
		Args: wantArgs("SHELL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			}
			return fault.New(fault.Invalid, "there is no completion script for %q", args[0]).
				WithHint("Choose one of bash, zsh and fish.")
		},
	}
	cmd.ValidArgsFunction = completeWords("bash", "zsh", "fish")
	return cmd
}
