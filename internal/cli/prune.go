package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/model"
)

func newPruneVMsCmd(a *command.App) *cobra.Command {
	return item.Prune{
		Short:    "Delete the VMs that are stopped or have failed",
		Long:     "Deletes all VMs in the states stopped and error, with their disks.",
		Example:  "banger vm prune --yes",
		Question: func() string { return "Delete all VMs that are stopped or have failed?" },
		Delete:   func(c *api.Client, ctx context.Context) (model.Pruned, error) { return c.VMs().Prune(ctx) },
	}.Cmd(a)
}

func newImagePruneCmd(a *command.App) *cobra.Command {
	return item.Prune{
		Short:    "Delete images that nothing uses",
		Long:     "Deletes all images that no VM and no snapshot uses, and the layers that are left from earlier pulls.",
		Example:  "banger image prune --yes",
		Question: func() string { return "Delete all images that nothing uses?" },
		Delete:   func(c *api.Client, ctx context.Context) (model.Pruned, error) { return c.Images().Prune(ctx) },
	}.Cmd(a)
}

func newKernelPruneCmd(a *command.App) *cobra.Command {
	return item.Prune{
		Short:    "Delete kernels that nothing uses",
		Long:     "Deletes all kernels that no VM and no snapshot uses.",
		Example:  "banger kernel prune --yes",
		Question: func() string { return "Delete all kernels that nothing uses?" },
		Delete:   func(c *api.Client, ctx context.Context) (model.Pruned, error) { return c.Kernels().Prune(ctx) },
	}.Cmd(a)
}
