package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/doctor"
	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/paths"
)

type doctorOptions struct{ json bool }

func newDoctorCmd(a *command.App) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this host can run VMs",
		Long: fmt.Sprintf(`Checks this host and prints how to solve each problem that it finds. It changes nothing and needs no daemon.

The exit status is 0 if banger can run VMs, even with warnings. Otherwise it is %d.`, fault.Unsupported.ExitCode()),
		Example: "banger doctor",
		Args:    command.WantArgs(),
		RunE:    command.Interruptible(func(ctx context.Context, _ []string) error { return runDoctor(ctx, o, a) }),
	}
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runDoctor(ctx context.Context, o doctorOptions, a *command.App) error {
	layout, err := a.Layout()
	if err != nil {
		return err
	}
	checks := checkHost(ctx, a, layout)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if o.json {
		err = ui.JSON(a.Out, checks)
	} else {
		_, err = io.WriteString(a.Out, render.Checks(checks, ui.Columns(a.Out), a.Style(a.Out)))
	}
	if err == nil && doctor.Worst(checks) == doctor.Fail {
		return command.Status(fault.Unsupported.ExitCode()) // the checks gave the reasons
	}
	return err
}

// checkHost does all checks. The check of the configuration is the last one.
func checkHost(ctx context.Context, a *command.App, layout paths.Layout) []doctor.Check {
	env := doctor.Host(layout)
	env.Records = api.CheckRecords // doctor contains no database
	settings := doctor.Check{Name: "config", Feature: "configuration", Status: doctor.Pass, Summary: "the configuration is valid"}
	if cfg, file, err := a.Config(); err != nil {
		settings.Status, settings.Summary, settings.Detail, settings.Fix = doctor.Fail, "the configuration has errors", err.Error(), cmp.Or(fault.HintOf(err), "Edit "+file)
	} else {
		env.QEMU, env.Unconfined, env.Reserve, env.Need = cfg.QEMU, cfg.Confine == "off", cfg.DiskReserve, limit.Need{File: max(cfg.DiskSize, cfg.WorkDiskSize), Memory: cfg.Memory}
	}
	return append(doctor.Run(ctx, env), settings)
}
