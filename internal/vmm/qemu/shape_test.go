package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"banger/internal/model"
	"banger/internal/testkit"
	"banger/internal/vmm"
)

// TestShapeIsStable computes a shape as the first version did. Snapshots and suspended VMs hold
// shapes: if the formula changes, their memory can never be restored again.
func TestShapeIsStable(t *testing.T) {
	testkit.RequireTool(t, binaryName)
	d := New(Config{})
	m := vmm.Machine{
		ID: "0123456789abcdef", RunDir: "/run", VCPUs: 2, Memory: 512 * model.MiB,
		Drives: []vmm.Drive{{Name: "image", ReadOnly: true}, {Name: "system"}},
		NICs:   []vmm.NIC{{Kind: vmm.NICUser}},
	}
	got, err := d.Fingerprint(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	info, err := d.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cpu, err := hostCPU()
	if err != nil {
		t.Fatal(err)
	}
	if old := "virtio-blk-device,drive=disk-system,serial=system,werror=report"; !slices.Contains(nameless(m, TCG), old) {
		t.Errorf("a shape does not have the option %s, which shapes have since the first version", old)
	}
	sum := sha256.New()
	for _, part := range append(nameless(m, Accel(info.Accel)), info.Version, cpu) {
		fmt.Fprintf(sum, "%d %s\n", len(part), part)
	}
	if want := "qemu-" + hex.EncodeToString(sum.Sum(nil)); got != want {
		t.Errorf("the shape is %s, not %s as in saved machines", got, want)
	}
}
