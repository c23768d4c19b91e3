package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/transfer"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

type exportOptions struct {
	snapshot string
	file     string
}

func newSnapshotExportCmd(a *command.App) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export SNAPSHOT",
		Short: "Write a snapshot to a file",
		Long: `Writes the snapshot to one compressed file. If -o is unset, banger writes to standard output.

The file holds everything that was in the VM's memory, which may include keys and passwords. Only its owner can read it. ` + "`banger snapshot import`" + ` refuses a damaged file.`,
		Example: `banger snapshot export -o night.banger night
banger snapshot export night | ssh elsewhere banger snapshot import -`,
		Args: command.WantArgs("SNAPSHOT"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.snapshot = args[0]
			return runSnapshotExport(ctx, o, a)
		}),
	}
	cmd.Flags().StringVarP(&o.file, "output", "o", "-", "`file` to write; - means standard output")
	command.SetExample(cmd.Flags(), "output", "night.banger")
	cmd.ValidArgsFunction = command.FirstArg(snapshotKind().Complete(a, nil))
	return cmd
}

func runSnapshotExport(ctx context.Context, o exportOptions, a *command.App) error {
	switch {
	case o.file == "":
		return fault.New(fault.Invalid, "--output is empty")
	case o.file == "-" && ui.Terminal(a.Out) != nil:
		return fault.New(fault.Invalid, "refusing to write a snapshot to a terminal").
			WithHint("For example: banger snapshot export -o %s.banger %[1]s", o.snapshot)
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	body, err := client.Snapshots().Export(ctx, o.snapshot)
	if err != nil {
		return explainSnapshot(ctx, client, o.snapshot, err)
	}
	defer body.Close()
	p := a.Progress("Exporting " + o.snapshot)
	defer p.Close()
	stream := transfer.Export(ctx, transfer.Count(body, "written", 0, p.Report))
	if o.file == "-" {
		_, err = io.Copy(a.Out, stream)
		return err
	}
	size, err := transfer.WriteWhole(ctx, o.file, stream)
	p.Close()
	if err != nil {
		return err
	}
	a.NoteMade(model.Bytes(size), p.Elapsed())
	return nil
}

type importOptions struct {
	api.SnapshotImport
	file string
	json bool
}

func newSnapshotImportCmd(a *command.App) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Add a snapshot from an exported file",
		Long: `FILE is a file that ` + "`banger snapshot export`" + ` wrote, or - for standard input. A damaged file is refused.

Its disks can be restored on every host that has the VM's image and kernel. Its memory can be restored on a host with the same VMM and CPU model. If another home made the snapshot, a restore uses the memory only with --trust-memory.

Prints the snapshot's name. On standard error, banger lists what the snapshot holds, and whether the image or the kernel is missing.`,
		Example: "banger snapshot import night.banger\nbanger snapshot import --name trial - < night.banger",
		Args:    command.WantArgs("FILE"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		o.file = args[0]
		if err := checkNameFlag(cmd, o.Name, "trial"); err != nil {
			return err
		}
		return runSnapshotImport(ctx, o, a)
	})
	addSnapshotName(cmd, &o.Name, "the snapshot's `name`; if unset, its old name, or a random name if the old one is taken")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runSnapshotImport(ctx context.Context, o importOptions, a *command.App) error {
	file, size, err := transfer.OpenSnapshot(a.In, o.file)
	if err != nil {
		return err
	}
	defer file.Close()
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	p := a.Progress("Importing " + filepath.Base(o.file))
	defer p.Close()
	snap, err := client.Snapshots().Import(ctx, transfer.Count(file, "read", size, p.Report), o.SnapshotImport)
	p.Close()
	switch {
	case err != nil:
		return err
	case o.json:
		return ui.JSON(a.Out, snap)
	}
	fmt.Fprintln(a.Out, ui.Clean(snap.Name))
	a.NoteMade(snap.Size, p.Elapsed())
	a.Note("it holds %s", render.Incoming(snap))
	a.Notices(snap.Notices)
	if !snap.Sealed && snap.Kind == model.SnapshotFull {
		a.Note("it has no seal of this home: a restore uses its disks only, unless you add --trust-memory")
	}
	return nil
}
