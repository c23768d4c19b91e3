package cli

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/fault"
)

func newCompletionCmd(a *command.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a shell's completion script",
		Long:  "The script completes commands, flags, and the names of VMs, images, kernels, snapshots and templates. In bash it needs the package bash-completion.",
		Example: `source <(banger completion bash)   # in ~/.bashrc
source <(banger completion zsh)    # in ~/.zshrc
banger completion fish | source    # in ~/.config/fish/config.fish`,
		Args: command.WantArgs("SHELL"),
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
	cmd.ValidArgsFunction = command.Words("bash", "zsh", "fish")
	return cmd
}
