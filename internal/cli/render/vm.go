package render

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// VMs lists VMs.
func VMs(vms []model.VM, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold},
		{Title: "ID", Drop: 5, Paint: ui.Style.Dim},
		{Title: "STATE", Paint: paintState},
		{Title: "IMAGE", Min: 12},
		{Title: "VCPU", Right: true, Drop: 3},
		{Title: "MEM", Right: true, Drop: 2},
		{Title: "NET", Drop: 4},
		{Title: "UPTIME", Drop: 1},
	}}
	for _, vm := range vms {
		t.Rows = append(t.Rows, []string{
			vm.Spec.Name, shortID(vm.ID), shownState(vm), VMImage(vm), strconv.Itoa(vm.Spec.VCPUs),
			vm.Spec.Memory.String(), string(vm.Spec.Net), dash(uptime(vm, now)),
		})
	}
	return t
}

// VMImage returns the name of a VM's image, or its id if the name does not mean it any more.
func VMImage(vm model.VM) string {
	return imageName(vm.Spec.Image, vm.Spec.ImageID, vm.ImageMoved)
}

// Trouble says why a VM is held, or whose files the VM has; "" if nothing is wrong.
func Trouble(vm model.VM) string {
	switch {
	case vm.Replaced != nil:
		return ui.Clean(vm.Spec.Name) + ": " + ui.Clean(vm.Replaced.Msg) + "; `banger vm show` says what to do"
	case vm.Held != nil:
		return ui.Clean(vm.Spec.Name) + " is held: " + vm.Held.String()
	}
	return ""
}

// VM lists a VM's properties, without its steps.
func VM(vm model.VM, rel Relatives, style ui.Style, now time.Time) [][2]string {
	pairs := append(specPairs(vm, rel, style, now), historyPairs(vm, rel, now)...)
	if r := vm.Runtime; r != nil {
		pairs = append(pairs, [2]string{"runs on", runsOn(r)}, [2]string{"protection", protection(r.Protection, style)})
	}
	if len(vm.Pending) > 0 {
		pairs = append(pairs, [2]string{"next start", style.Yellow("changes " + FieldNames(vm.Pending))})
	}
	if r := vm.Replaced; r != nil {
		pairs = append(pairs, [2]string{"disks", style.Red(ui.Clean(r.Msg))}, [2]string{"  hint", ui.Clean(r.Hint)})
	}
	return append(pairs, failurePairs(vm.LastError, style, now)...)
}

// specPairs lists what the VM is.
func specPairs(vm model.VM, rel Relatives, style ui.Style, now time.Time) [][2]string {
	s := vm.Spec
	state := paintState(style, shownState(vm))
	if vm.Held != nil {
		state += ": " + vm.Held.String()
	}
	if up := uptime(vm, now); up != "" {
		state += ", up " + up
	}
	return [][2]string{
		{"name", style.Bold(ui.Clean(s.Name))},
		{"id", vm.ID},
		{"state", state},
		{"image", namedImage(s.Image, s.ImageID, vm.ImageMoved)},
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
func historyPairs(vm model.VM, rel Relatives, now time.Time) [][2]string {
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

// protection lists what a VMM is kept from, and what it is not kept from.
func protection(p model.Protection, style ui.Style) string {
	var on, off []string
	for _, name := range p.On() {
		on = append(on, string(name))
	}
	for _, l := range p.Missing() {
		off = append(off, fmt.Sprintf("no %s: %s", l.Name, ui.Clean(l.Note)))
	}
	if len(off) > 0 {
		on = append(on, style.Yellow(strings.Join(off, "; ")))
	}
	return strings.Join(on, ", ")
}

// uptime returns how long a VM has been running, or "" if it does not run.
func uptime(vm model.VM, now time.Time) string {
	if vm.State != model.Running || vm.Started == nil {
		return ""
	}
	return ui.Age(now.Sub(*vm.Started))
}

// paintState colours a state: green if running, red if ill, dim if at rest, otherwise yellow.
// shownState is the word for what a VM does. One that is held runs by its record, and does not.
func shownState(vm model.VM) string {
	if vm.Held != nil {
		return "held"
	}
	return string(vm.State)
}

func paintState(s ui.Style, state string) string {
	switch model.State(state) {
	case model.Running:
		return s.Green(state)
	case model.Broken, model.Failed:
		return s.Red(state)
	case model.Stopped, model.Suspended, model.Paused:
		return s.Dim(state)
	}
	return s.Yellow(state)
}
