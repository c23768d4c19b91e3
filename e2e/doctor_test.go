package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"banger/internal/testkit"
)

// finding is a line of `doctor --json`, with the fields that these tests use.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix"`
}

// TestDoctor checks the host without a daemon and leaves nothing.
func TestDoctor(t *testing.T) {
	t.Parallel()
	h := testkit.NewHome(t, bin)
	before := h.Snapshot(t)

	r := h.Banger(t, "doctor", "--json")
	var findings []finding
	if err := json.Unmarshal([]byte(r.Stdout), &findings); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	var names []string
	for _, f := range findings {
		names = append(names, strings.ToLower(f.Name))
		switch f.Status {
		case "pass":
		case "warn", "fail":
			if f.Fix == "" && (f.Status == "fail" || f.Detail == "") {
				t.Errorf("%s: %s does not say what to do", f.Name, f.Status)
			}
		default:
			t.Errorf("%s: status %q", f.Name, f.Status)
		}
	}
	has(t, strings.Join(names, "\n"), "kvm", "qemu", "mkfs.ext4", "e2fsck", "resize2fs", "mmdebstrap", "disk", "clock", "memory", "tmpdir", "limit")
	text := h.Banger(t, "doctor")
	equal(t, "exit status of both forms", text.Code, r.Code)
	has(t, text.Stdout, "qemu", "KVM")
	h.CheckNoLeaks(t, before)

	t.Run("nothing installed", func(t *testing.T) {
		poor := testkit.NewHome(t, bin)
		poor.Setenv("PATH", poor.Dir)
		r := poor.Banger(t, "doctor")
		if r.Code == 0 {
			t.Error("exit 0 without any tool")
		}
		has(t, r.Stdout, "apt install qemu-system-x86", "apt install mmdebstrap")
	})
}
