package vmflag

import (
	"fmt"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
)

func parseNet(s string) (model.NetMode, error) {
	switch mode := model.NetMode(s); mode {
	case "", model.NetUser, model.NetNone:
		return mode, nil
	}
	return "", fault.New(fault.Invalid, "--net: %q is not a network mode", s).WithHint("Use --net user or --net none.")
}

// parseEnv reads NAME=VALUE. NAME alone copies the variable from here; if it is unset here, it is
// left out, as docker and podman do.
func parseEnv(here Environment, list []string) (map[string]string, error) {
	env := make(map[string]string, len(list))
	for _, kv := range list {
		name, value, given := strings.Cut(kv, "=")
		if !given {
			var set bool
			if value, set = here.LookupEnv(name); !set {
				continue
			}
		}
		env[name] = value
	}
	if err := model.CheckEnv(env); err != nil {
		return nil, fault.New(fault.Invalid, "--env: %w", err).WithHint("For example: --env EDITOR=vim")
	}
	return env, nil
}

func parsePairs(flag string, list []string) (map[string]string, error) {
	pairs := make(map[string]string, len(list))
	for _, kv := range list {
		key, value, given := strings.Cut(kv, "=")
		if !given || key == "" {
			return nil, fault.New(fault.Invalid, "--%s: %q is not KEY=VALUE", flag, kv).
				WithHint("For example: --%s team=web", flag)
		}
		pairs[key] = value
	}
	return pairs, nil
}

// Env returns an environment as the agent takes it, in the order of the flags.
func Env(here Environment, list []string) ([]string, error) {
	env, err := parseEnv(here, list)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(env))
	for _, kv := range list {
		name, _, _ := strings.Cut(kv, "=")
		if value, ok := env[name]; ok {
			out = append(out, fmt.Sprintf("%s=%s", name, value))
		}
	}
	return out, nil
}
