package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/fault"
)

// NewExitCodes returns the help topic on exit statuses.
func NewExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "Exit status of commands",
		Long: fmt.Sprintf(`Commands that run a program in a guest (run, exec, ssh) exit with:

  0-255  the status of the program; 128+n if signal n ended it; 126 or 127 if
         it could not be started, as in a shell
  %d    banger failed before the program ran, lost the connection to it, or
         could not write its output
  124    --timeout ended the program
  130    you interrupted the program

All other commands exit with:

  0      success
  %d     the input is invalid: a flag, a name, a size
  %d     stored data is damaged: a record, the database
  %d     the item does not exist
  %d     the name is taken
  %d     the VM's present state does not allow this
  %d     the daemon, a registry or the guest does not answer, the host lacks
         space or memory, or the answer could not be written
  %d     internal error: a bug, or a fault of the host
  %d     this host, driver or image does not support this
  %d     another operation holds a lock on the item
  %d     permission denied
  %d    interrupted`, ExitFailed,
			fault.Invalid.ExitCode(), fault.Damaged.ExitCode(), fault.NotFound.ExitCode(), fault.Exists.ExitCode(), fault.WrongState.ExitCode(),
			fault.Unavailable.ExitCode(), fault.Internal.ExitCode(), fault.Unsupported.ExitCode(), fault.Locked.ExitCode(),
			fault.Denied.ExitCode(), fault.Canceled.ExitCode()),
	}
}

// NewEnvironment returns the help topic on environment variables.
func NewEnvironment() *cobra.Command {
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
