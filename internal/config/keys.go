package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"banger/internal/model"
)

// key is one setting. Its type is that of the field to which at returns a pointer.
type key struct {
	name    string // in the file: dotted
	flag    string // without dashes; "" means the name with hyphens
	def     string
	at      func(*Config) any
	choices []string            // all valid values; empty: any value of the type
	check   func(*Config) error // checks a value of the right type; nil: all are valid
	doc     string
}

// keys is the table of all settings but file_sync, in the order in which they are shown.
var keys = slices.Concat(vmKeys, driverKeys, otherKeys)

// vmKeys are the settings of new VMs. Each command that makes a VM reads them itself.
var vmKeys = []key{
	{
		name: "image", def: "debian:bookworm", at: func(c *Config) any { return &c.Image },
		check: func(c *Config) error { return checkName(c.Image) },
		doc:   "Image of a new VM: a registry's reference, or the name of an imported image.",
	}, {
		name: "kernel", def: "debian", at: func(c *Config) any { return &c.Kernel },
		check: func(c *Config) error { return checkName(c.Kernel) },
		doc:   "Kernel of a new VM.",
	}, {
		name: "vcpus", flag: "vcpu", def: "0", at: func(c *Config) any { return &c.VCPUs },
		check: func(c *Config) error { return between(c.VCPUs, 0, model.MaxVCPUs) },
		doc:   "Number of virtual CPUs of a new VM. 0: two, or as many as the driver recommends for the image.",
	}, {
		name: "memory", def: "1G", at: func(c *Config) any { return &c.Memory }, check: checkMemory,
		doc: "Memory of a new VM, such as 512M or 4G.",
	}, {
		name: "disk_size", def: "10G", at: func(c *Config) any { return &c.DiskSize },
		check: func(c *Config) error { return between(c.DiskSize, model.MinDiskSize, model.MaxDiskSize) },
		doc:   "Size of a new VM's system disk, at /. The disk uses space on the host only as it fills.",
	}, {
		name: "work_disk_size", def: "8G", at: func(c *Config) any { return &c.WorkDiskSize }, check: checkWorkDisk,
		doc: "Size of a new VM's work disk, at /root. 0: no work disk.",
	}, {
		name: "net", def: string(model.NetUser), at: func(c *Config) any { return &c.Net },
		choices: []string{string(model.NetUser), string(model.NetNone)},
		doc:     "Network of a new VM: user (outgoing IPv4 through the host, without root) or none.",
	},
}

// driverKeys are the settings of the program that runs VMs.
var driverKeys = []key{
	{
		name: "driver", def: "auto", at: func(c *Config) any { return &c.Driver }, choices: []string{"auto", "qemu"},
		doc: "Program that runs VMs. auto: the best one on this host.",
	}, {
		name: "accel", def: "auto", at: func(c *Config) any { return &c.Accel }, choices: []string{"auto", "kvm", "tcg"},
		doc: "How guest instructions run: kvm (by the CPU) or tcg (emulated). auto: kvm where it works, otherwise tcg.",
	}, {
		name: "confine", def: "auto", at: func(c *Config) any { return &c.Confine }, choices: []string{"auto", "off"},
		doc: "Whether the programs that run VMs may use only their own files. auto: as far as the kernel can. off: not at all; for finding faults.",
	}, {
		name: "qemu", def: "", at: func(c *Config) any { return &c.QEMU },
		check: func(c *Config) error { return checkProgram(c.QEMU) },
		doc:   "QEMU program: an absolute path, or a name to find in PATH. Empty: the program for this host's architecture.",
	}, {
		name: "boot_timeout", def: "0s", at: func(c *Config) any { return &c.BootTimeout },
		check: func(c *Config) error { return between(c.BootTimeout, 0, time.Hour) },
		doc:   "Time in which a guest must answer after its start, or when a template is made. On a slow or busy host it is longer. 0s: the driver chooses; it allows more in emulation.",
	}, {
		name: "stop_timeout", def: "10s", at: func(c *Config) any { return &c.StopTimeout },
		check: func(c *Config) error { return between(c.StopTimeout, time.Second, time.Hour) },
		doc:   "Time that a guest has to power off before its VM is ended. It is longer on a slow host.",
	},
}

