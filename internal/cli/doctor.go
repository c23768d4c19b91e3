package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/doctor"
	"banger/internal/fault"
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
		err = writeChecks(a, checks)
	}
	if err == nil && doctor.Worst(checks) == doctor.Fail {
		return command.Status(fault.Unsupported.ExitCode()) // the checks gave the reasons
	}
	return err
}

// checkHost does all checks. The check of the configuration is the last one.
func checkHost(ctx context.Context, a *command.App, layout paths.Layout) []doctor.Check {
	env := doctor.Host(layout)
	settings := doctor.Check{Name: "config", Feature: "configuration", Status: doctor.Pass, Summary: "the configuration is valid"}
	if cfg, file, err := a.Config(); err != nil {
		settings.Status, settings.Summary, settings.Detail = doctor.Fail, "the configuration has errors", err.Error()
		settings.Fix = "Edit " + file
	} else {
		env.QEMU = cfg.QEMU
	}
	return append(doctor.Run(ctx, env), settings)
}

// writeChecks writes a line for each check, with the details and the solution below those that did
// not pass.
func writeChecks(a *command.App, checks []doctor.Check) error {
	style, columns := a.Style(a.Out), min(ui.Columns(a.Out), command.MaxHelp)
	if columns == 0 {
		columns = command.MaxHelp
	}
	marks := map[doctor.Status]string{
		doctor.Pass: style.Green("✓"), doctor.Warn: style.Yellow("!"), doctor.Fail: style.Red("✗"),
	}
	names := 0
	counts := map[doctor.Status]int{}
	for _, c := range checks {
		names = max(names, len(c.Name))
		counts[c.Status]++
	}
	indent := strings.Repeat(" ", names+4)
	var b strings.Builder
	for _, c := range checks {
		name := style.Bold(fmt.Sprintf("%-*s", names, c.Name))
		fmt.Fprintf(&b, "%s %s  %s\n", marks[c.Status], name, indented(ui.Clean(c.Summary), columns, indent))
		if c.Status == doctor.Pass {
			continue
		}
		if c.Detail != "" {
			detail := indented(ui.CleanLines(c.Detail, ""), columns, indent)
			fmt.Fprintf(&b, "%s%s\n", indent, style.Dim(detail))
		}
		if c.Fix != "" {
			fmt.Fprintf(&b, "%s%s %s\n", indent, style.Yellow("→"), indented(ui.Clean(c.Fix), columns-2, indent+"  "))
		}
	}
	fmt.Fprintf(&b, "\n%d passed, %d warnings, %d failed\n", counts[doctor.Pass], counts[doctor.Warn], counts[doctor.Fail])
	_, err := fmt.Fprint(a.Out, b.String())
	return err
}

// indented wraps a text to columns, with indent before all lines but the first.
func indented(text string, columns int, indent string) string {
	return strings.ReplaceAll(ui.Wrap(text, max(20, columns-len(indent))), "\n", "\n"+indent)
}
