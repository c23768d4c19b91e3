package cli

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/vmflag"
)

// addSpec adds the flags of a new VM to a command and completes their values.
func addSpec(a *command.App, cmd *cobra.Command, s *vmflag.Spec) {
	s.Add(cmd)
	completeShape(a, cmd)
}

// completeShape completes the values of the flags that describe a VM's machine.
func completeShape(a *command.App, cmd *cobra.Command) {
	command.CompleteFlag(cmd, "image", imageKind().Complete(a, nil))
	command.CompleteFlag(cmd, "kernel", kernelKind().Complete(a, nil))
}