var otherKeys = []key{
	{
		name: "templates", def: "true", at: func(c *Config) any { return &c.Templates },
		doc: "Whether VMs are forked from templates: booted machines that banger saves in the background. false: every start boots.",
	}, {
		name: "template_budget", def: "8G", at: func(c *Config) any { return &c.TemplateBudget },
		check: func(c *Config) error { return between(c.TemplateBudget, 0, model.MaxDiskSize) },
		doc:   "Disk space for all templates together. banger deletes the least recently used templates first. 0: no limit.",
	}, {
		name: "standby", def: "0", at: func(c *Config) any { return &c.Standby },
		check: func(c *Config) error { return between(c.Standby, 0, maxStandby) },
		doc:   "Number of machines that wait for the next run, for each template in use. Each machine uses memory.",
	}, {
		name: "disk_reserve", def: "auto", at: func(c *Config) any { return &c.DiskReserve },
		doc: "Space that stays free on the host's file system, such as 5G or 10%. With less, VMs that write are held, and nothing new starts. " +
			"auto: 2G, or 5% of a small file system. 0: no reserve.",
	}, {
		name: "log_level", def: "info", at: func(c *Config) any { return &c.LogLevel },
		choices: []string{"debug", "info", "warn", "error"},
		doc:     "Lowest level of the messages in the daemon's log.",
	}, {
		name: "log_format", def: "text", at: func(c *Config) any { return &c.LogFormat }, choices: []string{"text", "json"},
		doc: "Form of the daemon's log: text, or one JSON object per line.",
	}, {
		name: "metrics_listen", def: "", at: func(c *Config) any { return &c.MetricsListen },
		check: func(c *Config) error { return checkLoopback(c.MetricsListen) },
		doc: "Loopback address and port, such as 127.0.0.1:9464, where the daemon also serves its metrics. " +
			"Every local user can read them. Empty: only the API's socket serves them.",
	}, {
		name: "git.identity", def: "true", at: func(c *Config) any { return &c.GitIdentity },
		doc: "Whether guests get the host user's Git identity (user.name and user.email).",
	},
}

// maxStandby bounds the machines that run without a request.
const maxStandby = 64

// file_sync is a list, so it is not in the table: it has no environment variable and no flag.
const (
	syncKey = "file_sync"
	syncDoc = "Files and directories of the host that every VM gets when it starts."
)

// syncFields are the keys of an entry of file_sync.
var syncFields = []struct{ name, doc string }{
	{"host", "Path on the host: absolute, or below the home directory with ~/."},
	{"guest", "Path in the guest: absolute, or below /root with ~/."},
	{"mode", `Permission bits, such as "0600". If unset, those of the file on the host.`},
	{"optional", "true: the file on the host may be missing."},
}

func keyNamed(name string) (key, bool) {
	for _, k := range keys {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

// env returns the name of the setting's environment variable.
func (k key) env() string {
	return "BANGER_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

func (k key) flagName() string {
	if k.flag != "" {
		return k.flag
	}
	return strings.NewReplacer("_", "-", ".", "-").Replace(k.name)
}

// set sets the setting to the value of text. If that is an error, c is unchanged.
func (k key) set(c *Config, text string) error {
	if len(k.choices) > 0 && !slices.Contains(k.choices, text) {
		return fmt.Errorf("%s: %.100q is not one of: %s", k.name, text, strings.Join(k.choices, ", "))
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
		return fmt.Errorf("%w; 0 means no work disk", err)
	}
	return nil
}

// maxName bounds the name of an image or kernel, in bytes. References are shorter.
const maxName = 512

// checkName refuses text that cannot name any image or kernel.
func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("the value is empty")
	case len(s) > maxName:
		return fmt.Errorf("%.20q… is longer than %d bytes", s, maxName)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return fmt.Errorf("%.100q contains a space or an unprintable character", s)
	}
	return nil
}

// checkLoopback refuses an address to listen on that is not ADDRESS:PORT with an address of the
// loopback.
func checkLoopback(s string) error {
	if s == "" {
		return nil
	}
	addr, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return fmt.Errorf("%.100q is not an address and a port, such as 127.0.0.1:9464", s)
	case !addr.Addr().IsLoopback() || addr.Addr().Zone() != "":
		return fmt.Errorf("%.100q is not a loopback address; other hosts could read it. Write 127.0.0.1:%d", s, addr.Port())
	}
	return nil
}

func checkProgram(s string) error {
	switch {
	case s != "" && strings.Contains(s, "/") && !filepath.IsAbs(s):
		return fmt.Errorf("%.100q is a relative path; use an absolute path, or a name without /", s)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%.100q contains a NUL character", s)
	}
	return nil
}
