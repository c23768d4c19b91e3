package vmflag

import (
	"path"
	"strings"

	"banger/internal/cli/render"
	"banger/internal/fault"
	"banger/internal/model"
)

// Filter returns a function that reports whether a VM passes all filters. Filters with the
// same key are alternatives.
func Filter(filters []string) (func(model.VM) bool, error) {
	wanted := map[string][]string{}
	for _, f := range filters {
		key, pattern, ok := strings.Cut(f, "=")
		if !ok || pattern == "" {
			return nil, fault.New(fault.Invalid, "--filter: %q is not KEY=VALUE", f).
				WithHint("For example: --filter state=running")
		}
		switch key {
		case "state", "name", "image", "net", "label":
		default:
			return nil, fault.New(fault.Invalid, "--filter: there is no key %q", key).
				WithHint("Filter by state, name, image, net or label.")
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fault.New(fault.Invalid, "--filter: %q is not a pattern: %w", pattern, err).
				WithHint("For example: --filter name='web-*'")
		}
		wanted[key] = append(wanted[key], pattern)
	}
	return func(vm model.VM) bool {
		for key, patterns := range wanted {
			if !matchesAny(filterValues(vm, key), patterns) {
				return false
			}
		}
		return true
	}, nil
}

// filterValues returns the values of a VM that a filter with the key compares.
func filterValues(vm model.VM, key string) []string {
	switch key {
	case "state":
		return []string{string(vm.State)}
	case "name":
		return []string{vm.Spec.Name}
	case "image":
		return []string{vm.Spec.Image, render.ShortRef(vm.Spec.Image), render.VMImage(vm)}
	case "net":
		return []string{string(vm.Spec.Net)}
	}
	var labels []string
	for k, v := range vm.Spec.Labels {
		labels = append(labels, k, k+"="+v)
	}
	return labels
}

func matchesAny(values, patterns []string) bool {
	for _, pattern := range patterns {
		glob := strings.ReplaceAll(pattern, "/", "\x00") // * then matches slashes
		for _, value := range values {
			if ok, _ := path.Match(glob, strings.ReplaceAll(value, "/", "\x00")); ok {
				return true
			}
		}
	}
	return false
}
