package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
)

// ShortFor is the annotation of a command that is short for another command. Its value is the path
// of that command, without "banger".
const ShortFor = "short-for"

type usageOptions struct {
	verbose bool
	json    bool
}

// newDiskCmd returns the commands on the host's disk.
func newDiskCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("disk", "Show what banger keeps on this host's disk", "")
	cmd.AddCommand(newUsageCmd(a, "usage"))
	return cmd
}

// newUsageCmd returns the command under one of its names: "usage" among the disk commands, "df" at
// the top.
func newUsageCmd(a *command.App, name string) *cobra.Command {
	var o usageOptions
	cmd := &cobra.Command{
		Use:   name,
		Short: "Show the disk space that VMs, images, snapshots and templates use",
		Long: `The columns are:

  SIZE         the sizes of the files; larger than the space that they use,
               because files of disks are sparse
  OWN          the space that only this item uses: deleting it frees the space
  SHARED       the space that this item shares with others, by reflinks or hard
               links; a fork shares its parent's. 0B if the file system does
               not report it
  RECLAIMABLE  the space that the prune commands would free

The row of a suspended VM includes its saved memory.`,
		Args: command.WantArgs(),
		RunE: command.Interruptible(func(ctx context.Context, _ []string) error { return runUsage(ctx, o, a) }),
	}
	cmd.Example = "banger df\nbanger df -v"
	if name == "df" {
		cmd.Annotations = map[string]string{ShortFor: "disk usage"}
	} else {
		cmd.Example = "banger disk usage\nbanger disk usage -v"
	}
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "print a row for each item instead of one for each kind")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runUsage(ctx context.Context, o usageOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	usage, err := client.Daemon().Usage(ctx)
	switch {
	case err != nil:
		return err
	case o.json:
		return ui.JSON(a.Out, usage)
	}
	t := render.UsageByKind(usage)
	if o.verbose {
		t = render.UsageByName(usage)
	}
	return a.PrintTable(t)
}
