package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// From <linux/kvm.h>: _IO(KVMIO, 0), _IO(KVMIO, 1), and the version of every kernel since 2.6.22.
const (
	kvmGetAPIVersion = 0xAE00
	kvmCreateVM      = 0xAE01
	kvmAPIVersion    = 12
)

const kvmWorks = "/dev/kvm makes virtual machines and the CPU can virtualize"

// ProbeKVM reports whether KVM runs stock guests here, and the reason for a person. A /dev/kvm
// that opens and makes a VM is no proof: some hosts offer a paravirtual KVM on CPUs without vmx
// and svm, on which a stock guest hangs at once.
func ProbeKVM() (ok bool, why string) {
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, "there is no /dev/kvm: the CPU's virtualization is off in the firmware, " +
			"or this machine is itself virtual without nested virtualization"
	case errors.Is(err, fs.ErrPermission):
		return false, "this user may not open /dev/kvm; the group kvm may"
	case err != nil:
		return false, fmt.Sprintf("/dev/kvm does not open: %v", err)
	}
	defer dev.Close()
	api, err := unix.IoctlRetInt(int(dev.Fd()), kvmGetAPIVersion)
	if err != nil || api != kvmAPIVersion {
		return false, fmt.Sprintf("/dev/kvm speaks version %d, not %d (error %v)", api, kvmAPIVersion, err)
	}
	vm, err := unix.IoctlRetInt(int(dev.Fd()), kvmCreateVM)
	if err != nil {
		return false, fmt.Sprintf("/dev/kvm makes no virtual machine: %v", err)
	}
	_ = unix.Close(vm)
	if runtime.GOARCH != "amd64" {
		return true, kvmWorks
	}
	cpuinfo, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return false, fmt.Sprintf("the CPU's flags cannot be read: %v", err)
	}
	defer cpuinfo.Close()
	if !virtualizes(cpuinfo) {
		return false, "/dev/kvm opens, but the CPU has neither vmx nor svm: a paravirtual KVM, on which stock guests hang"
	}
	return true, kvmWorks
}

// virtualizes reports whether the first CPU of a /proc/cpuinfo can virtualize.
func virtualizes(cpuinfo io.Reader) bool {
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == "flags" {
			flags := strings.Fields(value)
			return slices.Contains(flags, "vmx") || slices.Contains(flags, "svm")
		}
	}
	return false
}
