package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/cli/ui"
	"banger/internal/fault"
)

//go:generate go run ./gen

// Group holds commands that the top help lists under one title.
type Group struct {
	Title    string
	Commands []*cobra.Command
}

// NewCommands returns the tree of all commands, from which the reference is made. The commands
// cannot be run.
func NewCommands() *cobra.Command { return newRootCmd(&app{}) }

// Groups returns the groups of a tree that NewCommands returned.
func Groups(root *cobra.Command) []Group {
	groups := topCommands(&app{})
	for _, g := range groups {
		for i, c := range g.Commands {
			g.Commands[i], _, _ = root.Find([]string{c.Name()}) // newRootCmd adds them all
		}
	}
	return groups
}

func topCommands(a *app) []Group {
	return []Group{
		{"Everyday commands", []*cobra.Command{
			newRunCmd(a), newExecCmd(a), newSSHCmd(a), newListCmd(a, "ps"), newLogsCmd(a), newCpCmd(a), newStartCmd(a), newStopCmd(a),
			newForkCmd(a), newPauseCmd(a), newResumeCmd(a), newSuspendCmd(a), newDeleteCmd(a, "rm"),
		}},
		{"Management", []*cobra.Command{
			newVMCmd(a), newImageCmd(a), newKernelCmd(a), newSnapshotCmd(a), newTemplateCmd(a), newDiskCmd(a), newUsageCmd(a, "df"),
		}},
		{"System", []*cobra.Command{
			newDaemonCmd(a), newDoctorCmd(a), newConfigCmd(a), newSSHConfigCmd(a), newCompletionCmd(a), newVersionCmd(a),
		}},
	}
}

// newRootCmd builds the tree of all commands.
func newRootCmd(a *app) *cobra.Command {
	var showVersion bool
	root := newGroupCmd("banger", "A real Linux machine per task, in one command",
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
	root.SetFlagErrorFunc(flagError)
	groups := topCommands(a)
	for _, g := range groups {
		root.AddCommand(g.Commands...)
	}
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { printHelp(a, cmd, groups) })
	root.AddCommand(newExitCodesTopic(), newEnvironmentTopic())
	root.SetHelpCommand(newHelpCmd(root))
	placeFlags(root)
	return root
}

// placeFlags puts [flags] before the arguments in the usage line of each command that has flags.
// cobra would put it after them.
func placeFlags(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	if !cmd.HasSubCommands() && cmd.HasAvailableFlags() {
		name, args, _ := strings.Cut(cmd.Use, " ")
		cmd.Use = strings.TrimSuffix(name+" [flags] "+args, " ")
	}
	for _, c := range cmd.Commands() {
		placeFlags(c)
	}
}

// newHelpCmd replaces cobra's help command, which ignores words that are no command.
func newHelpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command or topic",
		RunE: func(_ *cobra.Command, words []string) error {
			cmd := root
			for i, word := range words {
				next, _, err := cmd.Find([]string{word})
				if err != nil || next == cmd {
					return unknownCommand(cmd, words[i])
				}
				cmd = next
			}
			return cmd.Help()
		},
		ValidArgsFunction: func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			cmd := root
			if len(words) > 0 {
				cmd, _, _ = root.Find(words)
			}
			var names []string
			for _, c := range cmd.Commands() {
				if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// newGroupCmd returns a command that only holds others. Without arguments it prints its help. A
// word that is no command is an error, with the nearest command as a hint.
func newGroupCmd(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
}

func unknownCommand(cmd *cobra.Command, word string) error {
	err := fault.New(fault.Invalid, "%s has no command %q", cmd.CommandPath(), word)
	if near := nearestCommand(cmd, word); near != "" {
		return err.WithHint("Did you mean `%s`?", near)
	}
	return err.WithHint("See `%s --help`.", cmd.CommandPath())
}

// nearestCommand returns the path of the command below cmd that word most likely means, or "". At
// the top, that may be a command on VMs.
func nearestCommand(cmd *cobra.Command, word string) string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if slices.Contains(c.SuggestFor, word) {
			return c.CommandPath()
		}
		names = append(append(names, c.Name()), c.Aliases...)
	}
	if !cmd.HasParent() {
		if vm, _, err := cmd.Find([]string{"vm", word}); err == nil && vm.Parent() != cmd {
			return vm.CommandPath()
		}
	}
	if near := ui.Closest(word, names); near != "" {
		return cmd.CommandPath() + " " + near
	}
	return ""
}

// newVMCmd returns the commands on VMs.
func newVMCmd(a *app) *cobra.Command {
	cmd := newGroupCmd("vm", "Manage VMs", `NAME is a VM's name, its id, or a unique prefix of its id.`)
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
  %d    interrupted`, exitBanger,
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
