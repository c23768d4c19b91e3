package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
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
		Name:  snapshotName,
		Names: func(s model.Snapshot) []string { return []string{snapshotName(s)} },
		About: func(s model.Snapshot) string { return strings.TrimPrefix(s.VM+", "+keeps(s), ", ") },
		Size:  func(s model.Snapshot) model.Bytes { return s.Size },
		Table: snapshotTable,
		Print: item.PrintPairs(snapshotPairs),
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

func snapshotTable(snaps []model.Snapshot, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold}, {Title: "ID", Drop: 5, Paint: ui.Style.Dim}, {Title: "VM"},
		{Title: "KEEPS", Paint: paintKeeps}, {Title: "IMAGE", Min: 12, Drop: 3}, {Title: "MEM", Right: true, Drop: 2},
		{Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, s := range snaps {
		t.Rows = append(t.Rows, []string{
			dash(s.Name), shortID(s.ID), dash(s.VM), keeps(s), dash(shortRef(s.Image)),
			dash(unlessZero(s.Memory, s.Memory.String())), s.Size.String(), age(s.Created, now),
		})
	}
	return t
}

// snapshotName returns a snapshot's name, or its id: a damaged snapshot may have lost its name.
func snapshotName(s model.Snapshot) string { return cmp.Or(s.Name, s.ID) }

func age(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ui.Age(now.Sub(t))
}

func paintKeeps(style ui.Style, cell string) string {
	if cell == damaged {
		return style.Red(cell)
	}
	return cell
}

const damaged = "damaged"

// keeps says in words what can be restored from a snapshot.
func keeps(s model.Snapshot) string {
	if s.Damaged != "" {
		return damaged
	}
	switch s.Kind {
	case model.SnapshotFull:
		return "memory, disks"
	case model.SnapshotDisk:
		return "disks"
	}
	return ui.Clean(string(s.Kind))
}

func snapshotPairs(s model.Snapshot, style ui.Style, now time.Time) [][2]string {
	paused := ""
	if s.Pause > 0 {
		paused = "the VM for " + ui.Duration(s.Pause)
	}
	return [][2]string{
		{"name", style.Bold(ui.Clean(s.Name))},
		{"id", ui.Clean(s.ID)},
		{"vm", named(s.VM, s.VMID)},
		{"keeps", paintKeeps(style, keeps(s))},
		{"damage", ui.Clean(s.Damaged)},
		{"image", ui.Clean(s.Image)},
		{"kernel", ui.Clean(s.Kernel)},
		{"vcpus", unlessZero(s.VCPUs, strconv.Itoa(s.VCPUs))},
		{"memory", unlessZero(s.Memory, s.Memory.String())},
		{"driver", ui.Clean(s.Driver)},
		{"size", s.Size.String()},
		{"paused", paused},
		{"created", moment(&s.Created, now)},
	}
}

// unlessZero returns text, or "" if value is zero: a damaged snapshot may have lost the value.
func unlessZero[T comparable](value T, text string) string {
	var zero T
	if value == zero {
		return ""
	}
	return text
}

// explainSnapshot adds the nearest name to the error of a snapshot that was not found.
func explainSnapshot(ctx context.Context, client *api.Client, ref string, err error) error {
	return snapshotKind().Explained(ctx, client, ref, err)
}
