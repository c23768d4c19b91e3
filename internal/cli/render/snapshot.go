package render

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Snapshots lists snapshots.
func Snapshots(snaps []model.Snapshot, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold}, {Title: "ID", Drop: 5, Paint: ui.Style.Dim}, {Title: "VM"},
		{Title: "KEEPS", Paint: paintKeeps}, {Title: "SEALED", Drop: 4}, {Title: "IMAGE", Min: 12, Drop: 3}, {Title: "MEM", Right: true, Drop: 2},
		{Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, s := range snaps {
		t.Rows = append(t.Rows, []string{
			dash(s.Name), shortID(s.ID), dash(s.VM), Keeps(s), yesNo(s.Sealed), dash(imageName(s.Image, s.ImageID, s.ImageMoved)),
			dash(unlessZero(s.Memory, s.Memory.String())), s.Size.String(), age(s.Created, now),
		})
	}
	return t
}

// SnapshotName returns a snapshot's name, or its id: a damaged snapshot may have lost its name.
func SnapshotName(s model.Snapshot) string { return cmp.Or(s.Name, s.ID) }

func paintKeeps(style ui.Style, cell string) string {
	if cell == damaged {
		return style.Red(cell)
	}
	return cell
}

const damaged = "damaged"

// Keeps says in words what can be restored from a snapshot.
func Keeps(s model.Snapshot) string {
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

// Snapshot lists a snapshot's properties.
func Snapshot(s model.Snapshot, style ui.Style, now time.Time) [][2]string {
	paused := ""
	if s.Pause > 0 {
		paused = "the VM for " + ui.Duration(s.Pause)
	}
	return [][2]string{
		{"name", style.Bold(ui.Clean(s.Name))},
		{"id", ui.Clean(s.ID)},
		{"vm", named(s.VM, s.VMID)},
		{"keeps", paintKeeps(style, Keeps(s))},
		{"sealed", sealed(s)},
		{"damage", ui.Clean(s.Damaged)},
		{"image", namedImage(s.Image, s.ImageID, s.ImageMoved)},
		{"kernel", named(s.Kernel, ShortHash(s.KernelID))},
		{"vcpus", unlessZero(s.VCPUs, strconv.Itoa(s.VCPUs))},
		{"memory", unlessZero(s.Memory, s.Memory.String())},
		{"disks", ui.Clean(drives(s.Disks))},
		{"network", ui.Clean(string(s.Net))},
		{"user", ui.Clean(s.User)},
		{"env", unlessZero(s.Env, strconv.Itoa(s.Env)+" variables")},
		{"driver", ui.Clean(s.Driver)},
		{"size", s.Size.String()},
		{"paused", paused},
		{"created", moment(&s.Created, now)},
	}
}

// sealed says what the seal means for a restore.
func sealed(s model.Snapshot) string {
	switch {
	case s.Damaged != "":
		return ""
	case s.Sealed:
		return "yes: this home made it"
	case s.Kind == model.SnapshotFull:
		return "no: a restore uses its disks only, unless you add --trust-memory"
	}
	return "no: this home did not make it"
}

func drives(disks []model.SnapshotDrive) string {
	var list []string
	for _, d := range disks {
		list = append(list, d.Name+" "+d.Size.String())
	}
	return strings.Join(list, ", ")
}

// Incoming lists what a snapshot from elsewhere says of its VM.
func Incoming(s model.Snapshot) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	add("VM %s", s.VM)
	add("image %s (%.12s)", ShortRef(s.Image), s.ImageID)
	add("kernel %s (%.12s)", s.Kernel, s.KernelID)
	add("%d vCPUs", s.VCPUs)
	add("%v of memory", s.Memory)
	add("disks %s", drives(s.Disks))
	add("network %s", cmp.Or(string(s.Net), "unknown"))
	add("user %s", cmp.Or(s.User, "of the image"))
	add("%d environment variables", s.Env)
	return strings.Join(parts, ", ")
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
