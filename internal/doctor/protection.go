package doctor

import (
	"fmt"
	"strings"
)

// checkProtection reports what keeps a guest that has taken over its VMM from the host.
func checkProtection(env Env) Check {
	c := Check{Name: "protection", Feature: "VMs that cannot harm this host"}
	if env.Unconfined {
		return c.warn("the configuration turns it off",
			"A guest that takes over its VMM can do what you can do.", "Remove the key confine from the configuration.")
	}
	protection := env.Protection()
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
	return c.warn(summary,
		"A guest that takes over its VMM is not kept from: "+strings.Join(missing, ", ")+".", "Use a newer kernel, with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock).")
}
