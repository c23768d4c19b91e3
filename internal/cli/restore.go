package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

const disksOnlyUsage = "ignore the snapshot's memory: the VM is stopped, and boots when you start it"

const trustMemoryUsage = "also use the memory of a snapshot that this home did not make. The VMM then loads memory and device state that somebody else wrote. " +
	"A defect in the VMM's loader gives the sender the VMM's rights on this host"

// foreignHelp is the part of the help about snapshots of other homes.
const foreignHelp = "A snapshot that another home made is restored with its disks only, unless you add --trust-memory. `banger snapshot show` says whether this home made a snapshot."

// memoryOptions say what of a snapshot is used.
type memoryOptions struct {
	disksOnly, trustMemory bool
}

func (o *memoryOptions) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.disksOnly, "disks-only", false, disksOnlyUsage)
	cmd.Flags().BoolVar(&o.trustMemory, "trust-memory", false, trustMemoryUsage)
}

func (o *memoryOptions) check() error {
	if o.disksOnly && o.trustMemory {
		return fault.New(fault.Invalid, "--disks-only and --trust-memory exclude each other")
	}
	return nil
}

type snapshotRestoreOptions struct {
	vmflag.Children
	memoryOptions
	snapshot string
}

func newSnapshotRestoreCmd(a *command.App) *cobra.Command {
	var o snapshotRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make new VMs from a snapshot",
		Long: `Each new VM continues from the state in the snapshot. It gets its own name, addresses and keys. If the snapshot holds no memory, the new VMs are stopped.

` + foreignHelp + `

To restore an existing VM, use ` + "`banger vm restore`" + `.

Prints the names of the new VMs.`,
		Example: `banger snapshot restore before-upgrade
banger snapshot restore --name trial --count 4 before-upgrade    # trial-1 to trial-4`,
		Args: command.WantArgs("SNAPSHOT"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		o.snapshot = args[0]
		if err := o.check(); err != nil {
			return err
		}
		fork, err := o.Resolve(cmd.Flags())
		if err != nil {
			return err
		}
		return runSnapshotRestore(ctx, model.Restore{Fork: fork, DisksOnly: o.disksOnly, TrustMemory: o.trustMemory}, o, a)
	})
	o.Add(cmd)
	o.add(cmd)
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
	memoryOptions
	vm, snapshot string
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

If another home made the snapshot, --disks-only or --trust-memory is required.

The snapshot may be of another VM. To make new VMs from a snapshot, use ` + "`banger snapshot restore`" + `.`,
		Example: "banger vm restore web before-upgrade\nbanger vm restore --force --disks-only web before-upgrade",
		Args:    command.WantArgs("NAME", "SNAPSHOT"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.vm, o.snapshot = args[0], args[1]
			if err := o.check(); err != nil {
				return err
			}
			return runVMRestore(ctx, o, a)
		}),
	}
	o.add(cmd)
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
	req := model.Restore{Into: o.vm, DisksOnly: o.disksOnly, TrustMemory: o.trustMemory}
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
