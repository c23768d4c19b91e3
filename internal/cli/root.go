package cli

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/command"
)

//go:generate go run ./gen

// NewCommands returns the tree of all commands, from which the reference is made. The commands
// cannot be run.
func NewCommands() *cobra.Command { return newRootCmd(&command.App{}) }

// Groups returns the groups of a tree that NewCommands returned.
func Groups(root *cobra.Command) []command.Group {
	groups := topCommands(&command.App{})
	for _, g := range groups {
		for i, c := range g.Commands {
			g.Commands[i], _, _ = root.Find([]string{c.Name()}) // newRootCmd adds them all
		}
	}
	return groups
}

func topCommands(a *command.App) []command.Group {
	return []command.Group{
		{Title: "Everyday commands", Commands: []*cobra.Command{
			newRunCmd(a), newExecCmd(a), newSSHCmd(a), newListCmd(a, "ps"), newLogsCmd(a), newCpCmd(a), newStartCmd(a), newStopCmd(a),
			newForkCmd(a), newPauseCmd(a), newResumeCmd(a), newSuspendCmd(a), newDeleteCmd(a, "rm"),
		}},
		{Title: "Management", Commands: []*cobra.Command{
			newVMCmd(a), newImageCmd(a), newKernelCmd(a), newSnapshotCmd(a), newTemplateCmd(a), newDiskCmd(a), newUsageCmd(a, "df"),
		}},
		{Title: "System", Commands: []*cobra.Command{
			newDaemonCmd(a), newDoctorCmd(a), newConfigCmd(a), newSSHConfigCmd(a), newCompletionCmd(a), newVersionCmd(a),
		}},
	}
}

// newRootCmd builds the tree of all commands.
func newRootCmd(a *command.App) *cobra.Command {
	var showVersion bool
	root := command.NewGroup("banger", "A real Linux machine per task, in one command",
		`banger starts isolated microVMs from any OCI image, runs commands and shells in them, and deletes them afterwards.`)
	root.Example = `banger run --rm -- uname -a              # a command in a fresh VM
banger run                               # a shell in a fresh VM
banger run -d --name web --image nginx   # a VM that keeps running
banger exec web -- cat /etc/hostname
banger rm -f web`
	group := root.RunE
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if showVersion {
			return runVersion(cmd.Context(), versionOptions{}, a)
		}
		return group(cmd, args)
	}
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(command.FlagError)
	groups := topCommands(a)
	for _, g := range groups {
		root.AddCommand(g.Commands...)
	}
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { command.PrintHelp(a, cmd, groups) })
	root.AddCommand(command.NewExitCodes(), command.NewEnvironment())
	root.SetHelpCommand(command.NewHelp(root))
	command.PlaceFlags(root)
	return root
}

// newVMCmd returns the commands on VMs.
func newVMCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("vm", "Manage VMs", `NAME is a VM's name, its id, or a unique prefix of its id.`)
	cmd.AddCommand(
		newRunCmd(a), newCreateCmd(a), newStartCmd(a), newStopCmd(a), newKillCmd(a), newRestartCmd(a), newDeleteCmd(a, "delete"),
		newForkCmd(a), newPauseCmd(a), newResumeCmd(a), newSuspendCmd(a), newVMRestoreCmd(a),
		newListCmd(a, "list"), newShowCmd(a), newSetCmd(a), newRenameCmd(a), newLogsCmd(a), newExecCmd(a), newSSHCmd(a), newCpCmd(a),
		newStatsCmd(a), newPortsCmd(a), newPruneVMsCmd(a), newProxyCmd(a),
	)
	return cmd
}
