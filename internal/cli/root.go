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

// Group is some commands under a title of the top help, in the order to read them.
type Group struct {
	Title    string
	Commands []*cobra.Command
}

// NewCommands returns the tree of all commands, to look at: for the reference that is made of it.
func NewCommands() *cobra.Command { return newRootCmd(&app{}) }

// Groups returns the groups of a tree that NewCommands made.
func Groups(root *cobra.Command) []Group {
	groups := topCommands(&app{})
	for _, g := range groups {
		for i, c := range g.Commands {
			g.Commands[i], _, _ = root.Find([]string{c.Name()}) // it is there: newRootCmd adds all of topCommands
		}
	}
	return groups
}

func topCommands(a *app) []Group {
	return []Group{
		{"Every day", []*cobra.Command{newRunCmd(a), newExecCmd(a), newSSHCmd(a), newListCmd(a, "ps"), newLogsCmd(a), newCpCmd(a), newStartCmd(a), newStopCmd(a), newForkCmd(a), newPauseCmd(a), newResumeCmd(a), newSuspendCmd(a), newDeleteCmd(a, "rm")}},
		{"Manage", []*cobra.Command{newVMCmd(a), newImageCmd(a), newKernelCmd(a), newSnapshotCmd(a), newTemplateCmd(a), newDiskCmd(a), newUsageCmd(a, "df")}},
		{"The system", []*cobra.Command{newDaemonCmd(a), newDoctorCmd(a), newConfigCmd(a), newSSHConfigCmd(a), newCompletionCmd(a), newVersionCmd(a)}},
	}
}

// newRootCmd builds the tree of all commands.
func newRootCmd(a *app) *cobra.Command {
	var showVersion bool
	root := newGroupCmd("banger", "A real Linux machine per task, in one command", `banger boots isolated microVMs from any OCI image, runs commands and shells in them, and throws them away.`)
	root.Example = `banger run --rm -- uname -a              # a command in a fresh VM
banger run                               # a shell in a fresh VM
banger run -d --name web --image nginx   # a VM that stays
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

// placeFlags has the usage line of each command that has flags say so before its arguments, where cobra says it after them.
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

// newHelpCmd replaces cobra's command, which takes words that are no command for the one before them.
func newHelpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command or a topic",
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

// newGroupCmd returns a command that only holds others. Without arguments it prints its help; a word that is no command is an error with
// the nearest one as a hint.
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

// nearestCommand is the path of the command below cmd that was most likely meant by word, or "". A command on VMs whose "vm" was left
// out is near, too.
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
	cmd := newGroupCmd("vm", "Make, use and remove VMs", `A VM is named by its name, its id, or a unique prefix of its id.`)
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
		Short: "What the exit status says",
		Long: fmt.Sprintf(`Commands that run something in a guest (run, exec, ssh) exit with its status:

  0-255  the command's own; 128+n when signal n ended it; 126 and 127 when it
         could not be started, as in a shell
  %d    banger failed before the command could run, or lost it
  124    --timeout was over
  130    interrupted

All other commands:

  0      done
  %d     the input cannot be right: a flag, a name, a size
  %d     what was named does not exist
  %d     the name is taken
  %d     not possible in the present state
  %d     something needed does not answer: the daemon, a registry, the guest
  %d     an internal error: a bug, or a host that misbehaves
  %d     this host, driver or image cannot do that
  %d     somebody else is at work on it
  %d     not allowed
  %d    interrupted`, exitBanger,
			fault.Invalid.ExitCode(), fault.NotFound.ExitCode(), fault.Exists.ExitCode(), fault.WrongState.ExitCode(),
			fault.Unavailable.ExitCode(), fault.Internal.ExitCode(), fault.Unsupported.ExitCode(), fault.Locked.ExitCode(),
			fault.Denied.ExitCode(), fault.Canceled.ExitCode()),
	}
}

func newEnvironmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "The variables that banger reads",
		Long: `BANGER_HOME      one folder for everything: configuration, state, cache, sockets.
                 Without it: the XDG folders, or those of the system for root
BANGER_*         a configuration key, such as BANGER_MEMORY for memory; see
                 ` + "`banger config show`" + `
DOCKER_CONFIG    the folder of docker's config.json, with the credentials for
HTTPS_PROXY      registries, and the way to them: those that the daemon was
                 started with; banger daemon restart takes up others
NO_COLOR         set to anything: no colours
TERM=dumb        no colours and no moving progress`,
	}
}
