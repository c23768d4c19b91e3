// Package vmflag holds the flags that describe VMs: new VMs, the children of a fork, and filters of
// lists. It checks values before the daemon is asked, and its errors name the flag.
package vmflag

import (
	"cmp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/internal/cli/command"
	"banger/internal/config"
	"banger/internal/fault"
	"banger/internal/model"
)

// Environment is the process whose variables and configuration complete the flags. *command.App
// implements it.
type Environment interface {
	LookupEnv(key string) (value string, set bool)
	Config() (cfg *config.Config, file string, err error)
}

// Spec holds the flags that describe a new VM.
type Spec struct {
	Create model.Create // flags that need no parsing of their own
	vcpus  int
	work   model.Bytes
	net    string
	env    []string
	labels []string
}

// Add adds the flags to a command.
func (s *Spec) Add(cmd *cobra.Command) {
	flags := cmd.Flags()
	c := &s.Create
	s.AddShape(cmd)
	flags.StringVar(&c.Name, "name", "", "the VM's `name`; if unset, a random name")
	flags.StringArrayVarP(&s.env, "env", "e", nil,
		"environment variable of all commands, `NAME=VALUE`; NAME alone copies its value from here")
	flags.StringVarP(&c.Workdir, "workdir", "w", "", "working `directory` of commands; if unset, the image's")
	flags.StringVarP(&c.User, "user", "u", "",
		"`user` of commands: a name or uid, optionally with :group; if unset, the image's")
	flags.StringArrayVar(&s.labels, "label", nil, "label of the VM, `KEY=VALUE`, for `vm list --filter`")
	flags.DurationVar(&c.IdleSuspend, "idle-suspend", 0,
		"suspend the VM when nobody has used it for this `time`, checked every 5 seconds; using the VM resumes it; 0: never")
	for name, value := range map[string]string{"env": "EDITOR=vim", "label": "team=web", "idle-suspend": "10m"} {
		command.SetExample(flags, name, value)
	}
}

// AddShape adds the flags that describe the VM's machine.
func (s *Spec) AddShape(cmd *cobra.Command) {
	flags := cmd.Flags()
	c := &s.Create
	flags.StringVar(&c.Image, "image", "", "`image` to boot: a registry's reference, or the name of an imported image")
	flags.StringVar(&c.Kernel, "kernel", "", "`kernel` to boot")
	flags.IntVar(&s.vcpus, "vcpu", 0,
		"`number` of virtual CPUs; 0: two, or as many as the driver recommends for the image")
	flags.Var(&c.Memory, "memory", "`size` of the memory, such as 512M or 4G")
	flags.Var(&c.DiskSize, "disk-size", "`size` of the system disk at /, such as 10G")
	flags.Var(&s.work, "work-disk-size", "`size` of the work disk at /root, such as 8G; 0: no work disk")
	flags.StringVar(&s.net, "net", "", "network `mode`: user or none")
	hideDefaults(flags, "memory", "disk-size", "work-disk-size")
	flags.SetNormalizeFunc(normalizeFlag)
	for name, value := range map[string]string{
		"vcpu": "2", "memory": "512M", "disk-size": "10G", "work-disk-size": "8G", "net": "none",
	} {
		command.SetExample(flags, name, value)
	}
	command.CompleteFlag(cmd, "net", command.Words("user", "none"))
}

// NewVM returns the VM that the flags ask for, with the configuration in place of unset flags.
func (s *Spec) NewVM(env Environment, flags *pflag.FlagSet) (model.Create, error) {
	create, err := s.Resolve(env, flags)
	if err != nil {
		return create, err
	}
	return create, configure(env, &create)
}

// Resolve returns what the flags ask for.
func (s *Spec) Resolve(env Environment, flags *pflag.FlagSet) (model.Create, error) {
	c := s.Create
	var err error
	if c.Env, err = parseEnv(env, s.env); err != nil {
		return c, err
	}
	if c.Labels, err = parsePairs("label", s.labels); err != nil {
		return c, err
	}
	if flags.Changed("work-disk-size") {
		c.WorkDiskSize = &s.work
	}
	if flags.Changed("vcpu") {
		c.VCPUs = &s.vcpus
	}
	if s.vcpus < 0 {
		return c, fault.New(fault.Invalid, "--vcpu: %d is negative", s.vcpus).WithHint("For example: --vcpu 2")
	}
	if err := s.checkGiven(flags); err != nil {
		return c, err
	}
	if c.Name != "" {
		if err := model.CheckName(c.Name); err != nil {
			return c, fault.New(fault.Invalid, "--name: %w", err).WithHint("For example: --name web-1")
		}
	}
	c.Net, err = parseNet(s.net)
	return c, err
}

// checkGiven refuses flags that are set to an empty value. In a script that is an unset variable.
func (s *Spec) checkGiven(flags *pflag.FlagSet) error {
	for _, name := range []string{"name", "image", "kernel", "net"} {
		if f := flags.Lookup(name); flags.Changed(name) && f.Value.String() == "" {
			return fault.New(fault.Invalid, "--%s is empty", name)
		}
	}
	switch {
	case flags.Changed("memory") && s.Create.Memory == 0:
		return fault.New(fault.Invalid, "--memory: 0 is less than %v", model.MinMemory)
	case flags.Changed("disk-size") && s.Create.DiskSize == 0:
		return fault.New(fault.Invalid, "--disk-size: 0 is less than %v", model.MinDiskSize)
	case s.Create.IdleSuspend < 0:
		return fault.New(fault.Invalid, "--idle-suspend: %v is negative", s.Create.IdleSuspend).
			WithHint("For example: --idle-suspend 10m")
	}
	return nil
}

// configure sets the properties whose flags are unset, from the configuration file and this
// command's environment. The daemon knows only the values of its own start.
func configure(env Environment, c *model.Create) error {
	cfg, _, err := env.Config()
	if err != nil {
		return err
	}
	c.Image, c.Kernel = cmp.Or(c.Image, cfg.Image), cmp.Or(c.Kernel, cfg.Kernel)
	c.Memory, c.DiskSize = cmp.Or(c.Memory, cfg.Memory), cmp.Or(c.DiskSize, cfg.DiskSize)
	c.Net = cmp.Or(c.Net, cfg.Net)
	if c.VCPUs == nil {
		c.VCPUs = &cfg.VCPUs
	}
	if c.WorkDiskSize == nil {
		c.WorkDiskSize = &cfg.WorkDiskSize
	}
	return nil
}

// normalizeFlag accepts the names that these flags have in other programs.
func normalizeFlag(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "vcpus", "cpus":
		name = "vcpu"
	case "mem":
		name = "memory"
	}
	return pflag.NormalizedName(name)
}

// AddCold adds the flag of all commands that start VMs.
func AddCold(cmd *cobra.Command, target *bool) {
	cmd.Flags().BoolVar(target, "cold", false, "boot the VM, even if a template would serve")
}

// hideDefaults keeps "(default 0B)" out of the help: the configuration has the defaults.
func hideDefaults(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		flags.Lookup(name).DefValue = ""
	}
}
