package limit

import (
	"fmt"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/regular"
)

// The kernel's files (proc(5), proc_sys_vm(5)).
const (
	meminfo    = "/proc/meminfo"
	overcommit = "/proc/sys/vm/overcommit_memory"
)

// CheckMemory refuses memory that the kernel of this host never gives to one process: more than it
// has, with its swap. An administrator can let the kernel promise more than that.
func CheckMemory(memory model.Bytes) error {
	mode, err := regular.Read(overcommit, 16)
	if err == nil && strings.TrimSpace(string(mode)) == "1" {
		return nil
	}
	info, err := regular.Read(meminfo, 64<<10)
	if err != nil {
		return nil // the VMM will report it
	}
	return checkMemory(memory, string(info))
}

func checkMemory(memory model.Bytes, info string) error {
	var ram, swap, n model.Bytes
	for line := range strings.Lines(info) {
		var name string
		if _, err := fmt.Sscanf(line, "%s %d kB", &name, &n); err != nil {
			continue
		}
		switch name {
		case "MemTotal:":
			ram = n * model.KiB
		case "SwapTotal:":
			swap = n * model.KiB
		}
	}
	if ram == 0 || memory <= ram+swap {
		return nil
	}
	return fault.New(fault.Unsupported, "memory: %v is more than this host has, which is %v with %v of swap", memory, ram, swap).
		WithHint("Use a smaller --memory.")
}
