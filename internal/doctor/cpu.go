package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

func checkArch(env Env) Check {
	c := Check{Name: "architecture", Feature: "running VMs"}
	if env.Arch == "amd64" {
		return c.pass("amd64")
	}
	return c.fail(env.Arch, "banger runs x86-64 guests on x86-64 hosts only.", "Use an x86-64 host.")
}

// cpuFlags returns the flags of the first CPU.
func cpuFlags(env Env) ([]string, error) {
	data, err := env.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			return strings.Fields(value), nil
		}
	}
	return nil, errors.New("/proc/cpuinfo has no flags")
}

// virtualization returns the CPU's extension for virtual machines and its kernel module, or "".
func virtualization(flags []string) (name, module string) {
	switch {
	case slices.Contains(flags, "vmx"):
		return "Intel VT-x (vmx)", "kvm_intel"
	case slices.Contains(flags, "svm"):
		return "AMD-V (svm)", "kvm_amd"
	}
	return "", ""
}

const emulated = "VMs run in emulation: a boot takes several seconds, and programs run several times slower."

func checkCPU(env Env) Check {
	c := Check{Name: "cpu", Feature: "fast VMs"}
	flags, err := cpuFlags(env)
	if err != nil {
		return c.warn("cannot read the CPU's flags", err.Error(), "")
	}
	if name, _ := virtualization(flags); name != "" {
		return c.pass("virtualization by " + name)
	}
	if slices.Contains(flags, "hypervisor") {
		return c.warn("the CPU offers neither vmx nor svm",
			"This host is itself a virtual machine without nested virtualization.",
			"Enable nested virtualization on the machine that runs this one, or use a machine type that has it.")
	}
	return c.warn("the CPU offers neither vmx nor svm",
		"", "Enable virtualization (VT-x, AMD-V, SVM) in the firmware's settings.")
}

func checkKVM(env Env, host distro) Check {
	c := Check{Name: "kvm", Feature: "fast VMs"}
	works, why := env.KVM()
	if works {
		return c.pass(why)
	}
	c = c.warn("KVM is not used", why+". "+emulated, "")
	flags, _ := cpuFlags(env)
	extension, module := virtualization(flags)
	device, err := env.Stat("/dev/kvm")
	switch {
	case extension == "": // the check of the CPU has the solution
	case errors.Is(err, fs.ErrNotExist):
		c.Fix = host.sudo + "modprobe " + module
	case err == nil && !device.Writable:
		user := env.User
		if user == "" {
			user = "$USER"
		}
		c.Fix = fmt.Sprintf("sudo usermod -aG kvm %s, then log in again", user)
	}
	return c
}
