package render

import (
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/vmm"
)

// TestShortRef claims that a short form means the same image as the full one.
func TestShortRef(t *testing.T) {
	for full, want := range map[string]string{
		"docker.io/library/nginx:1": "nginx:1", "docker.io/team/app:1": "team/app:1", "debian:bookworm": "debian:bookworm",
		"docker.io/library/debian:bookworm": "docker.io/library/debian:bookworm", "docker.io/library/debian:latest": "docker.io/library/debian:latest",
		"docker.io/ghcr.io/app:1": "docker.io/ghcr.io/app:1", "docker.io/localhost/app:1": "docker.io/localhost/app:1",
		"docker.io/library/sha256:abc": "docker.io/library/sha256:abc", "registry.example/docker.io/x:1": "registry.example/docker.io/x:1",
	} {
		if got := ShortRef(full); got != want {
			t.Errorf("ShortRef(%q) = %q, want %q", full, got, want)
		}
	}
}

// TestMovedNames: if a name does not mean the image of a VM or a snapshot here, lists show the
// image's id, and details say so.
func TestMovedNames(t *testing.T) {
	id := strings.Repeat("ab", 32)
	vm := model.VM{Spec: model.Spec{Image: "debian:bookworm", ImageID: id}, ImageMoved: true}
	snap := model.Snapshot{Image: "debian:bookworm", ImageID: id, ImageMoved: true}
	now := time.Now()
	if got := VMs([]model.VM{vm}, now).Rows[0]; !slices.Contains(got, "abababababab") || slices.Contains(got, "debian:bookworm") {
		t.Errorf("the VM's row is %q", got)
	}
	if got := Snapshots([]model.Snapshot{snap}, now).Rows[0]; !slices.Contains(got, "abababababab") || slices.Contains(got, "debian:bookworm") {
		t.Errorf("the snapshot's row is %q", got)
	}
	want := [2]string{"image", "abababababab (debian:bookworm means another image here, or none)"}
	if got := VM(vm, Relatives{}, ui.Style{}, now); !slices.Contains(got, want) {
		t.Errorf("the VM is shown as %q", got)
	}
	if got := Snapshot(snap, ui.Style{}, now); !slices.Contains(got, want) {
		t.Errorf("the snapshot is shown as %q", got)
	}
}

// TestKernelNames: each name of a kernel has a row.
func TestKernelNames(t *testing.T) {
	rows := Kernels([]model.Kernel{{ID: "ab", Names: []string{"6.1", "debian"}}, {ID: "cd"}}, time.Now()).Rows
	if len(rows) != 3 || rows[0][0] != "6.1" || rows[1][0] != "debian" || rows[2][0] != "-" {
		t.Errorf("the rows are %q", rows)
	}
}

func TestOrigin(t *testing.T) {
	rel := Relatives{Snapshots: []model.Snapshot{{ID: "a123456789abcdef", Name: "night", VMID: "1"}, {ID: "b123456789abcdef", Name: "noon", VMID: "1"}}}
	key := "i" + strings.Repeat("1b", 12)
	for want, b := range map[string]*model.Boot{
		"":          nil,
		"cold boot": {Cold: true},
		"forked":    {},
		"forked from template i1b1b1b1b1b1 (any image)":       {Origin: &model.Origin{Kind: model.FromUniversal, Of: key}},
		"forked from template i1b1b1b1b1b1 (nginx:1.27)":      {Origin: &model.Origin{Kind: model.FromTemplate, Of: key, Name: "docker.io/library/nginx:1.27"}},
		"forked from VM [2Jweb":                               {Origin: &model.Origin{Kind: model.FromFork, Of: "0", Name: "\x1b[2Jweb"}},
		"restored from snapshot night":                        {Origin: &model.Origin{Kind: model.FromSnapshot, Of: "a123456789abcdef", Name: "web"}},
		"restored from snapshot c1234567 (deleted)":           {Origin: &model.Origin{Kind: model.FromSnapshot, Of: "c123456789abcdef", Name: "web"}},
		"resumed from disk":                                   {Origin: &model.Origin{Kind: model.FromSuspended, Of: "0"}},
		"teleported 0 (of a kind that this client knows not)": {Origin: &model.Origin{Kind: "teleported", Of: "0 (of a kind that this client knows not)"}},
	} {
		if got := rel.origin(b); got != want {
			t.Errorf("the origin of %+v is %q, want %q", b, got, want)
		}
	}
	for want, p := range map[string]*model.Parent{
		"":                                      nil,
		"VM web (01234567)":                     {VM: "0123456789abcdef", Name: "web"},
		"snapshot noon of VM web":               {VM: "0123456789abcdef", Name: "web", Snapshot: "b123456789abcdef"},
		"snapshot c1234567 (deleted) of VM web": {Name: "web", Snapshot: "c123456789abcdef"},
	} {
		if got := rel.parent(p); got != want {
			t.Errorf("the parent of %+v is %q, want %q", p, got, want)
		}
	}
	if got := rel.taken(model.VM{ID: "1"}); got != "night, noon" {
		t.Errorf("the snapshots of the VM are %q, want both", got)
	}
}

