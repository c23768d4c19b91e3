package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/vmflag"
	"banger/internal/model"
)

// newListCmd returns the command under one of its names: "list" among the vm commands, "ps" at the
// top.
func newListCmd(a *command.App, name string) *cobra.Command {
	var filters []string
	k := vmKind()
	k.Keep = func() (func(model.VM) bool, error) { return vmflag.Filter(filters) }
	cmd := k.ListCmd(a)
	cmd.Long = "Lists all VMs, running or not, oldest first. If several filters have the same key, a VM must match one of them. It must match every key."
	cmd.Example = "banger ps\nbanger ps --filter state=running\nbanger ps -q --filter label=team=web --filter image='debian:*'"
	if name == "list" {
		cmd.Aliases = []string{"ls", "ps"}
		cmd.Example = strings.ReplaceAll(cmd.Example, "banger ps", "banger vm list")
	} else {
		cmd.Use, cmd.Aliases = name, nil
	}
	cmd.Flags().StringArrayVar(&filters, "filter", nil,
		"list only VMs with this `KEY=VALUE`; KEY is state, name, image, net or label; VALUE may hold * and ?")
	command.SetExample(cmd.Flags(), "filter", "state=running")
	command.CompleteFlag(cmd, "filter", command.Words("state=running", "state=stopped", "state=paused", "state=suspended", "state=error",
		"name=", "image=", "label=", "net=user", "net=none"))
	return cmd
}
