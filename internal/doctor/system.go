package doctor

import (
	"fmt"
	"strconv"
	"strings"

	"banger/internal/limit"
	"banger/internal/model"
)

// Memory that must be available, in bytes: for the smallest guest with its VMM, and for a default
// guest and the host.
const (
	memoryFail = 512 * model.MiB
	memoryWarn = 2 * model.GiB
)

func checkMemory(env Env) Check {
	c := Check{Name: "memory", Feature: "running VMs"}
	free, err := availableMemory(env)
	if err != nil {
		return c.warn("cannot read the available memory", err.Error(), "")
	}
	summary := fmt.Sprintf("%v available", round(free))
	if limit, ok := memoryLimit(env); ok && limit < free {
		free = limit
		summary = fmt.Sprintf("%v, limited by the control group", round(limit))
	}
	const fix = "Stop programs that use much memory, or add memory to this host."
	switch {
	case free < memoryFail:
		return c.fail(summary, "This is not enough for a VM.", fix)
	case free < memoryWarn:
		return c.warn(summary,
			"This may not be enough for a VM with the default memory. Use a smaller value of --memory.", fix)
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
	return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}

// memoryLimit returns the limit of this container's control group, for both versions of control
// groups. It does not look for limits of groups below it.
func memoryLimit(env Env) (model.Bytes, bool) {
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := env.ReadFile(file)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return model.Bytes(n), err == nil // "max" means no limit
	}
	return 0, false
}

// firstYear is when this was written. An earlier clock is wrong.
const firstYear = 2025

func checkClock(env Env, host distro) Check {
	c := Check{Name: "clock", Feature: "signatures, clocks of guests"}
	now := env.Now()
	today := now.UTC().Format("2006-01-02 15:04 UTC")
	fix := host.sudo + "timedatectl set-ntp true"
	if host.manager == apk {
		fix = host.sudo + "rc-service chronyd start"
	}
	if now.Year() < firstYear {
		return c.fail("the clock shows "+today,
			"Signatures and certificates seem to be from the future. Guests get this time.", fix)
	}
	synced, known := env.ClockSync()
	switch {
	case !known:
		return c.pass(today + "; cannot find out whether it is synchronised")
	case !synced:
		return c.warn(today+", not synchronised",
			"No service synchronises the kernel's clock. This is common in virtual machines. Guests get this time.", fix)
	}
	return c.pass(today + ", synchronised")
}

// checkLimits looks at hard limits only: the daemon raises the soft ones.
func checkLimits(env Env) (checks []Check) {
	set, err := env.Limits()
	if err != nil {
		return []Check{Check{Name: "limits", Feature: "running VMs"}.warn("cannot read the limits", err.Error(), "")}
	}
	for _, l := range limit.All {
		c := Check{Name: "limit-" + string(l.Name), Feature: "running VMs"}
		hard := set[l.Name].Hard
		summary := fmt.Sprintf("%s: %s", l.What, l.Text(hard))
		refused := limit.Set{l.Name: {Soft: hard, Hard: hard}}.Check(env.Need)
		switch {
		case refused != nil:
			c = c.fail(summary, "A VM of the usual size does not start. "+l.Why, l.Fix(limit.Unlimited))
		case hard < l.Low:
			c = c.warn(summary, l.Why, l.Fix(l.Low))
		default:
			c = c.pass(summary)
		}
		checks = append(checks, c)
	}
	return checks
}
