package doctor

import (
	"fmt"
	"strconv"
	"strings"

	"banger/internal/model"
)

// Memory in bytes: the smallest guest with its VMM, and a default guest with room for the host.
const (
	memoryFail = 512 * model.MiB
	memoryWarn = 2 * model.GiB
)

func checkMemory(env Env) Check {
	c := Check{Name: "memory", Feature: "running VMs"}
	free, err := availableMemory(env)
	if err != nil {
		return c.warn("the memory cannot be read", err.Error(), "")
	}
	summary := fmt.Sprintf("%v available", round(free))
	if limit, ok := memoryLimit(env); ok && limit < free {
		free = limit
		summary = fmt.Sprintf("%v, the limit of the control group", round(limit))
	}
	const fix = "End what needs much of it, or give this machine more."
	switch {
	case free < memoryFail:
		return c.fail(summary, "No VM fits into that.", fix)
	case free < memoryWarn:
		return c.warn(summary, "A VM takes as much as its --memory when it uses all of it; give VMs less.", fix)
	}
	return c.pass(summary)
}

// availableMemory reads MemAvailable (proc(5), /proc/meminfo).
func availableMemory(env Env) (model.Bytes, error) {
	data, err := env.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemAvailable:" {
			n, err := strconv.ParseInt(f[1], 10, 50)
			return model.Bytes(n) * model.KiB, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo names no MemAvailable")
}

// memoryLimit is the limit of the control group that is this container's root, with either version of control groups. Limits of groups below it
// are not looked for.
func memoryLimit(env Env) (model.Bytes, bool) {
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := env.ReadFile(file)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return model.Bytes(n), err == nil // "max" is no limit
	}
	return 0, false
}

// firstYear is when this was written; a clock before it is wrong.
const firstYear = 2025

func checkClock(env Env, host distro) Check {
	c := Check{Name: "clock", Feature: "signatures, guests' clocks"}
	now := env.Now()
	today := now.UTC().Format("2006-01-02 15:04 UTC")
	fix := host.sudo + "timedatectl set-ntp true"
	if host.manager == apk {
		fix = host.sudo + "rc-service chronyd start"
	}
	if now.Year() < firstYear {
		return c.fail("it says "+today, "Signatures and certificates look as if they were from the future, and guests take this clock.", fix)
	}
	synced, known := env.ClockSync()
	switch {
	case !known:
		return c.pass(today + "; whether it is synchronised is not known")
	case !synced:
		return c.warn(today+", not synchronised", "The kernel says that nothing keeps its clock right, which is common inside virtual machines; guests take this clock.", fix)
	}
	return c.pass(today + ", synchronised")
}

// Limits below which a few VMs come into trouble: a running VM takes about 30 open files and 10 threads.
var limitNeeded = map[Resource]struct {
	name, feature, flag, key string
	warn                     uint64
}{
	OpenFiles: {"open-files", "many VMs at once", "-n", "nofile", 1024},
	Processes: {"processes", "many VMs at once", "-u", "nproc", 1024},
}

func checkLimit(env Env, r Resource) Check {
	n := limitNeeded[r]
	c := Check{Name: "limit-" + n.name, Feature: n.feature}
	soft, hard, err := env.Limit(r)
	if err != nil {
		return c.warn("the limit cannot be read", err.Error(), "")
	}
	summary := fmt.Sprintf("%s, at most %s", count(soft), count(hard))
	if soft >= n.warn {
		return c.pass(summary)
	}
	fix := fmt.Sprintf("ulimit %s %d", n.flag, n.warn*4)
	if hard < n.warn {
		fix = fmt.Sprintf("Raise %s in /etc/security/limits.conf to %d, then log in again.", n.key, n.warn*4)
	}
	return c.warn(summary, fmt.Sprintf("Fewer than %d %s are little for several VMs.", n.warn, r), fix)
}

func count(n uint64) string {
	if n == Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
