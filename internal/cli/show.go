package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

func newShowCmd(a *command.App) *cobra.Command {
	var timeline bool
	k := vmKind()
	k.Print = func(ctx context.Context, a *command.App, client *api.Client, vm model.VM) error {
		return runShow(ctx, vm, timeline, client, a)
	}
	cmd := k.ShowCmd(a)
	cmd.Long = "Shows the VM's record and the steps of its last start."
	cmd.Example = "banger vm show web\nbanger vm show --timeline web\nbanger vm show --json web | jq .state"
	cmd.Flags().BoolVar(&timeline, "timeline", false, "draw the steps of the last start as bars instead")
	return cmd
}

// runShow prints a VM for a person.
func runShow(ctx context.Context, vm model.VM, timeline bool, client *api.Client, a *command.App) error {
	if timeline && vm.Boot == nil {
		return fault.New(fault.WrongState, "%s has not been started yet", vm.Spec.Name).
			WithHint("banger vm start %s", vm.Spec.Name)
	}
	rel := relativesOf(ctx, client, vm)
	if timeline {
		return writeTimeline(a, vm, rel)
	}
	if err := ui.Pairs(a.Out, a.Style(a.Out), vmPairs(vm, rel, a.Style(a.Out), time.Now())); err != nil {
		return err
	}
	return writeSteps(a, vm, rel)
}

// vmPairs lists a VM's properties, without its steps.
func vmPairs(vm model.VM, rel relatives, style ui.Style, now time.Time) [][2]string {
	pairs := append(specPairs(vm, rel, style, now), historyPairs(vm, rel, now)...)
	if r := vm.Runtime; r != nil {
		pairs = append(pairs, [2]string{"runs on", runsOn(r)})
	}
	if len(vm.Pending) > 0 {
		pairs = append(pairs, [2]string{"next start", style.Yellow("changes " + fieldNames(vm.Pending))})
	}
	return append(pairs, failurePairs(vm.LastError, style, now)...)
}

// specPairs lists what the VM is.
func specPairs(vm model.VM, rel relatives, style ui.Style, now time.Time) [][2]string {
	s := vm.Spec
	state := paintState(style, string(vm.State))
	if up := uptime(vm, now); up != "" {
		state += ", up " + up
	}
	return [][2]string{
		{"name", style.Bold(ui.Clean(s.Name))},
		{"id", vm.ID},
		{"state", state},
		{"image", named(s.Image, s.ImageID)},
		{"kernel", named(s.Kernel, s.KernelID)},
		{"vcpus", fmt.Sprint(s.VCPUs)},
		{"  advice", rel.vcpuAdvice(vm, style)},
		{"memory", s.Memory.String()},
		{"disk", s.DiskSize.String()},
		{"work disk", workDisk(s.WorkDiskSize)},
		{"network", network(vm)},
		{"user", ui.Clean(s.User)},
		{"workdir", ui.Clean(s.Workdir)},
		{"env", sortedPairs(s.Env)},
		{"labels", sortedPairs(s.Labels)},
		{"removed", removal(s.Remove)},
		{"idle", idleSuspend(s.IdleSuspend)},
	}
}

// historyPairs lists where the VM comes from. The origin is that of its present machine, live or
// saved: the disks of a VM at rest may have been replaced since its last start.
func historyPairs(vm model.VM, rel relatives, now time.Time) [][2]string {
	origin := ""
	if vm.State.Live() || vm.State == model.Suspended {
		origin = rel.origin(vm.Boot)
	}
	return [][2]string{
		{"created", moment(&vm.Created, now)},
		{"started", moment(vm.Started, now)},
		{"stopped", moment(vm.Stopped, now)},
		{"origin", origin},
		{"parent", rel.parent(vm.Parent)},
		{"snapshots", rel.taken(vm)},
	}
}

func failurePairs(f *model.Failure, style ui.Style, now time.Time) [][2]string {
	if f == nil {
		return nil
	}
	message := ui.CleanLines(f.Msg, "            ")
	if f.Step != "" && !strings.HasPrefix(f.Msg, f.Step+":") {
		message = ui.Clean(f.Step) + ": " + message
	}
	return [][2]string{
		{"last error", style.Red(message)},
		{"  at", moment(&f.Time, now)},
		{"  step", ui.Clean(f.Step)},
		{"  hint", ui.Clean(f.Hint)},
		{"  log", ui.Clean(f.Log)},
	}
}

