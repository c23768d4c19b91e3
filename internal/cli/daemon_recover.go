package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

type recoverOptions struct {
	dryRun bool
	json   bool
}

func newDaemonRecoverCmd(a *command.App) *cobra.Command {
	var o recoverOptions
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Bring the records of VMs back after the database was lost or damaged",
		Long: fmt.Sprintf(`The daemon must be stopped. Records come from the copies beside the disks of the VMs and from the newest backup of the database that is whole. VMs whose directories are among the lost ones come back, too, if a record of theirs is found.

Nothing is removed. A damaged database is moved to "damaged" in the state directory. A directory whose copy is damaged is listed and left alone. If another VM has a VM's name, the VM gets a new name.

VMs that run continue to run.

If a VM is listed as damaged or lost, the exit status is %d: its record did not come back. A VM that is gone was deleted after the backup, or its directory was lost. If you did not delete it, put its directory back, and run this command again.`, fault.Damaged.ExitCode()),
		Example: "banger daemon recover --dry-run\nbanger daemon recover",
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return runDaemonRecover(ctx, o, a) }),
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print what would be done, and change nothing")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runDaemonRecover(ctx context.Context, o recoverOptions, a *command.App) error {
	mode := api.RecoverDo
	if o.dryRun {
		mode = api.RecoverPlan
	}
	result, err := api.Recover(ctx, mode)
	switch {
	case err != nil:
		return err
	case o.json:
		err = ui.JSON(a.Out, result)
	default:
		err = showRescue(a, result)
	}
	if lost := result.NotBack(); err == nil && len(lost) > 0 {
		return fault.New(fault.Damaged, "VMs that could not be brought back: %s", strings.Join(lost, ", ")).
			WithHint("No disk was removed: see DETAIL. If a VM is damaged or lost, put a backup of its record.json into its directory. Then run this command again.")
	}
	return err
}

func showRescue(a *command.App, result model.Rescue) error {
	if len(result.VMs) > 0 {
		if err := a.PrintTable(render.Rescue(result)); err != nil {
			return err
		}
	}
	for _, line := range render.RescueNotes(result) {
		a.Note("%s", line)
	}
	return nil
}
