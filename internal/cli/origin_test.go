package cli

import (
	"strings"
	"testing"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/vmm"
)

func TestOrigin(t *testing.T) {
	rel := relatives{snapshots: []model.Snapshot{{ID: "a123456789abcdef", Name: "night", VMID: "1"}, {ID: "b123456789abcdef", Name: "noon", VMID: "1"}}}
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

// TestVCPUAdvice checks that a VM shows the driver's recommendation only if it concerns the VM.
func TestVCPUAdvice(t *testing.T) {
	advice := []api.Recommendation{
		{Kind: "cats per dog, at most", Value: 3, Reason: "they fight"},
		{Kind: string(vmm.MaxVCPUsWithInit), Value: 1, Reason: "it stalls"},
	}
	vm := model.VM{Spec: model.Spec{VCPUs: 1}}
	for _, c := range []struct {
		claim string
		rel   relatives
		want  string
	}{
		{"no recommendation", relatives{init: "/sbin/init"}, ""},
		{"an image without an init", relatives{advice: advice}, ""},
		{"an image with an init", relatives{advice: advice, init: "/sbin/init"},
			"at most 1 for an image with an init: it stalls"},
	} {
		if got := c.rel.vcpuAdvice(vm, ui.Style{}); got != c.want {
			t.Errorf("%s: the advice on vCPUs is %q, want %q", c.claim, got, c.want)
		}
	}
}

// TestForkTold checks that a fork on a terminal reports the length of the pause.
func TestForkTold(t *testing.T) {
	p, _ := sitDown(t, "fork", "--name", "trial", "web")
	p.expect("trial\r\n")
	p.expect("paused web for 9ms\r\n")
	p.leaves(0)
	p, _ = sitDown(t, "snapshot", "restore", "--name", "still", "--disks-only", "night")
	p.expect("still\r\n")
	p.expect("Not started yet. Start: banger vm start still\r\n")
	p.leaves(0)
}

// TestNoBytesOnTerminal checks that exports are not written to or read from a terminal.
func TestNoBytesOnTerminal(t *testing.T) {
	p, _ := sitDown(t, "snapshot", "export", "night")
	p.expect("refusing to write a snapshot to a terminal")
	p.expect("banger snapshot export -o night.banger night")
	p.leaves(64)
	p, _ = sitDown(t, "snapshot", "import", "-")
	p.expect("refusing to read a snapshot from a terminal")
	p.leaves(64)
}
