package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/model"
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
	t := usageByKind(usage)
	if o.verbose {
		t = usageByName(usage)
	}
	return t.Write(a.Out, ui.Columns(a.Out), a.Style(a.Out))
}

// usageKinds are the kinds in the order of their rows, with the names of these.
var usageKinds = []struct {
	kind model.UsageKind
	name string
}{
	{model.UsageVM, "VMs"}, {model.UsageImage, "images"}, {model.UsageKernel, "kernels"}, {model.UsageSnapshot, "snapshots"},
	{model.UsageTemplate, "templates"}, {model.UsageCache, "caches"},
}

func usageByKind(u model.DiskUsage) ui.Table {
	t := usageTable(ui.Column{Title: "KIND", Paint: ui.Style.Bold}, ui.Column{Title: "COUNT", Right: true, Drop: 3})
	for _, k := range usageKinds {
		var sum model.UsageRow
		count := 0
		for _, row := range u.Rows {
			if row.Kind == k.kind {
				sum.Add(row)
				count++
			}
		}
		t.Rows = append(t.Rows, append([]string{k.name, strconv.Itoa(count)}, usageCells(sum)...))
	}
	t.Rows = append(t.Rows, append([]string{"all", ""}, usageCells(u.Total)...))
	return t
}

func usageByName(u model.DiskUsage) ui.Table {
	t := usageTable(ui.Column{Title: "KIND", Drop: 3}, ui.Column{Title: "NAME", Min: 12, Paint: ui.Style.Bold})
	for _, row := range u.Rows {
		name := row.Name
		switch row.Kind {
		case model.UsageImage:
			name = shortRef(name)
		case model.UsageTemplate:
			name = shortHash(name)
		}
		t.Rows = append(t.Rows, append([]string{string(row.Kind), name}, usageCells(row)...))
	}
	t.Rows = append(t.Rows, append([]string{"", "all"}, usageCells(u.Total)...))
	return t
}

// usageTable returns a table whose last columns are filled by usageCells.
func usageTable(first ...ui.Column) ui.Table {
	return ui.Table{Columns: append(first, ui.Column{Title: "SIZE", Right: true, Drop: 2}, ui.Column{Title: "OWN", Right: true},
		ui.Column{Title: "SHARED", Right: true}, ui.Column{Title: "RECLAIMABLE", Right: true, Drop: 1})}
}

func usageCells(r model.UsageRow) []string {
	return []string{r.Apparent.String(), r.Own.String(), r.Shared.String(), r.Reclaimable.String()}
}
