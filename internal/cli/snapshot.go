package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// newSnapshotCmd returns the commands on snapshots.
func newSnapshotCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("snapshot", "Manage snapshots: saved states of VMs",
		`A snapshot holds the disks of a VM. If the VM was running, paused or suspended, the snapshot holds its memory too.

SNAPSHOT is a snapshot's name, its id, or a unique prefix of its id.`)
	k := snapshotKind()
	cmd.AddCommand(newSnapshotCreateCmd(a), k.ListCmd(a), k.ShowCmd(a), newSnapshotRestoreCmd(a),
		k.DeleteCmd(a, "VMs that were made from a snapshot stay: they do not need it."),
		newSnapshotExportCmd(a), newSnapshotImportCmd(a))
	return cmd
}

// snapshotKind describes snapshots.
func snapshotKind() item.Kind[model.Snapshot] {
	return item.Kind[model.Snapshot]{
		Group: "snapshot", One: "a snapshot", Many: "snapshots", Arg: "SNAPSHOT", Example: "before-upgrade", Label: "names",
		None: "No snapshots yet. Make one: banger snapshot create VM",
		List: func(c *api.Client, ctx context.Context) ([]model.Snapshot, error) { return c.Snapshots().List(ctx) },
		Get: func(c *api.Client, ctx context.Context, ref string) (model.Snapshot, error) {
			return c.Snapshots().Get(ctx, ref)
		},
		Remove: func(client *api.Client, ctx context.Context, ref string) error {
			_, err := client.Snapshots().Delete(ctx, ref)
			return err
		},
		Name:  render.SnapshotName,
		Names: func(s model.Snapshot) []string { return []string{render.SnapshotName(s)} },
		About: func(s model.Snapshot) string { return strings.TrimPrefix(s.VM+", "+render.Keeps(s), ", ") },
		Size:  func(s model.Snapshot) model.Bytes { return s.Size },
		Table: render.Snapshots,
		Print: item.PrintPairs(render.Snapshot),
	}
}

type snapshotCreateOptions struct {
	api.SnapshotCreate
	json bool
}

func newSnapshotCreateCmd(a *command.App) *cobra.Command {
	var o snapshotCreateOptions
	cmd := &cobra.Command{
		Use:   "create VM",
		Short: "Take a snapshot of a VM",
		Long: `Saves the disks of the VM, and its memory unless it is stopped. A running VM continues after a short pause.

Prints the snapshot's name.`,
		Example: "banger snapshot create web\nbanger snapshot create --name before-upgrade web",
		Args:    command.WantArgs("VM"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		o.VM = args[0]
		if err := checkNameFlag(cmd, o.Name, "before-upgrade"); err != nil {
			return err
		}
		return runSnapshotCreate(ctx, o, a)
	})
	addSnapshotName(cmd, &o.Name, "the snapshot's `name`; if unset, a random name")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = command.FirstArg(completeVMs(a, nil))
	return cmd
}

func addSnapshotName(cmd *cobra.Command, target *string, usage string) {
	cmd.Flags().StringVar(target, "name", "", usage)
	command.SetExample(cmd.Flags(), "name", "before-upgrade")
}

// checkNameFlag refuses an invalid name before the daemon is asked.
func checkNameFlag(cmd *cobra.Command, name, example string) error {
	if !cmd.Flags().Changed("name") {
		return nil
	}
	if name == "" {
		return fault.New(fault.Invalid, "--name is empty")
	}
	if err := model.CheckName(name); err != nil {
		return fault.New(fault.Invalid, "--name: %w", err).WithHint("For example: --name %s", example)
	}
	return nil
}

func runSnapshotCreate(ctx context.Context, o snapshotCreateOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var snap model.Snapshot
	err = a.WithProgress("Saving "+o.VM, func(report step.Reporter) error {
		snap, err = client.Snapshots().Create(ctx, o.SnapshotCreate, report)
		return err
	})
	switch {
	case err != nil:
		return explainVM(ctx, client, o.VM, err)
	case o.json:
		return ui.JSON(a.Out, snap)
	}
	fmt.Fprintln(a.Out, ui.Clean(snap.Name))
	notePause(a, snap.VM, snap.Pause)
	return nil
}

// notePause tells a person for how long a VM was paused.
func notePause(a *command.App, vm string, pause time.Duration) {
	if pause > 0 && ui.Terminal(a.Err) != nil {
		a.Note("paused %s for %s", vm, ui.Duration(pause))
	}
}

// explainSnapshot adds the nearest name to the error of a snapshot that was not found.
func explainSnapshot(ctx context.Context, client *api.Client, ref string, err error) error {
	return snapshotKind().Explained(ctx, client, ref, err)
}
