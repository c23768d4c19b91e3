package qemu

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// Fingerprint is a hash of the command line of a boot without names, the identity of the boot
// files, QEMU's version and the CPU: see vmm.Restorer. It leaves out the frequency of the TSC,
// which belongs to the CPU: each measurement differs a little.
func (d *Driver) Fingerprint(ctx context.Context, m vmm.Machine) (string, error) {
	info, err := d.Info(ctx)
	if err != nil {
		return "", err
	}
	cpu, err := hostCPU()
	if err != nil {
		return "", err
	}
	parts := append(nameless(m, Accel(info.Accel)), info.Version, cpu)
	if m.Kernel != "" && m.BootID == "" {
		return "", fault.New(fault.Internal, "fingerprinting machine %s: its boot files have no identity", m.ID)
	}
	if m.Kernel != "" { // a shape stays what it was: snapshots hold it
		parts = append(parts, m.BootID)
	}
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d %s\n", len(part), part)
	}
	return "qemu-" + hex.EncodeToString(sum.Sum(nil)), nil
}

// oldWriteError stands for writeError in a fingerprint. The guest does not see the difference.
const oldWriteError = ",werror=report"

// nameless is the command line of a machine, without its names, addresses, and the files of its
// drives.
func nameless(m vmm.Machine, accel Accel) []string {
	m.ID, m.Kernel = "", ""
	m.Drives, m.NICs = slices.Clone(m.Drives), slices.Clone(m.NICs)
	for i := range m.Drives {
		m.Drives[i].Path = ""
	}
	for i := range m.NICs {
		m.NICs[i].MAC, m.NICs[i].Tap = nil, ""
	}
	list := args(m, host{accel: accel})
	for i, arg := range list { // what was saved by versions that had this option must stay usable
		list[i] = strings.Replace(arg, writeError, oldWriteError, 1)
	}
	return list
}

// hostCPU is the host's cpuModel. It does not change while the host is up, so it is read once.
var hostCPU = sync.OnceValues(func() (string, error) {
	cpuinfo, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("fingerprinting the CPU: %w", err)
	}
	defer cpuinfo.Close()
	return cpuModel(cpuinfo)
})

// cpuModel returns the description of the first CPU of a /proc/cpuinfo.
func cpuModel(cpuinfo io.Reader) (string, error) {
	var found []string
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() && (lines.Text() != "" || len(found) == 0) {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(name) {
		case "vendor_id", "cpu family", "model", "model name", "stepping", "flags":
			found = append(found, strings.TrimSpace(value))
		}
	}
	if err := lines.Err(); err != nil || len(found) == 0 {
		return "", fmt.Errorf("fingerprinting the CPU: /proc/cpuinfo does not describe it (%v)", err)
	}
	return strings.Join(found, "\n"), nil
}
