package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

// completionTimeout bounds how long the shell waits for names. A daemon is not started for them.
const completionTimeout = time.Second

type completer = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective)

// complete sets what completes a flag's value.
func complete(cmd *cobra.Command, flag string, f completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag does not exist, or has a completion: a mistake in this package, which every test would show
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

// ask runs a question to the daemon within the time that a person at a prompt has. Without an answer there are no completions.
func (a *app) ask(cmd *cobra.Command, question func(context.Context, *api.Client) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
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

// completeVMs completes with the names of VMs in a state that pass accepts; nil accepts all.
func (a *app) completeVMs(pass func(model.State) bool) completer {
	return a.completeVMsThat(func(vm model.VM) bool { return pass == nil || pass(vm.State) })
}

func (a *app) completeVMsThat(pass func(model.VM) bool) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
			vms, err := client.VMs(ctx)
			if err != nil {
				return nil
			}
			var names []cobra.Completion
			for _, vm := range vms {
				if pass(vm) && !slices.Contains(args, vm.Spec.Name) {
					what := fmt.Sprintf("%s, %s", vm.State, ui.Clean(shortRef(vm.Spec.Image)))
					names = append(names, cobra.CompletionWithDesc(ui.Clean(vm.Spec.Name), what))
				}
			}
			return names
		})
	}
}

func (a *app) completeRunning(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completeVMs(func(s model.State) bool { return s == model.Running })(cmd, args, word)
}

// completeUsable completes with the VMs that a command can run in: those that run, and those that it wakes.
func (a *app) completeUsable(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completeVMsThat(func(vm model.VM) bool {
		return vm.State == model.Running || vm.State == model.Suspended && vm.Spec.IdleSuspend > 0
	})(cmd, args, word)
}

// endable tells whether there is something of a VM's machine to end.
func endable(s model.State) bool { return s.Live() || s == model.Suspended }

func (a *app) completeImages(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
		images, err := client.Images(ctx)
		if err != nil {
			return nil
		}
		var names []cobra.Completion
		for _, i := range images {
			for _, name := range i.Names {
				if short := ui.Clean(shortRef(name)); !slices.Contains(args, short) {
					names = append(names, cobra.CompletionWithDesc(short, i.Size.String()))
				}
			}
		}
		return names
	})
}

func (a *app) completeKernels(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
		kernels, err := client.Kernels(ctx)
		if err != nil {
			return nil
		}
		var names []cobra.Completion
		for _, k := range kernels {
			for _, name := range k.Names {
				if !slices.Contains(args, name) {
					names = append(names, cobra.CompletionWithDesc(ui.Clean(name), ui.Clean(k.Version)))
				}
			}
		}
		return names
	})
}

func newCompletionCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes commands, flags and names",
		Long:  "Prints a script that completes commands, flags and the names of what is there. In bash it needs the package bash-completion.",
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
			return fault.New(fault.Invalid, "there are no completions for %q", args[0]).WithHint("Choose one of bash, zsh and fish.")
		},
	}
	cmd.ValidArgsFunction = completeWords("bash", "zsh", "fish")
	return cmd
}
