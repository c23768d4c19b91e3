package openssh

import (
	"slices"
	"strings"
)

// Shared returns the options with which ssh would share something of the host with a VM, from what
// `ssh -G NAME.vm` prints. ours reports whether ssh reaches the VM by banger's configuration.
func Shared(settings string) (options []string, ours bool) {
	keys := 0
	for line := range strings.Lines(settings) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "identityfile":
			if keys++; keys == 2 { // the first one is banger's
				options = append(options, name)
			}
		case "proxycommand":
			ours = strings.Contains(value, viaProxy)
		case "forwardagent", "forwardx11", "permitlocalcommand", "tunnel", "controlmaster":
			if value == "no" || value == "false" {
				continue
			}
			options = append(options, name)
		case "sendenv":
			if value == "LANG" || value == "LC_*" || value == "COLORTERM" || value == "NO_COLOR" {
				continue // distributions send these to all hosts
			}
			options = append(options, name)
		case "localforward", "remoteforward", "dynamicforward", "setenv", "certificatefile":
			options = append(options, name)
		}
	}
	slices.Sort(options)
	return slices.Compact(options), ours
}