func named(ref, id string) string {
	if id == "" {
		return ui.Clean(ref)
	}
	return fmt.Sprintf("%s (%s)", ui.Clean(ref), id[:min(len(id), 12)])
}

func workDisk(size model.Bytes) string {
	if size == 0 {
		return "none"
	}
	return size.String() + " at /root"
}

func network(vm model.VM) string {
	if vm.Network != nil && vm.Network.Addr != "" {
		return fmt.Sprintf("%s, the guest is %s", vm.Spec.Net, ui.Clean(vm.Network.Addr))
	}
	return string(vm.Spec.Net)
}

func removal(p model.RemovePolicy) string {
	switch p {
	case model.RemoveOnStop:
		return "when it stops"
	case model.RemoveOnDetach:
		return "when its run ends"
	}
	return ""
}

func idleSuspend(after time.Duration) string {
	if after == 0 {
		return ""
	}
	return "suspended when nobody uses it for " + ui.Age(after)
}

func runsOn(r *model.Runtime) string {
	text := r.Driver
	if r.Accel != "" {
		text += " with " + r.Accel
	}
	if r.PID != 0 {
		text += fmt.Sprintf(", process %d", r.PID)
	}
	return ui.Clean(text)
}

// moment writes a time as its age and its date.
func moment(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s ago (%s)", ui.Age(now.Sub(*t)), t.Local().Format("2006-01-02 15:04:05"))
}

func sortedPairs(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for k, v := range m {
		lines = append(lines, ui.Clean(k+"="+v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n            ")
}

// writeSteps lists the steps of the last start with their durations.
func writeSteps(a *command.App, vm model.VM, rel relatives) error {
	if vm.Boot == nil {
		return nil
	}
	style := a.Style(a.Out)
	fmt.Fprintf(a.Out, "\n%s\n", style.Bold(bootTitle(vm.Boot, rel)))
	t := ui.Table{Columns: []ui.Column{{Title: "STEP", Min: 8}, {Title: "AT", Right: true}, {Title: "TOOK", Right: true}}}
	all := slices.Concat(vm.Boot.Steps, vm.Boot.Guest)
	if slices.ContainsFunc(all, func(s model.Span) bool { return s.Error != "" }) {
		t.Columns = append(t.Columns, ui.Column{Title: "ERROR", Min: 8, Paint: ui.Style.Red})
	}
	row := func(prefix string, s model.Span) {
		cells := []string{prefix + s.Name, ui.Duration(s.Offset), ui.Duration(s.Duration), s.Error}
		t.Rows = append(t.Rows, cells[:len(t.Columns)])
	}
	for _, s := range vm.Boot.Steps {
		row("", s)
	}
	for _, s := range vm.Boot.Guest {
		row("guest: ", s)
	}
	return t.Write(a.Out, ui.Columns(a.Out), style)
}

func bootTitle(b *model.Boot, rel relatives) string {
	return fmt.Sprintf("last start %s, %s", ui.Duration(b.Duration), rel.origin(b))
}

// writeTimeline draws the steps of the last start.
func writeTimeline(a *command.App, vm model.VM, rel relatives) error {
	style := a.Style(a.Out)
	fmt.Fprintf(a.Out, "%s: %s\n\n", style.Bold(ui.Clean(vm.Spec.Name)), bootTitle(vm.Boot, rel))
	return ui.Timeline(a.Out, min(ui.Columns(a.Out), 160), style, []ui.Group{
		{Name: "host", Bars: bars(vm.Boot.Steps)},
		{Name: "guest", Bars: bars(vm.Boot.Guest)},
	})
}

func bars(spans []model.Span) []ui.Bar {
	out := make([]ui.Bar, len(spans))
	for i, s := range spans {
		out[i] = ui.Bar{Name: s.Name, Offset: s.Offset, Duration: s.Duration, Failed: s.Error != ""}
	}
	return out
}
