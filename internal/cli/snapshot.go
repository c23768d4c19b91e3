package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// newSnapshotCmd returns the commands on snapshots.
func newSnapshotCmd(a *app) *cobra.Command {
	cmd := newGroupCmd("snapshot", "VMs at one moment, kept under names", `A snapshot holds a VM's disks, and its memory if the VM was not at rest. It is named by its name, its id, or a unique prefix of its id.`)
	cmd.AddCommand(newSnapshotCreateCmd(a), newSnapshotListCmd(a), newSnapshotShowCmd(a), newSnapshotRestoreCmd(a), newSnapshotDeleteCmd(a),
		newSnapshotExportCmd(a), newSnapshotImportCmd(a))
	return cmd
}

type snapshotCreateOptions struct {
	api.SnapshotCreate
	json bool
}

func newSnapshotCreateCmd(a *app) *cobra.Command {
	var o snapshotCreateOptions
	cmd := &cobra.Command{
		Use:   "create VM",
		Short: "Keep what a VM is now",
		Long: `The VM goes on as before: a running one after a short pause. Of a VM that runs, is paused or suspended the memory is kept as well; of a stopped one the disks.

Prints the snapshot's name.`,
		Example: "banger snapshot create web\nbanger snapshot create --name before-upgrade web",
		Args:    wantArgs("VM"),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		o.VM = args[0]
		if err := checkNameFlag(cmd, o.Name, "before-upgrade"); err != nil {
			return err
		}
		return runSnapshotCreate(ctx, o, a)
	})
	addSnapshotName(cmd, &o.Name, "the snapshot's `name`; a random pleasant one when not given")
	addJSON(cmd, &o.json)
	cmd.ValidArgsFunction = firstArg(a.completeVMs(nil))
	return cmd
}

func addSnapshotName(cmd *cobra.Command, target *string, usage string) {
	cmd.Flags().StringVar(target, "name", "", usage)
	setExample(cmd.Flags(), "name", "before-upgrade")
}

// checkNameFlag refuses a name that cannot be before anything is begun.
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

func runSnapshotCreate(ctx context.Context, o snapshotCreateOptions, a *app) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var snap model.Snapshot
	err = a.withProgress("Keeping "+o.VM, func(report step.Reporter) error {
		snap, err = client.CreateSnapshot(ctx, o.SnapshotCreate, report)
		return err
	})
	switch {
	case err != nil:
		return a.explainVM(ctx, client, o.VM, err)
	case o.json:
		return ui.JSON(a.Out, snap)
	}
	fmt.Fprintln(a.Out, ui.Clean(snap.Name))
	a.notePause(snap.VM, snap.Pause)
	return nil
}

// notePause tells a person for how long a VM stood still.
func (a *app) notePause(vm string, pause time.Duration) {
	if pause > 0 && terminal(a.Err) != nil {
		a.note("paused %s for %s", vm, ui.Duration(pause))
	}
}

func newSnapshotListCmd(a *app) *cobra.Command {
	return newListingCmd(a, listing[model.Snapshot]{
		short: "List snapshots", quiet: "names", none: "No snapshots yet. Make one: banger snapshot create VM",
		ask: (*api.Client).Snapshots, name: snapshotName, table: snapshotTable,
	})
}

func snapshotTable(snaps []model.Snapshot, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold}, {Title: "ID", Drop: 5, Paint: ui.Style.Dim}, {Title: "VM"}, {Title: "KEEPS", Paint: paintKeeps},
		{Title: "IMAGE", Min: 12, Drop: 3}, {Title: "MEM", Right: true, Drop: 2}, {Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, s := range snaps {
		t.Rows = append(t.Rows, []string{
			cmp.Or(s.Name, "-"), shortID(s.ID), cmp.Or(s.VM, "-"), keeps(s), cmp.Or(shortRef(s.Image), "-"), cmp.Or(unlessZero(s.Memory, s.Memory.String()), "-"), s.Size.String(), age(s.Created, now),
		})
	}
	return t
}

// snapshotName is what a snapshot can be named by: one that is damaged may have lost its name.
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

// keeps says in words what a snapshot holds that is of use.
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

func newSnapshotShowCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show SNAPSHOT",
		Aliases: []string{"inspect"},
		Short:   "Show all about a snapshot",
		Args:    wantArgs("SNAPSHOT"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			client, err := a.connect(ctx)
			if err != nil {
				return err
			}
			s, err := client.Snapshot(ctx, args[0])
			switch {
			case err != nil:
				return a.explainSnapshot(ctx, client, args[0], err)
			case asJSON:
				return ui.JSON(a.Out, s)
			}
			return ui.Pairs(a.Out, a.style(a.Out), snapshotPairs(s, a.style(a.Out)))
		}),
	}
	addJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = firstArg(a.completeSnapshots)
	return cmd
}

func snapshotPairs(s model.Snapshot, style ui.Style) [][2]string {
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
		{"created", moment(&s.Created, time.Now())},
	}
}

// unlessZero is what is told of a value, which a damaged snapshot may not have.
func unlessZero[T comparable](value T, told string) string {
	var zero T
	if value == zero {
		return ""
	}
	return told
}

func newSnapshotDeleteCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete SNAPSHOT...",
		Aliases: []string{"rm"},
		Short:   "Delete snapshots",
		Long:    "VMs that were made from them stay as they are.",
		Args:    wantArgs("SNAPSHOT..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachNamed(ctx, args, func(client *api.Client, name string) error {
				_, err := client.DeleteSnapshot(ctx, name)
				return a.explainSnapshot(ctx, client, name, err)
			})
		}),
	}
	cmd.ValidArgsFunction = a.completeSnapshots
	return cmd
}

// explainSnapshot adds the nearest name to the error of a snapshot that was not found.
func (a *app) explainSnapshot(ctx context.Context, client *api.Client, ref string, err error) error {
	if fault.KindOf(err) != fault.NotFound {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // as in explainVM
	defer cancel()
	snaps, listErr := client.Snapshots(ctx)
	if listErr != nil {
		return err
	}
	names := make([]string, len(snaps))
	for i, s := range snaps {
		names[i] = snapshotName(s)
	}
	if near := ui.Closest(ref, names); near != "" && near != ref {
		return fault.New(fault.NotFound, "%w", err).WithHint("Did you mean %s?", near)
	}
	return err
}

func (a *app) completeSnapshots(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
		snaps, err := client.Snapshots(ctx)
		if err != nil {
			return nil
		}
		var names []cobra.Completion
		for _, s := range snaps {
			if name := snapshotName(s); !slices.Contains(args, name) {
				names = append(names, cobra.CompletionWithDesc(ui.Clean(name), ui.Clean(strings.TrimPrefix(s.VM+", "+keeps(s), ", "))))
			}
		}
		return names
	})
}
