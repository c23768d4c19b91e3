package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/model"
	"banger/internal/step"
)

const disksOnlyUsage = "leave the snapshot's memory aside: the VM is stopped then, and boots when it is started"

type snapshotRestoreOptions struct {
	childFlags
	disksOnly bool
	snapshot  string
}

func newSnapshotRestoreCmd(a *app) *cobra.Command {
	var o snapshotRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make VMs that go on from a snapshot",
		Long: `The new VMs run from the moment that the snapshot holds, with names, addresses and keys of their own. Those of a snapshot without memory are stopped.

Prints the new VMs' names. To make a VM into what it was, use "banger vm restore".`,
		Example: `banger snapshot restore before-upgrade
banger snapshot restore --name trial --count 4 before-upgrade    # trial-1 to trial-4`,
		Args: wantArgs("SNAPSHOT"),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		o.snapshot = args[0]
		fork, err := o.resolve(cmd.Flags())
		if err != nil {
			return err
		}
		return runSnapshotRestore(ctx, model.Restore{Fork: fork, DisksOnly: o.disksOnly}, o, a)
	})
	o.add(cmd)
	cmd.Flags().BoolVar(&o.disksOnly, "disks-only", false, disksOnlyUsage)
	cmd.ValidArgsFunction = firstArg(snapshotKind().complete(a, nil))
	return cmd
}

func runSnapshotRestore(ctx context.Context, req model.Restore, o snapshotRestoreOptions, a *app) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var made model.Forked
	err = a.withProgress("Restoring "+o.snapshot, func(report step.Reporter) error {
		made, err = client.RestoreSnapshot(ctx, o.snapshot, req, api.SnapshotRestore{}, childrenCounted(report, req.Count))
		return err
	})
	if err != nil {
		return a.explainSnapshot(ctx, client, o.snapshot, err)
	}
	return a.tellForked(made, o.json)
}

type vmRestoreOptions struct {
	vm, snapshot string
	disksOnly    bool
	force        bool
	json         bool
}

func newVMRestoreCmd(a *app) *cobra.Command {
	var o vmRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore NAME SNAPSHOT",
		Short: "Make a VM into what a snapshot holds",
		Long: `The VM gets the disks of the snapshot, and goes on from the snapshot's memory if there is one. It keeps its name and its labels. What was on its disks is lost; a VM that is not at rest is refused without --force.

The snapshot may be one of another VM. To make new VMs, use "banger snapshot restore".`,
		Example: "banger vm restore web before-upgrade\nbanger vm restore --force --disks-only web before-upgrade",
		Args:    wantArgs("NAME", "SNAPSHOT"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			o.vm, o.snapshot = args[0], args[1]
			return runVMRestore(ctx, o, a)
		}),
	}
	cmd.Flags().BoolVar(&o.disksOnly, "disks-only", false, disksOnlyUsage)
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "also a VM that runs, is paused or suspended: what it is now is lost")
	addJSON(cmd, &o.json)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return a.completeVMs(nil)(cmd, args, word)
		case 1:
			return snapshotKind().complete(a, nil)(cmd, nil, word) // a snapshot may have the name of the VM
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func runVMRestore(ctx context.Context, o vmRestoreOptions, a *app) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	req := model.Restore{Into: o.vm, DisksOnly: o.disksOnly}
	var made model.Forked
	err = a.withProgress("Restoring "+o.vm, func(report step.Reporter) error {
		made, err = client.RestoreSnapshot(ctx, o.snapshot, req, api.SnapshotRestore{Force: o.force}, report)
		return err
	})
	if err != nil {
		return a.explainSnapshot(ctx, client, o.snapshot, a.explainVM(ctx, client, o.vm, err))
	}
	return a.tellForked(made, o.json)
}
