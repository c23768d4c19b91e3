package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pattern"
	"banger/internal/vmm"
)

const (
	maxCmdline = 2047 // COMMAND_LINE_SIZE of x86 without the final NUL
	maxIfname  = 15   // IFNAMSIZ without the final NUL
	microvmBus = 8    // virtio-mmio slots of a microvm
)

var (
	idPattern    = pattern.Lazy(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	drivePattern = pattern.Lazy(`^[A-Za-z0-9][A-Za-z0-9_-]{0,19}$`)
)

// check refuses a machine that cannot start, before anything is made. The errors are
// fault.Invalid, or name the file that cannot be opened.
func check(m vmm.Machine, h host) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fault.New(fault.Invalid, format, args...)) }
	if !idPattern().MatchString(m.ID) {
		bad("the machine id %q does not consist of letters, digits, - and _", m.ID)
	}
	if !filepath.IsAbs(m.RunDir) {
		bad("the run directory %q is not absolute", m.RunDir)
	}
	if m.VCPUs < 1 || m.VCPUs > model.MaxVCPUs {
		bad("%d vcpus are not between 1 and %d", m.VCPUs, model.MaxVCPUs)
	}
	if m.Memory < model.MiB || m.Memory%model.MiB != 0 || m.Memory > model.MaxMemory {
		bad("%d bytes of memory are not a whole number of MiB, up to %v", m.Memory, model.MaxMemory)
	}
	if len(m.Initramfs) == 0 && !h.restored {
		bad("machine %s has no initramfs", m.ID)
	}
	if line := cmdline(m, h); len(line) > maxCmdline || strings.ContainsAny(line, "\x00\n") {
		bad("the kernel's arguments are not one line of at most %d bytes", maxCmdline)
	}
	errs = append(errs, checkDevices(m), checkFiles(m, h))
	return errors.Join(errs...)
}

func checkDevices(m vmm.Machine) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fault.New(fault.Invalid, format, args...)) }
	if n := len(m.Drives) + len(m.NICs) + 2; n > microvmBus { // two: agent's port, random generator
		bad("%d devices are more than the machine's %d slots", n, microvmBus)
	}
	seen := map[string]bool{}
	for _, d := range m.Drives {
		if !drivePattern().MatchString(d.Name) || seen[d.Name] {
			bad("the drive name %q is not up to 20 letters, digits, - and _, or is used twice", d.Name)
		}
		seen[d.Name] = true
	}
	wires := 0
	for _, n := range m.NICs {
		switch n.Kind {
		case vmm.NICUser, vmm.NICTap:
		case vmm.NICWire:
			wires++
		default:
			bad("a network card of kind %q is unknown", n.Kind)
		}
		if n.Kind == vmm.NICTap && (n.Tap == "" || len(n.Tap) > maxIfname) {
			bad("tap %q is not the name of an interface", n.Tap)
		}
		if n.MAC != nil && len(n.MAC) != 6 {
			bad("the hardware address %v does not have 6 bytes", n.MAC)
		}
	}
	if wires > 1 {
		bad("the machine has %d network cards of kind %q, not one at most", wires, vmm.NICWire)
	}
	return errors.Join(errs...)
}

// checkFiles opens the files that QEMU will open, because our errors are better than QEMU's.
func checkFiles(m vmm.Machine, h host) error {
	var errs []error
	if !h.restored {
		errs = append(errs, checkFile("kernel", m.Kernel, os.O_RDONLY))
		for _, path := range m.Initramfs {
			errs = append(errs, checkFile("initramfs", path, os.O_RDONLY))
		}
	}
	for _, d := range m.Drives {
		flag := os.O_RDWR
		if d.ReadOnly {
			flag = os.O_RDONLY
		}
		errs = append(errs, checkFile("drive "+d.Name, d.Path, flag))
	}
	return errors.Join(errs...)
}

func checkFile(what, path string, flag int) error {
	if !filepath.IsAbs(path) {
		return fault.New(fault.Invalid, "%s: %q is not an absolute path", what, path)
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK, 0) // it must not wait on a FIFO
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "opening the %s: %w", what, err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "opening the %s: %w", what, err)
	case err != nil:
		return fmt.Errorf("opening the %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the %s: %w", what, err)
	}
	if !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeDevice {
		return fault.New(fault.Invalid, "%s: %s is neither a file nor a block device", what, path)
	}
	return nil
}