// TestReplaced: a VM whose disks were replaced is shown with the reason and the way out.
func TestReplaced(t *testing.T) {
	vm := model.VM{Spec: model.Spec{Name: "web"}, State: model.Running, Replaced: &model.Failure{Msg: "the disk is another", Hint: "put it back"}}
	if got := Trouble(vm); !strings.HasPrefix(got, "web: the disk is another") {
		t.Errorf("below the list stands %q", got)
	}
	got := VM(vm, Relatives{}, ui.Style{}, time.Now())
	for _, want := range [][2]string{{"disks", "the disk is another"}, {"  hint", "put it back"}} {
		if !slices.Contains(got, want) {
			t.Errorf("the VM is shown without %q: %q", want, got)
		}
	}
}

// TestHeld: a VM that is held is shown as held, with the reason and the numbers.
func TestHeld(t *testing.T) {
	vm := model.VM{Spec: model.Spec{Name: "web"}, State: model.Running, Held: &model.Hold{
		Reason: model.HeldAtFloor, Free: 1200 * model.MiB, Floor: 2 * model.GiB, Resume: 2560 * model.MiB,
	}}
	const why = "the host has 1.2G free, the floor is 2G; the VM continues with 2.5G"
	if got := VMs([]model.VM{vm}, time.Now()).Rows[0][2]; got != "held" {
		t.Errorf("the state of a VM that is held is listed as %q, want held", got)
	}
	if got := Trouble(vm); got != "web is held: "+why {
		t.Errorf("the note on a VM that is held is %q", got)
	}
	if got := VM(vm, Relatives{}, ui.Style{}, time.Now())[2][1]; got != "held: "+why {
		t.Errorf("the state of a VM that is held is shown as %q", got)
	}
	vm.Held.Reason, vm.Held.Free = model.HeldFull, 0
	if got := Trouble(vm); got != "web is held: the host's disk is full: 0B is free, the VM continues with 2.5G" {
		t.Errorf("the note on a VM on a full host is %q", got)
	}
}

// TestVCPUAdvice checks that a VM shows the driver's recommendation only if it concerns the VM.
func TestVCPUAdvice(t *testing.T) {
	advice := []api.Recommendation{
		{Kind: "cats per dog, at most", Value: 3, Reason: "they fight"},
		{Kind: string(vmm.MaxVCPUsWithInit), Value: 1, Reason: "it stalls"},
	}
	vm := model.VM{Spec: model.Spec{VCPUs: 1}}
	for _, c := range []struct {
		claim string
		rel   Relatives
		want  string
	}{
		{"no recommendation", Relatives{Init: "/sbin/init"}, ""},
		{"an image without an init", Relatives{Advice: advice}, ""},
		{"an image with an init", Relatives{Advice: advice, Init: "/sbin/init"},
			"at most 1 for an image with an init: it stalls"},
	} {
		if got := c.rel.vcpuAdvice(vm, ui.Style{}); got != c.want {
			t.Errorf("%s: the advice on vCPUs is %q, want %q", c.claim, got, c.want)
		}
	}
}

func TestTemplateTable(t *testing.T) {
	now := time.Now()
	being := model.Template{Key: "u" + strings.Repeat("0a", 12), Kind: model.TemplateUniversal, Building: true, Created: now, LastUsed: now}
	ready := model.Template{Key: "i" + strings.Repeat("1b", 12), Kind: model.TemplateImage, Image: "alpine:3", Standby: 2, Created: now, LastUsed: now}
	for _, c := range []struct {
		templates []model.Template
		columns   int
		last      []string
	}{
		{[]model.Template{being}, 9, []string{"being made"}},
		{[]model.Template{being, ready}, 10, []string{"0", "2"}},
	} {
		table := Templates(c.templates, now)
		if len(table.Columns) != c.columns {
			t.Errorf("%d columns, want %d: STANDBY is shown only if a machine is on standby", len(table.Columns), c.columns)
		}
		for i, row := range table.Rows {
			if len(row) != c.columns || row[c.columns-1] != c.last[i] {
				t.Errorf("row %q has not %d cells with %q as the last", row, c.columns, c.last[i])
			}
		}
	}
	pairs := Template(ready, ui.Style{}, now)
	if got := pairs[len(pairs)-1]; got != [2]string{"on standby", "2"} {
		t.Errorf("the last line of the details is %q, want the number on standby", got)
	}
}

func TestCommandInQuotes(t *testing.T) {
	if got, want := quoted([]string{"sh", "-c", "a b", ""}), `sh -c "a b" ""`; got != want {
		t.Errorf("a command is written as %s, want %s", got, want)
	}
}
