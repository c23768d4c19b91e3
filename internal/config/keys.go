package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"banger/internal/model"
)

// key is one setting. Its type is that of the field that at points to.
type key struct {
	name    string // in the file: dotted
	flag    string // without dashes; "" is the name with hyphens
	def     string
	at      func(*Config) any
	choices []string            // all that it can be; empty: anything of its type
	check   func(*Config) error // what else is asked of a value
	doc     string
}

// keys is the table of all settings but file_sync, in the order in which they are shown.
var keys = []key{
	{name: "image", def: "debian:bookworm", at: func(c *Config) any { return &c.Image }, check: func(c *Config) error { return checkName(c.Image) },
		doc: "The image that a new VM boots: any registry reference, or the name of an imported one."},
	{name: "kernel", def: "debian", at: func(c *Config) any { return &c.Kernel }, check: func(c *Config) error { return checkName(c.Kernel) },
		doc: "The kernel that a new VM boots."},
	{name: "vcpus", flag: "vcpu", def: "0", at: func(c *Config) any { return &c.VCPUs }, check: func(c *Config) error { return between(c.VCPUs, 0, model.MaxVCPUs) },
		doc: "Virtual CPUs of a new VM. If 0: two, or as many as the driver recommends for the image."},
	{name: "memory", def: "1G", at: func(c *Config) any { return &c.Memory }, check: checkMemory,
		doc: "Memory of a new VM, such as 512M or 4G."},
	{name: "disk_size", def: "10G", at: func(c *Config) any { return &c.DiskSize }, check: func(c *Config) error { return between(c.DiskSize, model.MinDiskSize, model.MaxDiskSize) },
		doc: "Size of / in a new VM. The host's disk is used only as it fills."},
	{name: "work_disk_size", def: "8G", at: func(c *Config) any { return &c.WorkDiskSize }, check: checkWorkDisk,
		doc: "Size of /root in a new VM, which is a disk of its own; 0 for none."},
	{name: "net", def: string(model.NetUser), at: func(c *Config) any { return &c.Net }, choices: []string{string(model.NetUser), string(model.NetNone)},
		doc: "The network of a new VM: user (out through the host, IPv4 only, without privileges) or none."},
	{name: "driver", def: "auto", at: func(c *Config) any { return &c.Driver }, choices: []string{"auto", "qemu"},
		doc: "The program that runs VMs; auto takes the best one available."},
	{name: "accel", def: "auto", at: func(c *Config) any { return &c.Accel }, choices: []string{"auto", "kvm", "tcg"},
		doc: "How guests' instructions are run: kvm (by the CPU), tcg (emulated), or auto (kvm if it works, otherwise tcg)."},
	{name: "qemu", def: "", at: func(c *Config) any { return &c.QEMU }, check: func(c *Config) error { return checkProgram(c.QEMU) },
		doc: "The QEMU program: an absolute path, or a name to look for in PATH. If empty: the one for this machine's architecture."},
	{name: "boot_timeout", def: "0s", at: func(c *Config) any { return &c.BootTimeout }, check: func(c *Config) error { return between(c.BootTimeout, 0, time.Hour) },
		doc: "How long a guest may take until its agent answers. If 0s, the driver decides."},
	{name: "stop_timeout", def: "10s", at: func(c *Config) any { return &c.StopTimeout }, check: func(c *Config) error { return between(c.StopTimeout, time.Second, time.Hour) },
		doc: "How long a guest may take to power off. After that, banger ends its machine."},
	{name: "templates", def: "true", at: func(c *Config) any { return &c.Templates },
		doc: "Whether VMs start from templates, which banger makes in the background. If false, every start is a boot."},
	{name: "template_budget", def: "8G", at: func(c *Config) any { return &c.TemplateBudget }, check: func(c *Config) error { return between(c.TemplateBudget, 0, model.MaxDiskSize) },
		doc: "Disk space for all templates together. If they exceed it, the least recently used are removed. 0 for no bound."},
	{name: "standby", def: "0", at: func(c *Config) any { return &c.Standby }, check: func(c *Config) error { return between(c.Standby, 0, maxStandby) },
		doc: "How many machines of each template that is in use wait for the next run. Each takes up memory."},
	{name: "log_level", def: "info", at: func(c *Config) any { return &c.LogLevel }, choices: []string{"debug", "info", "warn", "error"},
		doc: "What the daemon's log holds."},
	{name: "git.identity", def: "true", at: func(c *Config) any { return &c.GitIdentity },
		doc: "Whether guests get the host user's git identity (user.name and user.email)."},
}

// maxStandby bounds machines that nobody has asked for.
const maxStandby = 64

// file_sync is a list and so has no place in the table: no environment variable, no flag.
const (
	syncKey = "file_sync"
	syncDoc = "Files and directories of the host that every VM gets at its start."
)

// syncFields are the keys of an entry of file_sync.
var syncFields = []struct{ name, doc string }{
	{"host", "Path on the host: absolute, or below your home directory with ~/."},
	{"guest", "Path in the guest: absolute, or below /root with ~/."},
	{"mode", `Permission bits, such as "0600". If unset: those on the host.`},
	{"optional", "If true, a file that is missing on the host is no error."},
}

func keyNamed(name string) (key, bool) {
	for _, k := range keys {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

// env is the name of the setting's environment variable.
func (k key) env() string {
	return "BANGER_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

func (k key) flagName() string {
	if k.flag != "" {
		return k.flag
	}
	return strings.NewReplacer("_", "-", ".", "-").Replace(k.name)
}

// set gives the setting the value that text means. c is unchanged if that is an error.
func (k key) set(c *Config, text string) error {
	if len(k.choices) > 0 && !slices.Contains(k.choices, text) {
		return fmt.Errorf("%s: %.100q is none of %s", k.name, text, strings.Join(k.choices, ", "))
	}
	probe := *c
	err := parse(k.at(&probe), text)
	if err == nil && k.check != nil {
		err = k.check(&probe)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	*c = probe
	return nil
}

// between checks a value against its bounds, both included.
func between[T int | model.Bytes | time.Duration](v, low, high T) error {
	if v < low || v > high {
		return fmt.Errorf("%v is not between %v and %v", v, low, high)
	}
	return nil
}

func checkMemory(c *Config) error {
	if err := between(c.Memory, model.MinMemory, model.MaxMemory); err != nil {
		return err
	}
	if c.Memory%model.MiB != 0 {
		return fmt.Errorf("%d bytes is not a whole number of MiB", int64(c.Memory))
	}
	return nil
}

func checkWorkDisk(c *Config) error {
	if c.WorkDiskSize == 0 {
		return nil
	}
	if err := between(c.WorkDiskSize, model.MinDiskSize, model.MaxDiskSize); err != nil {
		return fmt.Errorf("%w; 0 is for no work disk", err)
	}
	return nil
}

// checkName refuses what cannot name an image or kernel, whatever there is.
func checkName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("it is empty")
	case len(s) > 512:
		return fmt.Errorf("%.20q… is too long", s)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return fmt.Errorf("%.100q holds a space or something that cannot be printed", s)
	}
	return nil
}

func checkProgram(s string) error {
	switch {
	case s != "" && strings.Contains(s, "/") && !filepath.IsAbs(s):
		return fmt.Errorf("%.100q is relative; write the path from / on, or a name alone", s)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%.100q holds a NUL", s)
	}
	return nil
}
