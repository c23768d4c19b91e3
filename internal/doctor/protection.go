package doctor

import (
	"context"
	"fmt"
	"strings"

	"banger/internal/model"
)

// checkProtection reports what keeps a guest that has taken over its VMM from the host.
func checkProtection(ctx context.Context, env Env) Check {
	c := Check{Name: "protection", Feature: "VMs that cannot harm this host"}
	if env.Unconfined {
		return c.warn("the configuration turns it off",
			"A guest that takes over its VMM can do what you can do.", "Remove the key confine from the configuration.")
	}
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	protection := env.Protection(ctx, env.QEMU)
	var on, missing []string
	for _, name := range protection.On() {
		on = append(on, string(name))
	}
	for _, l := range protection.Missing() {
		missing = append(missing, fmt.Sprintf("%s (%s)", l.Name, l.Note))
	}
	summary := "nothing is protected"
	if len(on) > 0 {
		summary = "on for " + strings.Join(on, ", ")
	}
	if len(missing) == 0 {
		return c.pass(summary)
	}
	fix := "Use a newer kernel, with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock)."
	if len(missing) == 1 && protection.Missing()[0].Name == model.LayerMemory {
		fix = "Install QEMU 8.2 or newer."
	}
	return c.warn(summary, "Not protected from a guest that takes over its VMM: "+strings.Join(missing, ", ")+".", fix)
}
