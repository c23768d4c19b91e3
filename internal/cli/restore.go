package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/vmflag"
	"banger/internal/model"
	"banger/internal/step"
)

const disksOnlyUsage = "ignore the snapshot's memory: the VM is stopped, and boots when you start it"

type snapshotRestoreOptions struct {
	vmflag.Children
	disksOnly bool
	snapshot  string
}

func newSnapshotRestoreCmd(a *command.App) *cobra.Command {
	var o snapshotRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make new VMs from a snapshot",
		Long: `Each new VM continues from the state in the snapshot. It gets its own name, addresses and keys. If the snapshot holds no memory, the new VMs are stopped.

To restore an existing VM, use ` + "`banger vm restore`" + `.

Prints the names of the new VMs.`,
		Example: `banger snapshot restore before-upgrade
banger snapshot restore --name trial --count 4 before-upgrade    # trial-1 to trial-4`,
		Args: command.WantArgs("SNAPSHOT"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		o.snapshot = args[0]
		fork, err := o.Resolve(cmd.Flags())
		if err != nil {
			return err
		}
		return runSnapshotRestore(ctx, model.Restore{Fork: fork, DisksOnly: o.disksOnly}, o, a)
	})
	o.Add(cmd)
	cmd.Flags().BoolVar(&o.disksOnly, "disks-only", false, disksOnlyUsage)
	cmd.ValidArgsFunction = command.FirstArg(snapshotKind().Complete(a, nil))
	return cmd
}

func runSnapshotRestore(ctx context.Context, req model.Restore, o snapshotRestoreOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var made model.Forked
	err = a.WithProgress("Restoring "+o.snapshot, func(report step.Reporter) error {
		made, err = client.Snapshots().Restore(ctx, o.snapshot, req, api.SnapshotRestore{}, childrenCounted(report, req.Count))
		return err
	})
	if err != nil {
		return explainSnapshot(ctx, client, o.snapshot, err)
	}
	return printForked(a, made, o.JSON)
}

type vmRestoreOptions struct {
	vm, snapshot string
	disksOnly    bool
	force        bool
	json         bool
}

func newVMRestoreCmd(a *command.App) *cobra.Command {
	var o vmRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore NAME SNAPSHOT",
		Short: "Restore a VM from a snapshot",
		Long: `Replaces the VM's disks with those of the snapshot. If the snapshot holds memory, the VM continues from it; otherwise the VM is stopped. The VM keeps its name and labels.

The present contents of the VM's disks are lost. A VM that is running, paused or suspended requires --force.

The snapshot may be of another VM. To make new VMs from a snapshot, use ` + "`banger snapshot restore`" + `.`,
		Example: "banger vm restore web before-upgrade\nbanger vm restore --force --disks-only web before-upgrade",
		Args:    command.WantArgs("NAME", "SNAPSHOT"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.vm, o.snapshot = args[0], args[1]
			return runVMRestore(ctx, o, a)
		}),
	}
	cmd.Flags().BoolVar(&o.disksOnly, "disks-only", false, disksOnlyUsage)
	cmd.Flags().BoolVarP(&o.force, "force", "f", false,
		"also restore a VM that is running, paused or suspended, and lose its present memory")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return completeVMs(a, nil)(cmd, args, word)
		case 1:
			return snapshotKind().Complete(a, nil)(cmd, nil, word) // it may have the VM's name
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func runVMRestore(ctx context.Context, o vmRestoreOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	req := model.Restore{Into: o.vm, DisksOnly: o.disksOnly}
	var made model.Forked
	err = a.WithProgress("Restoring "+o.vm, func(report step.Reporter) error {
		made, err = client.Snapshots().Restore(ctx, o.snapshot, req, api.SnapshotRestore{Force: o.force}, report)
		return err
	})
	if err != nil {
		return explainSnapshot(ctx, client, o.snapshot, explainVM(ctx, client, o.vm, err))
	}
	return printForked(a, made, o.json)
}
