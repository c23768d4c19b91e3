package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/fault"
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
	root.AddCommand(newExitCodesTopic(), newEnvironmentTopic())
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

func newExitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "Exit status of commands",
		Long: fmt.Sprintf(`Commands that run a program in a guest (run, exec, ssh) exit with:

  0-255  the status of the program; 128+n if signal n ended it; 126 or 127 if
         it could not be started, as in a shell
  %d    banger failed before the program ran, or lost the connection to it
  124    --timeout ended the program
  130    you interrupted the program

All other commands exit with:

  0      success
  %d     the input is invalid: a flag, a name, a size
  %d     the item does not exist
  %d     the name is taken
  %d     the VM's present state does not allow this
  %d     the daemon, a registry or the guest does not answer
  %d     internal error: a bug, or a fault of the host
  %d     this host, driver or image does not support this
  %d     another operation holds a lock on the item
  %d     permission denied
  %d    interrupted`, command.ExitFailed,
			fault.Invalid.ExitCode(), fault.NotFound.ExitCode(), fault.Exists.ExitCode(), fault.WrongState.ExitCode(),
			fault.Unavailable.ExitCode(), fault.Internal.ExitCode(), fault.Unsupported.ExitCode(), fault.Locked.ExitCode(),
			fault.Denied.ExitCode(), fault.Canceled.ExitCode()),
	}
}

func newEnvironmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "Environment variables that banger reads",
		Long: `BANGER_HOME      the directory of all files: configuration, state, cache,
                 sockets. If unset, banger uses the XDG directories; for
                 root, directories such as /var/lib/banger
BANGER_*         a configuration key, such as BANGER_MEMORY for memory; see
                 ` + "`banger config show`" + `
DOCKER_CONFIG    the directory of docker's config.json, which has the
                 credentials for registries
HTTPS_PROXY      the proxy for registries. The daemon uses the values of
                 DOCKER_CONFIG and HTTPS_PROXY from its own start. To change
                 them: banger daemon restart
NO_COLOR         if set to any value: no colours
TERM=dumb        no colours and no live progress`,
	}
}
