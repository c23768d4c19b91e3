package e2e

import (
	"regexp"
	"testing"

	"banger/internal/testkit"
)

// TestConfig sets one value in each place that accepts it.
func TestConfig(t *testing.T) {
	t.Parallel()
	h := testkit.NewHome(t, bin)
	memory := func(want, origin string) {
		t.Helper()
		out := ok(t, h, "config", "show")
		if !regexp.MustCompile(`(?m)^.*memory.*` + want + `.*` + origin).MatchString(out) {
			t.Errorf("memory is not %s from %s:\n%s", want, origin, out)
		}
	}
	memory("", "default")
	h.WriteConfig(t, "memory = \"333M\"\n")
	memory("333M", "config.toml")
	h.Setenv("BANGER_MEMORY", "444M")
	memory("444M", "BANGER_MEMORY")

	for name, c := range map[string]struct {
		text  string
		words []string
	}{
		"unknown key":   {"\n\nvcpus = 1\nmemroy = \"1G\"\n", []string{":4", "memroy"}},
		"unknown table": {"[vmm]\nx = 1\n", []string{":1", "vmm"}},
		"bad value":     {"vcpus = 1\nmemory = \"lots\"\n", []string{":2", "memory", "lots"}},
		"wrong type":    {"vcpus = \"two\"\n", []string{":1", "vcpus"}},
		"not TOML":      {"[vm\n", []string{":1"}},
		"out of range":  {"memory = \"1K\"\n", []string{":1", "memory"}},
	} {
		t.Run(name, func(t *testing.T) {
			h.WriteConfig(t, c.text)
			fails(t, h, []string{"config", "show"}, append(c.words, "config.toml")...)
		})
	}
	t.Run("bad environment", func(t *testing.T) {
		h.WriteConfig(t, "")
		h.Setenv("BANGER_MEMORY", "lots")
		fails(t, h, []string{"config", "show"}, "BANGER_MEMORY", "lots")
	})
}

// TestConfigPrecedence makes VMs with values from the file, the environment and flags.
func TestConfigPrecedence(t *testing.T) {
	h := warm(t)
	h.WriteConfig(t, "memory = \"333M\"\nvcpus = 1\n")
	h.Setenv("BANGER_VCPUS", "2")
	ok(t, h, "vm", "create", "--name", "plain")
	ok(t, h, "vm", "create", "--name", "flag", "--memory", "222M", "--vcpu", "3")
	plain, flag := show(t, h, "plain").Spec, show(t, h, "flag").Spec
	equal(t, "memory from the file", plain.Memory.String(), "333M")
	equal(t, "vcpus from the environment", plain.VCPUs, 2)
	equal(t, "memory from the flag", flag.Memory.String(), "222M")
	equal(t, "vcpus from the flag", flag.VCPUs, 3)

	// The daemon is running already, so it has not read this file.
	h.WriteConfig(t, "memory = \"300M\"\n")
	h.Setenv("BANGER_VCPUS", "1")
	ok(t, h, "vm", "create", "--name", "later")
	later := show(t, h, "later").Spec
	equal(t, "memory from the changed file", later.Memory.String(), "300M")
	equal(t, "vcpus from the changed environment", later.VCPUs, 1)
	ok(t, h, "rm", "plain", "flag", "later")
}
